//! Ranges: rows from both ends, counting, and deletion by range.

use super::{
    super::{delete, range::KeyRange, rank},
    *,
};

impl Fixture {
    fn delete(&self, root: Hash, range: &KeyRange) -> Hash {
        let mut writer = Writer::new(&self.store);
        let root = delete::delete(&mut writer, &SMALL, root, range).unwrap();
        self.keep(writer);
        root
    }

    /// How many nodes `f` reads.
    fn reads<T>(&self, f: impl FnOnce() -> T) -> (T, u64) {
        let loads = || {
            let stats = self.store.stats();
            stats.cache_hits + stats.cache_misses
        };
        let before = loads();
        let done = f();
        (done, loads() - before)
    }

    fn height(&self, root: &Hash) -> u64 {
        u64::from(Node::load(&self.store, root).unwrap().level()) + 1
    }
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        1 => Just(Bound::Unbounded),
        4 => key().prop_map(Bound::Included),
        4 => key().prop_map(Bound::Excluded),
    ]
}

fn range(bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> KeyRange {
    KeyRange::new(bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice))
}

fn rows_in<'a>(model: &'a Model, range: &KeyRange) -> Vec<(&'a Vec<u8>, &'a Vec<u8>)> {
    let inside = |key: &[u8]| key >= range.from.as_slice() && range.to.as_deref().is_none_or(|to| key < to);
    model.iter().filter(|(key, _)| inside(key)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn deleted_ranges_leave_the_built_root(
        count in 0_u32..400, other in model(), ranges in prop::collection::vec((bound(), bound()), 1..4),
    ) {
        let fixture = Fixture::new();
        let mut model = other;
        model.extend(numbered(count));
        let mut root = fixture.build(&model);
        for bounds in &ranges {
            let range = range(bounds);
            let gone: Vec<_> = rows_in(&model, &range).into_iter().map(|(key, _)| key.clone()).collect();
            gone.iter().for_each(|key| drop(model.remove(key)));
            root = fixture.delete(root, &range);
            prop_assert_eq!(root, fixture.build(&model));
        }
        prop_assert_eq!(fixture.rows(&root), model);
    }

    #[test]
    fn counts_ranks_and_rows_agree_with_a_sorted_list(start in model(), probes in prop::collection::vec((bound(), bound()), 1..8)) {
        let fixture = Fixture::new();
        let root = fixture.build(&start);
        let rows: Vec<_> = start.iter().collect();
        for n in 0..rows.len() as u64 + 2 {
            let found = rank::select(&fixture.store, &root, n).unwrap().map(|(key, value)| (key, value.bytes));
            let expected = rows.get(n as usize).map(|(key, value)| ((*key).clone(), (*value).clone()));
            prop_assert_eq!(&found, &expected);
            if let Some((key, _)) = expected {
                prop_assert_eq!(rank::rank(&fixture.store, &root, &key).unwrap(), n);
            }
        }
        for bounds in &probes {
            let range = range(bounds);
            let expected = rows_in(&start, &range).len() as u64;
            prop_assert_eq!(rank::count(&fixture.store, &root, &range).unwrap(), expected);
        }
    }

    #[test]
    fn rows_taken_from_both_ends_are_those_of_a_sorted_list(
        start in model(), bounds in (bound(), bound()), ends in prop::collection::vec(any::<bool>(), 0..320), at_once: bool,
    ) {
        let fixture = Fixture::new();
        let root = fixture.build(&start);
        let range = range(&bounds);
        let mut expected = std::collections::VecDeque::from(rows_in(&start, &range));
        let (from, to) = bounds;
        let mut rows =
            Rows::new(&fixture.store, &root, from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice)).unwrap();
        for front in ends.into_iter().chain(std::iter::repeat_n(false, if at_once { 0 } else { 320 })) {
            let (found, expected) = match front {
                true => (rows.next_row(), expected.pop_front()),
                false => (rows.next_row_back(), expected.pop_back()),
            };
            let found = found.unwrap().map(|(key, value)| (key.to_vec(), value.bytes.to_vec()));
            prop_assert_eq!(found, expected.map(|(key, value)| (key.clone(), value.clone())));
        }
        let mut rest = Vec::new();
        rows.for_each(|key, value| {
            rest.push((key.to_vec(), value.bytes.to_vec()));
            Ok(())
        }).unwrap();
        let expected: Vec<_> = expected.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        prop_assert_eq!(rest, expected);
    }

    #[test]
    fn the_first_change_in_a_range_is_that_of_the_models(start in model(), batch in edits(), bounds in (bound(), bound())) {
        let fixture = Fixture::new();
        let end = apply_to_model(&start, &batch);
        let roots = [fixture.build(&start), fixture.build(&end)];
        let range = range(&bounds);
        let keys: std::collections::BTreeSet<_> =
            [&start, &end].iter().flat_map(|model| rows_in(model, &range)).map(|(key, _)| key).collect();
        let expected = keys.into_iter().find(|key| start.get(*key) != end.get(*key)).cloned();
        let found = delete::first_change(&fixture.store, [&roots[0], &roots[1]], &range).unwrap();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn counting_and_deleting_read_in_proportion_to_the_height() {
    let fixture = Fixture::new();
    let root = fixture.build(&numbered(100_000));
    let height = fixture.height(&root);
    assert!(height >= 5, "the test wants a tree of several levels");
    for (from, to) in [(0, 100_000), (10, 99_990), (1_234, 77_777), (50_000, 50_001), (0, 50_000)] {
        let range = KeyRange::new(Bound::Included(&number(from)), Bound::Excluded(&number(to)));
        let (count, read) = fixture.reads(|| rank::count(&fixture.store, &root, &range).unwrap());
        assert_eq!(count, u64::from(to - from));
        assert!(read <= 2 * height, "counting read {read} nodes of a tree of {height} levels");

        let before = fixture.nodes(&root);
        let (rest, read) = fixture.reads(|| fixture.delete(root, &range));
        assert!(read <= 6 * height, "deleting {count} rows read {read} nodes of a tree of {height} levels");
        let new = fixture.nodes(&rest).difference(&before).count() as u64;
        assert!(new <= 3 * height, "{new} nodes are new");
    }
    let (_, read) = fixture.reads(|| rank::select(&fixture.store, &root, 54_321).unwrap());
    assert_eq!(read, height);
}

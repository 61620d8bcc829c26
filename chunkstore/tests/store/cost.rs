//! What a change costs, in bytes and in syncs: counts, which repeat on any machine.

use pleach_chunkstore::{Batch, Chunk, Hash, Options, Outcome, RefUpdate, Store};

/// A node of `count` rows of some 60 bytes, which do not compress well, row `row` being in version `version`.
fn node(count: u64, row: u64, version: u64) -> Chunk {
    let body: Vec<u8> = (0..count)
        .flat_map(|number| {
            let version = if number == row { version } else { 0 };
            let value = Hash::of(&(number << 32 | version).to_le_bytes());
            [&number.to_be_bytes()[..], b"a name of sorts, ", value.as_bytes()].concat()
        })
        .collect();
    Chunk::build(1, 0, &body, None, &[], 0)
}

#[test]
fn a_durable_change_of_one_row_costs_a_few_hundred_bytes_and_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), Options::default()).unwrap();
    let mut old = None;
    let mut path: Vec<Option<Hash>> = vec![None; 4];
    let mut costs = Vec::new();
    for version in 0..18 {
        let before = store.stats();
        let mut batch = Batch::default();
        for (level, base) in path.iter_mut().enumerate() {
            // Four nodes from leaf to root, one row of each in a new version.
            let chunk = node(100 - level as u64, level as u64 * 7 + 3, version);
            let hash = *chunk.hash();
            batch.put(chunk, base.replace(hash));
        }
        let update = RefUpdate { name: "work/main".into(), old, new: path[3] };
        match store.append(batch, &[update]).unwrap() {
            Outcome::Appended(ticket) => ticket.wait().unwrap(),
            Outcome::Moved { .. } => panic!("moved"),
        }
        old = path[3];
        let after = store.stats();
        assert_eq!(after.fsyncs - before.fsyncs, 1);
        costs.push(after.bytes_written - before.bytes_written);
    }
    println!("bytes written by 18 changes of one row in four nodes: {costs:?}");
    assert!(costs[1..=16].iter().all(|cost| *cost < 900), "{costs:?}");
    assert!(costs[17] > 4 * 5000, "after 16 deltas a full frame: {costs:?}");
    assert_eq!((store.stats().frames_delta, store.stats().frames_raw), (64, 8));
}

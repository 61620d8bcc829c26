//! What a change costs, in bytes and in syncs: counts, which repeat on any machine.

use pleach_chunkstore::{Batch, Chunk, Hash, Options, Outcome, RefUpdate, Store};

/// A node of `count` rows of some 60 bytes, which do not compress well, after `versions` changes, each of another row.
fn node(count: u64, versions: u64) -> Chunk {
    let body: Vec<u8> = (0..count)
        .flat_map(|row| {
            let version = (1..=versions).rfind(|version| version * 31 % count == row).unwrap_or(0);
            let value = Hash::of(&(row << 32 | version).to_le_bytes());
            [&row.to_be_bytes()[..], b"a name of sorts, ", value.as_bytes()].concat()
        })
        .collect();
    Chunk::build(1, 0, &body, None, &[], 0)
}

const CHANGES: u64 = 171;

#[test]
fn a_durable_change_of_one_row_costs_a_few_hundred_bytes_and_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), Options::default()).unwrap();
    let mut old = None;
    let mut path: Vec<Option<Hash>> = vec![None; 4];
    let mut costs = Vec::new();
    for version in 0..CHANGES {
        let before = store.stats();
        let mut batch = Batch::default();
        for (level, base) in path.iter_mut().enumerate() {
            // Four nodes from leaf to root, one row of each in a new version.
            let chunk = node(100 - level as u64, version);
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
    let mean = costs[1..].iter().sum::<u64>() / (CHANGES - 1);
    let stats = store.stats();
    println!(
        "one row changed in four nodes of 5 kB: {} B, every 17th time {} to {} B, mean {mean} B",
        costs[1], costs[17], costs[170]
    );
    println!("{} deltas, {} raw frames, {} fsyncs", stats.frames_delta, stats.frames_raw, stats.fsyncs);
    assert!(costs[1..=16].iter().all(|cost| *cost < 700), "{costs:?}");
    assert!(costs[17] < 3500, "a delta of the full frame that the chain starts from: {costs:?}");
    assert!(mean < 1200, "{costs:?}");
    assert!(stats.frames_raw >= 4, "{costs:?}");
    for base in path.into_iter().flatten() {
        assert!(store.get(&base).unwrap().is_some());
    }
}

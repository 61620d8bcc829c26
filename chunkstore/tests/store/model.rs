//! The store against the simplest thing that does the same: two maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::{Batch, Chunk, Hash, Options, Outcome, RefUpdate, Store};
use proptest::prelude::*;

use crate::basics::leaf;

#[derive(Debug, Clone)]
enum Action {
    /// Put chunks, each a variation of the one that the ref names, and move the ref.
    Append {
        name: u8,
        edits: Vec<u16>,
        wait: bool,
    },
    /// Append with an expectation that is wrong.
    Misjudge {
        name: u8,
    },
    Delete {
        name: u8,
    },
    Reopen {
        close: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0..4_u8, prop::collection::vec(any::<u16>(), 1..4), any::<bool>())
            .prop_map(|(name, edits, wait)| Action::Append { name, edits, wait }),
        1 => (0..4_u8).prop_map(|name| Action::Misjudge { name }),
        1 => (0..4_u8).prop_map(|name| Action::Delete { name }),
        1 => any::<bool>().prop_map(|close| Action::Reopen { close }),
    ]
}

/// A chunk of some 500 bytes that differs from `before` in a few.
fn edited(before: Option<&Chunk>, edit: u16) -> Chunk {
    let mut body = before.map_or_else(|| vec![b'-'; 500], |chunk| chunk.body().to_vec());
    let at = usize::from(edit) % (body.len() - 2);
    body[at..at + 2].copy_from_slice(&edit.to_le_bytes());
    Chunk::build(1, 0, &body, None, &[], 0)
}

#[derive(Default)]
struct Model {
    chunks: BTreeMap<Hash, Chunk>,
    refs: BTreeMap<String, Hash>,
    sequence: u64,
}

impl Model {
    fn run(&mut self, store: &Store, action: &Action) {
        let (name, edits, wait, misjudge) = match action {
            Action::Append { name, edits, wait } => (name, edits.as_slice(), *wait, false),
            Action::Misjudge { name } => (name, &[][..], true, true),
            Action::Delete { name } => (name, &[][..], true, false),
            Action::Reopen { .. } => return,
        };
        let name = format!("heads/{name}");
        let old = self.refs.get(&name).copied();
        let mut last = old.and_then(|old| self.chunks.get(&old).cloned());
        let mut batch = Batch::default();
        for edit in edits {
            let chunk = edited(last.as_ref(), *edit);
            batch.put(chunk.clone(), last.map(|base| *base.hash()));
            self.chunks.insert(*chunk.hash(), chunk.clone());
            last = Some(chunk);
        }
        let new = if edits.is_empty() { None } else { last.map(|last| *last.hash()) };
        let expected = if misjudge { Some(Hash::of(b"elsewhere")) } else { old };
        let update = RefUpdate { name: name.clone(), old: expected, new };
        match store.append(batch, &[update]).unwrap() {
            Outcome::Moved { found, .. } => {
                assert!(misjudge);
                assert_eq!(found, old);
            }
            Outcome::Appended(ticket) => {
                assert!(!misjudge);
                self.sequence += u64::from(old != new);
                assert_eq!(ticket.sequence(), self.sequence);
                match new {
                    Some(new) => self.refs.insert(name, new),
                    None => self.refs.remove(&name),
                };
                if wait {
                    ticket.wait().unwrap();
                    self.compare(store);
                }
            }
        }
    }

    fn compare(&self, store: &Store) {
        assert_eq!(store.sequence(), self.sequence);
        assert_eq!(store.refs(""), self.refs.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(store.refs(""), store.appended_refs(""));
        for (hash, chunk) in &self.chunks {
            assert_eq!(store.get(hash).unwrap().unwrap().bytes(), chunk.bytes());
        }
        assert_eq!(store.stats().chunks, self.chunks.len() as u64);
        assert_eq!(store.get(leaf("never put").hash()).unwrap(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_does_what_two_maps_do(actions in prop::collection::vec(action(), 1..60), delta: bool) {
        let options = Options { journal_bytes: 4000, background: false, cache_bytes: 4096, delta, ..Options::default() };
        let mut disk = Memory::simulated();
        let mut store = Store::create_with_io(Arc::new(disk.clone()), options.clone()).unwrap();
        let mut model = Model::default();
        for action in &actions {
            if let Action::Reopen { close } = action {
                if *close {
                    store.close().unwrap();
                } else {
                    // The process dies, the operating system lives on: everything written is there.
                    disk = Memory::holding(disk.files());
                }
                store = Store::open_with_io(Arc::new(disk.clone()), options.clone()).unwrap();
                model.compare(&store);
            }
            model.run(&store, action);
        }
        store.close().unwrap();
        model.compare(&Store::open_with_io(Arc::new(disk), options).unwrap());
    }
}

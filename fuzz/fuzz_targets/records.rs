//! Any bytes as the messages of a transfer, to who holds a commit: refused, or what was wanted; what is stored is whole.
//!
//! Input: `u8`, bit 0: whether the receiver has the first commit, else nothing; then the messages, each `u16` its length and its bytes.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pleach_engine::{Batch, Database, RefUpdate};
use pleach_protocol::Receiver;

mod exchange;

use exchange::Specimen;

static SPECIMEN: LazyLock<(Specimen, Vec<u8>)> = LazyLock::new(|| {
    let specimen = Specimen::new();
    let first = specimen.messages(&[], specimen.commits[0], false);
    (specimen, first)
});

fuzz_target!(|input: &[u8]| {
    let Some((&how, mut rest)) = input.split_first() else { return };
    let (specimen, first) = &*SPECIMEN;
    let [held, wanted] = specimen.commits;
    let database = match how & 1 {
        0 => Database::memory().expect("a database"),
        _ => exchange::holding(first, held).expect("an honest transfer"),
    };
    let mut receiver = Receiver::new(&database).expect("a receiver");
    let mut taken = true;
    while let Some((len, after)) = rest.split_first_chunk::<2>().filter(|_| taken) {
        let (message, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*len))));
        taken = receiver.receive(message).and_then(|()| receiver.progress()).is_ok();
        rest = after;
    }
    if taken {
        let records = receiver.records();
        if let Ok(received) = receiver.finish(records, &[wanted]) {
            let _hold = received.append(&database).expect("memory does not fail");
            let update = RefUpdate { name: "remotes/o/wanted".into(), old: None, new: Some(wanted) };
            let _moved = database.update_refs(Batch::default(), &[update]).expect("memory does not fail");
            let root = database.commit_object(&wanted).expect("it was taken").root;
            assert_eq!(root, specimen.database.commit_object(&wanted).expect("it is there").root);
        }
    }
    exchange::check_whole(&database);
});

//! Any messages as the stream of a primary, to a standby that has an earlier state of its database, or nothing: refused, or taken. What is
//! there is whole, and no change makes the standby follow somebody else.
//!
//! Input: `u8`, bit 0: whether the standby has the first commit, else nothing; bit 1: the first message is the Hello, else that is an honest
//! one; then the messages, each `u16` its length, and a ReplicateRequest, or Hello, as it travels.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pleach_replication::proto::{Hello, ReplicateRequest, replicate_request::Message};
use pleach_replication::testing::{Standby, hello};
use prost::Message as _;

mod exchange;
mod stream;

use exchange::Specimen;
use stream::{EPOCH, PRIMARY};

static FIRST: LazyLock<Vec<Message>> = LazyLock::new(|| stream::of(&Specimen::first(), None, true));

fuzz_target!(|input: &[u8]| {
    let Some((&how, mut rest)) = input.split_first() else { return };
    let mut next = || {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (message, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*len))));
        rest = after;
        Some(message)
    };
    let said = match how & 2 {
        0 => hello(PRIMARY, EPOCH),
        _ => match next().map(Hello::decode) {
            Some(Ok(hello)) => hello,
            _ => return,
        },
    };
    // In memory, where that is to be had.
    let shm = std::path::Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() });
    let dir = dir.expect("a directory");
    let standby = Standby::create(dir.path()).expect("a standby");
    if how & 1 == 1 {
        standby.serve(hello(PRIMARY, EPOCH), FIRST.clone()).expect("an honest stream");
    }
    let before = standby.standing();
    let messages = std::iter::from_fn(|| ReplicateRequest::decode(next()?).ok()?.message);
    let _refused = standby.serve(said, messages);
    let after = standby.standing();
    if how & 3 == 1 {
        assert_eq!(after, before);
    }
    assert!(after.epoch >= before.epoch);
    for (_, database) in standby.databases().expect("the directory") {
        exchange::check_whole(&database);
    }
});

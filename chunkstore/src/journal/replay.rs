//! Reading a journal from its start: what it holds, where it ends, and whether the end is a torn tail or damage.
//!
//! One idea: what a power cut may take is only what no sync had covered. So the first thing that is not a good group ends the journal, unless
//! a group header further on, or the watermark, states that it had been durable: then it is damage, and nothing is cut.
//!
//! Used when a store is opened, for the active journal, and for a sealed one whose index cannot be read.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::frame::Location;
use crate::hash::Hash;
use crate::journal::group::{self, GroupHeader, Kind};
use crate::journal::{Check, HEADER_BYTES, Journal};
use crate::refs;

/// What a journal holds.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    /// End of the checkpoint.
    pub(crate) start: u64,
    /// End of the last good group.
    pub(crate) end: u64,
    /// Length of the file.
    pub(crate) file_len: u64,
    /// Check of the last good group.
    pub(crate) check: Check,
    /// Sequence after the last good group.
    pub(crate) sequence: u64,
    /// Number of good groups, the checkpoint included.
    pub(crate) groups: u64,
    /// Every frame, in the order of the file: of two places of one chunk the later counts.
    pub(crate) entries: Vec<(Hash, Location)>,
    pub(crate) refs: BTreeMap<String, Hash>,
}

/// Where a journal is known to end, if anywhere.
#[derive(Clone, Copy)]
pub(crate) enum Expect {
    /// It is active; what lies before this offset had been durable (0 = nothing known).
    Active(u64),
    /// It was sealed: its groups end here, with this check.
    Sealed(u64, Check),
}

/// Reads `journal` from its start.
pub(crate) fn replay(journal: &Journal, expect: Expect) -> Result<Replay> {
    let file_len = journal.file.len().map_err(Error::io("measure", &journal.name))?;
    let limit = match expect {
        Expect::Active(_) => file_len,
        Expect::Sealed(end, _) => end,
    };
    if limit > file_len {
        return Err(Error::damaged(
            &journal.name,
            file_len,
            "the journal is shorter than when it was sealed",
        ));
    }
    let mut replay = Replay::begin(journal, file_len);
    while replay.next_group(journal, limit)? {}
    match expect {
        Expect::Sealed(end, check) if (replay.end, replay.check) != (end, check) => Err(Error::damaged(
            &journal.name,
            replay.end,
            "no good group is there, and the journal was sealed after it",
        )),
        Expect::Sealed(..) => Ok(replay),
        Expect::Active(durable_end) => {
            let stated = match replay.end < file_len {
                true => stated_end(journal, replay.end, file_len)?,
                false => 0,
            };
            if durable_end.max(stated) > replay.end || replay.groups == 0 {
                let what = "no good group is there, and it had been durable: this is no torn tail";
                return Err(Error::damaged(&journal.name, replay.end, what));
            }
            Ok(replay)
        }
    }
}

impl Replay {
    /// A replay before the first group.
    fn begin(journal: &Journal, file_len: u64) -> Replay {
        Replay {
            start: HEADER_BYTES as u64,
            end: HEADER_BYTES as u64,
            file_len,
            check: journal.first_check(),
            sequence: 0,
            groups: 0,
            entries: Vec::new(),
            refs: BTreeMap::new(),
        }
    }

    /// What a journal that someone else writes holds durably: everything up to `end`, or, as long as nothing is known of that, its checkpoint.
    pub(crate) fn durable(journal: &Journal, end: Option<u64>) -> Result<Replay> {
        let file_len = journal.file.len().map_err(Error::io("measure", &journal.name))?;
        let mut replay = Replay::begin(journal, file_len);
        let found = replay.next_group(journal, file_len)?;
        match found {
            true => replay.follow(journal, end.unwrap_or(0))?,
            false => return Err(Error::damaged(&journal.name, replay.end, "the journal has no checkpoint")),
        }
        Ok(replay)
    }

    /// Takes in the groups up to `end`, which are durable.
    pub(crate) fn follow(&mut self, journal: &Journal, end: u64) -> Result<()> {
        while self.end < end {
            if !self.next_group(journal, end)? {
                let what = "no good group is there, and it had been durable";
                return Err(Error::damaged(&journal.name, self.end, what));
            }
        }
        Ok(())
    }

    /// Takes in the group at `self.end`; false if no good group is there.
    fn next_group(&mut self, journal: &Journal, limit: u64) -> Result<bool> {
        let left = limit.saturating_sub(self.end);
        if left < group::HEADER_BYTES as u64 {
            return Ok(false);
        }
        let header_bytes = journal.read(self.end, group::HEADER_BYTES)?;
        let Some(header) = GroupHeader::parse(&header_bytes, &journal.key, self.end) else {
            return Ok(false);
        };
        let body_len = u64::from(header.body_len);
        // Places in a journal have 32 bits.
        if body_len > (left - group::HEADER_BYTES as u64).min(group::BODY_BYTES_MAX as u64)
            || self.end + body_len > u64::from(u32::MAX) - 64
        {
            return Ok(false);
        }
        let body_start = self.end + group::HEADER_BYTES as u64;
        let body = journal.read(body_start, header.body_len as usize)?;
        let Some(check) = header.verify(&header_bytes, &body, &journal.key, &self.check) else {
            return Ok(false);
        };
        let damaged = |offset: u64, what| Err(Error::damaged(&journal.name, offset, what));
        let (frames, records) = match group::parse_body(&header, &body) {
            Ok(parsed) => parsed,
            Err(error) => return damaged(body_start + error.offset as u64, error.what),
        };
        let is_first = self.groups == 0;
        if is_first != (header.kind == Kind::Checkpoint) {
            return damaged(self.end, "the first group of a journal, and no other, is a checkpoint");
        }
        let counted = self.sequence.checked_add(u64::from(header.record_count > 0));
        if !is_first && counted.is_none_or(|least| header.sequence < least) {
            return damaged(self.end, "a group does not count on from the one before");
        }
        for record in records {
            if refs::apply(&mut self.refs, &record).is_err() {
                return damaged(self.end, "a record changes a ref that has another value");
            }
        }
        self.entries.extend(frames.into_iter().map(|(hash, place)| {
            (hash, Location { file: journal.number, offset: body_start as u32 + place.offset, ..place })
        }));
        (self.check, self.sequence) = (check, header.sequence);
        self.groups += 1;
        self.end = body_start + u64::from(header.body_len);
        if is_first {
            self.start = self.end;
        }
        Ok(true)
    }
}

/// The farthest durable end that any group header from `start` on states. Each candidate costs one short keyed hash, and no one who does not
/// know the store's identity can make one that passes.
fn stated_end(journal: &Journal, start: u64, file_len: u64) -> Result<u64> {
    const WINDOW_BYTES: u64 = 1 << 20;
    let mut stated = 0;
    let mut at = start;
    while at + group::HEADER_BYTES as u64 <= file_len {
        // Windows overlap by a header, so that none is cut.
        let len = (file_len - at).min(WINDOW_BYTES + group::HEADER_BYTES as u64 - 1);
        let window = journal.read(at, len as usize)?;
        for (index, candidate) in window.windows(group::HEADER_BYTES).enumerate() {
            if candidate.starts_with(&group::MAGIC)
                && let Some(header) = GroupHeader::parse(candidate, &journal.key, at + index as u64)
            {
                stated = stated.max(header.synced_end);
            }
        }
        at += WINDOW_BYTES;
    }
    Ok(stated)
}

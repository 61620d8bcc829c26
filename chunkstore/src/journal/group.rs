//! A group: what one append writes, whole or not at all.
//!
//! One idea: a group carries a check of itself chained over the check of the group before it, so that what can be read is a beginning of
//! what was written. Its header also carries the end of the last group known to be durable, and a check of its own: a header that
//! survives a crash proves that everything before that end must be there, whatever became of the group.
//!
//! ```text
//! offset  size  field (little-endian)
//!      0     4  magic         "PLGR"
//!      4     1  kind          1 changes · 2 checkpoint: the records are all refs, and no ref is known before
//!      5     3  zero
//!      8     4  body_len
//!     12     4  frame_count
//!     16     4  record_count
//!     20     8  sequence      after this group; more than before, mostly by one, if it has records and is no checkpoint
//!     28     8  synced_end    end of the last group of this journal known to be durable when this one was written; 0 = none
//!     36     8  header_check  BLAKE3 keyed, of the group's offset in the file (8 bytes) and the 36 bytes before
//!     44    16  check         BLAKE3 keyed, of the check before, the 44 bytes before, and the BLAKE3 hash of the body
//!     60     …  body: frames (see `frame`), then records
//!
//! a record:  name_len varint · name (UTF-8) · has u8: bit 0 old, bit 1 new · old 32 if any · new 32 if any
//! ```
//!
//! Keys are the journal's ([`super::key_of`]); checks are the first bytes of the hash.

use crate::bytes::{Fields, put_varint};
use crate::frame::{self, FrameHeader, JOURNAL_STEPS_MAX, Location};
use crate::hash::Hash;
use crate::journal::Check;
use crate::refs::{Change, NAME_BYTES_MAX};

/// Length of a group's header.
pub(crate) const HEADER_BYTES: usize = 60;
pub(crate) const MAGIC: [u8; 4] = *b"PLGR";
const HEADER_CHECK_AT: usize = 36;
const CHECK_AT: usize = 44;
/// The longest group body: offsets in a journal must fit 32 bits.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 30;

/// What a group's records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Changes,
    Checkpoint,
}

/// A group being made. Its bytes do not say where they will stand.
pub(crate) struct Group {
    bytes: Vec<u8>,
    kind: Kind,
    /// Each frame's chunk and place; offsets count from the group's start, and the file is 0.
    frames: Vec<Framed>,
    record_count: u32,
}

impl Group {
    pub(crate) fn new(kind: Kind) -> Group {
        Group { bytes: vec![0; HEADER_BYTES], kind, frames: Vec::new(), record_count: 0 }
    }

    /// A group with a body that may be anything, for fuzzing.
    pub(crate) fn with_body(body: &[u8], frame_count: u32, record_count: u32) -> Group {
        let bytes = [&[0; HEADER_BYTES][..], body].concat();
        let nowhere =
            Location { file: 0, offset: 0, len: 0, step: 0, crossed: false, leaf: false, partial: false };
        let frame = (Hash::from_bytes([0; Hash::LEN]), nowhere);
        // Only their number matters: the bytes are there already.
        let frames = vec![frame; (frame_count as usize).min(1 << 16)];
        Group { bytes, kind: Kind::Changes, frames, record_count }
    }

    /// Length of the group so far, its header included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where in the group the next frame will start.
    pub(crate) fn next_frame(&self) -> u32 {
        (self.bytes.len() + Hash::LEN) as u32
    }

    /// Adds the frame of a chunk, and gives its place in the group.
    pub(crate) fn put_frame(&mut self, hash: &Hash, header: &FrameHeader, payload: &[u8]) -> Location {
        assert_eq!(self.record_count, 0, "frames stand before records");
        assert!(header.step <= JOURNAL_STEPS_MAX, "a journal's chains are short");
        let offset = self.next_frame();
        self.bytes.extend_from_slice(hash.as_bytes());
        let len = frame::put(&mut self.bytes, header, payload);
        let place = place_of(header, offset, len);
        self.frames.push((*hash, place));
        place
    }

    pub(crate) fn put_record(&mut self, change: &Change) {
        assert!(!change.name.is_empty() && change.name.len() <= NAME_BYTES_MAX, "a ref has a name");
        put_varint(&mut self.bytes, change.name.len() as u32);
        self.bytes.extend(change.name.as_bytes());
        self.bytes.push(u8::from(change.old.is_some()) | u8::from(change.new.is_some()) << 1);
        for hash in [change.old, change.new].iter().flatten() {
            self.bytes.extend(hash.as_bytes());
        }
        self.record_count += 1;
    }

    pub(crate) fn frames(&self) -> &[Framed] {
        &self.frames
    }

    /// Whether the group changes refs.
    pub(crate) fn has_records(&self) -> bool {
        self.record_count > 0
    }

    /// Whether the group says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.record_count == 0
    }

    /// Hashes the body: the last step before the group's place is known.
    pub(crate) fn finish(self) -> Finished {
        let digest = *blake3::hash(&self.bytes[HEADER_BYTES..]).as_bytes();
        Finished { group: self, digest }
    }
}

/// A group that only needs its place.
pub(crate) struct Finished {
    pub(crate) group: Group,
    digest: [u8; 32],
}

/// Where a group stands, and after what.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) previous: Check,
    pub(crate) sequence: u64,
    pub(crate) synced_end: u64,
}

impl Finished {
    /// Fills in the header; the bytes are then ready to be written at `place.offset`, and the check is the next group's `previous`.
    pub(crate) fn place(&mut self, key: &[u8; 32], place: &Place) -> (&[u8], Check) {
        let group = &mut self.group;
        let body_len = group.bytes.len() - HEADER_BYTES;
        assert!(body_len <= BODY_BYTES_MAX, "a group's body is at most {BODY_BYTES_MAX} bytes");
        let header = &mut group.bytes[..HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&[if group.kind == Kind::Checkpoint { 2 } else { 1 }, 0, 0, 0]);
        header[8..12].copy_from_slice(&(body_len as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(group.frames.len() as u32).to_le_bytes());
        header[16..20].copy_from_slice(&group.record_count.to_le_bytes());
        header[20..28].copy_from_slice(&place.sequence.to_le_bytes());
        header[28..36].copy_from_slice(&place.synced_end.to_le_bytes());
        let short = header_check(key, place.offset, &header[..HEADER_CHECK_AT]);
        header[HEADER_CHECK_AT..CHECK_AT].copy_from_slice(&short);
        let check = chain(key, &place.previous, &header[..CHECK_AT], &self.digest);
        header[CHECK_AT..].copy_from_slice(&check);
        (&group.bytes, check)
    }
}

fn header_check(key: &[u8; 32], offset: u64, fields: &[u8]) -> [u8; 8] {
    let hash = blake3::Hasher::new_keyed(key).update(&offset.to_le_bytes()).update(fields).finalize();
    let mut check = [0; 8];
    check.copy_from_slice(&hash.as_bytes()[..8]);
    check
}

fn chain(key: &[u8; 32], previous: &Check, header: &[u8], digest: &[u8; 32]) -> Check {
    let hash = blake3::Hasher::new_keyed(key).update(previous).update(header).update(digest).finalize();
    let mut check = [0; 16];
    check.copy_from_slice(&hash.as_bytes()[..16]);
    check
}

/// A group's header as found at `offset`, its own check passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) kind: Kind,
    pub(crate) body_len: u32,
    pub(crate) frame_count: u32,
    pub(crate) record_count: u32,
    pub(crate) sequence: u64,
    pub(crate) synced_end: u64,
    check: Check,
}

impl GroupHeader {
    /// The header at `offset` of a journal, if that is what these bytes are.
    pub(crate) fn parse(bytes: &[u8], key: &[u8; 32], offset: u64) -> Option<GroupHeader> {
        let fixed = bytes.get(..HEADER_BYTES)?;
        let mut fields = Fields::new(fixed);
        if fields.take(4)? != MAGIC || header_check(key, offset, &fixed[..HEADER_CHECK_AT]) != fixed[36..44] {
            return None;
        }
        let kind = match fields.u32()? {
            1 => Kind::Changes,
            2 => Kind::Checkpoint,
            _ => return None,
        };
        let (body_len, frame_count, record_count) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (sequence, synced_end) = (fields.u64()?, fields.u64()?);
        fields.take(CHECK_AT - HEADER_CHECK_AT)?;
        let check = fields.array()?;
        Some(GroupHeader { kind, body_len, frame_count, record_count, sequence, synced_end, check })
    }

    /// The group's check, if `header` and `body` are what was written after the group with the check `previous`.
    pub(crate) fn verify(
        &self,
        header: &[u8],
        body: &[u8],
        key: &[u8; 32],
        previous: &Check,
    ) -> Option<Check> {
        let digest = *blake3::hash(body).as_bytes();
        (chain(key, previous, header.get(..CHECK_AT)?, &digest) == self.check).then_some(self.check)
    }
}

/// A body that does not follow the layout although its check passed: where in the body, and what.
#[derive(Debug)]
pub(crate) struct BodyError {
    pub(crate) offset: usize,
    pub(crate) what: &'static str,
}

/// The place of a frame in bytes that do not know their file.
fn place_of(header: &FrameHeader, offset: u32, len: u32) -> Location {
    let FrameHeader { step, crossed, leaf, partial, .. } = *header;
    Location { file: 0, offset, len, step, crossed, leaf, partial }
}

/// A chunk, and the place of its frame.
pub(crate) type Framed = (Hash, Location);

/// The frames and records of a body; the frames' offsets count from the body's start, and their file is 0.
pub(crate) fn parse_body(header: &GroupHeader, body: &[u8]) -> Result<(Vec<Framed>, Vec<Change>), BodyError> {
    // Each frame and record takes several bytes: a count beyond the body's length is refused before it sizes anything.
    if header.frame_count as usize > body.len() || header.record_count as usize > body.len() {
        return Err(BodyError { offset: 0, what: "a group counts more than it holds" });
    }
    let mut fields = Fields::new(body);
    let mut frames = Vec::new();
    for _ in 0..header.frame_count {
        let broken = |offset, what| BodyError { offset, what };
        let hash = fields.hash().ok_or(broken(fields.at(), "a frame's hash is cut short"))?;
        let offset = fields.at();
        let (header, _) = frame::parse_next(&mut fields).map_err(|error| broken(offset, error.what))?;
        if header.step > JOURNAL_STEPS_MAX {
            return Err(broken(offset, "a chain is longer than a journal's may be"));
        }
        frames.push((hash, place_of(&header, offset as u32, (fields.at() - offset) as u32)));
    }
    let mut records = Vec::new();
    for _ in 0..header.record_count {
        let offset = fields.at();
        records
            .push(parse_record(&mut fields).ok_or(BodyError { offset, what: "a record breaks its layout" })?);
    }
    if fields.left() > 0 {
        return Err(BodyError { offset: fields.at(), what: "a group holds more than it counts" });
    }
    Ok((frames, records))
}

fn parse_record(fields: &mut Fields<'_>) -> Option<Change> {
    let name_len = fields.varint()? as usize;
    if name_len == 0 || name_len > NAME_BYTES_MAX {
        return None;
    }
    let name = std::str::from_utf8(fields.take(name_len)?).ok()?.to_owned();
    let has = fields.u8()?;
    if has == 0 || has > 3 {
        return None;
    }
    let old = if has & 1 != 0 { Some(fields.hash()?) } else { None };
    let new = if has & 2 != 0 { Some(fields.hash()?) } else { None };
    Some(Change { name, old, new })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::bytes::tests::hex;
    use crate::frame::Encoding;

    const KEY: [u8; 32] = [7; 32];
    const PLACE: Place = Place { offset: 64, previous: [9; 16], sequence: 5, synced_end: 0x40 };

    fn group() -> Finished {
        let mut group = Group::new(Kind::Changes);
        let header = FrameHeader {
            encoding: Encoding::Raw,
            step: 0,
            crossed: false,
            leaf: true,
            partial: false,
            raw_len: 5,
            payload_len: 5,
        };
        group.put_frame(&Hash::from_bytes([1; 32]), &header, b"chunk");
        let new = Some(Hash::from_bytes([1; 32]));
        group.put_record(&Change { name: "heads/main".into(), old: None, new });
        group.finish()
    }

    #[test]
    fn golden_bytes_of_a_group() {
        let mut finished = group();
        let (bytes, check) = finished.place(&KEY, &PLACE);
        let one = "01".repeat(32);
        let header = "504c4752 01000000 56000000 01000000 01000000 0500000000000000 4000000000000000";
        let checks = "900d04f7b38cf2e7 06dd492d9904597e43af1836d8897089";
        let body = format!("{one}81000005056368756e6b 0a68656164732f6d61696e02{one}");
        assert_eq!(hex(bytes), format!("{header}{checks}{body}").replace(' ', ""));
        assert_eq!(bytes[44..60], check);
    }

    #[test]
    fn a_group_reads_back_only_in_its_place() {
        let mut finished = group();
        let (bytes, check) = finished.place(&KEY, &PLACE);
        let header = GroupHeader::parse(bytes, &KEY, 64).unwrap();
        assert_eq!((header.sequence, header.synced_end, header.kind), (5, 0x40, Kind::Changes));
        let (head, body) = bytes.split_at(HEADER_BYTES);
        assert_eq!(header.verify(head, body, &KEY, &[9; 16]), Some(check));
        assert_eq!(header.verify(head, body, &KEY, &[8; 16]), None, "after another group");
        assert_eq!(GroupHeader::parse(bytes, &KEY, 65), None, "elsewhere");
        assert_eq!(GroupHeader::parse(bytes, &[6; 32], 64), None, "in another journal");
        let (frames, records) = parse_body(&header, body).unwrap();
        let place =
            Location { file: 0, offset: 32, len: 10, step: 0, crossed: false, leaf: true, partial: false };
        assert_eq!(frames, [(Hash::from_bytes([1; 32]), place)]);
        assert_eq!((records.len(), records[0].name.as_str()), (1, "heads/main"));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (head, body) = flipped.split_at(HEADER_BYTES);
            let read = GroupHeader::parse(&flipped, &KEY, 64);
            assert_eq!(read.and_then(|read| read.verify(head, body, &KEY, &[9; 16])), None, "bit {bit}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_or_refused(body: Vec<u8>, frame_count: u32, record_count: u32, few in 0..4_u32) {
            for (frame_count, record_count) in [(frame_count, record_count), (few, 1), (0, few)] {
                let header = GroupHeader {
                    kind: Kind::Changes,
                    body_len: body.len() as u32,
                    frame_count,
                    record_count,
                    sequence: 0,
                    synced_end: 0,
                    check: [0; 16],
                };
                let _ = parse_body(&header, &body);
            }
        }
    }
}

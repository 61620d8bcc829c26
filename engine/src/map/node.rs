//! The bytes of a map node, readable in place.
//!
//! A node is a chunk of kind [`MAP`]; its level is its height. A leaf (level 0) holds rows, an inner node one entry for
//! each child: the child's last key, its address, and the rows and bytes below it. All integers are little-endian:
//!
//! ```text
//!  0 u16 count         entries; 0 only in the one node of an empty map
//!  2 u16 prefix_len    bytes that all keys begin with, stored once
//!  4 u8  key_width     0: all key suffixes are equally long; 2 or 4: width of their end offsets
//!  5 u8  value_width   the same for values; 0 in inner nodes
//!  6 u16 flags         bit 0: a tag for each value follows the keys (leaves only)
//!  8 u32 key_bytes     total of the key suffixes
//! 12 u32 value_bytes   total of the values; 0 in inner nodes
//! 16 prefix · key ends (count × key_width) · key suffixes, then
//!    leaf:  tags (count × u8, if flagged) · value ends (count × value_width) · values
//!    inner: addresses (count × 32) · rows (count × u64) · bytes (count × u64)
//! ```
//!
//! A value's tag says what its bytes are: 0 the value itself; 1 the address and the u64 length of a blob; 2 addresses of
//! chunks and nothing else (the catalogue's entries). The chunk's header lists an inner node's addresses as its run,
//! and a leaf's one by one.
//!
//! Canonical: the prefix is the longest; a width is 0 if all lengths are equal, else 2 if the total fits in 16 bits, else 4;
//! tags are present only if one is not 0. So one content has one encoding.
//!
//! Read by cursors, diff, merge and the sync walk; written by the node builder alone.

use std::cell::Cell;
use std::cmp::Ordering;

use pleach_chunkstore::{Chunk, Hash, patch::Kept, patch::common_start};

use super::config::KEY_BYTES_MAX;
use crate::{
    VALUE_BYTES_MAX,
    chunks::Read,
    error::{Error, Result},
    kinds::MAP,
};

const HEADER: usize = 16;
const FLAG_TAGS: u16 = 1;
/// Longest inline value of any configuration, bytes.
const INLINE_BYTES_MAX: usize = 1024;
/// Most addresses in one value.
const LINKS_MAX: usize = 8;
/// The highest level that a node may have; 8^16 children are out of reach.
pub(crate) const LEVEL_MAX: u8 = 16;

/// What the bytes stored with a key are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    Inline = 0,
    Blob = 1,
    Links = 2,
}

impl Tag {
    fn from_u8(tag: u8) -> Option<Tag> {
        [Tag::Inline, Tag::Blob, Tag::Links].into_iter().find(|t| *t as u8 == tag)
    }

    /// How many addresses the value's first bytes are.
    fn links(self, value: &[u8]) -> usize {
        match self {
            Tag::Inline => 0,
            Tag::Blob => 1,
            Tag::Links => value.len() / Hash::LEN,
        }
    }

    /// Whether bytes can stand with this tag. The limits keep every node that can be made of such entries below the limit of a
    /// chunk: at most 8 × 192 entries of 1 KiB of key and 1 KiB of value.
    fn fits(self, value: &[u8]) -> bool {
        match self {
            Tag::Inline => value.len() <= INLINE_BYTES_MAX,
            Tag::Blob => match value.last_chunk() {
                Some(len) => {
                    value.len() == Hash::LEN + 8 && u64::from_le_bytes(*len) <= VALUE_BYTES_MAX as u64
                }
                None => false,
            },
            Tag::Links => {
                (1..=LINKS_MAX).contains(&(value.len() / Hash::LEN)) && value.len().is_multiple_of(Hash::LEN)
            }
        }
    }
}

/// A value as it is stored in a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored<'a> {
    pub(crate) tag: Tag,
    pub(crate) bytes: &'a [u8],
}

/// A value to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) tag: Tag,
    pub(crate) bytes: Vec<u8>,
}

impl Value {
    /// It, as a leaf has it.
    pub(crate) fn stored(&self) -> Stored<'_> {
        Stored { tag: self.tag, bytes: &self.bytes }
    }
}

impl From<Stored<'_>> for Value {
    fn from(stored: Stored<'_>) -> Value {
        Value { tag: stored.tag, bytes: stored.bytes.to_vec() }
    }
}

/// An inner node's entry, without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) hash: Hash,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// The first index from `low` to before `high` of which `is_less` does not hold.
#[inline]
fn partition_point(mut low: usize, mut high: usize, is_less: impl Fn(usize) -> bool) -> usize {
    while low < high {
        let middle = usize::midpoint(low, high);
        match is_less(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

/// Where a sequence of byte strings stands in a node.
#[derive(Debug, Clone, Copy)]
struct Strings {
    ends: u32,
    data: u32,
    total: u32,
    /// Length of each string, if `width` is 0.
    stride: u32,
    width: u8,
}

impl Strings {
    /// The range of string `i`. Clamped to the total, so that no bytes can make it reach outside.
    #[inline]
    fn range(&self, bytes: &[u8], i: usize) -> (usize, usize) {
        let (start, end) = match self.width {
            0 => (i * self.stride as usize, (i + 1) * self.stride as usize),
            _ => (if i == 0 { 0 } else { self.end(bytes, i - 1) }, self.end(bytes, i)),
        };
        let end = end.min(self.total as usize);
        (self.data as usize + start.min(end), self.data as usize + end)
    }

    #[inline]
    fn end(&self, bytes: &[u8], i: usize) -> usize {
        let at = self.ends as usize + i * usize::from(self.width);
        if self.width == 2 {
            usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
        } else {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
        }
    }
}

/// Strings of one node beside those of another, each from an index on.
struct Beside<'a> {
    strings: &'a Strings,
    bytes: &'a [u8],
    from: usize,
}

impl Beside<'_> {
    /// Length of the string `n` places further on.
    fn len(&self, n: usize) -> usize {
        let (start, end) = self.strings.range(self.bytes, self.from + n);
        end - start
    }

    /// The strings from `n` places further on to before `end` places, side by side.
    fn run(&self, n: usize, end: usize) -> &[u8] {
        let start = self.strings.range(self.bytes, self.from + n).0;
        let end = self.strings.range(self.bytes, self.from + end - 1).1;
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// How many strings, of `most` that both have, are the same in both, one by one. The work is in proportion to the answer.
    fn same(&self, other: &Beside<'_>, most: usize) -> usize {
        let (ours, theirs) = (self.strings, other.strings);
        if ours.width == 0 && theirs.width == 0 {
            if most == 0 || ours.stride != theirs.stride {
                return 0;
            }
            let common = common_start(self.run(0, most), other.run(0, most));
            return common.checked_div(ours.stride as usize).unwrap_or(most);
        }
        let (mut same, mut step) = (0, 1);
        while same < most {
            let end = most.min(same + step);
            let alike = (same..end).take_while(|n| self.len(*n) == other.len(*n)).count();
            if alike == 0 {
                break;
            }
            let mut common = common_start(self.run(same, same + alike), other.run(same, same + alike));
            let whole = (same..same + alike).take_while(|n| match common.checked_sub(self.len(*n)) {
                Some(left) => {
                    common = left;
                    true
                }
                None => false,
            });
            let whole = whole.count();
            same += whole;
            if same < end {
                break;
            }
            step *= 2;
        }
        same
    }
}

/// Entries side by side that a node has of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The index of the first, here and there.
    pub(crate) here: usize,
    pub(crate) there: usize,
    pub(crate) len: usize,
}

/// A parsed view of a map node. Cheap to clone: it shares the chunk.
#[derive(Clone)]
pub(crate) struct Node {
    chunk: Chunk,
    count: u16,
    prefix: u16,
    keys: Strings,
    values: Strings,
    tags: Option<u32>,
    children: u32,
}

impl Node {
    /// The map node at `hash`.
    pub(crate) fn load(reader: &(impl Read + ?Sized), hash: &Hash) -> Result<Node> {
        Node::parse(reader.chunk(hash)?)
    }

    /// The child of inner entry `i`, one level below.
    pub(crate) fn load_child(&self, reader: &(impl Read + ?Sized), i: usize) -> Result<Node> {
        let child = Node::parse(reader.child(&self.chunk, i)?)?;
        child.expect_level_below(self)?;
        Ok(child)
    }

    /// [`Node::load_child`], whose keys must lie where this node says: behind those of the child before, up to its own entry's. Nodes are checked one by
    /// one when they arrive, and what is made of nodes that do not fit together would not be a map.
    pub(crate) fn load_child_in_place(&self, reader: &(impl Read + ?Sized), i: usize) -> Result<Node> {
        let child = self.load_child(reader, i)?;
        let ends = self.key_cmp(i, &child, child.len() - 1) == Ordering::Equal;
        let begins = i == 0 || self.key_cmp(i - 1, &child, 0) == Ordering::Less;
        match ends && begins {
            true => Ok(child),
            false => Err(Error::malformed(child.hash(), "expected keys where the node above says")),
        }
    }

    /// Parses the node's frame in constant time. Offsets inside are clamped when they are used; their order is checked
    /// by [`Node::check`] when a chunk arrives from outside.
    pub(crate) fn parse(chunk: Chunk) -> Result<Node> {
        let malformed = |what: &str| Error::malformed(chunk.hash(), what);
        if chunk.kind() != MAP || chunk.level() > LEVEL_MAX {
            let found = format!("kind {} level {}", chunk.kind(), chunk.level());
            return Err(malformed(&format!("expected a map node, found {found}")));
        }
        let body = chunk.body();
        let header: &[u8; HEADER] =
            body.first_chunk().ok_or_else(|| malformed("expected a node header of 16 bytes"))?;
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (count, prefix, flags) = (u16_at(0), u16_at(2), u16_at(6));
        let (key_width, value_width) = (header[4], header[5]);
        let (key_bytes, value_bytes) = (u32_at(8), u32_at(12));
        if ![0, 2, 4].contains(&key_width) || ![0, 2, 4].contains(&value_width) || flags & !FLAG_TAGS != 0 {
            return Err(malformed("expected widths 0, 2 or 4 and known flags"));
        }
        let leaf = chunk.level() == 0;
        if !leaf && (count == 0 || value_bytes != 0 || value_width != 0 || flags != 0) {
            return Err(malformed("expected an inner node with children and no values"));
        }
        let tagged = flags & FLAG_TAGS != 0;
        let entries = u64::from(count);
        let key_data = HEADER as u64 + u64::from(prefix) + entries * u64::from(key_width);
        let after_keys = key_data + u64::from(key_bytes);
        let value_ends = after_keys + if tagged { entries } else { 0 };
        let value_data = value_ends + entries * u64::from(value_width);
        let end = match leaf {
            true => value_data + u64::from(value_bytes),
            false => after_keys + entries * (Hash::LEN as u64 + 16),
        };
        let is_even = |width: u8, total: u32| width > 0 || u64::from(total).is_multiple_of(entries.max(1));
        let even = is_even(key_width, key_bytes) && is_even(value_width, value_bytes);
        if end != body.len() as u64 || !even || (count == 0 && key_bytes + value_bytes > 0) {
            return Err(malformed(&format!("expected a body of {end} bytes, found {}", body.len())));
        }
        // Each is less than the body's length, which fits in 32 bits.
        let strings = |ends: u64, data: u64, total: u32, width: u8| {
            let stride = total.checked_div(u32::from(count)).unwrap_or(0);
            Strings { ends: ends as u32, data: data as u32, total, stride, width }
        };
        let keys = strings(HEADER as u64 + u64::from(prefix), key_data, key_bytes, key_width);
        let values = strings(value_ends, value_data, value_bytes, value_width);
        let (tags, children) = (tagged.then_some(after_keys as u32), after_keys as u32);
        Ok(Node { count, prefix, keys, values, tags, children, chunk })
    }

    pub(crate) fn hash(&self) -> &Hash {
        self.chunk.hash()
    }

    pub(crate) fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    pub(crate) fn level(&self) -> u8 {
        self.chunk.level()
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.chunk.level() == 0
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// The bytes that all keys begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.chunk.body()[HEADER..HEADER + usize::from(self.prefix)]
    }

    /// The rest of key `i`.
    #[inline]
    pub(crate) fn suffix(&self, i: usize) -> &[u8] {
        let body = self.chunk.body();
        let (start, end) = self.keys.range(body, i);
        &body[start..end]
    }

    /// Key `i`, put together in `buffer`.
    pub(crate) fn key_into(&self, i: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(self.prefix());
        buffer.extend_from_slice(self.suffix(i));
    }

    /// Key `i`.
    pub(crate) fn key(&self, i: usize) -> Vec<u8> {
        let mut key = Vec::with_capacity(usize::from(self.prefix) + 32);
        self.key_into(i, &mut key);
        key
    }

    /// The last key; `None` in the empty map's node.
    pub(crate) fn last_key(&self) -> Option<Vec<u8>> {
        self.len().checked_sub(1).map(|i| self.key(i))
    }

    /// The index of the first entry whose key is at least `key`; `len()` if there is none.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(i) | Err(i) => i,
        }
    }

    /// The index of the entry with this key, or else of the first whose key is beyond it; `len()` if there is none.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        let Some(rest) = key.strip_prefix(prefix) else {
            return Err(if key < prefix { 0 } else { self.len() });
        };
        match (self.keys.width, rest.first_chunk()) {
            (0, Some(word)) if self.keys.stride >= 8 => self.search_word(rest, *word),
            _ => {
                let i = partition_point(0, self.len(), |i| self.suffix(i) < rest);
                if i < self.len() && self.suffix(i) == rest { Ok(i) } else { Err(i) }
            }
        }
    }

    /// [`Node::search`] of the rest of a key that begins with `word`, where all keys are equally long: most are told apart by a word, at a
    /// known place.
    fn search_word(&self, rest: &[u8], word: [u8; 8]) -> Result<usize, usize> {
        let word = u64::from_be_bytes(word);
        let (stride, keys) = (self.keys.stride as usize, &self.chunk.body()[self.keys.data as usize..]);
        let word_at = |i: usize| {
            let bytes = keys.get(i * stride..).and_then(<[u8]>::first_chunk);
            bytes.map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
        };
        let low = partition_point(0, self.len(), |i| word_at(i) < word);
        if low == self.len() || word_at(low) != word {
            return Err(low);
        }
        let i = partition_point(low, self.len(), |i| self.suffix(i) < rest);
        if i < self.len() && self.suffix(i) == rest { Ok(i) } else { Err(i) }
    }

    /// Whether entry `i` has exactly this key.
    pub(crate) fn key_is(&self, i: usize, key: &[u8]) -> bool {
        i < self.len() && key.strip_prefix(self.prefix()).is_some_and(|rest| rest == self.suffix(i))
    }

    /// How the key of entry `i` compares with that of entry `j` of another node.
    pub(crate) fn key_cmp(&self, i: usize, other: &Node, j: usize) -> Ordering {
        let (ours, theirs) = (self.prefix(), other.prefix());
        if ours == theirs {
            return self.suffix(i).cmp(other.suffix(j));
        }
        ours.iter().chain(self.suffix(i)).cmp(theirs.iter().chain(other.suffix(j)))
    }

    /// The value of leaf entry `i`.
    #[inline]
    pub(crate) fn value(&self, i: usize) -> Stored<'_> {
        let body = self.chunk.body();
        let (start, end) = self.values.range(body, i);
        let tag = self.tags.and_then(|at| Tag::from_u8(body[at as usize + i])).unwrap_or(Tag::Inline);
        Stored { tag, bytes: &body[start..end] }
    }

    /// Where in the chunk the value of leaf entry `i` lies, if it has this tag and length: so it can be replaced in place.
    pub(crate) fn value_place(&self, i: usize, new: Stored<'_>) -> Option<usize> {
        let old = self.value(i);
        let (start, _) = self.values.range(self.chunk.body(), i);
        ((old.tag, old.bytes.len()) == (new.tag, new.bytes.len())).then(|| self.in_chunk(start))
    }

    /// Where in the chunk the address, the rows and the bytes of inner entry `i` lie.
    pub(crate) fn child_places(&self, i: usize) -> [usize; 3] {
        [self.children as usize + i * Hash::LEN, self.u64_at(i, 0), self.u64_at(i, 1)]
            .map(|at| self.in_chunk(at))
    }

    /// The chunk's offset of an offset in the body.
    fn in_chunk(&self, at: usize) -> usize {
        self.chunk.bytes().len() - self.chunk.body().len() + at
    }

    /// How many rows are the same, key and value, here from `i` on and in `other`, a leaf too, from `j` on. May say fewer, if keys are not
    /// cut alike.
    pub(crate) fn same_rows(&self, i: usize, other: &Node, j: usize) -> usize {
        self.same_values(i, other, j, self.same_keys(i, other, j))
    }

    /// How many keys are the same here from `i` on and in `other` from `j` on. May say fewer, if they are not cut alike.
    pub(crate) fn same_keys(&self, i: usize, other: &Node, j: usize) -> usize {
        if self.prefix() != other.prefix() {
            return 0;
        }
        let keys = Beside { strings: &self.keys, bytes: self.chunk.body(), from: i };
        let theirs = Beside { strings: &other.keys, bytes: other.chunk.body(), from: j };
        keys.same(&theirs, (self.len() - i).min(other.len() - j))
    }

    /// How many values, of `most` that both have, are the same here from `i` on and in `other`, a leaf too, from `j` on. May say fewer, if one
    /// leaf alone has tags.
    pub(crate) fn same_values(&self, i: usize, other: &Node, j: usize, most: usize) -> usize {
        if self.tags.is_some() != other.tags.is_some() {
            return 0;
        }
        let (ours, theirs) = (self.chunk.body(), other.chunk.body());
        let values = Beside { strings: &self.values, bytes: ours, from: i };
        let same = values.same(&Beside { strings: &other.values, bytes: theirs, from: j }, most);
        match (self.tags, other.tags) {
            (Some(at), Some(there)) => {
                let (at, there) = (at as usize, there as usize);
                common_start(&ours[at + i..at + i + same], &theirs[there + j..there + j + same])
            }
            _ => same,
        }
    }

    /// How many addresses the value of leaf entry `i` holds.
    pub(crate) fn links(&self, i: usize) -> usize {
        let value = self.value(i);
        value.tag.links(value.bytes)
    }

    /// The stretches of this node's chunk that stand in `base` too, if it has these entries of it, in order.
    pub(crate) fn kept(&self, base: &Node, runs: &[Run]) -> Vec<Kept> {
        let mut kept = Vec::with_capacity(4 * runs.len());
        // The arrays come one after the other, and in each of them the runs.
        let mut array = |place: &dyn Fn(&Node, usize, usize) -> (usize, usize)| {
            for Run { here, there, len } in runs {
                let (start, end) = place(self, *here, *len);
                let (at, base_at) = (self.in_chunk(start), base.in_chunk(place(base, *there, *len).0));
                kept.push(Kept { at, base_at, len: end - start });
            }
        };
        let ends = |strings: &Strings, i: usize, len: usize| {
            let width = usize::from(strings.width);
            (strings.ends as usize + i * width, strings.ends as usize + (i + len) * width)
        };
        let strings = |node: &Node, strings: &Strings, i: usize, len: usize| {
            let body = node.chunk.body();
            (strings.range(body, i).0, strings.range(body, i + len - 1).1)
        };
        let flat =
            |start: usize, bytes: usize, i: usize, len: usize| (start + i * bytes, start + (i + len) * bytes);
        if self.keys.width == base.keys.width && self.keys.width > 0 {
            array(&|node, i, len| ends(&node.keys, i, len));
        }
        array(&|node, i, len| strings(node, &node.keys, i, len));
        if !self.is_leaf() {
            array(&|node, i, len| flat(node.children as usize, Hash::LEN, i, len));
            array(&|node, i, len| flat(node.u64_at(0, 0), 8, i, len));
            array(&|node, i, len| flat(node.u64_at(0, 1), 8, i, len));
            return kept;
        }
        if self.tags.is_some() && base.tags.is_some() {
            array(&|node, i, len| flat(node.tags.unwrap_or(0) as usize, 1, i, len));
        }
        if self.values.width == base.values.width && self.values.width > 0 {
            array(&|node, i, len| ends(&node.values, i, len));
        }
        array(&|node, i, len| strings(node, &node.values, i, len));
        kept
    }

    /// The child of inner entry `i`.
    pub(crate) fn child(&self, i: usize) -> Child {
        Child { hash: self.child_hash(i), rows: self.child_u64(i, 0), bytes: self.child_u64(i, 1) }
    }

    /// The address of the child of inner entry `i`.
    #[inline]
    pub(crate) fn child_hash(&self, i: usize) -> Hash {
        let at = self.children as usize + i * Hash::LEN;
        let mut hash = [0; Hash::LEN];
        hash.copy_from_slice(&self.chunk.body()[at..at + Hash::LEN]);
        Hash::from_bytes(hash)
    }

    /// Where in the body an inner entry's rows (array 0) or bytes (1) stand.
    fn u64_at(&self, i: usize, array: usize) -> usize {
        self.children as usize + self.len() * Hash::LEN + (array * self.len() + i) * 8
    }

    fn child_u64(&self, i: usize, array: usize) -> u64 {
        let at = self.u64_at(i, array);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.chunk.body()[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    /// Rows in the subtree.
    pub(crate) fn rows(&self) -> u64 {
        match self.is_leaf() {
            true => self.len() as u64,
            false => (0..self.len()).fold(0, |sum: u64, i| sum.saturating_add(self.child_u64(i, 0))),
        }
    }

    /// Bytes of keys and values in the subtree; an out-of-line value counts with its whole length.
    pub(crate) fn bytes(&self) -> u64 {
        if !self.is_leaf() {
            return (0..self.len()).fold(0, |sum: u64, i| sum.saturating_add(self.child_u64(i, 1)));
        }
        let keys = u64::from(self.keys.total) + (usize::from(self.prefix) * self.len()) as u64;
        match self.tags {
            None => keys + u64::from(self.values.total),
            Some(_) => (0..self.len()).fold(keys, |sum, i| sum.saturating_add(value_bytes(&self.value(i)))),
        }
    }

    /// A child stands one level below its parent; anything else is not a tree.
    fn expect_level_below(&self, parent: &Node) -> Result<()> {
        if self.level() + 1 == parent.level() && self.len() > 0 {
            return Ok(());
        }
        let what = format!(
            "expected a node of level {} with entries, found level {}",
            parent.level() - 1,
            self.level()
        );
        Err(Error::malformed(self.hash(), what))
    }

    /// The whole check of a node from outside: sorted keys, canonical form, exact references.
    pub(crate) fn check(chunk: &Chunk) -> Result<()> {
        // One after the other, and each as long as the last: what was allocated for one serves the next.
        thread_local! {
            static ENCODER: Cell<Encoder> = Cell::new(Encoder::new(0));
        }
        let mut encoder = ENCODER.take();
        encoder.clear();
        let checked = Node::check_by(chunk, &mut encoder);
        ENCODER.set(encoder);
        checked
    }

    fn check_by(chunk: &Chunk, encoder: &mut Encoder) -> Result<()> {
        let node = Node::parse(chunk.clone())?;
        let malformed = |what: &str| Error::malformed(chunk.hash(), what);
        encoder.level = node.level();
        let (mut key, mut last) = (Vec::new(), Vec::new());
        for i in 0..node.len() {
            node.key_into(i, &mut key);
            if key.len() > KEY_BYTES_MAX || (i > 0 && key <= last) {
                return Err(malformed("expected strictly ascending keys of at most 1,024 bytes"));
            }
            if node.is_leaf() {
                if let Some(at) = node.tags
                    && Tag::from_u8(chunk.body()[at as usize + i]).is_none()
                {
                    return Err(malformed("expected value tags 0 to 2"));
                }
                let value = node.value(i);
                if !value.tag.fits(value.bytes) {
                    return Err(malformed("expected a value that fits its tag"));
                }
                encoder.push_value(&key, value);
            } else {
                encoder.push_child(&key, node.child(i));
            }
            std::mem::swap(&mut key, &mut last);
        }
        if encoder.lay_out() != chunk.bytes() {
            return Err(malformed("expected the canonical encoding of its entries"));
        }
        Ok(())
    }
}

/// Bytes of a value, an out-of-line one with its whole length.
pub(crate) fn value_bytes(value: &Stored<'_>) -> u64 {
    match (value.tag, value.bytes.last_chunk::<8>()) {
        (Tag::Blob, Some(len)) => u64::from_le_bytes(*len),
        _ => value.bytes.len() as u64,
    }
}

/// Collects entries in order and encodes them as a node. Reusable: [`Encoder::finish`] leaves it empty.
#[derive(Default)]
pub(crate) struct Encoder {
    level: u8,
    keys: Vec<u8>,
    key_ends: Vec<u32>,
    values: Vec<u8>,
    value_ends: Vec<u32>,
    tags: Vec<u8>,
    children: Vec<Child>,
}

impl Encoder {
    pub(crate) fn new(level: u8) -> Encoder {
        Encoder {
            level,
            keys: Vec::new(),
            key_ends: Vec::new(),
            values: Vec::new(),
            value_ends: Vec::new(),
            tags: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Number of entries so far.
    pub(crate) fn len(&self) -> usize {
        self.key_ends.len()
    }

    pub(crate) fn push_value(&mut self, key: &[u8], value: Stored<'_>) {
        self.push_key(key);
        self.values.extend_from_slice(value.bytes);
        self.value_ends.push(self.values.len() as u32);
        self.tags.push(value.tag as u8);
    }

    pub(crate) fn push_child(&mut self, key: &[u8], child: Child) {
        self.push_key(key);
        self.children.push(child);
    }

    /// Adds the entry `i` of another node of the same level.
    pub(crate) fn push_entry(&mut self, node: &Node, i: usize) {
        self.keys.extend_from_slice(node.prefix());
        self.keys.extend_from_slice(node.suffix(i));
        self.key_ends.push(self.keys.len() as u32);
        if node.is_leaf() {
            let value = node.value(i);
            self.values.extend_from_slice(value.bytes);
            self.value_ends.push(self.values.len() as u32);
            self.tags.push(value.tag as u8);
        } else {
            self.children.push(node.child(i));
        }
    }

    fn push_key(&mut self, key: &[u8]) {
        self.keys.extend_from_slice(key);
        self.key_ends.push(self.keys.len() as u32);
    }

    fn key(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.key_ends[i - 1] as usize };
        &self.keys[start..self.key_ends[i] as usize]
    }

    /// The last key pushed.
    pub(crate) fn last_key(&self) -> &[u8] {
        self.key(self.len() - 1)
    }

    /// Encodes the entries, and leaves the encoder empty.
    pub(crate) fn finish(&mut self) -> Chunk {
        Chunk::hashed(self.lay_out())
    }

    /// The bytes of the chunk that [`Encoder::finish`] makes.
    fn lay_out(&mut self) -> Vec<u8> {
        let count = self.len();
        assert!(count <= usize::from(u16::MAX), "a node's count fits in 16 bits");
        // Keys are sorted, so what the first and the last share, all share.
        let prefix = match count {
            0 => 0,
            _ => self.key(0).iter().zip(self.last_key()).take_while(|(a, b)| a == b).count(),
        };
        let ends = self.key_ends.iter().zip(1_u32..);
        let suffix_ends: Vec<u32> = ends.map(|(end, keys)| end - keys * prefix as u32).collect();
        let suffix_bytes = self.keys.len() - prefix * count;
        let leaf = self.level == 0;
        let key_width = width(&suffix_ends);
        let value_width = if leaf { width(&self.value_ends) } else { 0 };
        let tagged = self.tags.iter().any(|tag| *tag != 0);
        let tags = if tagged { self.tags.as_slice() } else { &[] };
        // Where addresses, or values, begin.
        let after_keys = HEADER + prefix + count * usize::from(key_width) + suffix_bytes;
        let values = after_keys + tags.len() + if leaf { count * usize::from(value_width) } else { 0 };
        let body_len = if leaf { values + self.values.len() } else { after_keys + count * (Hash::LEN + 16) };
        let list = if tagged { self.link_offsets(values as u32) } else { Vec::new() };

        let mut bytes = Chunk::room(list.len(), body_len);
        bytes.extend_from_slice(&(count as u16).to_le_bytes());
        bytes.extend_from_slice(&(prefix as u16).to_le_bytes());
        bytes.extend_from_slice(&[key_width, value_width]);
        bytes.extend_from_slice(&(if tagged { FLAG_TAGS } else { 0 }).to_le_bytes());
        bytes.extend_from_slice(&(suffix_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        bytes.extend_from_slice(if count == 0 { &[] } else { &self.key(0)[..prefix] });
        push_ends(&mut bytes, &suffix_ends, key_width);
        (0..count).for_each(|i| bytes.extend_from_slice(&self.key(i)[prefix..]));

        let bytes = if leaf {
            bytes.extend_from_slice(tags);
            push_ends(&mut bytes, &self.value_ends, value_width);
            bytes.extend_from_slice(&self.values);
            Chunk::lay_out(bytes, MAP, 0, None, &list, 0)
        } else {
            self.children.iter().for_each(|child| bytes.extend_from_slice(child.hash.as_bytes()));
            self.children.iter().for_each(|child| bytes.extend_from_slice(&child.rows.to_le_bytes()));
            self.children.iter().for_each(|child| bytes.extend_from_slice(&child.bytes.to_le_bytes()));
            Chunk::lay_out(bytes, MAP, self.level, Some((after_keys as u32, count as u32)), &[], 0)
        };
        self.clear();
        bytes
    }

    /// Offsets in the body of the addresses in tagged values, which begin at `start`.
    fn link_offsets(&self, start: u32) -> Vec<u32> {
        let mut list = Vec::new();
        let mut from = 0;
        for (tag, end) in self.tags.iter().zip(&self.value_ends) {
            let value = &self.values[from as usize..*end as usize];
            let links = Tag::from_u8(*tag).map_or(0, |tag| tag.links(value));
            list.extend((0..links as u32).map(|i| start + from + i * Hash::LEN as u32));
            from = *end;
        }
        list
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.key_ends.clear();
        self.values.clear();
        self.value_ends.clear();
        self.tags.clear();
        self.children.clear();
    }
}

fn width(ends: &[u32]) -> u8 {
    let total = ends.last().copied().unwrap_or(0);
    let first = ends.first().copied().unwrap_or(0);
    if ends.iter().enumerate().all(|(i, end)| u64::from(*end) == (i as u64 + 1) * u64::from(first)) {
        0
    } else if total <= u32::from(u16::MAX) {
        2
    } else {
        4
    }
}

fn push_ends(body: &mut Vec<u8>, ends: &[u32], width: u8) {
    match width {
        0 => {}
        2 => ends.iter().for_each(|end| body.extend_from_slice(&(*end as u16).to_le_bytes())),
        _ => ends.iter().for_each(|end| body.extend_from_slice(&end.to_le_bytes())),
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;

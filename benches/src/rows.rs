//! The rows that every workload uses: 16-byte random keys, 100-byte JSON-like values.
//!
//! Everything is a function of a seed, so each worker makes the same rows by itself. Keys come from splitmix64 and
//! are sorted; a value is a function of its row's number and of a version, so an update is "the same row, the next
//! version" and a reader can check what it gets. Values compress as the text of real records does: about 2.2 times
//! for key and value together under zstd level 1, held by a test below.

use std::io::Write;

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 100;
const SEED: u64 = 0x5EED_2026;

/// A key.
pub type Key = [u8; KEY_BYTES];
/// A value.
pub type Value = [u8; VALUE_BYTES];

/// The generator of Steele, Lea and Flood; small, seedable, and the same everywhere.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0. The bias of the modulus is below 2^-32 for the bounds used here.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// `count` different numbers below `bound`, in random order.
    pub fn distinct_below(&mut self, bound: usize, count: usize) -> Vec<usize> {
        assert!(count <= bound, "{count} different numbers below {bound}");
        let mut seen = std::collections::HashSet::with_capacity(count);
        let mut numbers = Vec::with_capacity(count);
        while numbers.len() < count {
            let number = self.below(bound);
            if seen.insert(number) {
                numbers.push(number);
            }
        }
        numbers
    }
}

/// One update: the row's key and its value of some later version.
pub type Edit = (Key, Value);

/// The table that a comparison is about: `len` keys in order.
#[derive(Debug)]
pub struct Rows {
    keys: Vec<Key>,
}

impl Rows {
    /// Makes the keys of a table of `count` rows.
    pub fn new(count: usize) -> Rows {
        let mut random = SplitMix64::new(SEED);
        let mut keys: Vec<Key> = (0..count)
            .map(|_| {
                let mut key = [0; KEY_BYTES];
                key[..8].copy_from_slice(&random.next_u64().to_be_bytes());
                key[8..].copy_from_slice(&random.next_u64().to_be_bytes());
                key
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "128 random bits do not repeat");
        Rows { keys }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True for a table without rows.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Key of row `row`, in key order.
    pub fn key(&self, row: usize) -> &Key {
        &self.keys[row]
    }

    /// The first version of every value, in key order, one after the other.
    pub fn first_values(&self) -> Vec<Value> {
        (0..self.len()).map(|row| value(row, 0)).collect()
    }

    /// Row `row` updated to `version`.
    pub fn edit(&self, row: usize, version: u64) -> Edit {
        (self.keys[row], value(row, version))
    }
}

/// The value of `row` in `version`. Different versions differ.
pub fn value(row: usize, version: u64) -> Value {
    let mut random = SplitMix64::new(
        (row as u64).wrapping_mul(0x2545_F491_4F6C_DD1D) ^ version.wrapping_mul(0xA24B_AED4_963E_E407),
    );
    let (a, b, c) = (random.next_u64(), random.next_u64(), random.next_u64());
    const STATES: [&str; 4] = ["active", "paused", "closed", "queued"];
    let mut value = [b' '; VALUE_BYTES];
    let mut out = &mut value[..];
    // A slice takes at most its own length, and the text is shorter than that; see the test.
    let written = write!(
        out,
        "{{\"id\":\"{a:016x}{:08x}\",\"state\":\"{}\",\"score\":{},\"note\":\"{:016x}{:02x}\"",
        b as u32,
        STATES[(b >> 32) as usize % STATES.len()],
        1_000_000 + (b >> 34) % 9_000_000,
        c,
        a as u8 ^ c as u8,
    );
    debug_assert!(written.is_ok());
    value[VALUE_BYTES - 1] = b'}';
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn keys_are_sorted_different_and_the_same_each_time() {
        let rows = Rows::new(1_000);
        assert!((1..rows.len()).all(|i| rows.key(i - 1) < rows.key(i)));
        assert_eq!(rows.key(500), Rows::new(1_000).key(500));
    }

    #[test]
    fn values_are_whole_json_objects_and_versions_differ() {
        for row in 0..2_000 {
            let first = value(row, 0);
            let object: serde_json::Value = serde_json::from_slice(&first).expect("JSON");
            assert_eq!(object.as_object().expect("an object").len(), 4);
            assert_ne!(first, value(row, 1));
            assert_eq!(first, value(row, 0));
        }
    }

    #[test]
    fn records_compress_about_two_point_two_times() {
        let rows = Rows::new(36_000);
        let mut raw = Vec::new();
        for row in 0..rows.len() {
            raw.extend_from_slice(rows.key(row));
            raw.extend_from_slice(&value(row, 0));
        }
        let ratio = raw.len() as f64 / zstd::bulk::compress(&raw, 1).unwrap().len() as f64;
        assert!((2.1..2.3).contains(&ratio), "{ratio}");
    }
}

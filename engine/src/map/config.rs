//! The configuration of a map, and the rule that cuts it into nodes.
//!
//! The shape of a map is a function of its content and this configuration alone. A node ends after an entry whose key,
//! hashed with the map's salt and the node's level, falls below a threshold. Guards count *entries*, never bytes (at
//! least a quarter of the mean, at most eight times the mean), so a change of a value, whatever its length, can move
//! no boundary. Called by the node builder only.
//!
//! Encoded in a table's definition as: u16 leaf mean, u16 inner mean, u16 inline bytes, u64 salt, little-endian.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Length of an encoded configuration, bytes.
pub(crate) const ENCODED_LEN: usize = 14;

/// How a map is cut into nodes. Fixed when the map is made; part of its table's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapConfig {
    /// Mean number of rows in a leaf, 8 to 192.
    pub leaf_mean: u16,
    /// Mean number of children of an inner node, 8 to 192.
    pub inner_mean: u16,
    /// Values longer than this many bytes are stored out of line, 64 to 1024.
    pub inline_bytes: u16,
    /// Salt of the boundary hash.
    pub salt: u64,
}

impl Default for MapConfig {
    /// 64 rows a leaf, 128 children an inner node, values of up to 1,024 bytes inline, no salt.
    fn default() -> MapConfig {
        MapConfig { leaf_mean: 64, inner_mean: 128, inline_bytes: 1024, salt: 0 }
    }
}

impl MapConfig {
    /// The configuration for rows of about `row_bytes` bytes: leaves of about 8 KiB.
    pub fn for_row_bytes(row_bytes: usize) -> MapConfig {
        let mean = (8192 / row_bytes.max(1)).clamp(16, 192);
        MapConfig { leaf_mean: mean as u16, ..MapConfig::default() }
    }

    fn mean(&self, level: u8) -> u64 {
        u64::from(if level == 0 { self.leaf_mean } else { self.inner_mean })
    }

    /// Most entries of a node at `level`.
    pub(crate) fn entries_max(&self, level: u8) -> usize {
        self.mean(level) as usize * 8
    }

    /// Whether a node at `level` ends after its entry number `count`, whose key is `key`.
    pub(crate) fn ends_node(&self, level: u8, key: &[u8], count: usize) -> bool {
        let mean = self.mean(level);
        let count = count as u64;
        if count < mean / 4 {
            return false;
        }
        // The first eligible entry is number mean/4, so a chance of 1/(mean - mean/4 + 1) makes the mean.
        let seed = self.salt ^ (u64::from(level) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        count >= self.entries_max(level) as u64
            || xxh3_64_with_seed(key, seed) <= u64::MAX / (mean - mean / 4 + 1)
    }

    pub(crate) fn encode(&self) -> [u8; ENCODED_LEN] {
        let mut out = [0; ENCODED_LEN];
        out[0..2].copy_from_slice(&self.leaf_mean.to_le_bytes());
        out[2..4].copy_from_slice(&self.inner_mean.to_le_bytes());
        out[4..6].copy_from_slice(&self.inline_bytes.to_le_bytes());
        out[6..14].copy_from_slice(&self.salt.to_le_bytes());
        out
    }

    /// `None` if a field is out of its range.
    pub(crate) fn decode(bytes: &[u8; ENCODED_LEN]) -> Option<MapConfig> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut salt = [0; 8];
        salt.copy_from_slice(&bytes[6..14]);
        let config = MapConfig {
            leaf_mean: u16_at(0),
            inner_mean: u16_at(2),
            inline_bytes: u16_at(4),
            salt: u64::from_le_bytes(salt),
        };
        let means = 8..=192;
        let valid = means.contains(&config.leaf_mean)
            && means.contains(&config.inner_mean)
            && (64..=1024).contains(&config.inline_bytes);
        valid.then_some(config)
    }
}

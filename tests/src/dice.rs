//! Numbers that a seed makes, for whoever shares them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Random numbers; clones go on with the same.
#[derive(Clone)]
pub struct Dice(Arc<AtomicU64>);

impl Dice {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(Arc::new(AtomicU64::new(seed.wrapping_mul(STEP))))
    }

    /// A number from 0 to `end`, without it.
    pub fn below(&self, end: u64) -> u64 {
        mixed(self.0.fetch_add(STEP, Ordering::Relaxed)) % end
    }
}

/// A number that looks random, made of `i`.
pub fn mixed(i: u64) -> u64 {
    let i = (i ^ (i >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let i = (i ^ (i >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    i ^ (i >> 31)
}

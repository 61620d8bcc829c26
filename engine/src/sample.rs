//! Rows of a table drawn by their rank.
//!
//! Floyd's method draws `n` different ranks in as many steps: the step for each `j` of the last `n` ranks takes a random rank up
//! to `j`, or `j` itself if that was taken. The random numbers are those of SplitMix64 from the seed, so that a seed gives
//! the same ranks everywhere and for ever (test `golden_ranks_of_a_seed`).

use std::collections::{BTreeSet, btree_set};

use crate::{error::Result, snapshot::Table};

/// Some rows of a table, in key order. Owns its snapshot.
pub struct Sample {
    table: Table,
    ranks: btree_set::IntoIter<u64>,
}

impl Sample {
    pub(crate) fn new(table: Table, n: u64, seed: u64) -> Result<Sample> {
        let ranks = draw(table.rows()?, n, seed).into_iter();
        Ok(Sample { table, ranks })
    }
}

impl Iterator for Sample {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.table.select(self.ranks.next()?).transpose()
    }
}

fn draw(rows: u64, n: u64, seed: u64) -> BTreeSet<u64> {
    let mut random = SplitMix(seed);
    let mut ranks = BTreeSet::new();
    for j in rows.saturating_sub(n)..rows {
        let rank = random.up_to(j);
        if !ranks.insert(rank) {
            ranks.insert(j);
        }
    }
    ranks
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `last`, each equally likely.
    fn up_to(&mut self, last: u64) -> u64 {
        let Some(count) = last.checked_add(1) else { return self.next() };
        // The high half of a product maps 64 bits on `count` numbers; the few low halves that would favour some are drawn again.
        loop {
            let product = u128::from(self.next()) * u128::from(count);
            if product as u64 >= count.wrapping_neg() % count {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_ranks_of_a_seed() {
        let ranks: Vec<u64> = draw(1_000_000, 5, 7).into_iter().collect();
        assert_eq!(ranks, [16_788, 389_828, 452_441, 582_929, 900_758]);
    }

    #[test]
    fn all_ranks_are_drawn_equally_often() {
        let mut drawn = [0_u32; 10];
        for seed in 0..10_000 {
            let ranks = draw(10, 3, seed);
            assert_eq!(ranks.len(), 3);
            ranks.into_iter().for_each(|rank| drawn[rank as usize] += 1);
        }
        // 3,000 expected, with a standard deviation of 46.
        assert!(drawn.iter().all(|times| (2_770..3_230).contains(times)), "{drawn:?}");
        assert_eq!(draw(4, 9, 1).len(), 4);
        assert!(draw(0, 9, 1).is_empty());
    }
}

//! Power cuts in random workloads: some seconds of what `pleach-soak power-cuts` does for hours.

use pleach_chunkstore::testing::power::{Plant, power_cuts};

/// Seeds that found something once.
const FOUND: [u64; 1] = [1416];

#[test]
fn random_workloads_survive_power_cuts() {
    let states: u64 = (0..150).chain(FOUND).map(|seed| power_cuts(seed, None).unwrap()).sum();
    println!("{states} states of random workloads after power cuts");
}

#[test]
fn the_check_finds_each_planted_fault() {
    for plant in [Plant::NoDataSync, Plant::NoDirSync, Plant::EarlyAck] {
        let found = (0..150).find_map(|seed| power_cuts(seed, Some(plant)).err());
        println!("{plant:?}: {}", found.unwrap_or_else(|| panic!("{plant:?} is found")));
    }
}

//! kill -9 and a full disk: what was acknowledged is there afterwards, what was not is there whole or not at all.

use std::{process::Stdio, time::Duration};

use pleach_tests::{
    Sandbox,
    kills::Victim,
    small_disk::{Level, Seen, SmallDisk, fill_and_free},
};

#[test]
fn an_import_killed_at_any_time_is_there_whole_or_not_at_all() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "db"]).ok();
    sandbox.run(&["-C", "db", "put", "kept", "a", "1"]).ok();
    let rows: Vec<String> = (0..60_000).map(|n| format!("{n},some value of row {n}")).collect();
    sandbox.write("big.csv", &format!("k,v\n{}\n", rows.join("\n")));
    let (mut whole, mut nothing) = (0, 0);
    for delay_millis in [1, 5, 20, 60, 120, 250, 500, 900] {
        let mut import = sandbox.command(&["-C", "db", "import", "big", "big.csv", "--key", "k"]);
        let mut child = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_millis));
        let _ = child.kill();
        let acknowledged = child.wait().unwrap().success();
        assert_eq!(sandbox.run(&["-C", "db", "get", "kept", "a"]).ok(), "1\n");
        let tables = sandbox.run(&["-C", "db", "table", "list"]).ok();
        if tables.contains("big") {
            let rows = sandbox.run(&["-C", "db", "scan", "big"]).ok().lines().count();
            assert_eq!(rows, 60_000);
            sandbox.run(&["-C", "db", "table", "drop", "big"]).ok();
            whole += 1;
        } else {
            assert!(!acknowledged, "an acknowledged import is there");
            nothing += 1;
        }
    }
    println!("killed 8 times: {whole} whole, {nothing} not at all");
}

#[test]
fn acknowledged_puts_of_several_clients_survive_kill_9_of_the_server() {
    let mut victim = Victim::new(3, false);
    for writes in [0, 1, 12, 5, 30] {
        victim.round(writes).unwrap();
    }
    println!("{:?}, none lost", victim.round(0).unwrap());
}

#[test]
fn the_check_finds_an_acknowledgement_before_the_commit() {
    let mut victim = Victim::new(3, true);
    let found = (0..50).find_map(|writes| victim.round(writes).err());
    println!("{}", found.expect("a write that counts as acknowledged when it is sent is found lost"));
}

/// A small disk, or none with a message.
fn small_disk() -> Option<SmallDisk> {
    SmallDisk::mount().inspect_err(|missing| eprintln!("skipped, nothing was tested: {missing}")).ok()
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing_at_any_level() {
    let Some(disk) = small_disk() else { return };
    let mut sum = Seen::default();
    for free in [0, 4096, 8192, 16_384, 40_960] {
        for value_bytes in [700, 3000, 20_000] {
            let seen = fill_and_free(&disk, Level { free, value_bytes }, false).unwrap();
            sum.acknowledged += seen.acknowledged;
            sum.refused += seen.refused;
        }
    }
    println!("15 levels: {sum:?}");
}

#[test]
fn the_check_finds_a_refused_write_that_counts_as_acknowledged() {
    let Some(disk) = small_disk() else { return };
    println!("{}", fill_and_free(&disk, Level { free: 4096, value_bytes: 3000 }, true).unwrap_err());
}

//! kill -9 and a full disk: what was acknowledged is there afterwards, what was not is there whole or not at all.

use std::{process::Stdio, time::Duration};

use pleach_tests::Sandbox;

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
fn acknowledged_puts_survive_kill_9_of_the_server() {
    let sandbox = Sandbox::new();
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
        if round == 0 {
            sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
        }
        let rows = sandbox.run(&server.args("db", &["scan", "t"]));
        assert!(rows.stdout.lines().count() >= acknowledged, "round {round}: {}", rows.stdout);
        for n in 0..10 {
            sandbox.run(&server.args("db", &["put", "t", &format!("{round}-{n}"), "v"])).ok();
            acknowledged += 1;
        }
        // One more is under way when the process dies.
        let mut last = sandbox.command(&server.args("db", &["put", "t", &format!("{round}-last"), "v"]));
        let mut last = last.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        server.kill();
        acknowledged += usize::from(last.wait().unwrap().success());
    }
    let rows = sandbox.run(&["-C", "data/db", "scan", "t"]).ok().lines().count();
    assert!((acknowledged..=acknowledged + 3).contains(&rows), "{rows} rows, {acknowledged} acknowledged");
}

/// A file system of a few megabytes, where the kernel lets us have one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf) -> Option<SmallDisk> {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(&at)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_fails_the_write_and_loses_nothing() {
    let sandbox = Sandbox::new();
    let Some(_disk) = SmallDisk::mount(sandbox.path("small")) else {
        println!("skipped: mounting a small file system is not allowed here");
        return;
    };
    sandbox.run(&["init", "small/db"]).ok();
    sandbox.run(&["-C", "small/db", "put", "t", "kept", "1"]).ok();
    let filler = sandbox.path("small/filler");
    let mut fill = vec![0u8; 64 << 10];
    // Values that do not compress, until the disk says no.
    let mut failed = None;
    for n in 0..200u32 {
        fill.iter_mut()
            .enumerate()
            .for_each(|(i, byte)| *byte = ((i as u32 ^ n).wrapping_mul(2_654_435_761) >> 13) as u8);
        let hex: String = fill[..30_000].iter().map(|byte| format!("{byte:02x}")).collect();
        let run = sandbox.run(&["-C", "small/db", "put", "t", &format!("{n:08x}"), &hex, "--hex"]);
        if run.status != 0 {
            failed = Some((n, run));
            break;
        }
    }
    let (count, run) = failed.expect("a disk of 4 MiB is full at some time");
    let said = run.fails(1);
    assert!(said.contains("space") || said.contains("full"), "{said}");
    assert_eq!(sandbox.run(&["-C", "small/db", "get", "t", "kept"]).ok(), "1\n");
    let rows = sandbox.run(&["-C", "small/db", "scan", "t", "--json"]).json_lines().len();
    assert_eq!(rows, count as usize + 1, "every acknowledged row is there, and no other");
    let _ = std::fs::remove_file(filler);
}

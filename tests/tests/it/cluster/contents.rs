//! All that a database can hold, on a standby.

use std::fmt::Write;

use pleach_engine::{Database, NewCommit};
use pleach_tests::eventually;

use super::Nodes;

const TABLES: usize = 10_000;
const BRANCHES: usize = 1_000;

/// A database with many tables, branches and large values, of a time before the cluster.
fn fill(database: &Database) {
    let mut transaction = database.begin("main").unwrap();
    for table in 0..TABLES {
        let name = format!("t{table:05}");
        transaction.create_table(&name, None).unwrap();
        transaction.put(&name, b"k", name.as_bytes()).unwrap();
    }
    transaction.commit().unwrap();
    let head =
        database.commit("main", NewCommit { message: "tables".into(), ..NewCommit::default() }).unwrap();
    let mut large = Vec::with_capacity(24 << 20);
    let mut state = 7_u64;
    while large.len() < 24 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        large.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    let mut transaction = database.begin("main").unwrap();
    transaction.create_table("large", None).unwrap();
    transaction.put("large", b"24 MiB", &large).unwrap();
    transaction.put("large", b"none", b"").unwrap();
    transaction.put("large", &[0xff; 1024], &[0; 100_000]).unwrap();
    transaction.commit().unwrap();
    for branch in 0..BRANCHES {
        let name = format!("b/{branch:04}");
        database.create_branch(&name, Some(head.hash)).unwrap();
        if branch % 10 == 0 {
            let mut transaction = database.begin(&name).unwrap();
            transaction.put("t00000", b"branch", name.as_bytes()).unwrap();
            transaction.commit().unwrap();
            database.create_tag(&format!("v{branch}"), head.hash).unwrap();
        }
    }
}

/// Rows of every type, with the values at their ends, wide.
fn every_type() -> (String, String) {
    let columns = ["bool", "int", "float", "decimal(20,4)", "text", "bytes", "date", "timestamp", "uuid"];
    let values = [
        [
            "true",
            "-9223372036854775808",
            "-1.5e300",
            "-1234567890123456.7890",
            "\"\"",
            "\\x00ff",
            "0001-01-01",
            "0001-01-01T00:00:00Z",
            "00000000-0000-0000-0000-000000000000",
        ],
        [
            "false",
            "9223372036854775807",
            "5e-324",
            "0.0001",
            "\"a,\"\"b\"\"\nc\"",
            "\\x",
            "9999-12-31",
            "9999-12-31T23:59:59.999999Z",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
        ["", "", "", "", "", "", "", "", ""],
    ];
    let (mut header, mut types) = (String::from("k"), String::from("k=int"));
    for wide in 0..20 {
        for (number, column) in columns.iter().enumerate() {
            write!(header, ",c{wide}_{number}").unwrap();
            write!(types, ",c{wide}_{number}={column}").unwrap();
        }
    }
    let mut rows = header + "\n";
    for row in 0..300 {
        let row_values = values[row % values.len()].join(",");
        writeln!(rows, "{row},{}", vec![row_values; 20].join(",")).unwrap();
    }
    (rows, types)
}

#[test]
fn c31_whatever_a_database_holds_is_identical_on_the_standby_after_a_failover() {
    let nodes = Nodes::pair();
    std::fs::create_dir_all(nodes.sandbox.path("one")).unwrap();
    let database = Database::init(&nodes.sandbox.path("one/db"), Default::default()).unwrap();
    fill(&database);
    database.close().unwrap();
    let (mut one, mut two) = (nodes.start(0), nodes.start(1));
    let (rows, types) = every_type();
    nodes.sandbox.write("types.csv", &rows);
    let import = ["import", "types", "types.csv", "--key", "k", "--types", &types];
    nodes.sandbox.run(&one.args("db", &import)).ok();
    // Every row changes, so that what is sent are rows.
    let upsert = ["import", "types", "types.csv", "--upsert"];
    nodes.sandbox.write("types.csv", &rows.replace("true", "false"));
    nodes.sandbox.run(&one.args("db", &upsert)).ok();
    nodes.sandbox.run(&one.args("db", &["put", "t00001", "k2", "changed"])).ok();
    nodes.sandbox.run(&one.args("db", &["table", "drop", "t00002"])).ok();
    nodes.sandbox.run(&one.args("db", &["branch", "-d", "b/0005"])).ok();
    eventually("everything is on the standby", || {
        let row = &nodes.status(&one)["databases"][0];
        (row["replication_lag_millis"] == 0).then_some(())
    });
    let exported = nodes.sandbox.run(&one.args("db", &["export", "types"])).ok();
    one.kill();
    nodes.assume(&two, "primary", 2).ok();
    assert_eq!(nodes.sandbox.run(&two.args("db", &["export", "types"])).ok(), exported);
    let branches = nodes.sandbox.run(&two.args("db", &["branch"])).ok();
    assert_eq!(branches.lines().count(), BRANCHES);
    nodes.sandbox.run(&two.args("db", &["put", "t00003", "k2", "after"])).ok();
    let mut one = nodes.start(0);
    eventually("the old primary has what came after", || {
        let got = nodes.sandbox.run(&one.args("db", &["get", "t00003", "k2"]));
        (got.stdout.trim() == "after").then_some(())
    });
    one.stop();
    two.stop();
    let (first, second) = (nodes.database(0), nodes.database(1));
    assert_eq!(first.root().unwrap(), second.root().unwrap());
    let work = second.snapshot_of_root(second.branch("main").unwrap().unwrap().work).unwrap();
    assert_eq!(work.tables().unwrap().len(), TABLES - 1 + 2);
    let large = work.table("large").unwrap().unwrap();
    assert_eq!(large.get(b"24 MiB").unwrap().unwrap().len(), 24 << 20);
}

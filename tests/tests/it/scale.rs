//! Tables of a realistic size and shape: TPC-H's line items (composite key, decimals, dates, text), scale 0.01, fixed seed.

use pleach_tests::Sandbox;
use tpchgen::{csv::LineItemCsv, generators::LineItemGenerator};

const TYPES: &str = "l_extendedprice=decimal(12,2),l_discount=decimal(12,2),l_tax=decimal(12,2)";

/// The rows, 60,175 of them; `change` may alter a line or take it out.
fn line_items(change: impl Fn(usize, String) -> Option<String>) -> String {
    let mut csv = format!("{}\n", LineItemCsv::header());
    for (number, item) in LineItemGenerator::new(0.01, 1, 1).iter().enumerate() {
        if let Some(line) = change(number, unquoted(&LineItemCsv::new(item).to_string())) {
            csv.push_str(&line);
            csv.push('\n');
        }
    }
    csv
}

/// The line with quotes around its last field, the comment, only where they are needed.
fn unquoted(line: &str) -> String {
    let (fields, comment) =
        line.strip_suffix('"').and_then(|line| line.split_once(",\"")).expect("a quoted comment");
    if comment.contains(',') { line.to_owned() } else { format!("{fields},{comment}") }
}

#[test]
fn a_tpch_table_is_imported_changed_compared_and_synced() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"]);
    sandbox.run(&["--server", &server.url(), "database", "create", "tpch"]).ok();
    let first = line_items(|_, line| Some(line));
    sandbox.write("first.csv", &first);
    let key = "l_orderkey,l_linenumber";
    let import = ["import", "lineitem", "first.csv", "--key", key, "--types", TYPES, "--commit", "first"];
    sandbox.run(&server.args("tpch", &import)).ok();
    sandbox.run(&["clone", &server.database("tpch"), "copy"]).ok();

    // Every thousandth row goes; of the rows after them, those that were returned are not any more.
    let second = line_items(|number, line| match number % 1000 {
        0 => None,
        1 => Some(line.replace(",R,F,", ",A,F,")),
        _ => Some(line),
    });
    let changed =
        first.lines().skip(1).enumerate().filter(|(n, line)| n % 1000 == 1 && line.contains(",R,F,")).count()
            as u64;
    sandbox.write("second.csv", &second);
    let replace = ["import", "lineitem", "second.csv", "--replace", "--commit", "second"];
    sandbox.run(&server.args("tpch", &replace)).ok();
    let pulled = sandbox.run(&["-C", "copy", "pull", "--json"]).json();
    let received = pulled["bytes_received"].as_u64().unwrap();
    println!("a pull of 61 deleted and {changed} changed rows of 60,175: {received} bytes");
    assert!(received < 60_000, "{pulled}");
    let stat = sandbox.run(&["-C", "copy", "diff", "HEAD~1", "HEAD", "--stat", "--json"]).json_lines();
    assert_eq!((stat[0]["deleted"].as_u64(), stat[0]["updated"].as_u64()), (Some(61), Some(changed)));
    assert!(sandbox.run(&["-C", "copy", "export", "lineitem"]).ok() == second, "the second edition");
    let at_first = sandbox.run(&["-C", "copy", "export", "lineitem", "--at", "HEAD~1"]).ok();
    assert!(at_first == first, "the first edition");
}

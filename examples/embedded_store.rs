//! A versioned store inside your program: write, commit, change, and ask what changed.
//!
//! ```text
//! cargo run -p pleach-examples --bin embedded_store
//! ```

#![allow(clippy::print_stdout, reason = "an example prints")]

use pleach_engine::{Database, NewCommit, Options, Result};

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("pleach-example-{}", std::process::id()));
    let database = Database::init(&directory, Options::default())?;

    let mut transaction = database.begin("main")?;
    transaction.create_table("fruit", None)?;
    transaction.put("fruit", b"apple", b"red")?;
    transaction.put("fruit", b"pear", b"green")?;
    transaction.commit()?; // durable when it returns
    let first =
        database.commit("main", NewCommit { message: "Two fruits".into(), ..NewCommit::default() })?;

    let mut transaction = database.begin("main")?;
    transaction.put("fruit", b"apple", b"yellow")?;
    transaction.commit()?;
    let second = database.commit("main", NewCommit { message: "Riper".into(), ..NewCommit::default() })?;

    let (before, after) = (database.snapshot_of_root(first.root)?, database.snapshot_of_root(second.root)?);
    for table in before.diff(&after)? {
        for change in table.changes()? {
            let change = change?;
            let text =
                |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            println!(
                "{}: {:?} -> {:?}",
                text(Some(change.key)).unwrap_or_default(),
                text(change.old),
                text(change.new)
            );
        }
    }
    database.close()?;
    std::fs::remove_dir_all(&directory).ok();
    Ok(())
}

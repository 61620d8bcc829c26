//! An application of Pleach servers: a counter of visits, kept by several workers at once, over a primary and its replicas.
//!
//! ```text
//! cargo run -p pleach-examples --bin client -- http://127.0.0.1:7420 [http://127.0.0.1:7421]…
//! ```
//!
//! The addresses are those of the servers that hold the database, in any order. The counter goes on when one of them is
//! stopped, and when another becomes the primary.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;

use pleach_client::{Client, Database, Options, Transaction};

const WORKERS: usize = 4;
const VISITS: usize = 25;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    let client = Client::connect(&addresses, Options::default())?;
    match client.create_database("visits").await {
        Err(error) if !error.exists() => return Err(error.into()),
        _ => {}
    }
    let visits = client.database("visits");
    let before = count(&visits).await?;

    let workers: Vec<_> = (0..WORKERS).map(|worker| tokio::spawn(work(visits.clone(), worker))).collect();
    for worker in workers {
        worker.await??;
    }

    // Whichever server answers, it has all that was written above.
    let after = count(&visits).await?;
    println!("{before} visits before, {after} now");
    let mut pages = visits.scan("pages", ..).await?;
    while let Some(page) = pages.next().await? {
        println!("{}: {}", String::from_utf8_lossy(page.key()), String::from_utf8_lossy(page.value()));
    }
    let commit = visits.commit("Some more visits", "Counter <counter@example.org>").await?;
    println!("version {}", commit.hash);
    Ok(())
}

/// Counts some visits: two rows that change together, again if another worker was first.
async fn work(visits: Database, worker: usize) -> Result<(), pleach_client::Error> {
    for visit in 0..VISITS {
        let page = &format!("page-{}", (worker + visit) % 3);
        let add = |mut transaction: Transaction| async move {
            for key in [page, "all"] {
                let count = transaction.get("pages", key).await?.map_or(0, |row| number(row.value()));
                transaction.put("pages", key, (count + 1).to_string()).await?;
            }
            Ok((transaction, ()))
        };
        visits.transaction(add).await?;
    }
    Ok(())
}

/// All visits so far. The first time, it makes the table.
async fn count(visits: &Database) -> Result<u64, pleach_client::Error> {
    match visits.get("pages", "all").await {
        Ok(row) => Ok(row.map_or(0, |row| number(row.value()))),
        Err(error) if error.is_not_found() => visits.put("pages", "all", "0").await.map(|_| 0),
        Err(error) => Err(error),
    }
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

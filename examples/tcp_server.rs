//! A tiny server with a database inside: a protocol of lines over TCP, every write a durable transaction.
//!
//! ```text
//! cargo run -p pleach-examples --bin tcp_server -- 127.0.0.1:7777 fruit.db
//! nc 127.0.0.1 7777          SET apple red · GET apple · DEL apple · COMMIT Two fruits · LOG
//! ```
//!
//! The engine blocks and knows nothing of sockets, so a thread for each connection is enough; connections share one
//! `Database`, and transactions that commit at the same time share one sync.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use pleach_engine::{Database, NewCommit, Options, TransactionOutcome};

const TABLE: &str = "values";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let directory = arguments.next().unwrap_or_else(|| "tcp_server.db".to_owned());
    let directory = Path::new(&directory);
    let database = if directory.exists() {
        Database::open(directory, Options::default())?
    } else {
        let database = Database::init(directory, Options::default())?;
        let mut transaction = database.begin("main")?;
        transaction.create_table(TABLE, None)?;
        transaction.commit()?;
        database
    };
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    for connection in listener.incoming() {
        let (connection, database) = (connection?, database.clone());
        std::thread::spawn(move || serve(&database, &connection));
    }
    Ok(())
}

fn serve(database: &Database, connection: &TcpStream) -> std::io::Result<()> {
    let mut answers = connection;
    for line in BufReader::new(connection).lines() {
        let answer = answer(database, &line?).unwrap_or_else(|error| format!("ERROR {error}"));
        writeln!(answers, "{answer}")?;
    }
    Ok(())
}

fn answer(database: &Database, line: &str) -> Result<String, Box<dyn Error>> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match command {
        "GET" => {
            let work = database.branch("main")?.ok_or("no branch main")?.work;
            let table = database.snapshot_of_root(work)?.table(TABLE)?.ok_or("no table")?;
            let value = table.get(rest.as_bytes())?;
            Ok(value
                .map_or_else(|| "NOTHING".to_owned(), |value| String::from_utf8_lossy(&value).into_owned()))
        }
        "SET" => {
            let (key, value) = rest.split_once(' ').ok_or("expected SET KEY VALUE")?;
            write(database, key, Some(value))
        }
        "DEL" => write(database, rest, None),
        "COMMIT" => {
            let new = NewCommit { message: rest.to_owned(), ..NewCommit::default() };
            Ok(database.commit("main", new)?.hash.to_string())
        }
        "LOG" => {
            let Some(head) = database.branch("main")?.and_then(|branch| branch.head) else {
                return Ok(String::new());
            };
            let commits: Result<Vec<_>, _> = database.log(&head)?.collect();
            let lines = commits?
                .iter()
                .map(|(hash, commit)| format!("{hash} {}", commit.message))
                .collect::<Vec<_>>();
            Ok(lines.join("\n"))
        }
        other => Err(format!("expected GET, SET, DEL, COMMIT or LOG, found {other:?}").into()),
    }
}

/// One durable transaction; made again if another wrote the same row first.
fn write(database: &Database, key: &str, value: Option<&str>) -> Result<String, Box<dyn Error>> {
    loop {
        let mut transaction = database.begin("main")?;
        match value {
            Some(value) => transaction.put(TABLE, key.as_bytes(), value.as_bytes())?,
            None => drop(transaction.delete(TABLE, key.as_bytes())?),
        }
        match transaction.commit()? {
            TransactionOutcome::Committed(token) | TransactionOutcome::Unchanged(token) => {
                return Ok(format!("OK {}", token.sequence));
            }
            TransactionOutcome::Refused { .. } => {}
        }
    }
}

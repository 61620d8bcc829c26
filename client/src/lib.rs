//! A client of Pleach servers, for applications.
//!
//! It knows one list of addresses: the primary, its standbys, its read replicas, in any order. Reads are spread over all that answer,
//! writes go to whoever takes them, and when that changes the client finds out by itself.
//!
//! ```no_run
//! use pleach_client::{Client, Options};
//!
//! # async fn example() -> Result<(), pleach_client::Error> {
//! let client = Client::connect(["http://db-1:7420", "http://db-2:7420"], Options::default())?;
//! let book = client.database("book");
//!
//! // A write; and a read that sees it, whichever server answers.
//! book.put("phones", "ada", "555-0101").await?;
//! let row = book.get("phones", "ada").await?;
//! assert_eq!(row.map(|row| row.value().to_vec()), Some(b"555-0101".to_vec()));
//!
//! // Several reads and writes as one: it runs again when another transaction was first.
//! book.transaction(|mut transaction| async move {
//!     if let Some(row) = transaction.get("phones", "ada").await? {
//!         transaction.put("phones", "countess", row.value()).await?;
//!         transaction.delete("phones", "ada").await?;
//!     }
//!     Ok((transaction, ()))
//! })
//! .await?;
//!
//! // All rows, as they come, from the version that a tag names.
//! let mut rows = client.database("book@v1").scan("phones", ..).await?;
//! while let Some(row) = rows.next().await? {
//!     println!("{}", String::from_utf8_lossy(row.key()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Reads see your writes.** Each write answers a [`Token`]; the client keeps the newest of each database, and sends it with each read: a
//!   server that does not have that write yet waits for it, or the read goes to another one, at last the primary. It is never answered from
//!   before the write. [`Client::token`] and [`Client::with_token`] hand a token on to other clients;
//!   [`Options::read_your_writes`] switches this off. A read replica has what its primary pushed, which is commits: what is not
//!   committed is read on the primary.
//! - **Nothing is written twice.** What certainly was not done is tried again: a server could not be reached, or takes no writes now. A
//!   write whose answer was lost is not: it is [`Error::Unknown`], and the application finds out, by reading, whether it was done.
//! - **Every call ends.** Tries are bounded by number and by time ([`Options::tries_max`], [`Options::time_max`]); a server that
//!   does not answer is left out for a while.
//! - **A transaction** sees one state, and its own changes; of two that wrote one row the first to commit wins, and the other gets
//!   [`Error::Conflict`]. It lives on one connection to one server: when that is lost, or the server changes its role, it is rolled back.
//!
//! Credentials go to every server in the list, and to the primary that one of them names, but never from `https` to `http`.
//!
//! [`proto`] has the messages and the service below all this.

mod client;
mod database;
mod error;
pub mod metadata;
mod nodes;
mod options;
pub mod proto;
mod rows;
mod transaction;
mod value;

pub use client::Client;
pub use database::{Change, Changes, Commit, Database, Written};
pub use error::{Error, Refusal, Result};
pub use options::{Options, Spread};
pub use pleach_engine::Token;
pub use pleach_protocol::{ClientTls, Credential, Identity, Token as AccessToken};
pub use rows::{KeyRange, Rows};
pub use transaction::{Transaction, TransactionRows};
pub use value::{Key, Row, Value};

/// The longest message that either side takes, bytes: a row of the largest values, with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

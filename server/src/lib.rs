//! The `pleach` command line and daemon.
//!
//! The one idea: an operation is written once, in [`ops`], over an open database and in the message types of the data API
//! ([`proto`]). The [`service`] hands it the requests of clients; the command line ([`run`]) hands it its own, on a local database or
//! through a client. So `pleach get` and `pleach get --server URL` are one command, and print alike.
//!
//! Arguments, environment, configuration and signals are read here and passed down; no crate below reads any.

mod author;
mod cli;
pub mod config;
mod convert;
mod credentials;
pub mod error;
mod failures;
pub mod gate;
mod listen;
pub mod metrics;
pub mod ops;
mod replication;
pub mod rights;
pub mod serve;
pub mod service;
mod sessions;
pub mod tabular;
mod tour;
mod users;

pub use cli::run;
pub use pleach_client::proto;

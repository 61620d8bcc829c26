//! The `pleach` command line and daemon.
pub mod config;
pub mod error;
pub mod proto;

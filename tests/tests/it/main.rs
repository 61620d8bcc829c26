//! Integration tests: the real binary on real files and sockets. A test of a row of `docs/conformance.md` begins with its id.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod architecture;
mod authority;
mod backup;
mod bad_input;
mod both_modes;
mod branches;
mod client;
mod cluster;
mod cluster_roles;
mod cluster_security;
mod crash;
mod databases;
mod directory_remotes;
mod election;
mod failovers;
mod metrics;
mod partial;
mod patches;
mod primary;
mod recovery;
mod remotes;
mod replica;
mod scale;
mod server;
mod server_backup;
mod sessions;
mod settings;
mod strict;
mod syscalls;
mod tables;
mod tls;
mod tour;
mod users;

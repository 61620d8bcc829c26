//! Compiles the contract between cluster members, `proto/pleach/replication/v1/replication.proto`, and the part of etcd's that a lease needs, with a
//! compiler written in Rust, so that nobody needs `protoc`.

use std::error::Error;

const CONTRACTS: [&str; 2] = ["proto/pleach/replication/v1/replication.proto", "proto/etcd/etcd.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(CONTRACTS, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

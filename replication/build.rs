//! Compiles the contract between cluster members, `proto/pleach/replication/v1/replication.proto`, with a compiler written in Rust,
//! so that nobody needs `protoc`.

use std::error::Error;

const CONTRACT: &str = "proto/pleach/replication/v1/replication.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile([CONTRACT], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

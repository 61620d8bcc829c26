//! Compiles the public contracts, `proto/pleach/sync/v1/sync.proto` and the manifests of remotes that are directories or buckets, with a
//! compiler written in Rust, so that nobody needs `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const CONTRACT: &str = "proto/pleach/sync/v1/sync.proto";
const MANIFEST: &str = "proto/pleach/remote/v1/manifest.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile([CONTRACT], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("sync_descriptor.bin"), descriptors.encode_to_vec())?;
    let codec = "crate::codec::CountedCodec";
    tonic_prost_build::configure().bytes(".").codec_path(codec).compile_fds(descriptors)?;
    tonic_prost_build::configure().bytes(".").compile_fds(protox::compile([MANIFEST], ["proto"])?)?;
    Ok(())
}

//! The messages and services of `proto/pleach/sync/v1/sync.proto`, as generated.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("pleach.sync.v1");

/// The compiled contract, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sync_descriptor.bin"));

/// The manifests of remotes that are directories or buckets.
pub(crate) mod remote {
    tonic::include_proto!("pleach.remote.v1");
}

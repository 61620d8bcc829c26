//! The data API's message types, client and server, made by `build.rs` from `proto/pleach/data/v1/data.proto`, which
//! documents them. The server's operations speak in these types, so that its command line and its service share one
//! implementation.

#![allow(missing_docs, unreachable_pub, clippy::pedantic, clippy::large_enum_variant)]

tonic::include_proto!("pleach.data.v1");

/// The compiled descriptor of the data API, for a reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/data_descriptor.bin"));

//! The data API's message types, client and server, made by `build.rs` from `proto/pleach/data/v1/data.proto`, which
//! documents them. `ops` speaks in these types, so that the command line and the service share one implementation.

#![allow(missing_docs, unreachable_pub, clippy::pedantic, clippy::large_enum_variant)]

tonic::include_proto!("pleach.data.v1");

/// The compiled descriptor of the data API, for the reflection service.
pub(crate) const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/data_descriptor.bin"));

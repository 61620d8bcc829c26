//! The data API of a Pleach server, from the side of whoever calls it.
//!
//! [`proto`] has its messages and its service, for clients and servers alike.

pub mod metadata;
pub mod proto;

/// The longest message that either side takes, bytes: a row of the largest values, with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

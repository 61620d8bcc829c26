//! The data API of a Pleach server, from the side of whoever calls it.
//!
//! [`proto`] has its messages and its service, for clients and servers alike.

pub mod proto;

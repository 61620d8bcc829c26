//! Placeholder.

pub mod row;

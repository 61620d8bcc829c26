//! Placeholder.

pub mod tabular;

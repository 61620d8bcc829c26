//! Pleach beside its rivals: the same rows, the same operations, the same durability, one ruler.
//!
//! [`compare`] drives one [`worker`] process per system and lets them take turns, workload by workload, so that what
//! else the machine does falls on all of them alike. A worker holds one [`system`] and runs one [`workload`] case at
//! a time over [`rows`], reading [`measure`]. The binary `pleach-bench` and the criterion benches are the callers.

pub mod compare;
pub mod history;
pub mod means;
pub mod measure;
pub mod replication;
pub mod rows;
pub mod store;
pub mod sync;
pub mod sync_calls;
pub mod system;
pub mod worker;
pub mod workload;

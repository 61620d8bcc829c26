//! Ending calls early, from another thread.
//!
//! One idea: a handle of the store may have a flag, which every call that reads chunks, or is about to append some, looks at. Nothing is cut short once
//! something was appended that refs lead to: a cancelled call did nothing, or it did everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// A flag that ends the calls of those handles of a store that have it ([`Store::cancellable`](crate::Store::cancellable)). Clones are one flag, which stays set.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    is_cancelled: Arc<AtomicBool>,
}

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Sets the flag: calls end with [`Error::Cancelled`] soon after.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    /// Fails if the flag is set.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

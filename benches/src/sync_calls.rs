//! Counts the calls that force data to disk, whichever library makes them.
//!
//! The C functions `fsync`, `fdatasync` and `msync` are defined here, and the linker binds every caller in this
//! program to them: LMDB's C code, redb, and `std`. Each counts and makes the same system call. What bypasses libc,
//! and writes to files opened with `O_DSYNC` (LMDB's meta page), are not seen.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Calls made by this process so far.
pub fn count() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Counts, then does what the C library's `fsync` does.
#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the same arguments for the same system call; the kernel checks the descriptor.
    unsafe { libc::syscall(libc::SYS_fsync, file) as c_int }
}

/// Counts, then does what the C library's `fdatasync` does.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as in `fsync`.
    unsafe { libc::syscall(libc::SYS_fdatasync, file) as c_int }
}

/// Counts, then does what the C library's `msync` does.
#[unsafe(no_mangle)]
extern "C" fn msync(address: *mut c_void, length: usize, flags: c_int) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as in `fsync`; the kernel checks the range, and msync changes no memory.
    unsafe { libc::syscall(libc::SYS_msync, address, length, flags) as c_int }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_sync_by_the_standard_library_is_counted() {
        let file = tempfile::tempfile().unwrap();
        let before = count();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        assert!(count() >= before + 2);
    }
}

//! What a step cost: CPU time, bytes written, sync calls, disk and memory.
//!
//! CPU time is the process's own clock (user and system, all threads), because wall time says little on a shared
//! machine. Bytes written are those handed to `write` calls, as the kernel counts them per process; a store that
//! writes through a map must report its own. Linux only, as the comparison is.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

use crate::sync_calls;

/// Counters of this process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// CPU time in nanoseconds.
    pub cpu_nanos: u64,
    /// Bytes passed to write calls.
    pub bytes_written: u64,
    /// `fsync`, `fdatasync` and `msync` calls.
    pub fsyncs: u64,
}

impl Reading {
    /// Reads the counters.
    pub fn now() -> io::Result<Reading> {
        let bytes_written = write_call_bytes()?;
        Ok(Reading { cpu_nanos: cpu_nanos(), bytes_written, fsyncs: sync_calls::count() })
    }

    /// What happened since `earlier`.
    pub fn since(self, earlier: Reading) -> Reading {
        Reading {
            cpu_nanos: self.cpu_nanos - earlier.cpu_nanos,
            bytes_written: self.bytes_written - earlier.bytes_written,
            fsyncs: self.fsyncs - earlier.fsyncs,
        }
    }
}

/// CPU time of this process in nanoseconds, all threads, user and system.
pub fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn write_call_bytes() -> io::Result<u64> {
    field(&fs::read_to_string("/proc/self/io")?, "wchar:")
}

/// Anonymous resident memory of process `pid` in bytes: neither mapped files nor the page cache.
pub fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    Ok(field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "RssAnon:")? * 1024)
}

/// [`anonymous_bytes`] of this process, after it has given back what it freed: as little as there can be.
#[allow(unsafe_code)]
pub fn least_anonymous_bytes() -> io::Result<u64> {
    // SAFETY: it only gives free memory of the allocator back.
    unsafe { libmimalloc_sys::mi_collect(true) };
    anonymous_bytes(std::process::id())
}

fn field(text: &str, name: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in the process's figures"))
        })
}

/// Disk space that the files under `directory` occupy, in bytes (allocated blocks, so holes are free).
pub fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Write;

    use super::*;

    #[test]
    fn a_write_call_and_its_cpu_time_are_seen() {
        let before = Reading::now().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        let cost = Reading::now().unwrap().since(before);
        assert!(cost.bytes_written >= 100_000);
        assert!(cost.cpu_nanos > 0);
    }

    #[test]
    fn disk_bytes_counts_blocks_in_subdirectories() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("below")).unwrap();
        fs::write(directory.path().join("below/file"), vec![1; 50_000]).unwrap();
        let file = fs::File::open(directory.path().join("below/file")).unwrap();
        file.sync_all().unwrap();
        assert!(disk_bytes(directory.path()).unwrap() >= 50_000);
    }
}

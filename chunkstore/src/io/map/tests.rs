//! Maps of files that lose bytes; what must kill a process is done in a child, which is this test's own binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::thread;

use super::*;

const PAGE: u64 = 4096;

/// A file of `pages` pages without a zero byte, and its map.
fn mapped(pages: u64) -> (fs::File, Mapped) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&content(0..pages * PAGE), 0).unwrap();
    let mapped = Mapped::new(file.try_clone().unwrap()).unwrap();
    assert!(mapped.window.is_some(), "the system maps files");
    (file, mapped)
}

fn content(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| (at % 251 + 1) as u8).collect()
}

fn read(mapped: &Mapped, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    mapped.read_at(&mut buffer, offset).map(|()| buffer)
}

#[track_caller]
fn assert_gone(result: Result<Vec<u8>>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn a_map_reads_what_the_file_holds_and_nothing_beyond() {
    let (_, mapped) = mapped(3);
    assert_eq!(read(&mapped, 4000, 5000).unwrap(), content(4000..9000));
    assert_eq!(read(&mapped, 3 * PAGE, 0).unwrap(), b"");
    assert_gone(read(&mapped, 3 * PAGE - 1, 2));
    assert_gone(read(&mapped, 3 * PAGE, 1));
    assert!(read(&mapped, u64::MAX, 2).is_err());
    assert!(mapped.write_at(b"x", 0).is_err());
}

#[test]
fn an_empty_file_is_mapped_and_holds_nothing() {
    let mapped = Mapped::new(tempfile::tempfile().unwrap()).unwrap();
    assert_gone(read(&mapped, 0, 1));
    assert_eq!(mapped.len().unwrap(), 0);
}

#[test]
fn bytes_of_a_file_cut_under_its_map_are_an_error_and_the_others_are_read_on() {
    let (file, mapped) = mapped(8);
    file.set_len(3 * PAGE).unwrap();
    assert_gone(read(&mapped, 5 * PAGE, 100));
    assert_gone(read(&mapped, 2 * PAGE, 5 * PAGE as usize));
    assert_eq!(read(&mapped, 0, 3 * PAGE as usize).unwrap(), content(0..3 * PAGE));
    // A map that faulted shows no page of zeros once the file has its bytes again.
    file.write_all_at(&content(0..8 * PAGE), 0).unwrap();
    assert_eq!(read(&mapped, 0, 8 * PAGE as usize).unwrap(), content(0..8 * PAGE));
}

#[test]
fn a_cut_within_a_page_is_an_error_too() {
    let (file, mapped) = mapped(2);
    file.set_len(PAGE + 100).unwrap();
    assert_gone(read(&mapped, PAGE, 101));
    assert_eq!(read(&mapped, PAGE, 100).unwrap(), content(PAGE..PAGE + 100));
}

#[test]
fn zeros_that_the_file_holds_are_read() {
    let (file, mapped) = mapped(2);
    file.write_all_at(&[0; 10], 100).unwrap();
    assert_eq!(read(&mapped, 100, 10).unwrap(), [0; 10]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_hole_punched_into_a_file_is_read_as_the_file_has_it() {
    use rustix::fs::{FallocateFlags, fallocate};
    let (file, mapped) = mapped(4);
    let punched = fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, PAGE, PAGE);
    if punched.is_ok() {
        assert_eq!(read(&mapped, PAGE, PAGE as usize).unwrap(), [0; PAGE as usize]);
    }
    assert_eq!(read(&mapped, 2 * PAGE, 10).unwrap(), content(2 * PAGE..2 * PAGE + 10));
}

#[test]
fn threads_that_read_while_the_file_is_cut_get_its_bytes_or_an_error() {
    let (errors, reads) = (AtomicU32::new(0), AtomicU32::new(0));
    for round in 0..60 {
        let (file, mapped) = mapped(64);
        thread::scope(|scope| {
            for reader in 0..4 {
                let (mapped, errors, reads) = (&mapped, &errors, &reads);
                scope.spawn(move || {
                    for n in 0..400 {
                        let offset = (n * 7919 + reader * 104_729) % (60 * PAGE);
                        let len = 1 + (n * 31) % (3 * PAGE);
                        reads.fetch_add(1, Ordering::Relaxed);
                        match read(mapped, offset, len as usize) {
                            Ok(bytes) => assert!(bytes == content(offset..offset + len), "{offset} {len}"),
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
                                errors.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
            while reads.load(Ordering::Relaxed) < round * 1600 + 400 {
                thread::yield_now();
            }
            file.set_len(u64::from(round) * PAGE + u64::from(round) * 67).unwrap();
        });
    }
    assert!(errors.into_inner() > 0, "some reads met the cut");
}

#[test]
fn maps_of_many_files_are_watched_each_for_itself_and_given_back() {
    for _ in 0..3 {
        let maps: Vec<_> = (0..300).map(|_| mapped(2)).collect();
        maps.iter().step_by(3).for_each(|(file, _)| file.set_len(PAGE).unwrap());
        for (n, (_, mapped)) in maps.iter().enumerate() {
            match n % 3 {
                0 => assert_gone(read(mapped, PAGE, 10)),
                _ => assert_eq!(read(mapped, PAGE, 10).unwrap(), content(PAGE..PAGE + 10)),
            }
        }
    }
}

/// Runs a test of this file in a process of its own; gives how that ended.
fn child(test: &str) -> std::process::ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("io::map::tests::{test}"), IN_CHILD])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

/// One more name of a test to run, of which there is none.
const IN_CHILD: &str = "in-a-child";

fn in_child() -> bool {
    std::env::args().any(|arg| arg == IN_CHILD)
}

/// Sets what SIGBUS does, as a program does that this crate is embedded in.
fn set_sigbus(action: usize) {
    // SAFETY: an action that is default, or a handler without SA_SIGINFO that takes a number.
    unsafe {
        let mut previous: sigaction = std::mem::zeroed();
        previous.sa_sigaction = action;
        assert_eq!(libc::sigaction(libc::SIGBUS, &previous, ptr::null_mut()), 0);
    }
}

/// Reads a page that is gone from a map that is not watched, after one of ours has faulted.
fn fault_elsewhere() {
    let (file, ours) = mapped(2);
    file.set_len(0).unwrap();
    assert_gone(read(&ours, 0, 10));
    let (file, _) = mapped(1);
    let foreign = MmapOptions::new().map_raw_read_only(&file).unwrap();
    file.set_len(0).unwrap();
    // SAFETY: none, on purpose: this must kill the process.
    unsafe { foreign.as_ptr().read_volatile() };
}

#[test]
fn a_fault_that_is_not_ours_kills() {
    if in_child() {
        return fault_elsewhere();
    }
    assert_eq!(child("a_fault_that_is_not_ours_kills").signal(), Some(libc::SIGBUS));
}

#[test]
fn a_fault_that_is_not_ours_kills_where_no_handler_stood_before() {
    if in_child() {
        set_sigbus(libc::SIG_DFL);
        return fault_elsewhere();
    }
    let ended = child("a_fault_that_is_not_ours_kills_where_no_handler_stood_before");
    assert_eq!(ended.signal(), Some(libc::SIGBUS));
}

#[test]
fn a_sigbus_that_someone_sends_kills() {
    if in_child() {
        set_sigbus(libc::SIG_DFL);
        let _ours = mapped(1);
        // SAFETY: a plain call of the system.
        unsafe { libc::kill(libc::getpid(), libc::SIGBUS) };
        thread::sleep(std::time::Duration::from_secs(60));
    }
    assert_eq!(child("a_sigbus_that_someone_sends_kills").signal(), Some(libc::SIGBUS));
}

#[test]
fn a_handler_that_stood_before_gets_what_is_not_ours() {
    extern "C" fn exit_77(_: c_int) {
        // SAFETY: may be called in a handler.
        unsafe { libc::_exit(77) }
    }
    if in_child() {
        set_sigbus(exit_77 as *const () as usize);
        return fault_elsewhere();
    }
    assert_eq!(child("a_handler_that_stood_before_gets_what_is_not_ours").code(), Some(77));
}

#[test]
fn an_overflow_of_the_stack_is_still_rusts() {
    #[allow(unconditional_recursion)]
    fn overflow(n: u64) -> u64 {
        let big = std::hint::black_box([n; 512]);
        overflow(n + 1) + big[(n % 512) as usize]
    }
    if in_child() {
        let _ours = mapped(1);
        overflow(0);
    }
    assert_eq!(child("an_overflow_of_the_stack_is_still_rusts").signal(), Some(libc::SIGABRT));
}

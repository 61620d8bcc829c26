//! An immutable file, mapped for reading: a read copies out of memory, and what is gone is an error, never the end of the process.
//!
//! One idea: a page that the system cannot bring (the file was cut, the medium is bad) raises `SIGBUS` in the thread that copies from it.
//! The handler puts a page of zeros in its place, so that the copy ends, and marks the map as faulted; the reader sees the mark after its
//! copy and reads the same bytes with a positioned read instead, as does every later reader of that map. So a map never decides what is
//! wrong with a file: the system does, in the error of that read, and intact pages stay readable.
//!
//! * **Who faulted** is found by address: only [`Window::copy`] reads a map, no pointer into one leaves this file, so a fault within a
//!   watched map is ours. All other `SIGBUS` goes to whatever handler stood before, or kills, as without us.
//! * **The handler** reads statics and calls `mmap`, nothing else: no lock, no allocation, no thread-local storage. It runs on the
//!   alternate stack where a thread has one, as Rust's own does, to which it passes the overflow of a stack where that is a `SIGBUS`.
//! * **Many threads** may copy from a page that one of them replaces: the mark is set before the zeros can be seen and read after the copy.
//! * **A cut within a page** raises nothing: the rest of that page reads as zeros. So a read that ends in a zero byte asks for the file's
//!   length.
//! * **No `madvise`**: told of random access, the system reads a cold table by single pages, which hurts a scan far more than
//!   reading around hurts a point read; a table lies in tree order, so what is around is likely to be next.
//!
//! What it cannot help: a thread that blocks `SIGBUS`, and a later handler that does not pass on what is not its own.
//! Where a file cannot be mapped or watched, every read is a positioned one.

#![allow(unsafe_code)]

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use libc::{c_int, c_void, sigaction, siginfo_t};
use memmap2::{MmapOptions, MmapRaw};

use super::File;

/// Maps that can be watched at a time, in the whole process: 64 KiB of statics. Further files are read with positioned reads.
const MAPS_MAX: usize = 4096;

/// How many bits of [`Watched::span`] count pages: a file of less than 4 GiB, where pages have 4 KiB.
const PAGES_BITS: u32 = 20;

/// A file, mapped if the system can.
pub(super) struct Mapped {
    file: fs::File,
    window: Option<Window>,
}

impl Mapped {
    /// Maps a file as long as it is now.
    pub(super) fn new(file: fs::File) -> Result<Mapped> {
        let window = Window::new(&file, file.metadata()?.len());
        Ok(Mapped { file, window })
    }
}

impl File for Mapped {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let copied = self.window.as_ref().and_then(|window| window.copy(buffer, offset));
        match copied {
            Some(0) if self.len()? < offset + buffer.len() as u64 => {}
            Some(_) => return Ok(()),
            None => {}
        }
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Err(Error::new(ErrorKind::PermissionDenied, "a mapped file is read only"))
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// A watched map.
struct Window {
    map: MmapRaw,
    watched: &'static Watched,
}

impl Window {
    fn new(file: &fs::File, len: u64) -> Option<Window> {
        let len = usize::try_from(len).ok().filter(|len| *len > 0 && handler_installed())?;
        let map = MmapOptions::new().len(len).map_raw_read_only(file).ok()?;
        let watched = Watched::take(map.as_ptr() as usize, len)?;
        Some(Window { map, watched })
    }

    /// Copies from the map; gives the last byte copied. `None` if the map does not reach so far, or what was copied may not be the file's.
    fn copy(&self, buffer: &mut [u8], offset: u64) -> Option<u8> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(buffer.len()).filter(|end| *end <= self.map.len() && *end > start)?;
        if self.watched.faulted.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: `start..end` is within the map, which lives as long as `self` and stays readable: a page that cannot be brought is
        // replaced by the handler, which watches this map. The buffer is ours alone and as long as what is copied.
        let last = unsafe {
            ptr::copy_nonoverlapping(self.map.as_ptr().add(start), buffer.as_mut_ptr(), buffer.len());
            // Read again after the copy, which may go in any order: so a file cut meanwhile shows its zero here.
            fence(Ordering::SeqCst);
            self.map.as_ptr().add(end - 1).read_volatile()
        };
        fence(Ordering::SeqCst);
        (!self.watched.faulted.load(Ordering::Relaxed)).then_some(last)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Before the map goes: its addresses may be anyone's then.
        self.watched.faulted.store(false, Ordering::SeqCst);
        self.watched.span.store(0, Ordering::SeqCst);
    }
}

/// What the handler knows of a map.
struct Watched {
    /// Number of the first page, and how many there are in the low [`PAGES_BITS`]: one word, so that the handler never sees half of it.
    /// 0 while free.
    span: AtomicU64,
    /// Some of its pages are not the file's.
    faulted: AtomicBool,
}

static WATCHED: [Watched; MAPS_MAX] =
    [const { Watched { span: AtomicU64::new(0), faulted: AtomicBool::new(false) } }; MAPS_MAX];

/// The system's page, set before the handler is installed.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// What SIGBUS did before, set before the handler is installed.
static PREVIOUS: OnceLock<sigaction> = OnceLock::new();

impl Watched {
    fn take(start: usize, len: usize) -> Option<&'static Watched> {
        let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
        let (first, pages) = ((start / page_bytes) as u64, len.div_ceil(page_bytes) as u64);
        if first >> (u64::BITS - PAGES_BITS) != 0 || pages >> PAGES_BITS != 0 {
            return None;
        }
        let span = first << PAGES_BITS | pages;
        WATCHED.iter().find(|watched| {
            watched.span.compare_exchange(0, span, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        })
    }

    fn holds(&self, page: u64) -> bool {
        let span = self.span.load(Ordering::SeqCst);
        let (first, pages) = (span >> PAGES_BITS, span & ((1 << PAGES_BITS) - 1));
        (first..first + pages).contains(&page)
    }
}

/// Installs the handler at the first call; whether it is there.
fn handler_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: plain calls of the system, with structures that are valid when zeroed. `handle` has the form that SA_SIGINFO asks for,
        // and what it reads is set before it is installed.
        unsafe {
            let Ok(page_bytes @ 1..) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) else {
                return false;
            };
            PAGE_BYTES.store(page_bytes, Ordering::SeqCst);
            let mut previous: sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) != 0 {
                return false;
            }
            PREVIOUS.get_or_init(|| previous);
            let mut ours: sigaction = std::mem::zeroed();
            ours.sa_sigaction = handle as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &ours, ptr::null_mut()) == 0
        }
    })
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes a valid `info`, whose address means something if the signal is a fault.
    let (is_fault, address) = unsafe { ((*info).si_code > 0, (*info).si_addr() as usize) };
    if !(is_fault && replace_page(address)) {
        pass_on(signal, is_fault, info, context);
    }
}

/// Puts zeros where a watched map has a page that cannot be read. `errno` stays as it is if this works, and does not matter if not.
fn replace_page(address: usize) -> bool {
    let page_bytes = PAGE_BYTES.load(Ordering::SeqCst);
    let page = address / page_bytes;
    let Some(watched) = WATCHED.iter().find(|watched| watched.holds(page as u64)) else { return false };
    watched.faulted.store(true, Ordering::SeqCst);
    let start = (page * page_bytes) as *mut c_void;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
    // SAFETY: the page belongs to a watched map: it is mapped, read only, and stays so until whoever faulted has finished its copy.
    unsafe { libc::mmap(start, page_bytes, libc::PROT_READ, flags, -1, 0) == start }
}

/// Does what would have been done without this handler.
fn pass_on(signal: c_int, is_fault: bool, info: *mut siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS.get() else { return };
    match previous.sa_sigaction {
        libc::SIG_IGN if !is_fault => {}
        // SAFETY: plain calls of the system. A fault is raised again by returning to it; it kills even where it was ignored.
        libc::SIG_DFL | libc::SIG_IGN => unsafe {
            let mut default: sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &default, ptr::null_mut());
            if !is_fault {
                libc::raise(signal);
            }
        },
        // SAFETY: the flags say which of the two forms the handler has that stood here before; it gets what the system gave us.
        handler => unsafe {
            if previous.sa_flags & libc::SA_SIGINFO == 0 {
                std::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal);
            } else {
                type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
                std::mem::transmute::<usize, Handler>(handler)(signal, info, context);
            }
        },
    }
}

#[cfg(test)]
mod tests;

//! A disk that writes down what is written to it: the order of writes and flushes, as a file system of the kernel makes them.
//!
//! One idea: a file of a FUSE file system of our own, under a loop device. What the kernel writes to that device arrives here, in the order in which the device
//! took it, and a flush of the device arrives as a sync of the file. So the kernel's own file systems are recorded, without a module.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};

/// The name of the file.
pub(crate) const DISK: &str = "disk";

/// What happened to the disk.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Bytes written at an offset.
    Write(u64, Vec<u8>),
    /// Everything written before is on the medium.
    Flush,
    /// The command of this number was begun.
    Tried(usize),
    /// It was acknowledged.
    Done(usize),
}

/// Events in order. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    pub(crate) fn push(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// The events so far; they are gone from here.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Mounts a file system at `at` that holds the one file [`DISK`], which begins as `bytes`. It is unmounted when the result is dropped.
pub(crate) fn mount(at: &Path, bytes: Vec<u8>, log: Log) -> io::Result<BackgroundSession> {
    fuser::spawn_mount(
        Recorder { len: bytes.len() as u64, bytes: Mutex::new(bytes), log },
        at,
        &fuser::Config::default(),
    )
}

struct Recorder {
    len: u64,
    bytes: Mutex<Vec<u8>>,
    log: Log,
}

const FILE: INodeNo = INodeNo(2);
/// The kernel may remember names and lengths for good: they do not change.
const FOREVER: Duration = Duration::from_secs(1 << 20);

impl Recorder {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        FileAttr {
            ino,
            size: if is_file { self.len } else { 0 },
            blocks: self.len / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Recorder {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some(DISK) => reply.entry(&FOREVER, &self.attributes(FILE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let start = offset.min(self.len) as usize;
        let end = (offset + u64::from(size)).min(self.len) as usize;
        reply.data(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..data.len())) {
            Some(place) => {
                place.copy_from_slice(data);
                self.log.push(Event::Write(offset, data.to_vec()));
                reply.written(data.len() as u32);
            }
            None => reply.error(Errno::ENOSPC),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.log.push(Event::Flush);
        reply.ok();
    }
}

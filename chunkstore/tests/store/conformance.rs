//! Both kinds of directory that this crate has keep every promise; one that breaks any is found out.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pleach_chunkstore::conformance;
use pleach_chunkstore::io::disk::Disk;
use pleach_chunkstore::io::memory::Memory;
use pleach_chunkstore::io::{File, Io, Locking};

#[test]
fn memory_conforms() {
    conformance::check(&|| Arc::new(Memory::default())).unwrap();
    conformance::check(&|| Arc::new(Memory::simulated())).unwrap();
}

#[test]
fn a_directory_on_disk_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let number = AtomicU64::new(0);
    let make = || -> Arc<dyn Io> {
        let name = number.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(Disk::create_dir(&dir.path().join(name)).unwrap())
    };
    conformance::check(&make).unwrap();
}

/// What a stranger's directory may get wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    None,
    LockIsOpenToAll,
    AbsentIsAnotherError,
    RenameCopies,
    CreateKeeps,
    ReadsZerosBeyondTheEnd,
    LosesTheLastByte,
    MapIsOfTheStart,
    ReservesNothing,
    ListsNothing,
    WritesElsewhere,
}

struct Strange(Memory, Fault);

struct StrangeFile(Arc<dyn File>, Fault);

impl Io for Strange {
    fn place(&self) -> String {
        self.0.place()
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        match self.1 {
            Fault::CreateKeeps if self.0.open(name).is_ok() => self.open(name),
            _ => Ok(Arc::new(StrangeFile(self.0.create(name)?, self.1))),
        }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        match self.0.open(name) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.1 == Fault::AbsentIsAnotherError => {
                Err(Error::other("404"))
            }
            opened => Ok(Arc::new(StrangeFile(opened?, self.1))),
        }
    }

    fn map(&self, name: &str) -> Result<Arc<dyn File>> {
        match self.1 {
            Fault::MapIsOfTheStart => {
                let file = self.0.open(name)?;
                let mut bytes = vec![0; (file.len()? as usize).min(4096)];
                file.read_at(&mut bytes, 0)?;
                let copy = Memory::holding([(name.to_owned(), bytes)].into());
                copy.open(name)
            }
            _ => self.0.map(name),
        }
    }

    fn list(&self) -> Result<Vec<String>> {
        if self.1 == Fault::ListsNothing { Ok(Vec::new()) } else { self.0.list() }
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        if self.1 != Fault::RenameCopies {
            return self.0.rename(from, to);
        }
        let file = self.0.open(from)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(&mut bytes, 0)?;
        self.0.create(to)?.write_at(&bytes, 0)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        self.0.sync_dir()
    }

    fn reserve(&self, name: &str, bytes: u64) -> Result<()> {
        if self.1 == Fault::ReservesNothing {
            self.0.create(name).map(drop)
        } else {
            self.0.reserve(name, bytes)
        }
    }

    fn lock(&self, name: &str, owner: &str) -> Result<Locking> {
        if self.1 == Fault::LockIsOpenToAll {
            Ok(Locking::Held(Box::new(())))
        } else {
            self.0.lock(name, owner)
        }
    }
}

impl File for StrangeFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match self.0.read_at(buffer, offset) {
            Err(error)
                if error.kind() == ErrorKind::UnexpectedEof && self.1 == Fault::ReadsZerosBeyondTheEnd =>
            {
                buffer.fill(0);
                Ok(())
            }
            read => read,
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match self.1 {
            Fault::LosesTheLastByte => self.0.write_at(&bytes[..bytes.len() - 1], offset),
            Fault::WritesElsewhere => self.0.write_at(bytes, self.0.len()?),
            _ => self.0.write_at(bytes, offset),
        }
    }

    fn sync_data(&self) -> Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> Result<u64> {
        self.0.len()
    }
}

#[test]
fn a_directory_that_breaks_a_promise_is_found_out() {
    let check = |fault| conformance::check(&|| Arc::new(Strange(Memory::default(), fault)));
    check(Fault::None).unwrap();
    for fault in [
        Fault::LockIsOpenToAll,
        Fault::AbsentIsAnotherError,
        Fault::RenameCopies,
        Fault::CreateKeeps,
        Fault::ReadsZerosBeyondTheEnd,
        Fault::LosesTheLastByte,
        Fault::MapIsOfTheStart,
        Fault::ReservesNothing,
        Fault::ListsNothing,
        Fault::WritesElsewhere,
    ] {
        let broken = check(fault).expect_err(&format!("{fault:?} is not found out"));
        println!("{fault:?}: {broken}");
    }
}

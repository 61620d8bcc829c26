//! A small file system that is filled to the last byte and freed, under a server that stays open and under single commands.
//!
//! One idea: a file system in memory, in a mount namespace that a child process holds, is reached through that process's root in `/proc`.
//! So it needs no privilege where user namespaces are allowed, and goes away with the child.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{Run, Sandbox, state::state};

/// The size of the file system that single databases are on.
const DISK_BYTES: u64 = 4 << 20;

/// A small file system; gone when dropped.
pub struct SmallDisk {
    holder: Child,
    /// Where it is.
    pub path: PathBuf,
    _mount_point: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one of 4 MiB; or says what is in the way.
    pub fn mount() -> Result<SmallDisk, String> {
        SmallDisk::of(DISK_BYTES)
    }

    /// Mounts one of so many bytes; or says what is in the way.
    pub fn of(bytes: u64) -> Result<SmallDisk, String> {
        let mount_point = tempfile::tempdir().unwrap();
        let script = format!("mount -t tmpfs -o size={bytes} tmpfs \"$1\" && echo mounted && exec cat");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
            .arg(mount_point.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare does not run: {error}"))?;
        let mut said = String::new();
        let _ = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said);
        let path = mount_point.path().strip_prefix("/").unwrap();
        let path = PathBuf::from(format!("/proc/{}/root", holder.id())).join(path);
        let mut disk = SmallDisk { holder, path, _mount_point: mount_point };
        if said != "mounted\n" {
            let _ = disk.holder.kill();
            let _ = disk.holder.stderr.take().unwrap().read_to_string(&mut said);
            return Err(format!("no file system can be mounted without privileges: {}", said.trim()));
        }
        Ok(disk)
    }

    /// Fills the file system so that `free` bytes are left.
    pub fn fill(&self, free: u64) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        let full = std::iter::repeat_with(|| filler.write_all(&[1; 4096])).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let taken = filler.metadata().unwrap().len();
        filler.set_len(taken.saturating_sub(free)).unwrap();
    }

    /// Frees what [`SmallDisk::fill`] took.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// How full the disk is, and what is written to it then.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// Bytes that are free.
    pub free: u64,
    /// Length of the values.
    pub value_bytes: usize,
}

/// What was seen at one level.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes that were refused.
    pub refused: u64,
}

/// Fills the disk up to a level below a server and then below single commands. Reads must go on, a refusal must say why, and after freeing
/// the next write must work. `early`, a planted fault, takes every write for acknowledged.
pub fn fill_and_free(disk: &SmallDisk, level: Level, early: bool) -> Result<Seen, String> {
    let work = Work { sandbox: Sandbox::new(), disk, level, early };
    let data = disk.path.join("data");
    let mut seen = Seen::default();
    let outcome = work.served(&data, &mut seen).and_then(|()| work.alone(&data.join("db"), &mut seen));
    fs::remove_dir_all(&data).unwrap();
    outcome.map(|()| seen).map_err(|found| format!("{level:?}: {found}"))
}

struct Work<'a> {
    sandbox: Sandbox,
    disk: &'a SmallDisk,
    level: Level,
    early: bool,
}

impl Work<'_> {
    /// Under a server, which stays open all the while.
    fn served(&self, data: &std::path::Path, seen: &mut Seen) -> Result<(), String> {
        let mut server =
            self.sandbox.serve(&["--data-dir", &data.display().to_string(), "--listen", "127.0.0.1:0"]);
        self.sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
        self.writes(|args| self.sandbox.run(&server.args("db", args)), seen)?;
        match server.stop() {
            0 => Ok(()),
            status => Err(format!("the server ended with {status}: {}", server.log())),
        }
    }

    /// By commands that each open the database.
    fn alone(&self, db: &std::path::Path, seen: &mut Seen) -> Result<(), String> {
        let db_arg = db.display().to_string();
        self.writes(|args| self.sandbox.run(&[&["-C", &db_arg], args].concat()), seen)?;
        let rows = state(db)?.lines().filter(|line| line.starts_with("    ")).count();
        match rows as u64 == seen.acknowledged {
            true => Ok(()),
            false => Err(format!("{rows} rows, {} acknowledged", seen.acknowledged)),
        }
    }

    fn writes(&self, run: impl Fn(&[&str]) -> Run, seen: &mut Seen) -> Result<(), String> {
        let put = |seen: &mut Seen, value_bytes: usize| {
            let n = seen.acknowledged + seen.refused;
            let run = run(&["put", "t", &format!("{n:08}"), &incompressible(n, value_bytes)]);
            let counted =
                if run.status == 0 || self.early { &mut seen.acknowledged } else { &mut seen.refused };
            *counted += 1;
            run
        };
        let first = put(seen, 10);
        if first.status != 0 {
            return Err(format!("the first write fails: {}", first.stderr));
        }
        let rows_before = seen.acknowledged;
        self.disk.fill(self.level.free);
        // Each takes some of what is left: of that, and of the last pages of the store's files.
        let enough = (self.level.free + 4 * 4096) / self.level.value_bytes as u64 + 2;
        let refusal = (0..enough).map(|_| put(seen, self.level.value_bytes)).find(|run| run.status != 0);
        let Some(refusal) = refusal else { return Err("the disk is never full".to_owned()) };
        if refusal.status != 1
            || !refusal.stderr.contains("no space left")
            || !refusal.stderr.contains("free some")
        {
            return Err(format!("a full disk says, with status {}: {}", refusal.status, refusal.stderr));
        }
        let rows = run(&["scan", "t"]);
        if rows.status != 0 || rows.stdout.lines().count() as u64 != seen.acknowledged {
            let acknowledged = seen.acknowledged;
            return Err(format!(
                "{acknowledged} acknowledged, {rows_before} of them before; a scan says {rows:.200?}"
            ));
        }
        self.disk.free();
        let further = put(seen, self.level.value_bytes);
        match further.status {
            0 => Ok(()),
            _ => Err(format!("after freeing space: {}", further.stderr)),
        }
    }
}

/// Letters and digits that hardly compress.
fn incompressible(seed: u64, bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[(state >> 40) as usize % LETTERS.len()])
    };
    (0..bytes).map(|_| letter()).collect()
}

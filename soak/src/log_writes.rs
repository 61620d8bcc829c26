//! Power cuts of the real binary on the kernel's own file systems: every write and flush of the disk is recorded, and every state that a
//! power cut could have left is mounted and checked.
//!
//! One idea: what was written before a flush is there; of what was written after it, any part may be. So after each event of the log there are
//! the state with all writes, the one with none since the flush, and many with some, which the seed chooses.
//!
//! Needs root, `/dev/fuse` and loop devices. What is recorded, by [`crate::recorder`], is what device-mapper's log-writes would record.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

use pleach_tests::{
    Sandbox,
    script::{Recording, SCRIPT, copy_dir, tear},
    state::state,
    syscalls::run_with_phantom,
};

use crate::{
    Plant, Run, Stop,
    recorder::{self, DISK, Event, Log},
};

const DISK_BYTES: u64 = 64 << 20;

/// How each file system is made on a small disk.
const FILE_SYSTEMS: [(&str, &[&str]); 3] = [
    ("ext4", &["mkfs.ext4", "-q"]),
    ("xfs", &["mkfs.xfs", "-q", "--unsupported"]),
    ("btrfs", &["mkfs.btrfs", "-q", "-M"]),
];

pub(crate) fn run(run: &Run) -> Result<String, Stop> {
    let recording = Recording::of(SCRIPT);
    let mut recorded = Vec::new();
    for (name, mkfs) in FILE_SYSTEMS {
        recorded.push(Recorded::new(&recording, name, mkfs, run.plant)?);
    }
    let mut choice = Choice(run.seed);
    let mut round = 0;
    // The first round drops what was not flushed, the second keeps it, the others keep some of it.
    while round == 0 || run.goes_on() {
        for disk in &mut recorded {
            disk.check_all(&recording, round, &mut choice)?;
            eprintln!("{}: round {round}, {} states", disk.file_system, disk.states);
        }
        round += 1;
    }
    let counts: Vec<String> = recorded
        .iter()
        .map(|disk| format!("{}: {} states of {} events", disk.file_system, disk.states, disk.events.len()))
        .collect();
    Ok(counts.join("; "))
}

/// A disk on which the script ran.
struct Recorded {
    file_system: &'static str,
    /// The disk before the first event.
    base: Vec<u8>,
    events: Vec<Event>,
    states: u64,
}

impl Recorded {
    fn new(
        recording: &Recording,
        file_system: &'static str,
        mkfs: &[&str],
        plant: Option<Plant>,
    ) -> Result<Recorded, Stop> {
        let sandbox = Sandbox::new();
        let image = sandbox.path("image");
        File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).map_err(in_the_way("a disk image"))?;
        command(mkfs, &[&image])?;
        let (fuse, mount_point) = (sandbox.path("fuse"), sandbox.path("mounted"));
        fs::create_dir_all(&fuse).map_err(in_the_way("a directory"))?;
        let base = fs::read(&image).map_err(in_the_way("a disk image"))?;
        let log = Log::default();
        let recorder = recorder::mount(&fuse, base.clone(), log.clone())
            .map_err(in_the_way("FUSE, which needs root"))?;
        let mounted = Mounted::new(&fuse.join(DISK), &mount_point)?;
        play(recording, &mount_point, &log, plant)?;
        drop(mounted);
        drop(recorder);
        let events = log.take();
        eprintln!("{file_system}: {} events recorded", events.len());
        Ok(Recorded { file_system, base, events, states: 0 })
    }

    /// Checks a state after each event.
    fn check_all(&mut self, recording: &Recording, round: u64, choice: &mut Choice) -> Result<(), Stop> {
        let sandbox = Sandbox::new();
        // What is certain, what came after it, and how far the script was.
        let (mut durable, mut since) = (self.base.clone(), Vec::new());
        let (mut tried, mut done) = (0, 0);
        for (n, event) in self.events.iter().enumerate() {
            match event {
                Event::Write(offset, bytes) => since.push((*offset, bytes)),
                Event::Flush => since.drain(..).for_each(|write| apply(&mut durable, write)),
                Event::Tried(command) => tried = command + 1,
                Event::Done(command) => done = command + 1,
            }
            let promised = done..=tried;
            let mut left = durable.clone();
            let kept = since.iter().filter(|_| match round {
                0 => false,
                1 => true,
                _ => choice.yes(),
            });
            kept.for_each(|write| apply(&mut left, *write));
            let found = look(&sandbox, &left)?;
            let state_of = |n: usize| match n {
                0 => &recording.commands[0].state_before,
                n => &recording.commands[n - 1].state_after,
            };
            let what = match found {
                Ok(found) if promised.clone().any(|n| *state_of(n) == found) => {
                    self.states += 1;
                    continue;
                }
                Ok(found) => {
                    format!("expected the state after one of the commands {promised:?}, found:\n{found}")
                }
                Err(what) => what,
            };
            let file_system = self.file_system;
            return Err(Stop::Found(format!("{file_system}, after event {n}, round {round}: {what}")));
        }
        Ok(())
    }
}

/// Runs the script in a directory, with marks in the log.
fn play(recording: &Recording, dir: &Path, log: &Log, plant: Option<Plant>) -> Result<(), Stop> {
    copy_dir(&recording.commands[0].before, dir);
    command(&["sync"], &[])?;
    for (n, recorded) in recording.commands.iter().enumerate() {
        if recorded.torn {
            tear(&dir.join("db"));
        }
        let mut command = recording.command(recorded, dir);
        log.push(Event::Tried(n));
        let output = match plant {
            Some(_) => run_with_phantom(&command, dir, "fdatasync"),
            None => command.output().map_err(in_the_way("pleach"))?,
        };
        if !output.status.success() {
            return Err(Stop::Found(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        log.push(Event::Done(n));
    }
    Ok(())
}

/// Mounts a disk that holds these bytes; gives what its database holds, or what is wrong with it.
fn look(sandbox: &Sandbox, bytes: &[u8]) -> Result<Result<String, String>, Stop> {
    const BLOCK: usize = 4096;
    let image = sandbox.path("image");
    let _ = fs::remove_file(&image);
    let file = File::create_new(&image).map_err(in_the_way("a disk image"))?;
    file.set_len(bytes.len() as u64).map_err(in_the_way("a disk image"))?;
    for (n, block) in bytes.chunks(BLOCK).enumerate().filter(|(_, block)| **block != [0; BLOCK]) {
        file.write_all_at(block, (n * BLOCK) as u64).map_err(in_the_way("a disk image"))?;
    }
    let mount_point = sandbox.path("mounted");
    let mounted = Mounted::new(&image, &mount_point);
    Ok(match mounted {
        Ok(_mounted) => state(&mount_point.join("db")),
        Err(_) => Err("the file system cannot be mounted".to_owned()),
    })
}

fn apply(disk: &mut [u8], (offset, bytes): (u64, &Vec<u8>)) {
    disk[offset as usize..][..bytes.len()].copy_from_slice(bytes);
}

/// A disk image, mounted until this is dropped.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn new<'a>(image: &Path, at: &'a Path) -> Result<Mounted<'a>, Stop> {
        fs::create_dir_all(at).map_err(in_the_way("a directory"))?;
        command(&["mount", "-o", "loop"], &[image, at])?;
        Ok(Mounted(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = command(&["umount"], &[self.0]);
    }
}

/// Runs a command of the system.
fn command(line: &[&str], paths: &[&Path]) -> Result<(), Stop> {
    let output = Command::new(line[0]).args(&line[1..]).args(paths).output().map_err(in_the_way(line[0]))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Stop::Missing(format!("`{}` fails: {} (it needs root)", line.join(" "), said.trim())))
        }
    }
}

fn in_the_way(what: &str) -> impl Fn(std::io::Error) -> Stop {
    move |error| Stop::Missing(format!("{what}: {error}"))
}

/// Random choices from a seed.
struct Choice(u64);

impl Choice {
    fn yes(&mut self) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 63 == 1
    }
}

//! Power cuts of the real binary under LazyFS, a FUSE file system that forgets on command what was not synced.
//!
//! One idea: each command of the script runs on a durable copy of what it found; at its end LazyFS forgets, and what was acknowledged must be
//! there. LazyFS passes changes of directories through, so a missing sync of a directory is not seen here, but in [`crate::log_writes`].
//!
//! `soak/scripts/lazyfs.sh` looks for what this needs, and mounts it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
};

use pleach_tests::{
    Sandbox,
    script::{Recording, SCRIPT, copy_dir},
    syscalls::run_with_phantom,
};

use crate::{Run, Stop};

pub(crate) fn run(run: &Run) -> Result<String, Stop> {
    let sandbox = Sandbox::new();
    let lazy = LazyFs::mount(sandbox.path("lazy"))?;
    let recording = Recording::of(SCRIPT);
    let mut cuts = 0;
    while cuts == 0 || run.goes_on() {
        for recorded in &recording.commands {
            let dir = lazy.dir.join("mounted").join(cuts.to_string());
            copy_dir(&recorded.before, &dir);
            lazy.order("cache-checkpoint")?;
            let mut command = recording.command(recorded, &dir);
            let output = match run.plant {
                Some(_) => run_with_phantom(&command, &dir, "fdatasync"),
                None => command.output().map_err(|error| Stop::Missing(format!("pleach: {error}")))?,
            };
            lazy.order("clear-cache")?;
            recording.check(recorded, &dir, output.status.success())?;
            cuts += 1;
        }
    }
    Ok(format!("{cuts} power cuts"))
}

/// LazyFS, mounted until this is dropped.
struct LazyFs {
    dir: PathBuf,
}

impl LazyFs {
    fn mount(dir: PathBuf) -> Result<LazyFs, Stop> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lazyfs.sh");
        let output = Command::new(&script).arg(&dir).output();
        let output = output.map_err(|error| Stop::Missing(format!("{}: {error}", script.display())))?;
        match output.status.success() {
            true => Ok(LazyFs { dir }),
            false => Err(Stop::Missing(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    /// Has LazyFS do something, and waits until it is done.
    fn order(&self, what: &str) -> Result<(), Stop> {
        let failed = |error| Stop::Missing(format!("LazyFS takes no commands: {error}"));
        fs::write(self.dir.join("commands"), format!("lazyfs::{what}\n")).map_err(failed)?;
        let done = fs::File::open(self.dir.join("done")).map_err(failed)?;
        BufReader::new(done).read_line(&mut String::new()).map(drop).map_err(failed)
    }
}

impl Drop for LazyFs {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").arg("-u").arg(self.dir.join("mounted")).status();
    }
}

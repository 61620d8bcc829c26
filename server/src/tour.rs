//! `pleach tour`: the whole story on real data, by running this very program as a user would.
//!
//! Every step says what it is about, shows the commands that it runs, and checks what they answer against what is known from
//! elsewhere: from the bundled files, read line by line, or from another way to the same end. The first wrong answer ends the tour.
//! `stage` is what the steps stand on; each step is a file.

use std::fs;
use std::path::PathBuf;

use crate::error::{Failure, Result};

mod branches;
mod editions;
mod exchange;
mod replicas;
mod stage;

use stage::Stage;

/// Two editions of one table of the Unicode Character Database; their source and licence are beside them.
const EDITIONS: [(&str, &[u8]); 2] = [
    ("ucd-15.1.csv", include_bytes!("../data/ucd-15.1.csv")),
    ("ucd-16.0.csv", include_bytes!("../data/ucd-16.0.csv")),
];

/// Takes the tour; `say` prints a line of it.
pub(crate) fn run(say: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let place = tempfile::Builder::new()
        .prefix("pleach-tour-")
        .tempdir()
        .map_err(|error| Failure::file("a temporary directory", &error))?;
    for (name, bytes) in EDITIONS {
        let path = place.path().join(name);
        fs::write(&path, bytes).map_err(|error| Failure::file(path.display(), &error))?;
    }
    let program = std::env::current_exe().map_err(|error| Failure::file("this program", &error))?;
    let mut stage = Stage::new(say, program, PathBuf::from(place.path()));
    let started = std::time::Instant::now();
    stage.say("A tour of pleach. It works in a temporary directory and leaves nothing behind.")?;
    editions::run(&mut stage)?;
    branches::run(&mut stage)?;
    exchange::run(&mut stage)?;
    replicas::run(&mut stage)?;
    let (checks, seconds) = (stage.checks(), started.elapsed().as_secs_f32());
    stage.say("")?;
    stage.say(&format!("That was the tour: {checks} checks, all as expected, in {seconds:.1} s."))
}

//! Step 1: a typed table from a CSV file, its next edition, and what changed between them.

use std::collections::BTreeMap;

use super::stage::{Stage, number, read, string};
use crate::error::Result;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let (old, new) = (lines(&read(&stage.path("ucd-15.1.csv"))?), lines(&read(&stage.path("ucd-16.0.csv"))?));
    let inserted = new.keys().filter(|key| !old.contains_key(*key)).count() as u64;
    let deleted = old.keys().filter(|key| !new.contains_key(*key)).count() as u64;
    let updated =
        old.iter().filter(|(key, line)| new.get(*key).is_some_and(|new| new != *line)).count() as u64;

    stage.title("1. A table from a CSV file, and its next edition")?;
    stage.explain("Unicode 15.1 as a table: types are inferred, the code point is the key. One import is one transaction.")?;
    stage.run(&["init", "book"])?;
    stage.go_to("book")?;
    let import = stage.json(&["import", "characters", "../ucd-15.1.csv", "--key", "codepoint"])?;
    stage.check(
        "every row of the file is in the table",
        number(&import, "inserted"),
        Some(old.len() as u64),
    )?;
    stage.run(&["table", "show", "characters"])?;
    stage.json(&["commit", "-m", "Unicode 15.1"])?;

    stage.explain("The next edition replaces the table. Rows that are equal are no change.")?;
    stage.json(&["import", "characters", "../ucd-16.0.csv", "--replace"])?;
    stage.run(&["status"])?;
    let stat = stage.json(&["diff", "--stat"])?;
    stage.check("as many rows are new as the two files say", number(&stat, "inserted"), Some(inserted))?;
    stage.check("as many changed", number(&stat, "updated"), Some(updated))?;
    stage.check("as many are gone", number(&stat, "deleted"), Some(deleted))?;
    let diff = stage.run(&["diff", "--json"])?;
    stage.check(
        "the diff has one line for each",
        diff.lines().count() as u64,
        inserted + updated + deleted,
    )?;
    let commit = stage.json(&["commit", "-m", "Unicode 16.0"])?;
    let again = stage.json(&["import", "characters", "../ucd-16.0.csv", "--replace"])?;
    stage.check(
        "the same file again changes nothing",
        number(&again, "unchanged"),
        Some(new.len() as u64),
    )?;
    stage.refused(1, &["commit", "-m", "nothing"])?;
    stage.run(&["log"])?;

    stage.explain(
        "A root is the hash of the content alone. Another database that never saw 15.1 has the same one.",
    )?;
    stage.run(&["init", "../other"])?;
    let import = [
        "-C",
        "../other",
        "import",
        "characters",
        "../ucd-16.0.csv",
        "--key",
        "codepoint",
        "--commit",
        "at once",
    ];
    let other = stage.json(&import)?;
    let root = other.get("commit").map(|commit| string(commit, "root")).unwrap_or_default();
    stage.check("both roots are equal", root, string(&commit, "root"))?;

    stage.explain("Bad input is refused with its place, and nothing is imported by halves.")?;
    let broken = read(&stage.path("ucd-16.0.csv"))?.replacen(",false,\n", ",perhaps,\n", 1);
    stage.write("broken.csv", &broken)?;
    let refusal = stage.refused(1, &["import", "characters", "../broken.csv", "--upsert"])?;
    stage.check("the refusal names file, line and column", refusal.contains("broken.csv:2:"), true)?;
    let clean = stage.json(&["status"])?;
    stage.check(
        "the table is as it was",
        clean.get("dirty").and_then(serde_json::Value::as_bool),
        Some(false),
    )
}

/// The rows of a bundled file by their code point: one a line, and no field holds a line end.
pub(super) fn lines(file: &str) -> BTreeMap<String, String> {
    let key = |line: &str| line.split(',').next().unwrap_or_default().to_owned();
    file.lines().skip(1).map(|line| (key(line), line.to_owned())).collect()
}

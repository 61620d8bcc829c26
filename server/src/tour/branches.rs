//! Step 2: branches, merges with and without conflicts, tags, and reading any revision.

use super::editions::lines;
use super::stage::{Stage, number, read, string};
use crate::error::Result;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    stage.title("2. Branches, merges, and every state that ever was")?;
    stage.explain("Tags name the two editions. Any command that reads takes --at.")?;
    stage.run(&["tag", "unicode-15.1", "HEAD~1"])?;
    stage.run(&["tag", "unicode-16.0"])?;
    stage.refused(1, &["get", "characters", "105C0", "--at", "unicode-15.1"])?;
    let row = stage.json(&["get", "characters", "105C0", "--at", "unicode-16.0"])?;
    stage.check("a letter of 16.0", string(&row, "name"), "TODHRI LETTER A".into())?;
    stage.run(&["scan", "characters", "--from", "0041", "--to", "0044"])?;
    let exported = stage.run(&["export", "characters", "--at", "unicode-15.1"])?;
    let original = read(&stage.path("ucd-15.1.csv"))?;
    stage.check("the old edition comes out as its file was", lines(&exported), lines(&original))?;

    stage.explain("A draft changes one row, main another. The merge takes both.")?;
    stage.run(&["switch", "draft", "--create"])?;
    change(stage, "0041", "FIRST LETTER")?;
    stage.run(&["commit", "-m", "A is the first letter"])?;
    stage.run(&["switch", "main"])?;
    change(stage, "0042", "SECOND LETTER")?;
    stage.run(&["commit", "-m", "B is the second letter"])?;
    let merge = stage.json(&["merge", "draft"])?;
    stage.check("the merge is a commit", string(&merge, "merge"), "merged".into())?;
    check_name(stage, "0041", "FIRST LETTER")?;
    check_name(stage, "0042", "SECOND LETTER")?;
    stage.run(&["log", "--graph", "-n", "5"])?;

    stage
        .explain("Now both change one cell. That is a conflict: kept, listed, and for a person to decide.")?;
    change(stage, "0043", "OURS")?;
    stage.run(&["commit", "-m", "C on main"])?;
    stage.run(&["switch", "draft"])?;
    change(stage, "0043", "THEIRS")?;
    stage.run(&["commit", "-m", "C on the draft"])?;
    stage.run(&["switch", "main"])?;
    stage.refused(1, &["merge", "draft"])?;
    let status = stage.json(&["status"])?;
    stage.check("one conflict waits", number(&status, "conflicts"), Some(1))?;
    stage.run(&["conflicts"])?;
    stage.refused(1, &["commit", "-m", "too early"])?;
    stage.run(&["conflicts", "--resolve", "theirs"])?;
    stage.run(&["commit", "-m", "Merge the draft's C"])?;
    check_name(stage, "0043", "THEIRS")
}

/// Gives a character another name, by an upsert of its one row.
pub(super) fn change(stage: &mut Stage<'_>, codepoint: &str, name: &str) -> Result<()> {
    row(stage, codepoint, name)?;
    stage.run(&["import", "characters", "../change.csv", "--upsert"])?;
    Ok(())
}

/// Writes the file of that one row, `change.csv`.
pub(super) fn row(stage: &mut Stage<'_>, codepoint: &str, name: &str) -> Result<()> {
    let file = read(&stage.path("ucd-16.0.csv"))?;
    let header = file.lines().next().unwrap_or_default();
    let rows = lines(&file);
    let row = rows.get(codepoint).map(String::as_str).unwrap_or_default();
    let mut fields: Vec<&str> = row.split(',').collect();
    if let Some(field) = fields.get_mut(1) {
        *field = name;
    }
    stage.write("change.csv", &format!("{header}\n{}\n", fields.join(",")))
}

pub(super) fn check_name(stage: &mut Stage<'_>, codepoint: &str, name: &str) -> Result<()> {
    let row = stage.json(&["get", "characters", codepoint])?;
    stage.check(&format!("{codepoint} is {name}"), string(&row, "name"), name.into())
}

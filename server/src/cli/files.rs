//! import and export.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::Context;
use super::args::{Export, ExportFormat, FileFormat, Import};
use crate::error::{Failure, Result};
use crate::proto::{ExportRequest, Format, ImportMode, ImportStart};

pub(super) fn import(context: &mut Context, arguments: Import) -> Result<()> {
    check_file(&arguments.file)?;
    let mut backend = context.backend()?;
    let mode = match (arguments.replace, arguments.upsert) {
        (true, _) => ImportMode::Replace,
        (_, true) => ImportMode::Upsert,
        _ => ImportMode::Insert,
    };
    let format = match arguments.format {
        Some(FileFormat::Csv) => Format::Csv,
        Some(FileFormat::Tsv) => Format::Tsv,
        Some(FileFormat::Jsonl) => Format::Jsonl,
        None => Format::Unspecified,
    };
    let start = ImportStart {
        target: backend.target(),
        table: arguments.table,
        file: arguments.file.display().to_string(),
        format: format.into(),
        mode: mode.into(),
        key: arguments.key,
        types: arguments.types.as_deref().map(types).transpose()?.unwrap_or_default(),
        commit: arguments.commit,
        author: super::history::author(arguments.author),
    };
    let wants_commit = start.commit.is_some();
    let progress = context.output.progress(format!("importing {}", arguments.file.display()));
    progress.watch(&mut backend);
    let done = backend.import(start, &arguments.file)?;
    drop(progress);
    if !context.output.json {
        context.output.line(format!(
            "{} inserted, {} updated, {} deleted, {} unchanged",
            done.inserted, done.updated, done.deleted, done.unchanged
        ))?;
        match &done.commit {
            Some(commit) => context.output.line(format!("{} on {}", commit.hash, commit.branch))?,
            None if wants_commit => {
                context.output.note("nothing to commit: the branch's work equals its head")
            }
            None => {}
        }
    }
    let commit = done
        .commit
        .map_or(Value::Null, |made| json!({"hash": made.hash, "branch": made.branch, "root": made.root}));
    let document = json!({
        "inserted": done.inserted,
        "updated": done.updated,
        "deleted": done.deleted,
        "unchanged": done.unchanged,
        "commit": commit,
    });
    context.written(document, &done.token)
}

/// Says early, and without a database, that there is no such file.
fn check_file(path: &Path) -> Result<()> {
    if path == Path::new("-") {
        return Ok(());
    }
    let name = path.display().to_string();
    let metadata = std::fs::metadata(path).map_err(|error| Failure::file(&name, &error))?;
    if metadata.is_dir() {
        return Err(
            Failure::refused(format!("{name}: is a directory")).hint("give a CSV, TSV or JSON Lines file")
        );
    }
    Ok(())
}

/// `COL=TYPE,…`. A comma inside the parentheses of `decimal(P,S)` separates nothing.
fn types(text: &str) -> Result<HashMap<String, String>> {
    let mut depth = 0_u32;
    let pairs = text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    pairs
        .map(|pair| {
            let (column, ty) = pair.rsplit_once('=').ok_or_else(|| {
                Failure::usage(format!("--types: expected COL=TYPE, found `{pair}`"))
                    .hint("types are bool int float decimal(P,S) text bytes date timestamp uuid")
            })?;
            ty.trim().parse::<pleach_engine::row::Type>().map_err(|error| {
                Failure::usage(format!("--types: {column}: {error}"))
                    .hint("leave the column out of --types to have its type inferred")
            })?;
            Ok((column.to_owned(), ty.trim().to_owned()))
        })
        .collect()
}

pub(super) fn export(context: &mut Context, arguments: Export) -> Result<()> {
    let mut backend = context.backend()?;
    let format = match arguments.format {
        Some(ExportFormat::Csv) => Format::Csv,
        Some(ExportFormat::Jsonl) => Format::Jsonl,
        None if context.output.json => Format::Jsonl,
        None => Format::Csv,
    };
    let request = ExportRequest {
        target: backend.target_after(&arguments.at.after)?,
        table: arguments.table,
        at: arguments.at.at.unwrap_or_default(),
        format: format.into(),
    };
    let output = &mut context.output;
    backend.export(request, &mut |message| output.bytes(&message.data))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn types_are_pairs_and_decimals_keep_their_comma() {
        let types = types("a=int,b=decimal(9,2),c=text").unwrap();
        assert_eq!((types.len(), types["b"].as_str()), (3, "decimal(9,2)"));
    }

    #[test]
    fn a_wrong_type_is_a_usage_error() {
        for wrong in ["a", "a=", "a=integer", "a=decimal(99,2)"] {
            assert_eq!(types(wrong).unwrap_err().kind.exit_status(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_missing_file_is_refused_by_name() {
        let failure = check_file(Path::new("/nonexistent/x.csv")).unwrap_err();
        assert!(failure.message.starts_with("/nonexistent/x.csv: no such file"));
        assert_eq!(failure.kind.exit_status(), 1);
    }
}

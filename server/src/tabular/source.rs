//! Input that can be read twice.
//!
//! The one idea: inferring types takes one reading and the rows another. A regular file is opened again; anything
//! else (the standard input, a pipe) is kept, in memory up to 8 MiB and beyond that in a temporary file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::TabularError;
use super::lines::Lines;

/// Bytes of a pipe that are kept in memory.
const MEMORY_BYTES_MAX: u64 = 8 << 20;

/// How rows are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values, RFC 4180.
    Csv,
    /// The same with tabs for commas.
    Tsv,
    /// One JSON object a line.
    Jsonl,
}

impl Format {
    /// The format that a file's name says: `.tsv` and `.tab`, `.jsonl`, `.ndjson` and `.json`; all else is CSV.
    pub fn of_path(path: &Path) -> Format {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "tsv" | "tab" => Format::Tsv,
            "jsonl" | "ndjson" | "json" => Format::Jsonl,
            _ => Format::Csv,
        }
    }
}

/// A named input, its format, and a way to read it from the start as often as wanted.
#[derive(Debug)]
pub struct Source {
    name: String,
    format: Format,
    input: Input,
}

#[derive(Debug)]
enum Input {
    Path(PathBuf),
    Memory(Arc<[u8]>),
    Temporary(tempfile::TempPath),
}

impl Source {
    /// The file at `path`; its name says the format if none is given.
    pub fn open(path: &Path, format: Option<Format>) -> Result<Source, TabularError> {
        let name = path.display().to_string();
        let format = format.unwrap_or_else(|| Format::of_path(path));
        let file = File::open(path).map_err(io_error(&name))?;
        match file.metadata().map_err(io_error(&name))?.is_file() {
            true => Ok(Source { name, format, input: Input::Path(path.to_owned()) }),
            false => Source::keep(&name, file, format),
        }
    }

    /// All that `reader` gives, kept for two readings; `name` is what errors call it, `-` for the standard input.
    pub fn keep(name: &str, mut reader: impl Read, format: Format) -> Result<Source, TabularError> {
        let mut keep = || -> io::Result<Input> {
            let mut head = Vec::new();
            reader.by_ref().take(MEMORY_BYTES_MAX + 1).read_to_end(&mut head)?;
            if head.len() as u64 <= MEMORY_BYTES_MAX {
                return Ok(Input::Memory(head.into()));
            }
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(&head)?;
            io::copy(&mut reader, &mut file)?;
            Ok(Input::Temporary(file.into_temp_path()))
        };
        let input = keep().map_err(io_error(name))?;
        Ok(Source { name: name.to_owned(), format, input })
    }

    /// What errors call the input.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its rows are written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its lines, from the first.
    pub(super) fn lines(&self) -> Result<Lines, TabularError> {
        let open = |path: &Path| -> Result<Box<dyn BufRead + Send>, TabularError> {
            Ok(Box::new(BufReader::with_capacity(256 << 10, File::open(path).map_err(io_error(&self.name))?)))
        };
        let input = match &self.input {
            Input::Path(path) => open(path)?,
            Input::Temporary(path) => open(path)?,
            Input::Memory(bytes) => Box::new(Cursor::new(Arc::clone(bytes))),
        };
        Ok(Lines::new(self.name.clone(), input))
    }
}

fn io_error(file: &str) -> impl Fn(io::Error) -> TabularError + '_ {
    |error| TabularError::Io { file: file.to_owned(), error }
}

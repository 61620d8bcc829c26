//! The command line: parses arguments, finds the database or the server, runs one command, prints, gives the exit status.
//!
//! A command's function asks the [`Backend`] and prints what it answers; it does not know whether that is a database on this
//! machine or a server. Commands that only make sense on one side say so as usage errors.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;
use pleach_engine::{Database, Error, Options, StoreError};
use pleach_protocol::{Credentials, serve_promised};

use crate::credentials;
use crate::error::{Failure, Result};
use crate::ops::Session;
use args::{Cli, Command, Global};
pub(crate) use backend::runtime;
use backend::{Backend, Remote};
use output::Output;

mod args;
mod backend;
mod clusters;
mod config;
mod databases;
mod drill;
mod files;
mod graph;
mod history;
mod interrupt;
mod logging;
mod merge;
mod meta;
mod output;
mod packs;
mod patch;
mod print;
mod progress;
mod recovery;
mod refs;
mod remotes;
mod rows;
mod stats;
mod tables;
mod tokens;
mod upkeep;

/// Runs the command line `arguments`, the program's name first, and gives the process's exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with status 0, errors to stderr with 2; nobody reading is no failure.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let mut context = Context { output: Output::new(cli.global.json, cli.global.quiet), global: cli.global };
    match dispatch(&mut context, cli.command).and_then(|()| context.output.flush()) {
        Ok(()) => 0,
        Err(failure) => {
            // What was printed before the failure stands.
            let _ = context.output.flush();
            output::report(&failure)
        }
    }
}

fn dispatch(context: &mut Context, command: Command) -> Result<()> {
    logging::start(&context.global, matches!(command, Command::Serve(_)))?;
    // A drill that is interrupted says where things stand.
    if !matches!(command, Command::Serve(_) | Command::Cluster(args::Cluster::Drill(_))) {
        interrupt::exit_on_interrupt()?;
    }
    match command {
        Command::Init { directory } => databases::init(context, directory)?,
        Command::Import(arguments) => files::import(context, arguments)?,
        Command::Export(arguments) => files::export(context, arguments)?,
        Command::Table(arguments) => tables::table(context, arguments)?,
        Command::Put(arguments) => rows::put(context, arguments)?,
        Command::Get(arguments) => rows::get(context, arguments)?,
        Command::Del(arguments) => rows::del(context, arguments)?,
        Command::Scan(arguments) => rows::scan(context, arguments)?,
        Command::Status { after } => history::status(context, &after)?,
        Command::Commit(arguments) => history::commit(context, arguments)?,
        Command::Log(arguments) => history::log(context, arguments)?,
        Command::Show { revision, after } => history::show(context, revision, &after)?,
        Command::Diff(arguments) => history::diff(context, arguments)?,
        Command::Patch(arguments) => patch::patch(context, arguments)?,
        Command::Revert(arguments) => patch::revert(context, arguments)?,
        Command::Reset { revision, hard } => history::reset(context, revision, hard)?,
        Command::Branch(arguments) => refs::branch(context, arguments)?,
        Command::Switch { name, create } => refs::switch(context, &name, create)?,
        Command::Tag(arguments) => refs::tag(context, arguments)?,
        Command::Recovery(arguments) => recovery::recovery(context, arguments)?,
        Command::Merge(arguments) => merge::merge(context, arguments)?,
        Command::Conflicts { resolve, after } => merge::conflicts(context, resolve, &after)?,
        Command::Remote(arguments) => remotes::remote(context, arguments)?,
        Command::Clone(arguments) => remotes::clone(context, arguments)?,
        Command::Fetch { remote, limit } => remotes::fetch(context, &remote, limit)?,
        Command::Pull { remote, branch, limit } => remotes::pull(context, &remote, branch, limit)?,
        Command::Push(arguments) => remotes::push(context, arguments)?,
        Command::Database(arguments) => databases::database(context, arguments)?,
        Command::Serve(arguments) => clusters::serve(context, arguments)?,
        Command::Cluster(arguments) => clusters::cluster(context, &arguments)?,
        Command::Config(arguments) => config::config(context, arguments)?,
        Command::Replica(arguments) => config::replica(context, &arguments)?,
        Command::Token(args::Token::New { name }) => tokens::new_token(context, &name)?,
        Command::Backup(arguments) => upkeep::backup(context, arguments)?,
        Command::Fsck { repair_from } => upkeep::fsck(context, repair_from)?,
        Command::Gc { dry_run, purge } => upkeep::gc(context, dry_run, purge)?,
        Command::Stats { after } => stats::stats(context, &after)?,
        Command::Chunk(args::Chunk::Cat { hash }) => stats::chunk_cat(context, &hash)?,
        Command::Tour => {
            context.refuse_server("tour")?;
            crate::tour::run(&mut |text| context.output.line(text).and_then(|()| context.output.flush()))?
        }
        Command::Completions { shell } => meta::completions(context, shell)?,
        Command::Man { directory } => meta::man(context, &directory)?,
        Command::Version => meta::version(context)?,
    }
    Ok(())
}

/// What every command is given: the global flags and the printer.
pub(crate) struct Context {
    global: Global,
    output: Output,
}

impl Context {
    /// Where the command runs.
    fn backend(&self) -> Result<Backend> {
        let Some(url) = &self.global.server else {
            return Ok(Backend::Local(Box::new(Session::local(self.open()?)?)));
        };
        let Some(database) = &self.global.database else {
            return Err(Failure::usage("--server needs --database NAME[@REF]")
                .hint(format!("`pleach database list --server {url}` shows the databases there")));
        };
        Ok(Backend::Remote(Box::new(self.connect(url, database)?)))
    }

    /// The server, for commands that are about no database of it.
    fn server(&self) -> Result<Remote> {
        let Some(url) = &self.global.server else {
            return Err(Failure::usage("this command needs --server URL")
                .hint("for example --server http://127.0.0.1:7420"));
        };
        let database = self.global.database.as_deref().unwrap_or_default();
        self.connect(url, database)
    }

    fn connect(&self, url: &str, database: &str) -> Result<Remote> {
        // Nothing is shown to a server that gets plain text, but the token that is meant for it.
        let credentials =
            if url.starts_with("https://") { self.credentials()? } else { Credentials::default() };
        Remote::connect(url, database, tokens::token(&self.global)?, &credentials)
    }

    /// What is shown to servers.
    fn credentials(&self) -> Result<Credentials> {
        Ok(credentials::read()?.with_tls(tokens::tls(&self.global)?))
    }

    /// The local database, for commands that run on one only.
    fn local(&self, command: &str) -> Result<Database> {
        self.refuse_server(command)?;
        self.open()
    }

    fn refuse_server(&self, command: &str) -> Result<()> {
        if self.global.server.is_some() {
            return Err(Failure::usage(format!(
                "`{command}` works on a local database: --server is not possible"
            ))
            .hint("run it with -C DIR, or in the database's directory"));
        }
        Ok(())
    }

    fn open(&self) -> Result<Database> {
        if self.global.database.is_some() {
            return Err(Failure::usage("--database needs --server URL")
                .hint("a local database is chosen with -C DIR"));
        }
        if self.global.token_file.is_some() {
            return Err(Failure::usage("--token-file needs --server URL")
                .hint("tokens for remotes stand in credentials.yaml"));
        }
        let database = match &self.global.directory {
            Some(directory) => open_in(directory),
            None => nearest(),
        }?;
        if database.partial_of()?.is_some() {
            serve_promised(&database, &self.credentials()?)?;
        }
        Ok(database)
    }

    /// Ends a write that prints one line.
    fn done(&mut self, line: &str, document: serde_json::Value, token: &str) -> Result<()> {
        if !self.output.json {
            self.output.line(line)?;
        }
        self.written(document, token)
    }

    /// Ends a write: `--json` prints the document; a server's token is told either way.
    fn written(&mut self, mut document: serde_json::Value, token: &str) -> Result<()> {
        let is_remote = self.global.server.is_some();
        if self.output.json {
            if is_remote && let Some(fields) = document.as_object_mut() {
                fields.insert("token".into(), token.into());
            }
            self.output.document(&document)?;
        } else if is_remote {
            self.output.note(format!("token {token}"));
        }
        Ok(())
    }
}

fn open_in(directory: &Path) -> Result<Database> {
    Database::open(directory, Options::default()).map_err(|error| in_directory(directory, error))
}

/// A failure to open, with the directory where its message names only a file of the store.
fn in_directory(directory: &Path, error: Error) -> Failure {
    let names_directory = !matches!(&error, Error::Store(StoreError::Damaged { .. } | StoreError::Io { .. }));
    let mut failure = Failure::from(error);
    if !names_directory {
        failure.message = format!("database {}: {}", directory.display(), failure.message);
    }
    failure
}

/// The database in the nearest directory at or above the current one that holds one.
fn nearest() -> Result<Database> {
    let current = std::env::current_dir().map_err(|error| Failure::file("the current directory", &error))?;
    for directory in current.ancestors() {
        match Database::open(directory, Options::default()) {
            Err(Error::Store(StoreError::NotFound { .. })) => {}
            opened => return opened.map_err(|error| in_directory(directory, error)),
        }
    }
    Err(Failure::not_found(format!("no database in {} or above it", current.display()))
        .hint("make one with `pleach init`, or name its directory with -C DIR"))
}

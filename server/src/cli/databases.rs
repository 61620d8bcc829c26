//! init, and the databases of a server.

use std::path::{Path, PathBuf};

use pleach_engine::{Database as Engine, Options};
use serde_json::json;

use super::Context;
use super::args::Database;
use crate::error::{Failure, Result};
use crate::proto::{
    CloneDatabaseRequest, ClonedRef, CreateDatabaseRequest, DropDatabaseRequest, ListDatabasesRequest,
};

pub(super) fn init(context: &mut Context, directory: Option<PathBuf>) -> Result<()> {
    if context.global.server.is_some() {
        return Err(
            Failure::usage("init makes a local database").hint("on a server: `pleach database create NAME`")
        );
    }
    let directory =
        directory.or_else(|| context.global.directory.clone()).unwrap_or_else(|| Path::new(".").into());
    let database = Engine::init(&directory, Options::default())?;
    let branch = database.current_branch()?;
    database.close()?;
    if context.output.json {
        return context
            .output
            .document(&json!({"directory": directory.display().to_string(), "branch": branch}));
    }
    context.output.line(format!("made a database in {}, on branch {branch}", directory.display()))
}

pub(super) fn database(context: &mut Context, arguments: Database) -> Result<()> {
    let mut server = context.server()?;
    let failed = |status: tonic::Status| Failure::from_status(&status);
    match arguments {
        Database::List => {
            let answer = server.runtime.block_on(server.client.list_databases(ListDatabasesRequest {}));
            let databases = answer.map_err(failed)?.into_inner().databases;
            if context.output.json {
                return context.output.document(&json!({"databases": databases}));
            }
            databases.iter().try_for_each(|name| context.output.line(name))
        }
        Database::Create { name } => {
            let request = CreateDatabaseRequest { name: name.clone() };
            server.runtime.block_on(server.client.create_database(request)).map_err(failed)?;
            done(context, "made", &name)
        }
        Database::Clone { url, name } => {
            let request = CloneDatabaseRequest { name: name.clone(), url: url.clone() };
            let progress = context.output.progress(format!("cloning {url}"));
            let answer = server.runtime.block_on(server.client.clone_database(request)).map_err(failed)?;
            drop(progress);
            let cloned = answer.into_inner();
            if !context.output.json {
                return context.output.line(format!("cloned {url} into database {name}"));
            }
            let of = |cloned: &ClonedRef| json!({"ref": cloned.name, "old": null, "new": cloned.hash, "status": "new"});
            context.output.document(&json!({
                "database": name,
                "refs": cloned.refs.iter().map(of).collect::<Vec<_>>(),
                "chunks": cloned.chunks,
                "bytes_sent": cloned.bytes_sent,
                "bytes_received": cloned.bytes_received,
                "round_trips": cloned.round_trips,
            }))
        }
        Database::Drop { name } => {
            let request = DropDatabaseRequest { name: name.clone() };
            server.runtime.block_on(server.client.drop_database(request)).map_err(failed)?;
            done(context, "dropped", &name)
        }
    }
}

fn done(context: &mut Context, what: &str, name: &str) -> Result<()> {
    if context.output.json {
        return context.output.document(&json!({"database": name}));
    }
    context.output.line(format!("{what} database {name}"))
}

//! The configuration of a server that runs, and what follows from it: config, replica.

use serde_json::{Value, json};

use super::Context;
use super::args::{Config, Replica};
use super::backend::Remote;
use crate::error::{Failure, Result};
use crate::proto::{ConfigValue, GetConfigRequest, PromoteReplicaRequest, SetConfigRequest};

pub(super) fn config(context: &mut Context, arguments: Config) -> Result<()> {
    let mut server = server(context, "config")?;
    let request = match arguments {
        Config::Get { key } => {
            let values = get(&mut server, key)?;
            return values.iter().try_for_each(|value| match context.output.json {
                true => context.output.document(&to_json(value)),
                false => context.output.line(plain(value)),
            });
        }
        Config::Show { origin } => {
            let values = get(&mut server, String::new())?;
            if context.output.json {
                let values: Vec<Value> = values.iter().map(to_json).collect();
                return context.output.document(&json!({"values": values}));
            }
            return values.iter().try_for_each(|value| {
                let origin = if origin { format!("\t{}", value.origin) } else { String::new() };
                context.output.line(format!("{}\t{}{origin}", value.key, plain(value)))
            });
        }
        Config::Set { key, value } => SetConfigRequest { key, value: Some(value) },
        Config::Unset { key } => SetConfigRequest { key, value: None },
    };
    let answer = server.runtime.block_on(server.client.set_config(request));
    let changed = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
    changed.warnings.iter().for_each(|warning| context.output.note(format!("warning: {warning}")));
    let value = changed.value.unwrap_or_default();
    match context.output.json {
        true => context.output.document(&to_json(&value)),
        false => context.output.line(format!("{}\t{}", value.key, plain(&value))),
    }
}

pub(super) fn replica(context: &mut Context, arguments: &Replica) -> Result<()> {
    let Replica::Promote { force } = arguments;
    let mut server = server(context, "replica promote")?;
    let request = PromoteReplicaRequest { force: *force };
    let answer = server.runtime.block_on(server.client.promote_replica(request));
    let promoted = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
    promoted.warnings.iter().for_each(|warning| context.output.note(format!("warning: {warning}")));
    if context.output.json {
        return context.output.document(&json!({"remote": promoted.remote, "databases": promoted.databases}));
    }
    context.output.line(format!("promoted: takes writes and pushes them to `{}`", promoted.remote))
}

fn server(context: &Context, command: &str) -> Result<Remote> {
    if context.global.server.is_none() {
        return Err(Failure::usage(format!(
            "`{command}` is about a server that runs: it needs --server URL"
        ))
        .hint(
            "for example --server http://127.0.0.1:7420; of a server that does not run, edit config.yaml",
        ));
    }
    context.server()
}

fn get(server: &mut Remote, key: String) -> Result<Vec<ConfigValue>> {
    let answer = server.runtime.block_on(server.client.get_config(GetConfigRequest { key }));
    Ok(answer.map_err(|status| Failure::from_status(&status))?.into_inner().values)
}

/// The value, which the server gives as JSON.
fn value(value: &ConfigValue) -> Value {
    serde_json::from_str(&value.value).unwrap_or_else(|_| value.value.clone().into())
}

/// As it is set; nothing if it is not.
fn plain(of: &ConfigValue) -> String {
    match value(of) {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn to_json(of: &ConfigValue) -> Value {
    json!({"key": of.key, "value": value(of), "origin": of.origin})
}

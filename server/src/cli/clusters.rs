//! serve, and the role of a server.

use serde_json::{Map, Value, json};

use super::args::{Cluster, Role, Serve};
use super::backend::Remote;
use super::{Context, print};
use crate::config::{Flags, Layers};
use crate::error::{Failure, Result};
use crate::proto::{
    AssumeRoleRequest, AssumeRoleResponse, ClusterHistoryEntry, ClusterHistoryRequest, ClusterStatusRequest,
    Election, RoleAt, StandbyCaughtUp, StandbyStatus,
};

pub(super) fn serve(context: &mut Context, arguments: Serve) -> Result<()> {
    if context.global.directory.is_some() || context.global.database.is_some() {
        return Err(Failure::usage("serve takes neither -C nor --database")
            .hint("it serves every database of a directory: name that with --data-dir DIR"));
    }
    context.refuse_server("serve")?;
    let global = &context.global;
    if global.tls_ca.is_some() || global.tls_cert.is_some() || global.tls_key.is_some() {
        return Err(Failure::usage("serve takes no --tls-ca, --tls-cert or --tls-key: they are for clients")
            .hint("what a server shows stands in config.yaml, under `listener`"));
    }
    let flags =
        Flags { data_dir: arguments.data_dir, listen: arguments.listen, insecure: arguments.insecure };
    let layers = Layers::read(arguments.config.as_deref(), &flags)?;
    let config = layers.config()?;
    if arguments.check {
        crate::users::access(config.users_file.as_deref())?;
        config.tls.as_ref().map(crate::listen::tls).transpose()?;
        if let Some(cluster) = &config.cluster {
            cluster.tls.as_ref().map(crate::listen::tls).transpose()?;
            cluster.peer_tls.check()?;
        }
        context.output.note("the configuration is valid");
        return Ok(());
    }
    crate::serve::run(&config, layers)
}

pub(super) fn cluster(context: &mut Context, arguments: &Cluster) -> Result<()> {
    if let Cluster::Drill(arguments) = arguments {
        return super::drill::drill(context, arguments);
    }
    let mut server = context.server()?;
    match arguments {
        // Done above.
        Cluster::Drill(_) => Ok(()),
        Cluster::Status => {
            let answer =
                server.runtime.block_on(server.client.cluster_status(ClusterStatusRequest::default()));
            let status = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
            if context.output.json {
                let databases: Vec<Value> = status.databases.iter().map(standby_to_json).collect();
                let document = json!({
                    "role": status.role,
                    "epoch": status.epoch,
                    "databases": databases,
                    "warnings": status.warnings,
                    "fingerprint": status.fingerprint,
                    "takes_writes": status.takes_writes,
                    "election": status.election.as_ref().map(election_to_json),
                    "node": status.node,
                    "leader": (!status.leader.is_empty()).then_some(&status.leader),
                });
                return context.output.document(&document);
            }
            context.output.line(format!("{} at epoch {}", status.role, status.epoch))?;
            for standby in &status.databases {
                let lag = standby
                    .replication_lag_millis
                    .map_or("unknown lag".into(), |lag| format!("{lag} ms behind"));
                let error = standby.current_error.as_deref().or(standby.note.as_deref());
                let error = error.map_or(String::new(), |error| format!("\t{error}"));
                context
                    .output
                    .line(format!("{}\t{}\t{lag}{error}", standby.database, standby.standby_remote))?;
            }
            if !status.fingerprint.is_empty() {
                context.output.line(format!("key {}", status.fingerprint))?;
            }
            if let Some(election) = &status.election {
                let holder = match (&election.holder, election.held) {
                    (_, true) => "this node holds the lease".to_owned(),
                    (Some(holder), false) => format!("{holder} holds the lease"),
                    (None, false) => "nobody is known to hold the lease".to_owned(),
                };
                let error = election.error.as_ref().map_or(String::new(), |error| format!("; {error}"));
                context.output.line(format!("election by {}: {holder}{error}", election.provider))?;
            }
            for warning in &status.warnings {
                context.output.line(format!("warning: {warning}"))?;
            }
            Ok(())
        }
        Cluster::AssumeRole { role, epoch } => {
            let role = match role {
                Role::Primary => "primary",
                Role::Standby => "standby",
            };
            let taken = assume(&mut server, role, *epoch, None)?;
            if context.output.json {
                return context.output.document(&json!({"role": taken.role, "epoch": taken.epoch}));
            }
            context.output.line(format!("{} at epoch {}", taken.role, taken.epoch))
        }
        Cluster::TransitionToStandby { epoch, min_caught_up } => {
            let taken = assume(&mut server, "standby", *epoch, Some(*min_caught_up))?;
            if context.output.json {
                let rows: Vec<Value> = taken.standbys.iter().map(caught_up_to_json).collect();
                let document = json!({"role": taken.role, "epoch": taken.epoch, "databases": rows});
                return context.output.document(&document);
            }
            context.output.line(format!("{} at epoch {}", taken.role, taken.epoch))?;
            for row in &taken.standbys {
                let caught_up = if row.caught_up { "caught up" } else { "NOT caught up" };
                let StandbyCaughtUp { database, standby_remote, remote_url, .. } = row;
                context.output.line(format!("{database}\t{standby_remote}\t{remote_url}\t{caught_up}"))?;
            }
            Ok(())
        }
        Cluster::History { limit: Some(0) } => Ok(()),
        Cluster::History { limit } => {
            let request = ClusterHistoryRequest { limit: limit.unwrap_or_default() };
            let answer = server.runtime.block_on(server.client.cluster_history(request));
            let history = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
            for warning in &history.warnings {
                context.output.note(format!("warning: {warning}"));
            }
            for entry in &history.entries {
                match context.output.json {
                    true => context.output.document(&entry_to_json(entry))?,
                    false => plain_entry(context, entry)?,
                }
            }
            Ok(())
        }
    }
}

/// Has the server take a role.
fn assume(
    server: &mut Remote,
    role: &str,
    epoch: u64,
    min_caught_up: Option<u32>,
) -> Result<AssumeRoleResponse> {
    let request = AssumeRoleRequest { role: role.into(), epoch, min_caught_up };
    let answer = server.runtime.block_on(server.client.assume_role(request));
    Ok(answer.map_err(|status| Failure::from_status(&status))?.into_inner())
}

fn election_to_json(election: &Election) -> Value {
    json!({
        "provider": election.provider,
        "held": election.held,
        "holder": election.holder,
        "error": election.error,
    })
}

fn caught_up_to_json(row: &StandbyCaughtUp) -> Value {
    json!({
        "database": row.database,
        "standby_remote": row.standby_remote,
        "remote_url": row.remote_url,
        "caught_up": row.caught_up,
    })
}

fn entry_to_json(entry: &ClusterHistoryEntry) -> Value {
    let at = |at: &Option<RoleAt>| at.as_ref().map(|at| json!({"role": at.role, "epoch": at.epoch}));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let roots: Map<String, Value> =
        entry.roots.iter().map(|root| (root.database.clone(), root.root.clone().into())).collect();
    json!({
        "at": print::time(entry.at_micros),
        "event": entry.event,
        "from": at(&entry.from),
        "to": at(&entry.to),
        "cause": entry.cause,
        "by": text(&entry.by),
        "node": text(&entry.node),
        "why": text(&entry.why),
        "roots": roots,
        "more_databases": entry.more_databases,
    })
}

fn plain_entry(context: &mut Context, entry: &ClusterHistoryEntry) -> Result<()> {
    let at = |at: &Option<RoleAt>| match at {
        Some(RoleAt { role, epoch }) => format!("{role} at epoch {epoch}"),
        None => "-".into(),
    };
    let by = if entry.by.is_empty() { String::new() } else { format!(" {}", entry.by) };
    let change = match entry.event.as_str() {
        "started" => at(&entry.to),
        _ if entry.to.is_none() => at(&entry.from),
        _ => format!("{} -> {}", at(&entry.from), at(&entry.to)),
    };
    let ClusterHistoryEntry { event, cause, node, why, .. } = entry;
    let time = print::time(entry.at_micros);
    let node = if node.is_empty() { String::new() } else { format!(" {node}") };
    context.output.line(format!("{time}\t{event}\t{change}\t{cause}{by}{node}\t{why}"))
}

fn standby_to_json(status: &StandbyStatus) -> Value {
    json!({
        "database": status.database,
        "standby_remote": status.standby_remote,
        "role": status.role,
        "epoch": status.epoch,
        "replication_lag_millis": status.replication_lag_millis,
        "last_update": status.last_update_micros.map(print::time),
        "current_error": status.current_error,
        "pinned_bytes": status.pinned_bytes,
        "note": status.note,
        "sequence": status.sequence,
        "sent": status.sent,
        "received": status.received,
        "durable": status.durable,
        // A standby says that a change is durable once readers see it.
        "applied": status.durable,
        "backlog_bytes": status.backlog_bytes,
        "retries": status.retries,
    })
}

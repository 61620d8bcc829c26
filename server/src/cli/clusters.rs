//! serve, and the role of a server.

use serde_json::{Value, json};

use super::args::{Cluster, Role, Serve};
use super::{Context, print};
use crate::config::{Flags, Layers};
use crate::error::{Failure, Result};
use crate::proto::{AssumeRoleRequest, ClusterStatusRequest, StandbyStatus};

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
    let mut server = context.server()?;
    match arguments {
        Cluster::Status => {
            let answer = server.runtime.block_on(server.client.cluster_status(ClusterStatusRequest {}));
            let status = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
            if context.output.json {
                let databases: Vec<Value> = status.databases.iter().map(standby_to_json).collect();
                let document = json!({
                    "role": status.role,
                    "epoch": status.epoch,
                    "databases": databases,
                    "warnings": status.warnings,
                    "fingerprint": status.fingerprint,
                });
                return context.output.document(&document);
            }
            context.output.line(format!("{} at epoch {}", status.role, status.epoch))?;
            for standby in &status.databases {
                let lag = standby
                    .replication_lag_millis
                    .map_or("unknown lag".into(), |lag| format!("{lag} ms behind"));
                let error =
                    standby.current_error.as_deref().map_or(String::new(), |error| format!("\t{error}"));
                context
                    .output
                    .line(format!("{}\t{}\t{lag}{error}", standby.database, standby.standby_remote))?;
            }
            if !status.fingerprint.is_empty() {
                context.output.line(format!("key {}", status.fingerprint))?;
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
            let request = AssumeRoleRequest { role: role.into(), epoch: *epoch };
            let answer = server.runtime.block_on(server.client.assume_role(request));
            let taken = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
            if context.output.json {
                return context.output.document(&json!({"role": taken.role, "epoch": taken.epoch}));
            }
            context.output.line(format!("{} at epoch {}", taken.role, taken.epoch))
        }
    }
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
    })
}

//! The grammar of what involves a server: remotes, clone and push, the databases of a server, serving, and roles.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pleach_protocol::limits::RATE_MIN;

#[derive(Debug, Subcommand)]
pub(crate) enum Remote {
    /// Add a remote: http[s]://HOST:PORT/DATABASE, file:///DIRECTORY, s3://BUCKET/PREFIX, gs://…, az://…
    Add {
        /// Its name
        name: String,
        /// Its URL
        url: String,
    },
    /// List remotes
    List,
    /// Forget a remote and its branches here
    Remove {
        /// Its name
        name: String,
    },
    /// Merge what small pushes piled up at a remote in a directory or bucket
    Compact(PacksOf),
    /// Rewrite a remote in a directory or bucket: what forced and deleted branches and tags left there is gone for good
    Collect(PacksOf),
}

/// A remote in a directory or bucket.
#[derive(Debug, Args)]
pub(crate) struct PacksOf {
    /// The remote
    #[arg(default_value = "origin")]
    pub(crate) name: String,
    /// Remove packs that are not needed any more at once, not after a day: whoever reads them begins again
    #[arg(long)]
    pub(crate) now: bool,
}

fn rate(text: &str) -> Result<u64, String> {
    match crate::config::units::bytes(text)? {
        rate if rate < RATE_MIN => {
            Err(format!("expected at least {}KiB a second, found `{text}`", RATE_MIN >> 10))
        }
        rate => Ok(rate),
    }
}

/// How fast a transfer may be.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Limit {
    /// Bytes a second, sent and received together, for example 5MiB [default: as many as can be]
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub(crate) limit_rate: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// The remote: http[s]://HOST:PORT/DATABASE, file:///DIRECTORY, s3://BUCKET/PREFIX, gs://…, az://…
    pub(crate) url: String,
    /// The new directory [default: the last part of the URL]
    pub(crate) directory: Option<PathBuf>,
    /// Only this branch; may be repeated
    #[arg(long, value_name = "B")]
    pub(crate) branch: Vec<String>,
    /// Only the rows of this table; may be repeated. Others are asked of the remote if they are read
    #[arg(long, value_name = "T")]
    pub(crate) table: Vec<String>,
    /// Only the newest N commits of each branch and tag. Older ones are asked of the remote if they are read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) depth: Option<u32>,
    /// Only the heads: all else is asked of the remote when it is read, and stays
    #[arg(long, conflicts_with = "table")]
    pub(crate) lazy: bool,
    #[command(flatten)]
    pub(crate) limit: Limit,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The remote
    #[arg(default_value = "origin")]
    pub(crate) remote: String,
    /// Branches or tags [default: the current branch]
    #[arg(value_name = "REF")]
    pub(crate) refs: Vec<String>,
    /// Every branch
    #[arg(long)]
    pub(crate) all: bool,
    /// Every tag too
    #[arg(long)]
    pub(crate) tags: bool,
    /// Also what is no fast-forward: the old head stays under recovery/ there
    #[arg(long)]
    pub(crate) force: bool,
    /// Delete a branch or tag there; may be repeated
    #[arg(long, value_name = "REF")]
    pub(crate) delete: Vec<String>,
    #[command(flatten)]
    pub(crate) limit: Limit,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Database {
    /// List databases
    List,
    /// Make an empty database
    Create {
        /// Its name
        name: String,
    },
    /// Make a database with the branches and tags of a remote, as the server sees it
    Clone {
        /// The remote; `remotes_allowed` of the server must allow it
        url: String,
        /// The database's name
        name: String,
    },
    /// Drop a database and all that is in it
    Drop {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration, config.yaml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the databases, one sub-directory each [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:7420]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Check the configuration and exit
    #[arg(long)]
    pub(crate) check: bool,
    /// Listen beyond this machine although everyone who connects may read and write
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print the value of a key; nothing if it is not set
    Get {
        /// The key: listener.port, replication.replicate_to_remote
        key: String,
    },
    /// Change a key under replication: in force when this returns, and kept over restarts
    Set {
        /// The key: replicate_to_remote, replication.replicate_to_remote
        key: String,
        /// Its value, as in config.yaml
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Have a key under replication not set, whatever config.yaml says
    Unset {
        /// The key
        key: String,
    },
    /// Print all keys and the values in force
    Show {
        /// And where each comes from: the defaults, config.yaml, a flag, or a change while the server ran
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Replica {
    /// Make a read replica take writes, from where its remote is now, and push them there
    Promote {
        /// Also if the remote cannot be reached: what is here counts, and is pushed when it returns
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Print a new token, once, and the entry of users.yaml that lets its user in
    New {
        /// The user's name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show role, epoch, and every database on every standby
    Status,
    /// Take a role at an epoch; answers when it is in force and durable
    AssumeRole {
        /// The role
        #[arg(value_enum)]
        role: Role,
        /// The epoch: higher than the current one
        epoch: u64,
    },
    /// Make a primary a standby once enough standbys have everything; shows which have
    TransitionToStandby {
        /// The epoch: higher than the current one
        epoch: u64,
        /// Standbys that must have everything when the time to hand over ends; it waits that long for all of them. Not fewer than must have a
        /// write before it is acknowledged
        #[arg(long, value_name = "N")]
        min_caught_up: u32,
    },
    /// Show what became of a node, newest first: its changes of role and why, roles that were refused, alarms
    History {
        /// At most so many
        #[arg(short = 'n', value_name = "N")]
        limit: Option<u32>,
    },
    /// Make the standby primary and back, and report what that took; --server names the primary
    Drill(Drill),
}

#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// The standby's listener: http://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) standby: String,
    /// Write nothing: only look who would take writes
    #[arg(long)]
    pub(crate) no_writes: bool,
    /// The database that it writes to, and makes if it is not there
    #[arg(long, value_name = "NAME", default_value = "pleach_drill", conflicts_with = "no_writes")]
    pub(crate) scratch: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Primary,
    Standby,
}

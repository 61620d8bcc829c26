//! The command line's grammar, as clap reads it. What each command does is in the file of its noun.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "these comments are help texts, where [default: …] is no link"
)]

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser as NonEmpty;
use clap::{Args, Parser, Subcommand, ValueEnum};

mod servers;

pub(crate) use servers::{
    Clone, Cluster, Config, Database, Drill, Limit, PacksOf, Push, Remote, Replica, Role, Serve, Token,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "pleach",
    version,
    about = "A content-addressed, versioned storage engine: tables with branches, diffs, merges and replication",
    after_help = "`pleach tour` shows the whole story on real data in about a minute.",
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that may stand anywhere on the line.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The database directory [default: the nearest one at or above the current directory]
    #[arg(short = 'C', value_name = "DIR", global = true)]
    pub(crate) directory: Option<PathBuf>,
    /// Run the command on a server, http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL", global = true, conflicts_with = "directory")]
    pub(crate) server: Option<String>,
    /// The server's database, and a branch, tag or hash in it [default REF: main]
    #[arg(long, value_name = "NAME[@REF]", global = true)]
    pub(crate) database: Option<String>,
    /// The file that holds the token for --server [default: the environment's PLEACH_TOKEN]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// The authorities to trust by https://, a PEM file [default: the environment's PLEACH_TLS_CA, then the system's]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The certificate to show to a server that asks for one, a PEM file [default: the environment's PLEACH_TLS_CERT]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key, a PEM file [default: the environment's PLEACH_TLS_KEY]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) tls_key: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results and errors only
    #[arg(long, short = 'q', global = true)]
    pub(crate) quiet: bool,
    /// Log this and worse to stderr: error, warn, info, debug, trace, or a filter such as pleach_protocol=debug
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log: Option<String>,
    /// How log lines are written
    #[arg(long, value_name = "FORMAT", global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a database
    Init {
        /// Its directory [default: the current one]
        directory: Option<PathBuf>,
    },
    /// Read a CSV, TSV or JSON Lines file into a typed table, in one transaction
    Import(Import),
    /// Write a table as CSV or JSON Lines
    Export(Export),
    /// List, show or drop tables
    #[command(subcommand)]
    Table(Table),
    /// Put a row into a raw key-value table, which is made if absent
    Put(Put),
    /// Print the row of a key
    Get(Get),
    /// Delete the row of a key
    Del(Del),
    /// Print rows in key order
    Scan(Scan),
    /// Show the branch, its head and its uncommitted changes
    Status {
        #[command(flatten)]
        after: After,
    },
    /// Make a version commit of the branch's work
    Commit(Commit),
    /// Show commits, newest first
    Log(Log),
    /// Show a commit and what it changed
    Show {
        /// A commit [default: HEAD]
        #[arg(value_name = "REV", value_parser = NonEmpty::new(), default_value = "HEAD")]
        revision: String,
        #[command(flatten)]
        after: After,
    },
    /// Show changed rows: HEAD to @work, FROM to @work, or FROM to TO
    Diff(Diff),
    /// Write a difference to a file, or apply such a file
    #[command(subcommand)]
    Patch(Patch),
    /// Move the branch's head to a commit and keep its work
    Reset {
        /// The commit
        #[arg(value_name = "REV", value_parser = NonEmpty::new())]
        revision: String,
        /// Set the work too: uncommitted changes are lost
        #[arg(long)]
        hard: bool,
    },
    /// Take back what a commit changed, and commit that
    Revert(Revert),
    /// List, make, delete or rename branches
    Branch(Branch),
    /// Make another branch the current one
    Switch {
        /// The branch
        name: String,
        /// Make it first, at HEAD
        #[arg(short, long)]
        create: bool,
    },
    /// List, make or delete tags
    Tag(Tag),
    /// Look at what changes by force and failovers took away, put it back, or drop it
    #[command(subcommand)]
    Recovery(Recovery),
    /// Merge a commit into the branch
    Merge(Merge),
    /// List the conflicts of a merge, or resolve them all to one side
    Conflicts {
        /// Take this side in every conflict
        #[arg(long, value_name = "SIDE", value_enum)]
        resolve: Option<Side>,
        #[command(flatten)]
        after: After,
    },
    /// List, add or remove remotes
    #[command(subcommand)]
    Remote(Remote),
    /// Copy a remote database into a new directory
    Clone(Clone),
    /// Get what is new on a remote, into remotes/REMOTE/…
    Fetch {
        /// The remote
        #[arg(default_value = "origin")]
        remote: String,
        #[command(flatten)]
        limit: Limit,
    },
    /// Fetch, and merge the remote's branch into the current one
    Pull {
        /// The remote
        #[arg(default_value = "origin")]
        remote: String,
        /// The branch there [default: the current one's name]
        branch: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Send commits to a remote and move its branches
    Push(Push),
    /// List, make or drop the databases of a server
    #[command(subcommand)]
    Database(Database),
    /// Serve the databases of a directory
    Serve(Serve),
    /// Make a token for a user of a server
    #[command(subcommand)]
    Token(Token),
    /// Show or change a server's role
    #[command(subcommand)]
    Cluster(Cluster),
    /// Show or change the configuration of a server that runs
    #[command(subcommand)]
    Config(Config),
    /// Promote a read replica
    #[command(subcommand)]
    Replica(Replica),
    /// Keep points in time of a database, or of a server, elsewhere, and restore them
    #[command(subcommand)]
    Backup(Backup),
    /// Read and check every chunk, and repair what is damaged
    Fsck {
        /// Bring back what is damaged or missing: a remote, or file:///PATH of another copy or a backup
        #[arg(long, value_name = "REMOTE", value_parser = NonEmpty::new())]
        repair_from: Option<String>,
    },
    /// Remove what no branch, tag or other ref leads to, and compact the rest
    Gc {
        /// Only count
        #[arg(long, conflicts_with = "purge")]
        dry_run: bool,
        /// Drop this ref under recovery/ first
        #[arg(long, value_name = "REF", value_parser = NonEmpty::new())]
        purge: Option<String>,
    },
    /// Print counts and bytes of a database
    Stats {
        #[command(flatten)]
        after: After,
    },
    /// Look at single chunks
    #[command(subcommand)]
    Chunk(Chunk),
    /// Run the whole story on bundled real data, explaining and checking each step
    Tour,
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// The directory; made if absent
        directory: PathBuf,
    },
    /// Print the version
    Version,
}

/// Reads on a server only.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct After {
    /// Wait until the server has the write of this token (with --server)
    #[arg(long, value_name = "TOKEN")]
    pub(crate) after: Option<String>,
}

/// Which state is read.
#[derive(Clone, Debug, Args)]
pub(crate) struct At {
    /// The state to read [default: @work]
    #[arg(long, value_name = "REV", value_parser = NonEmpty::new())]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) after: After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    Csv,
    Tsv,
    Jsonl,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The table; made if absent
    pub(crate) table: String,
    /// The file, or - for standard input
    pub(crate) file: PathBuf,
    /// The key columns of a new table
    #[arg(long, value_name = "COL[,COL…]", value_delimiter = ',')]
    pub(crate) key: Vec<String>,
    /// How to read the file [default: by its name, else csv]
    #[arg(long, value_enum)]
    pub(crate) format: Option<FileFormat>,
    /// Types of columns: bool int float decimal(P,S) text bytes date timestamp uuid; others are inferred
    #[arg(long, value_name = "COL=TYPE,…")]
    pub(crate) types: Option<String>,
    /// The table then holds exactly the file
    #[arg(long, conflicts_with = "upsert")]
    pub(crate) replace: bool,
    /// Update keys that exist [default: refuse them]
    #[arg(long)]
    pub(crate) upsert: bool,
    /// Make a version commit afterwards
    #[arg(long, value_name = "MSG")]
    pub(crate) commit: Option<String>,
    /// Author of that commit
    #[arg(long, value_name = "NAME <MAIL>", env = "PLEACH_AUTHOR")]
    pub(crate) author: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
    Jsonl,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The table
    pub(crate) table: String,
    #[command(flatten)]
    pub(crate) at: At,
    /// How to write it [default: csv, with --json jsonl]
    #[arg(long, value_enum)]
    pub(crate) format: Option<ExportFormat>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Table {
    /// List tables with their rows and bytes
    List {
        #[command(flatten)]
        at: At,
    },
    /// Show a table's columns, key, rows and bytes
    Show {
        /// The table
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Drop a table
    Drop {
        /// The table
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The table
    pub(crate) table: String,
    /// The key
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: String,
    /// The value
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
    /// Key and value are hexadecimal digits, for bytes that are no text
    #[arg(long)]
    pub(crate) hex: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The table
    pub(crate) table: String,
    /// The key; in a typed table the key columns as one CSV record
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: String,
    /// The key is, and the value is printed as, hexadecimal digits (raw tables)
    #[arg(long)]
    pub(crate) hex: bool,
    #[command(flatten)]
    pub(crate) at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Del {
    /// The table
    pub(crate) table: String,
    /// The key; in a typed table the key columns as one CSV record
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: String,
    /// The key is hexadecimal digits (raw tables)
    #[arg(long)]
    pub(crate) hex: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Scan {
    /// The table
    pub(crate) table: String,
    /// First key
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    pub(crate) from: Option<String>,
    /// The key to stop before
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    pub(crate) to: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Keys and values are, and are printed as, hexadecimal digits (raw tables)
    #[arg(long)]
    pub(crate) hex: bool,
    #[command(flatten)]
    pub(crate) at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// What and why
    #[arg(short, long, value_name = "MSG", required_unless_present = "amend")]
    pub(crate) message: Option<String>,
    /// Who [default: user@host]
    #[arg(long, value_name = "NAME <MAIL>", env = "PLEACH_AUTHOR")]
    pub(crate) author: Option<String>,
    /// Replace the last commit
    #[arg(long)]
    pub(crate) amend: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Where to start
    #[arg(value_name = "REV", value_parser = NonEmpty::new(), default_value = "HEAD")]
    pub(crate) revision: String,
    /// At most so many commits
    #[arg(short = 'n', value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Draw the lines of history
    #[arg(long)]
    pub(crate) graph: bool,
    #[command(flatten)]
    pub(crate) after: After,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The older state [default: HEAD]
    pub(crate) from: Option<String>,
    /// The newer state [default: @work]
    pub(crate) to: Option<String>,
    /// Only this table
    #[arg(long, value_name = "T")]
    pub(crate) table: Option<String>,
    /// Count rows in place of showing them
    #[arg(long)]
    pub(crate) stat: bool,
    #[command(flatten)]
    pub(crate) after: After,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Patch {
    /// Write what leads from HEAD to @work, from FROM to @work, or from FROM to TO
    Make {
        /// The older state [default: HEAD]
        from: Option<String>,
        /// The newer state [default: @work]
        to: Option<String>,
        /// Only this table
        #[arg(long, value_name = "T")]
        table: Option<String>,
        /// Where to write it [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        after: After,
    },
    /// Apply a patch to the branch's work; nothing is changed unless every row is as the patch expects
    Apply {
        /// The patch, or - for standard input
        file: PathBuf,
        /// Take back what the patch did
        #[arg(long, short = 'R')]
        reverse: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Revert {
    /// The commit
    #[arg(value_name = "REV", value_parser = NonEmpty::new())]
    pub(crate) revision: String,
    /// Message of the new commit [default: one that names the commit]
    #[arg(short, long, value_name = "MSG")]
    pub(crate) message: Option<String>,
    /// Who [default: user@host]
    #[arg(long, value_name = "NAME <MAIL>", env = "PLEACH_AUTHOR")]
    pub(crate) author: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "pleach branch [NAME [REV]]\n       pleach branch -d NAME\n       pleach branch -m OLD NEW"
)]
pub(crate) struct Branch {
    /// A new branch; without it, branches are listed
    pub(crate) name: Option<String>,
    /// Where it starts [default: HEAD]
    #[arg(value_name = "REV", value_parser = NonEmpty::new())]
    pub(crate) revision: Option<String>,
    /// Delete a branch
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["name", "rename"])]
    pub(crate) delete: Option<String>,
    /// Rename a branch
    #[arg(short = 'm', long = "move", value_names = ["OLD", "NEW"], num_args = 2, conflicts_with = "name")]
    pub(crate) rename: Option<Vec<String>>,
    #[command(flatten)]
    pub(crate) after: After,
}

#[derive(Debug, Args)]
#[command(override_usage = "pleach tag [NAME [REV]]\n       pleach tag -d NAME")]
pub(crate) struct Tag {
    /// A new tag; without it, tags are listed
    pub(crate) name: Option<String>,
    /// What it names [default: HEAD]
    #[arg(value_name = "REV", value_parser = NonEmpty::new())]
    pub(crate) revision: Option<String>,
    /// Delete a tag
    #[arg(short, long, value_name = "NAME", conflicts_with = "name")]
    pub(crate) delete: Option<String>,
    #[command(flatten)]
    pub(crate) after: After,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recovery {
    /// List what is kept under recovery/, what was lost first at the beginning
    List {
        #[command(flatten)]
        after: After,
    },
    /// Show what is kept, and how it differs from its branch as it is now
    Show {
        /// The ref under recovery/
        #[arg(value_name = "REF", value_parser = NonEmpty::new())]
        name: String,
        #[command(flatten)]
        after: After,
    },
    /// Put it back as the branch or tag that it was; what is there now is kept in turn
    Restore {
        /// The ref under recovery/
        #[arg(value_name = "REF", value_parser = NonEmpty::new())]
        name: String,
        /// Make a new branch or tag of it, and leave what it was alone
        #[arg(long = "as", value_name = "NAME", value_parser = NonEmpty::new())]
        into: Option<String>,
    },
    /// Drop it; `gc` removes what nothing else leads to
    Drop {
        /// The ref under recovery/
        #[arg(value_name = "REF", value_parser = NonEmpty::new())]
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    Ours,
    Theirs,
}

#[derive(Debug, Args)]
#[command(override_usage = "pleach merge REV [-m MSG] [--prefer ours|theirs]\n       pleach merge --abort")]
pub(crate) struct Merge {
    /// What to merge
    #[arg(value_name = "REV", value_parser = NonEmpty::new(), required_unless_present = "abort")]
    pub(crate) revision: Option<String>,
    /// Message of the merge commit
    #[arg(short, long, value_name = "MSG", conflicts_with = "abort")]
    pub(crate) message: Option<String>,
    /// Take this side where both changed one cell
    #[arg(long, value_name = "SIDE", value_enum, conflicts_with = "abort")]
    pub(crate) prefer: Option<Side>,
    /// Who [default: user@host]
    #[arg(long, value_name = "NAME <MAIL>", env = "PLEACH_AUTHOR")]
    pub(crate) author: Option<String>,
    /// Give up a merge that has conflicts: the branch is as before it
    #[arg(long, conflicts_with = "revision")]
    pub(crate) abort: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Add the database as it is now, uncommitted work included; only what changed is written. With --server and without --database: all databases of
    /// the server, as they are at one moment
    Sync {
        /// The backup, file:///PATH; made if absent
        url: String,
    },
    /// List points in time
    List {
        /// The backup
        url: String,
    },
    /// Make a database as it was at a point in time; of a server's backup, the directory of all its databases
    Restore {
        /// The backup
        url: String,
        /// The new database's directory; with --server, --database names it
        directory: Option<PathBuf>,
        /// The last point at or before this time, RFC 3339 [default: the last point]
        #[arg(long, value_name = "TIME", value_parser = NonEmpty::new())]
        at: Option<String>,
        /// Replace the database that is there; it is kept until the restored one is in its place
        #[arg(long)]
        force: bool,
        /// Of a server's backup, this database only [default with --server: that of --database]
        #[arg(long, value_name = "NAME", value_parser = NonEmpty::new())]
        from: Option<String>,
    },
    /// Read and check everything in a backup
    Verify {
        /// The backup
        url: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Chunk {
    /// Print a chunk's bytes: their BLAKE3 hash is its address
    Cat {
        /// The address, 64 hexadecimal digits
        hash: String,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["pleach --json -C d get t k", "pleach get --json t -C d k", "pleach get t k -C d --json"]
        {
            let cli = parse(line).unwrap();
            assert!(cli.global.json && cli.global.directory.is_some(), "{line}");
        }
    }

    #[test]
    fn keys_and_values_may_begin_with_a_hyphen() {
        assert!(parse("pleach put t -1 -x").is_ok());
        assert!(parse("pleach get t -1").is_ok());
        assert!(parse("pleach scan t --from -5").is_ok());
    }

    #[test]
    fn wrong_lines_are_usage_errors() {
        for line in [
            "pleach",
            "pleach frobnicate",
            "pleach commit",
            "pleach merge",
            "pleach merge x --abort",
            "pleach import t f --replace --upsert",
            "pleach branch -d a b",
            "pleach branch -m a",
            "pleach conflicts --resolve mine",
            "pleach status -C d --server http://x",
            "pleach cluster assume-role king 2",
            "pleach gc --dry-run --purge recovery/heads/main/1",
            "pleach recovery",
            "pleach recovery show",
            "pleach recovery restore x y",
            "pleach backup sync",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn branch_takes_its_three_forms() {
        let Command::Branch(branch) = parse("pleach branch -m a b").unwrap().command else { panic!() };
        assert_eq!(branch.rename.unwrap(), ["a", "b"]);
        let Command::Branch(branch) = parse("pleach branch x main~1").unwrap().command else { panic!() };
        assert_eq!((branch.name.unwrap(), branch.revision.unwrap()), ("x".into(), "main~1".into()));
        assert!(parse("pleach branch").is_ok() && parse("pleach branch -d a").is_ok());
    }
}

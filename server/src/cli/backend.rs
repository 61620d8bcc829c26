//! Where a command runs: on a database of this machine, or on a server. Both sides have the same calls with the same
//! messages, so that a command is written once and prints once.

use std::io::{Read, Write};
use std::path::Path;

use pleach_protocol::{Bearer, Credential, Credentials, Error, Token, endpoint};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::args::After;
use crate::error::{Failure, Result};
use crate::ops::{self, Session, Sink};
use crate::proto::{data_client::DataClient, *};
use crate::tabular::Source;

/// Bytes of a file that travel in one message of an import.
const PIECE_BYTES: usize = 256 << 10;

pub(crate) enum Backend {
    Local(Box<Session>),
    Remote(Box<Remote>),
}

/// A connection to a server, and what its requests are about.
pub(crate) struct Remote {
    pub(super) runtime: Runtime,
    pub(super) client: DataClient<InterceptedService<Channel, Bearer>>,
    target: Target,
}

impl Remote {
    /// Connects to the server at `url`; `database` is `NAME[@REF]`. Of `credentials`, which are for remotes, it takes what is for TLS.
    pub(crate) fn connect(
        url: &str,
        database: &str,
        token: Option<Token>,
        credentials: &Credentials,
    ) -> Result<Remote> {
        let (database, reference) = database.split_once('@').unwrap_or((database, ""));
        let target =
            Target { database: database.to_owned(), reference: reference.to_owned(), ..Target::default() };
        let runtime = runtime()?;
        let channel = runtime.block_on(connect(url, token.clone(), credentials))?;
        let client = DataClient::with_interceptor(channel, Bearer::new(token))
            .max_decoding_message_size(pleach_client::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(pleach_client::MESSAGE_BYTES_MAX);
        Ok(Remote { runtime, client, target })
    }
}

/// A runtime for one command's calls.
pub(crate) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("cannot start the network: {error}")))
}

/// Connects to the server at `url`.
pub(super) async fn connect(url: &str, token: Option<Token>, credentials: &Credentials) -> Result<Channel> {
    let server = url.trim_end_matches('/');
    let authority = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://"));
    let Some(authority) = authority.filter(|rest| !rest.is_empty() && !rest.contains('/')) else {
        return Err(Failure::usage(format!(
            "--server: expected http://HOST:PORT or https://HOST:PORT, found `{url}`"
        ))
        .hint("name the database with --database NAME, not in the URL"));
    };
    let endpoint = endpoint(server)
        .map_err(|error| Failure::usage(format!("--server: `{url}` is not a URL: {error}")))?;
    let credential = Credential { token, tls: credentials.of(authority).tls };
    pleach_protocol::connect(url, &endpoint, &credential).await.map_err(|error| match error {
        Error::Unreachable { what, .. } => Failure::remote(format!("cannot reach the server {url}: {what}"))
            .hint("check the address, and that `pleach serve` runs there"),
        error => error.into(),
    })
}

impl Backend {
    /// What a write is about.
    pub(crate) fn target(&self) -> Option<Target> {
        match self {
            Backend::Local(_) => None,
            Backend::Remote(remote) => Some(remote.target.clone()),
        }
    }

    /// What a read is about, with its `--after`.
    pub(crate) fn target_after(&self, after: &After) -> Result<Option<Target>> {
        match (self, &after.after) {
            (Backend::Local(_), Some(_)) => Err(Failure::usage("--after needs --server")
                .hint("a local database is read as it is now: leave --after out")),
            (Backend::Local(_), None) => Ok(None),
            (Backend::Remote(remote), after) => {
                Ok(Some(Target { after: after.clone().unwrap_or_default(), ..remote.target.clone() }))
            }
        }
    }

    /// Imports the file at `path`; `-` is the standard input.
    pub(crate) fn import(&mut self, start: ImportStart, path: &Path) -> Result<ImportResponse> {
        let is_stdin = path == Path::new("-");
        match self {
            Backend::Local(session) => {
                let format = ops::import::format(&start);
                let source = match is_stdin {
                    true => Source::keep(&start.file, std::io::stdin(), format),
                    false => Source::open(path, Some(format)),
                };
                ops::import::import(session, &start, &source?)
            }
            Backend::Remote(remote) if is_stdin => remote.import(start, &mut std::io::stdin()),
            Backend::Remote(remote) => {
                let file = std::fs::File::open(path);
                let mut file = file.map_err(|error| Failure::file(path.display(), &error))?;
                remote.import(start, &mut file)
            }
        }
    }

    /// Applies the patch that `file`, called `name`, gives.
    pub(crate) fn apply_patch(
        &mut self,
        name: &str,
        file: &mut (dyn Read + Send),
    ) -> Result<ApplyPatchResponse> {
        let target = self.target();
        match self {
            Backend::Local(session) => ops::patch::apply(session, file),
            Backend::Remote(remote) => {
                let part = |part| ApplyPatchRequest { part: Some(part) };
                let upload = Upload {
                    start: part(apply_patch_request::Part::Start(ApplyPatchStart { target })),
                    data: |data| ApplyPatchRequest { part: Some(apply_patch_request::Part::Data(data)) },
                    end: part(apply_patch_request::Part::End(ApplyPatchEnd {})),
                };
                let Remote { runtime, client, .. } = &mut **remote;
                upload.run(name, file, |parts| runtime.block_on(client.apply_patch(parts)))
            }
        }
    }
}

impl Remote {
    fn import(&mut self, start: ImportStart, file: &mut (dyn Read + Send)) -> Result<ImportResponse> {
        let name = start.file.clone();
        let part = |part| ImportRequest { part: Some(part) };
        let upload = Upload {
            start: part(import_request::Part::Start(start)),
            data: |data| ImportRequest { part: Some(import_request::Part::Data(data)) },
            end: part(import_request::Part::End(ImportEnd {})),
        };
        let Remote { runtime, client, .. } = self;
        upload.run(&name, file, |parts| runtime.block_on(client.import(parts)))
    }
}

/// The messages in which a file is sent.
struct Upload<Q> {
    start: Q,
    data: fn(Vec<u8>) -> Q,
    end: Q,
}

impl<Q: Send> Upload<Q> {
    /// Sends the file on a thread of its own; when reading fails, `end` is never sent and nothing is done.
    fn run<A>(
        self,
        name: &str,
        file: &mut (dyn Read + Send),
        call: impl FnOnce(ReceiverStream<Q>) -> std::result::Result<tonic::Response<A>, tonic::Status>,
    ) -> Result<A> {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let gone = |_| Failure::closed();
                sender.blocking_send(self.start).map_err(gone)?;
                let mut piece = vec![0; PIECE_BYTES];
                loop {
                    let length = file.read(&mut piece).map_err(|error| Failure::file(name, &error))?;
                    if length == 0 {
                        return sender.blocking_send(self.end).map_err(gone);
                    }
                    let data = piece.get(..length).unwrap_or_default().to_vec();
                    sender.blocking_send((self.data)(data)).map_err(gone)?;
                }
            });
            let answer = call(ReceiverStream::new(receiver));
            match (reader.join(), answer) {
                (Ok(Err(failure)), _) if failure.kind != crate::error::Kind::Closed => Err(failure),
                (_, Ok(response)) => Ok(answer_of(response)),
                (_, Err(status)) => Err(Failure::from_status(&status)),
            }
        })
    }
}

/// What a server answered; its warnings are told.
fn answer_of<A>(response: tonic::Response<A>) -> A {
    for warning in response.metadata().get_all_bin(pleach_client::metadata::WARNING) {
        let warning = warning.to_bytes().unwrap_or_default();
        // Nobody listening is no failure.
        let _ = writeln!(std::io::stderr(), "warning: {}", String::from_utf8_lossy(&warning));
    }
    response.into_inner()
}

/// Calls with one answer, or with answers that go to a sink.
macro_rules! calls {
    ($($name:ident: $request:ident -> $response:ident = $op:path;)*; $($stream:ident: $from:ident -> stream $to:ident = $stream_op:path;)*) => {
        impl Backend {
            $(pub(crate) fn $name(&mut self, request: $request) -> Result<$response> {
                match self {
                    Backend::Local(session) => $op(session, &request),
                    Backend::Remote(remote) => {
                        let Remote { runtime, client, .. } = &mut **remote;
                        let answer = runtime.block_on(client.$name(request));
                        answer.map(answer_of).map_err(|status| Failure::from_status(&status))
                    }
                }
            })*
            $(pub(crate) fn $stream(&mut self, request: $from, sink: Sink<'_, $to>) -> Result<()> {
                match self {
                    Backend::Local(session) => $stream_op(session, &request, sink),
                    Backend::Remote(remote) => {
                        let Remote { runtime, client, .. } = &mut **remote;
                        runtime.block_on(async {
                            let failed = |status: tonic::Status| Failure::from_status(&status);
                            let mut answers = client.$stream(request).await.map_err(failed)?.into_inner();
                            while let Some(answer) = answers.message().await.map_err(failed)? {
                                sink(answer)?;
                            }
                            Ok(())
                        })
                    }
                }
            })*
        }
    };
}

calls! {
    put: PutRequest -> PutResponse = ops::rows::put;
    get: GetRequest -> GetResponse = ops::rows::get;
    delete: DeleteRequest -> DeleteResponse = ops::rows::delete;
    list_tables: ListTablesRequest -> ListTablesResponse = ops::tables::list;
    show_table: ShowTableRequest -> ShowTableResponse = ops::tables::show;
    drop_table: DropTableRequest -> DropTableResponse = ops::tables::drop;
    commit: CommitRequest -> CommitResponse = ops::history::commit;
    status: StatusRequest -> StatusResponse = ops::history::status;
    show: ShowRequest -> ShowResponse = ops::history::show;
    diff_stat: DiffStatRequest -> DiffStatResponse = ops::history::diff_stat;
    reset: ResetRequest -> ResetResponse = ops::history::reset;
    revert: RevertRequest -> RevertResponse = ops::patch::revert;
    list_branches: ListBranchesRequest -> ListBranchesResponse = ops::refs::list_branches;
    create_branch: CreateBranchRequest -> CreateBranchResponse = ops::refs::create_branch;
    delete_branch: DeleteBranchRequest -> DeleteBranchResponse = ops::refs::delete_branch;
    rename_branch: RenameBranchRequest -> RenameBranchResponse = ops::refs::rename_branch;
    list_recovery: ListRecoveryRequest -> ListRecoveryResponse = ops::recovery::list;
    restore_recovery: RestoreRecoveryRequest -> RestoreRecoveryResponse = ops::recovery::restore;
    drop_recovery: DropRecoveryRequest -> DropRecoveryResponse = ops::recovery::drop;
    list_tags: ListTagsRequest -> ListTagsResponse = ops::refs::list_tags;
    create_tag: CreateTagRequest -> CreateTagResponse = ops::refs::create_tag;
    delete_tag: DeleteTagRequest -> DeleteTagResponse = ops::refs::delete_tag;
    merge: MergeRequest -> MergeResponse = ops::merge::merge;
    abort_merge: AbortMergeRequest -> AbortMergeResponse = ops::merge::abort;
    resolve_conflicts: ResolveConflictsRequest -> ResolveConflictsResponse = ops::merge::resolve;
    stats: StatsRequest -> StatsResponse = ops::stats::stats;
    ;
    scan: ScanRequest -> stream ScanResponse = ops::rows::scan;
    export: ExportRequest -> stream ExportResponse = ops::export::export;
    log: LogRequest -> stream LogResponse = ops::history::log;
    diff: DiffRequest -> stream DiffResponse = ops::history::diff;
    make_patch: MakePatchRequest -> stream MakePatchResponse = ops::patch::make;
    list_conflicts: ListConflictsRequest -> stream ListConflictsResponse = ops::merge::conflicts;
}

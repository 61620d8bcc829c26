//! The data API as a gRPC service: finds the database, asks the gate, and hands each request to its operation in `ops` on a
//! blocking thread. Answers of any length go through a bounded channel, so that a slow reader slows the operation and nothing
//! piles up.

use std::collections::HashMap;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pleach_client::metadata;
use pleach_engine::{Database, KeepFor, Token};
use pleach_protocol::{Access, Caller, Databases, Right};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::BinaryMetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::credentials;
use crate::error::{Failure, Result};
use crate::gate::{Gate, Permit, Written};
use crate::metrics::Metrics;
use crate::ops::{self, Session, Sink};
use crate::proto::{data_server::Data, *};
use crate::rights::{Rights, not_granted};
use crate::sessions::{self, Sessions};
use crate::tabular::Source;

/// Messages of a stream that wait for a slow reader.
pub(crate) const MESSAGES_WAITING_MAX: usize = 4;
/// The longest warning that is told.
const WARNING_BYTES_MAX: usize = 1024;
/// How long a read waits for the write of its token at most.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(10);

/// The service over the databases of one data directory.
#[derive(Clone)]
pub struct DataService {
    databases: Databases,
    pub(crate) gate: Arc<dyn Gate>,
    access: Access,
    /// Prefixes of the URLs that clients may have this server use.
    remotes_allowed: Arc<[String]>,
    recovery_keep: KeepFor,
    sessions: Sessions,
    metrics: Metrics,
    waited: Arc<Mutex<Waited>>,
}

/// Of each database, by its name and its store, the token that was waited for last, and what was followed then, where its write stays.
type Waited = HashMap<String, ([u8; 16], Token, u64)>;

/// A request about a place in a database.
trait Targeted: Send + 'static {
    fn target(&self) -> Target;
}

macro_rules! targeted {
    ($($request:ident)*) => {
        $(impl Targeted for $request {
            fn target(&self) -> Target {
                self.target.clone().unwrap_or_default()
            }
        })*
    };
}

targeted! {
    PutRequest GetRequest DeleteRequest ScanRequest ImportStart ExportRequest ListTablesRequest ShowTableRequest
    DropTableRequest CommitRequest StatusRequest LogRequest ShowRequest DiffRequest DiffStatRequest ResetRequest
    ListBranchesRequest CreateBranchRequest DeleteBranchRequest RenameBranchRequest ListTagsRequest CreateTagRequest
    DeleteTagRequest MergeRequest AbortMergeRequest ListConflictsRequest ResolveConflictsRequest StatsRequest
    ListRecoveryRequest RestoreRecoveryRequest DropRecoveryRequest RevertRequest MakePatchRequest ApplyPatchStart FsckRequest GcRequest BackupSyncRequest BackupRestoreRequest
}

pub(crate) type Answer<T> = std::result::Result<Response<T>, Status>;
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

impl DataService {
    /// The service over `databases`, as far as `gate` lets requests through.
    pub fn new(databases: Databases, gate: Arc<dyn Gate>) -> DataService {
        let (access, sessions, metrics) = (Access::open(), Sessions::default(), Metrics::default());
        let (remotes_allowed, recovery_keep, waited) = (Arc::default(), KeepFor::default(), Arc::default());
        DataService { databases, gate, access, remotes_allowed, recovery_keep, sessions, metrics, waited }
    }

    /// Lets in those alone who have access.
    #[must_use]
    pub fn with_access(self, access: Access) -> DataService {
        DataService { access, ..self }
    }

    /// The sessions that are open.
    pub(crate) fn sessions(&self) -> Sessions {
        self.sessions.clone()
    }

    /// Keeps what was lost for so long.
    #[must_use]
    pub fn with_recovery_keep(self, recovery_keep: KeepFor) -> DataService {
        DataService { recovery_keep, ..self }
    }

    /// Counts in `metrics` what nobody else can.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> DataService {
        DataService { metrics, ..self }
    }

    /// Who calls.
    pub(crate) fn caller<Q>(&self, request: &Request<Q>) -> std::result::Result<Caller, Status> {
        self.access.caller(request.metadata())
    }

    /// Lets clients have this server use the URLs that begin so.
    #[must_use]
    pub fn with_remotes_allowed(self, prefixes: &[String]) -> DataService {
        DataService { remotes_allowed: prefixes.into(), ..self }
    }

    /// Refuses a URL that clients may not have this server use.
    fn allow(&self, url: &str) -> Result<()> {
        if url.starts_with("file://") {
            // No way round a prefix by `..`.
            ops::upkeep::directory(url)?;
        }
        let begins = |prefix: &String| {
            let rest = url.strip_prefix(prefix.as_str());
            rest.is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
        };
        match self.remotes_allowed.iter().any(begins) {
            true => Ok(()),
            false => Err(Failure::not_allowed(format!("this server may not use `{url}` for its clients"))
                .hint("add the beginning of the URL to `remotes_allowed` in its config.yaml and restart it")),
        }
    }

    async fn read<Q: Targeted, A: Send + 'static>(
        &self,
        request: Request<Q>,
        operation: fn(&Session, &Q) -> Result<A>,
    ) -> Answer<A> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            operation(&service.reader(&request.target(), caller)?, &request)
        })
        .await
    }

    /// A change of branches, tags or history.
    async fn write<Q: Targeted, A: Send + 'static>(
        &self,
        request: Request<Q>,
        operation: fn(&Session, &Q) -> Result<A>,
    ) -> Answer<A> {
        self.change(request, operation, false).await
    }

    /// A transaction on tables.
    async fn transact<Q: Targeted, A: Send + 'static>(
        &self,
        request: Request<Q>,
        operation: fn(&Session, &Q) -> Result<A>,
    ) -> Answer<A> {
        self.change(request, operation, true).await
    }

    async fn change<Q: Targeted, A: Send + 'static>(
        &self,
        request: Request<Q>,
        operation: fn(&Session, &Q) -> Result<A>,
        is_transaction: bool,
    ) -> Answer<A> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        let changed = blocking(move || {
            let request = request.into_inner();
            let target = request.target();
            Rights::of(caller.clone(), &target.database).require_some(Right::Write)?;
            let permit = service.gate.writable()?;
            let session = service.session(&target, caller)?;
            let answer = operation(&session, &request)?;
            service.written(&target.database, &session, answer, is_transaction, permit)
        });
        changed.await.map(Response::into_inner)
    }

    /// The answer to a write that was done, with what replication has to say to it.
    fn written<A>(
        &self,
        name: &str,
        session: &Session,
        answer: A,
        is_transaction: bool,
        permit: Permit,
    ) -> Result<Response<A>> {
        let mut response = Response::new(answer);
        for warning in self.after_write(name, session, is_transaction, permit)? {
            let warning = BinaryMetadataValue::from_bytes(warning.as_bytes());
            response.metadata_mut().append_bin(metadata::WARNING, warning);
        }
        Ok(response)
    }

    /// Has replication do what it must about a write that was done; gives its warnings as the client may have them.
    pub(crate) fn after_write(
        &self,
        name: &str,
        session: &Session,
        is_transaction: bool,
        permit: Permit,
    ) -> Result<Vec<String>> {
        let (database, branch) = (&session.database, session.here().ok());
        let warnings = self.gate.after_write(Written { name, database, branch, is_transaction }, permit)?;
        let told = warnings.into_iter().map(|warning| {
            tracing::warn!(database = name, "{warning}");
            self.metrics.warned(name);
            // It may name what this user may not know of, and be longer than a header can be.
            match session.may_read_all() {
                true if warning.len() <= WARNING_BYTES_MAX => warning,
                _ => "what was written is not at the remote yet; the server's log says why".to_owned(),
            }
        });
        Ok(told.collect())
    }

    fn stream<Q: Targeted, A: Send + 'static>(
        &self,
        request: Request<Q>,
        operation: fn(&Session, &Q, Sink<'_, A>) -> Result<()>,
    ) -> Answer<Answers<A>> {
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        let (service, caller) = (self.clone(), self.caller(&request)?);
        tokio::task::spawn_blocking(move || {
            let request = request.into_inner();
            let mut send = |message| sender.blocking_send(Ok(message)).map_err(|_| Failure::closed());
            let done = service
                .reader(&request.target(), caller)
                .and_then(|session| operation(&session, &request, &mut send));
            if let Err(failure) = done {
                // A reader that went away needs no reason.
                let _ = sender.blocking_send(Err(failure.to_status()));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    fn session(&self, target: &Target, caller: Caller) -> Result<Session> {
        let rights = Rights::of(caller, &target.database);
        rights.require_some(Right::Read)?;
        Ok(Session::at(self.database(&target.database)?, &target.reference, rights)?.of_strangers())
    }

    pub(crate) fn reader(&self, target: &Target, caller: Caller) -> Result<Session> {
        let rights = Rights::of(caller, &target.database);
        rights.require_some(Right::Read)?;
        let database = self.database(&target.database).map_err(|failure| self.not_yet(target, failure))?;
        if !target.reference.is_empty() {
            rights.require(Right::Read, &target.reference)?;
        }
        self.gate.before_read(&target.database, &database)?;
        self.wait_for(target, &database)?;
        Session::at(database, &target.reference, rights)
    }

    /// A session of who may do everything to the database.
    fn admin(&self, target: &Target, caller: Caller) -> Result<Session> {
        Rights::of(caller.clone(), &target.database).require_all(Right::Admin)?;
        self.session(target, caller)
    }

    fn database(&self, name: &str) -> Result<Database> {
        match self.databases.get(name)? {
            Some(database) => Ok(database),
            None if self.gate.obtain(name)? => self.databases.get(name)?.ok_or_else(|| no_database(name)),
            None => Err(no_database(name)),
        }
    }

    /// What is not here may be on its way, if who reads has a token of it.
    fn not_yet(&self, target: &Target, failure: Failure) -> Failure {
        if target.after.is_empty() || !failure.is_not_found() || self.gate.writable().is_ok() {
            return failure;
        }
        Failure::remote(format!("this server does not have database `{}` yet", target.database))
            .hint("read again later, or on the server that took the write")
    }

    /// Waits until `database` has the write of the target's token.
    fn wait_for(&self, target: &Target, database: &Database) -> Result<()> {
        if target.after.is_empty() {
            return Ok(());
        }
        let token: Token = target.after.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        let waited = self.gate.follows().map(|followed| (database.store().id(), token, followed));
        if waited.is_some() && self.waited.lock().get(&target.database) == waited.as_ref() {
            return Ok(());
        }
        let limit = match target.after_wait_millis {
            0 => TOKEN_WAIT_MAX,
            millis => TOKEN_WAIT_MAX.min(Duration::from_millis(millis.into())),
        };
        match self.gate.wait_for(&target.database, database, &token, limit) {
            true => {
                if let Some(waited) = waited {
                    self.waited.lock().insert(target.database.clone(), waited);
                }
                Ok(())
            }
            false => {
                Err(Failure::remote(format!("this server does not have the write of token {token} yet"))
                    .hint(
                        "read again later, read on the server that took the write, or read without --after",
                    ))
            }
        }
    }

    fn import_file(
        &self,
        start: &ImportStart,
        caller: Caller,
        file: impl Read,
    ) -> Result<Response<ImportResponse>> {
        Rights::of(caller.clone(), &start.target().database).require_some(Right::Write)?;
        drop(self.gate.writable()?);
        let session = self.session(&start.target(), caller)?;
        session.branch()?;
        // A client that sends slowly keeps nobody from a change of role.
        let source = Source::keep(&start.file, file, ops::import::format(start))?;
        let permit = self.gate.writable()?;
        let answer = ops::import::import(&session, start, &source)?;
        self.written(&start.target().database, &session, answer, true, permit)
    }
}

/// Refuses who may not administer the whole server.
fn everywhere(caller: &Caller) -> Result<()> {
    match caller.may_everywhere(Right::Admin) {
        true => Ok(()),
        false => Err(not_granted(caller, Right::Admin, "the whole server")),
    }
}

fn no_database(name: &str) -> Failure {
    Failure::not_found(format!("no database `{name}` on this server"))
        .hint("`pleach database list --server URL` shows those that exist")
}

/// Runs an operation where it may block.
async fn blocking<T: Send + 'static>(operation: impl FnOnce() -> Result<T> + Send + 'static) -> Answer<T> {
    match tokio::task::spawn_blocking(operation).await {
        Ok(Ok(answer)) => Ok(Response::new(answer)),
        Ok(Err(failure)) => Err(failure.to_status()),
        Err(_) => Err(Status::internal("the operation ended without an answer; the server's log says why")),
    }
}

/// A file as it comes in. Ends only after its `end`: what is cut off is an error.
struct Incoming {
    parts: mpsc::Receiver<Option<Vec<u8>>>,
    piece: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.piece.read(buffer)?;
            if length > 0 || self.ended || buffer.is_empty() {
                return Ok(length);
            }
            match self.parts.blocking_recv() {
                Some(Some(piece)) => self.piece = io::Cursor::new(piece),
                Some(None) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the client stopped sending the file",
                    ));
                }
            }
        }
    }
}

/// What a part of a stream that carries a file is: some of its bytes, its end (`Some(None)`), or what does not belong there.
type Part = Option<Option<Vec<u8>>>;

fn part_of_import(request: ImportRequest) -> Part {
    match request.part? {
        import_request::Part::Data(data) => Some(Some(data)),
        import_request::Part::End(_) => Some(None),
        import_request::Part::Start(_) => None,
    }
}

fn part_of_patch(request: ApplyPatchRequest) -> Part {
    match request.part? {
        apply_patch_request::Part::Data(data) => Some(Some(data)),
        apply_patch_request::Part::End(_) => Some(None),
        apply_patch_request::Part::Start(_) => None,
    }
}

/// Hands the parts of a file on until its end, its failure, or the client's.
async fn feed<T>(mut parts: Streaming<T>, sender: mpsc::Sender<Option<Vec<u8>>>, part: fn(T) -> Part) {
    while let Ok(Some(request)) = parts.message().await {
        let Some(piece) = part(request) else { return };
        let ended = piece.is_none();
        if sender.send(piece).await.is_err() || ended {
            return;
        }
    }
}

/// Calls that are handed to their operation as they are.
macro_rules! calls {
    (
        $($kind:ident $name:ident($request:ident) -> $response:ident = $op:path;)*
        ;
        $(stream $stream:ident($from:ident) -> $to:ident as $alias:ident = $stream_op:path;)*
        ;
        $($rest:item)*
    ) => {
        #[tonic::async_trait]
        impl Data for DataService {
            $(async fn $name(&self, request: Request<$request>) -> Answer<$response> {
                self.$kind(request, $op).await
            })*
            $(type $alias = Answers<$to>;

            async fn $stream(&self, request: Request<$from>) -> Answer<Self::$alias> {
                self.stream(request, $stream_op)
            })*
            $($rest)*
        }
    };
}

calls! {
    transact put(PutRequest) -> PutResponse = ops::rows::put;
    read get(GetRequest) -> GetResponse = ops::rows::get;
    transact delete(DeleteRequest) -> DeleteResponse = ops::rows::delete;
    read list_tables(ListTablesRequest) -> ListTablesResponse = ops::tables::list;
    read show_table(ShowTableRequest) -> ShowTableResponse = ops::tables::show;
    transact drop_table(DropTableRequest) -> DropTableResponse = ops::tables::drop;
    write commit(CommitRequest) -> CommitResponse = ops::history::commit;
    read status(StatusRequest) -> StatusResponse = ops::history::status;
    read show(ShowRequest) -> ShowResponse = ops::history::show;
    read diff_stat(DiffStatRequest) -> DiffStatResponse = ops::history::diff_stat;
    write reset(ResetRequest) -> ResetResponse = ops::history::reset;
    write revert(RevertRequest) -> RevertResponse = ops::patch::revert;
    read list_branches(ListBranchesRequest) -> ListBranchesResponse = ops::refs::list_branches;
    write create_branch(CreateBranchRequest) -> CreateBranchResponse = ops::refs::create_branch;
    write delete_branch(DeleteBranchRequest) -> DeleteBranchResponse = ops::refs::delete_branch;
    write rename_branch(RenameBranchRequest) -> RenameBranchResponse = ops::refs::rename_branch;
    read list_recovery(ListRecoveryRequest) -> ListRecoveryResponse = ops::recovery::list;
    write restore_recovery(RestoreRecoveryRequest) -> RestoreRecoveryResponse = ops::recovery::restore;
    read list_tags(ListTagsRequest) -> ListTagsResponse = ops::refs::list_tags;
    write create_tag(CreateTagRequest) -> CreateTagResponse = ops::refs::create_tag;
    write delete_tag(DeleteTagRequest) -> DeleteTagResponse = ops::refs::delete_tag;
    write merge(MergeRequest) -> MergeResponse = ops::merge::merge;
    write abort_merge(AbortMergeRequest) -> AbortMergeResponse = ops::merge::abort;
    write resolve_conflicts(ResolveConflictsRequest) -> ResolveConflictsResponse = ops::merge::resolve;
    ;
    stream scan(ScanRequest) -> ScanResponse as ScanStream = ops::rows::scan;
    stream export(ExportRequest) -> ExportResponse as ExportStream = ops::export::export;
    stream log(LogRequest) -> LogResponse as LogStream = ops::history::log;
    stream diff(DiffRequest) -> DiffResponse as DiffStream = ops::history::diff;
    stream make_patch(MakePatchRequest) -> MakePatchResponse as MakePatchStream = ops::patch::make;
    stream list_conflicts(ListConflictsRequest) -> ListConflictsResponse as ListConflictsStream = ops::merge::conflicts;
    ;
    async fn list_databases(&self, request: Request<ListDatabasesRequest>) -> Answer<ListDatabasesResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let mut databases = service.databases.list()?;
            databases.retain(|name| caller.may_some(Right::Read, name));
            Ok(ListDatabasesResponse { databases })
        })
        .await
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Answer<StatsResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            let target = request.target();
            let replication = |name: &str| ops::stats::replication(&service.gate.observe(), name);
            if target.database.is_empty() {
                everywhere(&caller)?;
                return Ok(StatsResponse { replication: replication(""), ..StatsResponse::default() });
            }
            let session = service.reader(&target, caller)?;
            let mut stats = ops::stats::stats(&session, &request)?;
            if session.may_read_all() {
                stats.replication = replication(&target.database);
            }
            Ok(stats)
        })
        .await
    }

    async fn create_database(&self, request: Request<CreateDatabaseRequest>) -> Answer<CreateDatabaseResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let name = request.into_inner().name;
            Rights::of(caller, &name).require_all(Right::Admin)?;
            let permit = service.gate.writable()?;
            match service.databases.create(&name) {
                Ok(_) => {
                    // A remote that is slow to answer keeps nobody from a change of role.
                    drop(permit);
                    service.gate.databases_changed(Some(&name))?;
                    Ok(CreateDatabaseResponse {})
                }
                Err(pleach_protocol::Error::Exists { .. }) => {
                    Err(Failure::exists(format!("database `{name}` exists already"))
                        .hint("use it as it is, choose another name, or drop it first"))
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn clone_database(&self, request: Request<CloneDatabaseRequest>) -> Answer<CloneDatabaseResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            // The remote may be any database that the server can read.
            everywhere(&caller)?;
            let permit = service.gate.writable()?;
            service.allow(&request.url)?;
            let cloned = ops::clone::clone(&service.databases, &request, service.gate.remote_of_new())?;
            drop(permit);
            service.gate.databases_changed(Some(&request.name))?;
            Ok(cloned)
        })
        .await
    }

    async fn drop_database(&self, request: Request<DropDatabaseRequest>) -> Answer<DropDatabaseResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let name = request.into_inner().name;
            Rights::of(caller, &name).require_all(Right::Admin)?;
            let permit = service.gate.writable()?;
            service.gate.dropping(&name)?;
            let removed = service.databases.drop_database(&name);
            if removed.is_err() {
                service.gate.not_dropped(&name)?;
            }
            match removed? {
                true => {
                    drop(permit);
                    service.gate.databases_changed(None)?;
                    for warning in service.gate.dropped()? {
                        tracing::warn!(database = name, "{warning}");
                    }
                    Ok(DropDatabaseResponse {})
                }
                false => Err(no_database(&name)),
            }
        })
        .await
    }

    async fn fsck(&self, request: Request<FsckRequest>) -> Answer<FsckResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            let session = service.admin(&request.target(), caller)?;
            if request.repair_from.contains("://") {
                service.allow(&request.repair_from)?;
            }
            ops::upkeep::fsck(&session, &request, &credentials::read)
        })
        .await
    }

    async fn gc(&self, request: Request<GcRequest>) -> Answer<GcResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            ops::upkeep::gc(&service.admin(&request.target(), caller)?, &request, &service.recovery_keep)
        })
        .await
    }

    async fn drop_recovery(&self, request: Request<DropRecoveryRequest>) -> Answer<DropRecoveryResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            ops::recovery::drop(&service.admin(&request.target(), caller)?, &request)
        })
        .await
    }

    async fn backup_sync(&self, request: Request<BackupSyncRequest>) -> Answer<BackupSyncResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            // A backup may be that of any database.
            everywhere(&caller)?;
            service.allow(&request.url)?;
            if request.target().database.is_empty() {
                let synced = ops::server_backup::sync(&service.databases, &request)?;
                service.metrics.backed_up("server");
                return Ok(synced);
            }
            let synced = ops::upkeep::backup_sync(&service.admin(&request.target(), caller)?, &request)?;
            service.metrics.backed_up("database");
            Ok(synced)
        })
        .await
    }

    async fn backup_list(&self, request: Request<BackupListRequest>) -> Answer<BackupListResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            everywhere(&caller)?;
            service.allow(&request.url)?;
            ops::upkeep::backup_list(&request)
        })
        .await
    }

    async fn backup_verify(&self, request: Request<BackupVerifyRequest>) -> Answer<BackupVerifyResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            let request = request.into_inner();
            everywhere(&caller)?;
            service.allow(&request.url)?;
            ops::upkeep::backup_verify(&request, None)
        })
        .await
    }

    async fn backup_restore(&self, request: Request<BackupRestoreRequest>) -> Answer<BackupRestoreResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            everywhere(&caller)?;
            let _permit = service.gate.writable()?;
            let request = request.into_inner();
            service.allow(&request.url)?;
            let name = request.target().database;
            let mut restored = Ok(BackupRestoreResponse::default());
            let made = service.databases.create_with(&name, |dir, _| {
                restored = ops::upkeep::backup_restore(&request, dir, false, None);
                match &restored {
                    Ok(_) => Ok(()),
                    Err(failure) => Err(pleach_protocol::Error::Lost { what: failure.to_string() }),
                }
            });
            match (restored, made) {
                (Err(failure), _) => Err(failure),
                (_, Err(pleach_protocol::Error::Exists { .. })) => {
                    Err(Failure::exists(format!("database `{name}` exists already"))
                        .hint("restore under another name with --database NAME, or drop it first"))
                }
                (_, Err(error)) => Err(error.into()),
                (Ok(restored), Ok(_)) => {
                    service.gate.databases_changed(Some(&name))?;
                    Ok(restored)
                }
            }
        })
        .await
    }

    async fn import(&self, request: Request<Streaming<ImportRequest>>) -> Answer<ImportResponse> {
        let caller = self.caller(&request)?;
        let mut parts = request.into_inner();
        let Some(ImportRequest { part: Some(import_request::Part::Start(start)) }) = parts.message().await? else {
            return Err(Failure::usage("an import begins with `start`").to_status());
        };
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        let service = self.clone();
        let file = Incoming { parts: receiver, piece: io::Cursor::default(), ended: false };
        let import = tokio::spawn(blocking(move || service.import_file(&start, caller, file)));
        feed(parts, sender, part_of_import).await;
        let imported = import.await.map_err(|_| Status::internal("the import ended without an answer"))?;
        imported.map(Response::into_inner)
    }

    async fn apply_patch(&self, request: Request<Streaming<ApplyPatchRequest>>) -> Answer<ApplyPatchResponse> {
        let caller = self.caller(&request)?;
        let mut parts = request.into_inner();
        let Some(ApplyPatchRequest { part: Some(apply_patch_request::Part::Start(start)) }) = parts.message().await?
        else {
            return Err(Failure::usage("a patch begins with `start`").to_status());
        };
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        let service = self.clone();
        let mut file = Incoming { parts: receiver, piece: io::Cursor::default(), ended: false };
        let apply = tokio::spawn(blocking(move || {
            Rights::of(caller.clone(), &start.target().database).require_some(Right::Write)?;
            let permit = service.gate.writable()?;
            let session = service.session(&start.target(), caller)?;
            let answer = ops::patch::apply(&session, &mut file)?;
            service.written(&start.target().database, &session, answer, true, permit)
        }));
        feed(parts, sender, part_of_patch).await;
        let applied = apply.await.map_err(|_| Status::internal("the patch ended without an answer"))?;
        applied.map(Response::into_inner)
    }

    type SessionStream = Answers<SessionResponse>;

    async fn session(&self, request: Request<Streaming<SessionRequest>>) -> Answer<Self::SessionStream> {
        sessions::open(self, request)
    }

    async fn cluster_status(&self, request: Request<ClusterStatusRequest>) -> Answer<ClusterStatusResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            everywhere(&caller)?;
            service.gate.status(request.get_ref())
        })
        .await
    }

    async fn assume_role(&self, request: Request<AssumeRoleRequest>) -> Answer<AssumeRoleResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            everywhere(&caller)?;
            service.gate.assume_role(request.get_ref(), caller.name().unwrap_or_default())
        })
        .await
    }

    async fn cluster_history(
        &self,
        request: Request<ClusterHistoryRequest>,
    ) -> Answer<ClusterHistoryResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            everywhere(&caller)?;
            service.gate.history(request.get_ref())
        })
        .await
    }

    async fn get_config(&self, request: Request<GetConfigRequest>) -> Answer<GetConfigResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            everywhere(&caller)?;
            service.gate.get_config(request.get_ref())
        })
        .await
    }

    async fn set_config(&self, request: Request<SetConfigRequest>) -> Answer<SetConfigResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            everywhere(&caller)?;
            let SetConfigRequest { key, value, .. } = request.get_ref();
            if key.rsplit('.').next() == Some("remote_url_template")
                && let Some(template) = value.as_deref().filter(|template| template.contains("{database}"))
            {
                // The server would use it for this client.
                service.allow(&template.replace("{database}", "name"))?;
            }
            service.gate.set_config(request.get_ref())
        })
        .await
    }

    async fn promote_replica(&self, request: Request<PromoteReplicaRequest>) -> Answer<PromoteReplicaResponse> {
        let (service, caller) = (self.clone(), self.caller(&request)?);
        blocking(move || {
            everywhere(&caller)?;
            service.gate.promote_replica(request.get_ref())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn incoming(parts: impl IntoIterator<Item = Option<&'static [u8]>>) -> Incoming {
        let (sender, receiver) = mpsc::channel(16);
        for part in parts {
            sender.try_send(part.map(<[u8]>::to_vec)).unwrap();
        }
        Incoming { parts: receiver, piece: io::Cursor::default(), ended: false }
    }

    #[test]
    fn an_imported_file_is_read_in_order_over_pieces_of_any_size() {
        let mut text = String::new();
        incoming([Some(b"ab".as_slice()), Some(b""), Some(b"c"), None]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn a_file_without_its_end_is_an_error() {
        let mut text = String::new();
        let error = incoming([Some(b"ab".as_slice())]).read_to_string(&mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

//! Connections that are cut at random bytes, of clones, fetches and pushes over real sockets: each goes on where it was, until it is whole.
//!
//! One idea: what is cut is compared with the same, uncut. A clone is made twice, once by way of a proxy that only counts and once by one that cuts; its
//! database must be the same, and the bytes that arrived no more than [`FACTOR`] times as many, and [`CUT_BYTES`] for each cut: what lay in the window of the
//! connection. Clones are processes of their own, which are killed now and then, and begun again. Meanwhile the server is restarted, and collected.

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use pleach_engine::{Database, ErrorKind, NewCommit, Options, difference};
use pleach_protocol::{
    Credentials, Databases, Error, Force, Incoming, Part, PushUpdate, RefPatterns, Remote, RemoteUrl, Sender,
    SyncService, clone_database, fetch, push, serve_promised,
    testing::{Fault, Faulty, Proxy},
    transport,
};
use pleach_tests::dice::{Dice, mixed};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{Plant, Run, Stop, forms::checked};

/// Tells a process that it is a clone, and of what: URL, directory and part, a line each.
const CLONE: &str = "PLEACH_SOAK_CLONE";
/// With which status it ends if it was cut too often.
const CUT: i32 = 3;

const FACTOR: f64 = 1.05;
const CUT_BYTES: u64 = 8 << 20;
/// More cuts of one transfer, and it will never be whole.
const CUTS_MAX: u64 = 200;

const MESSAGE: u64 = 256 << 10;
const ROWS: u64 = 40_000;
const TABLES: [&str; 2] = ["a", "b"];
/// From one look at what is under way to the next.
const LOOK_EVERY: Duration = Duration::from_millis(1);

type Found<T> = Result<T, String>;

/// Runs until its time is over, or so many cuts were made.
pub(crate) fn run(run: &Run) -> Result<String, Stop> {
    let fault = run.plant.map(|plant| match plant {
        Plant::NoResume => Fault::ForgetPlace,
        _ => Fault::SkipMessage,
    });
    let mut soak = Soak::new(run.seed, fault)?;
    let mut round = 0;
    while run.goes_on() && run.cuts.is_none_or(|cuts| soak.counts.cuts < cuts) {
        let at = |what| format!("round {round} from seed {}: {what}", run.seed);
        soak.round(round).map_err(at)?;
        round += 1;
    }
    let Counts { clones, parts, fetches, pushes, cuts, kills, restarts, collections, .. } = soak.counts;
    let (ratio, again) = soak.counts.cost();
    checked(&[("cuts", cuts), ("transfers", clones + fetches + pushes)])?;
    Ok(format!(
        "{cuts} cuts of {clones} clones ({parts} of a part), {fetches} fetches, {pushes} pushes; {kills} kills, {restarts} restarts, {collections} collections; \
         {ratio:.3} times the bytes of uncut ones, {again} KiB more a cut"
    ))
}

#[derive(Default)]
struct Counts {
    clones: u64,
    parts: u64,
    fetches: u64,
    pushes: u64,
    cuts: u64,
    kills: u64,
    restarts: u64,
    collections: u64,
    /// Of what was not killed: bytes, those of the same uncut, and cuts.
    bytes: u64,
    bytes_uncut: u64,
    cuts_alone: u64,
}

impl Counts {
    /// How many times the bytes of uncut transfers arrived, and how many KiB more for each cut.
    fn cost(&self) -> (f64, u64) {
        let more = self.bytes.saturating_sub(self.bytes_uncut);
        (self.bytes as f64 / self.bytes_uncut.max(1) as f64, (more / self.cuts_alone.max(1)) >> 10)
    }
}

struct Soak {
    dir: TempDir,
    runtime: Runtime,
    server: Server,
    /// Two copies: one fetches uncut what the other fetches with cuts.
    copy: Database,
    twin: Database,
    dice: Dice,
    versions: u64,
    counts: Counts,
}

impl Soak {
    fn new(seed: u64, fault: Option<Fault>) -> Found<Soak> {
        let dir = TempDir::new().map_err(why)?;
        let runtime = Runtime::new().map_err(why)?;
        let server = Server::start(&dir.path().join("server"), fault)?;
        let db = server.databases.create("shop").map_err(why)?;
        for version in 0..3 {
            write(&db, 0..if version == 0 { ROWS } else { ROWS / 4 }, version)?;
        }
        // What is planted is to be found in what is tried, not here.
        let honest = Server::start_over(server.databases.clone(), None)?;
        let copy = |name: &str| {
            runtime.block_on(async {
                let remote = Remote::connect(&url(&honest.address)).await.map_err(why)?;
                let path = dir.path().join(name);
                let cloned = clone_database(&remote, &path, Options::default(), &Part::default()).await;
                cloned.map(|(db, _)| db).map_err(why)
            })
        };
        let (copy, twin) = (copy("copy")?, copy("twin")?);
        let dice = Dice::new(seed);
        Ok(Soak { dir, runtime, server, copy, twin, dice, versions: 3, counts: Counts::default() })
    }

    fn round(&mut self, round: u64) -> Found<()> {
        match round % 6 {
            0 => self.clone_of("whole"),
            1 => self.clone_of(["table", "depth", "lazy"][self.dice.below(3) as usize]),
            2 | 4 => self.fetch(),
            3 => self.push(),
            _ => self.clone_of("killed"),
        }
    }

    /// A proxy that cuts each connection, in one of several ways.
    fn cutting(&self, whole: u64) -> Found<Proxy> {
        let (dice, way) = (self.dice.clone(), self.dice.below(4));
        let cut_after = move || {
            Some(match way {
                // Few cuts, each of much.
                0 => 1 + dice.below(whole),
                // At the ends of messages, and beside them.
                1 => (1 + dice.below(8)) * MESSAGE + dice.below(64),
                2 => dice.below(4 << 20),
                // Most of them before anything has arrived.
                _ if dice.below(3) > 0 => dice.below(64 << 10),
                _ => MESSAGE + dice.below(2 << 20),
            })
        };
        self.proxy(cut_after)
    }

    fn proxy(&self, cut_after: impl FnMut() -> Option<u64> + Send + 'static) -> Found<Proxy> {
        self.runtime.block_on(Proxy::start(self.server.address, Duration::ZERO, cut_after)).map_err(why)
    }

    /// Waits until `poll` gives something. Now and then after a cut, the server is restarted, or collected.
    fn meanwhile<T>(&mut self, proxy: &Proxy, mut poll: impl FnMut() -> Found<Option<T>>) -> Found<T> {
        let mut seen = proxy.counts().cuts;
        loop {
            if let Some(end) = poll()? {
                return Ok(end);
            }
            let cuts = proxy.counts().cuts;
            if cuts > CUTS_MAX {
                return Err(format!("it is not whole after {cuts} cuts"));
            }
            if std::mem::replace(&mut seen, cuts) != cuts {
                match self.dice.below(12) {
                    0 => {
                        self.server.restart()?;
                        proxy.lead_to(self.server.address);
                        self.counts.restarts += 1;
                    }
                    1 | 2 => {
                        self.server.database()?.store().collect(false).map_err(why)?;
                        self.counts.collections += 1;
                    }
                    _ => {}
                }
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Clones twice, uncut and cut, and compares. Who is `killed` clones all.
    fn clone_of(&mut self, kind: &'static str) -> Found<()> {
        let whole = self.proxy(|| None)?;
        let path = self.dir.path().join("uncut");
        let status = Clone::start(&whole, &path, kind)?.wait()?;
        if status != 0 {
            return Err(format!("an uncut clone ({kind}) ended with {status}"));
        }
        let uncut = self.opened(&path)?;
        let rows = self.read(&uncut, kind)?;
        let bytes = whole.counts().down;

        let proxy = self.cutting(bytes)?;
        let path = self.dir.path().join("cut");
        let mut kills = 0;
        loop {
            let mut clone = Clone::start(&proxy, &path, kind)?;
            let before = proxy.counts().down;
            let may = if kind == "killed" && kills < 3 { MESSAGE + self.dice.below(bytes) } else { u64::MAX };
            let look = proxy.counts();
            let status = self.meanwhile(&proxy, || match clone.status()? {
                None if proxy.counts().down - before > may => clone.kill().map(|()| Some(None)),
                status => Ok(status.map(Some)),
            });
            match status? {
                Some(0) => break,
                Some(CUT) => {}
                None => kills += 1,
                Some(status) => return Err(format!("a clone ({kind}) ended with {status} after {look:?}")),
            }
        }
        let cut = self.opened(&path)?;
        if self.read(&cut, kind)? != rows {
            return Err(format!("a clone ({kind}) has other rows"));
        }
        same(&cut, &uncut)?;
        let counts = proxy.counts();
        self.counts.clones += 1;
        self.counts.parts += u64::from(!part(kind).is_partial()) ^ 1;
        self.counts.kills += kills;
        // Who is killed knows where he was a second before.
        self.account(counts.down, bytes, counts.cuts, kills)?;
        cut.close().map_err(why)?;
        uncut.close().map_err(why)?;
        for name in ["cut", "uncut"] {
            std::fs::remove_dir_all(self.dir.path().join(name)).map_err(why)?;
        }
        Ok(())
    }

    fn account(&mut self, bytes: u64, uncut: u64, cuts: u64, kills: u64) -> Found<()> {
        self.counts.cuts += cuts;
        if kills == 0 {
            self.counts.bytes += bytes;
            self.counts.bytes_uncut += uncut;
            self.counts.cuts_alone += cuts;
        }
        let most = (uncut * (1 + kills)) as f64 * FACTOR + (cuts * CUT_BYTES) as f64;
        match bytes as f64 <= most {
            true => Ok(()),
            false => Err(format!("{bytes} bytes after {cuts} cuts and {kills} kills; uncut {uncut}")),
        }
    }

    fn opened(&self, path: &Path) -> Found<Database> {
        let db = Database::open(path, Options::default()).map_err(why)?;
        serve_promised(&db, &Credentials::default()).map_err(why)?;
        Ok(db)
    }

    /// Reads what there is, how often the connection is cut; gives how many rows there are.
    fn read(&self, db: &Database, kind: &str) -> Found<usize> {
        let read = |table: &str| -> pleach_engine::Result<usize> {
            let head = db.branch("main")?.map(|branch| branch.work);
            let snapshot = db.snapshot_of_root(head.unwrap_or_else(|| unreachable!("it has this branch")))?;
            let Some(table) = snapshot.table(table)? else { return Ok(0) };
            let mut rows = 0;
            for row in table.scan(Bound::Unbounded, Bound::Unbounded)? {
                row?;
                rows += 1;
            }
            Ok(rows)
        };
        let tables = if kind == "table" { &TABLES[..1] } else { &TABLES[..] };
        let mut rows = 0;
        for table in tables {
            let mut tries = 0;
            rows += loop {
                match read(table) {
                    Ok(rows) => break rows,
                    Err(error) if error.kind() == ErrorKind::Remote && tries < CUTS_MAX => tries += 1,
                    Err(error) => return Err(why(error)),
                }
            };
        }
        Ok(rows)
    }

    fn fetch(&mut self) -> Found<()> {
        self.versions += 1;
        write(&self.server.database()?, 0..ROWS / 2, self.versions)?;
        let whole = self.proxy(|| None)?;
        let address = whole.address();
        let fetched = async |db: &Database, address| {
            let remote = Remote::connect(&url(&address)).await?;
            fetch(db, &remote, "origin", &RefPatterns::all()).await
        };
        self.runtime.block_on(fetched(&self.twin, address)).map_err(why)?;
        let bytes = whole.counts().down;
        let proxy = self.cutting(bytes)?;
        let (address, copy) = (proxy.address(), self.copy.clone());
        let again = move || {
            let copy = copy.clone();
            async move {
                let remote = Remote::connect(&url(&address)).await?;
                fetch(&copy, &remote, "origin", &RefPatterns::all()).await.map(drop)
            }
        };
        self.until_done(&proxy, again)?;
        if self.copy.refs("remotes/") != self.twin.refs("remotes/") {
            return Err("a fetch left other refs".to_owned());
        }
        whole_and_right(&self.copy)?;
        self.counts.fetches += 1;
        let counts = proxy.counts();
        self.account(counts.down, bytes, counts.cuts, 0)
    }

    fn push(&mut self) -> Found<()> {
        // It goes on from what is there.
        self.fetch()?;
        let theirs = self.copy.get_ref("remotes/origin/main").ok_or("there is a branch")?;
        self.copy.reset("main", &theirs, true).map_err(why)?;
        self.versions += 1;
        write(&self.copy, 0..ROWS / 2, self.versions)?;
        let new = self.copy.get_ref("heads/main").ok_or("there is a branch")?;
        let mut sender = Sender::new(&self.copy, difference(&self.copy, &[new], &[theirs]).map_err(why)?);
        let sender = sender.as_mut().map_err(|error| error.to_string())?;
        let mut bytes = 0;
        while let Some(message) = sender.next_message().map_err(why)? {
            bytes += message.len() as u64;
        }
        let proxy = self.cutting(bytes)?;
        let (address, copy) = (proxy.address(), self.copy.clone());
        let again = move || {
            let copy = copy.clone();
            async move {
                let remote = Remote::connect(&url(&address)).await?;
                let update = [PushUpdate { name: "heads/main".into(), new: Some(new) }];
                let pushed = push(&copy, &remote, "origin", &update, Force::No).await?;
                match pushed.is_rejected() {
                    true => Err(Error::Lost { what: format!("{:?}", pushed.refs) }),
                    false => Ok(()),
                }
            }
        };
        self.until_done(&proxy, again)?;
        same(&self.server.database()?, &self.copy)?;
        self.counts.pushes += 1;
        let counts = proxy.counts();
        self.account(counts.up, bytes, counts.cuts, 0)
    }

    /// Runs a transfer, as often as it is cut too often.
    fn until_done<F>(&mut self, proxy: &Proxy, again: impl Fn() -> F) -> Found<()>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        loop {
            let mut task = Some(self.runtime.spawn(again()));
            let task = self.meanwhile(proxy, || Ok(task.take_if(|task| task.is_finished())))?;
            match self.runtime.block_on(task).map_err(why)? {
                Ok(()) => return Ok(()),
                Err(error) if is_cut(&error) => {}
                Err(error) => return Err(why(error)),
            }
        }
    }
}

/// Whether a transfer ended since it was cut too often.
fn is_cut(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Uncertain { .. })
}

fn same(one: &Database, other: &Database) -> Found<()> {
    whole_and_right(one)?;
    match one.root().map_err(why)? == other.root().map_err(why)? {
        true => Ok(()),
        false => Err("two databases that were to be the same have other roots".to_owned()),
    }
}

fn whole_and_right(db: &Database) -> Found<()> {
    let damages = db.fsck().map_err(why)?.damages;
    if damages.is_empty() { Ok(()) } else { Err(format!("damaged: {damages:?}")) }
}

/// Writes rows that hardly compress into both tables, and commits.
fn write(db: &Database, rows: std::ops::Range<u64>, version: u64) -> Found<()> {
    let mut transaction = db.begin("main").map_err(why)?;
    for table in TABLES {
        if !transaction.has_table(table).map_err(why)? {
            transaction.create_table(table, None).map_err(why)?;
        }
        for row in rows.clone() {
            let value: Vec<u8> =
                (0..24).flat_map(|word| mixed(mixed(row ^ mixed(version)) ^ word).to_le_bytes()).collect();
            transaction.put(table, &row.to_be_bytes(), &value).map_err(why)?;
        }
    }
    transaction.commit().map_err(why)?;
    let new = NewCommit { message: "m".into(), author: "a".into(), ..NewCommit::default() };
    db.commit("main", new).map(drop).map_err(why)
}

/// The server, which can be restarted.
struct Server {
    dir: PathBuf,
    fault: Option<Fault>,
    databases: Databases,
    address: std::net::SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    fn start(dir: &Path, fault: Option<Fault>) -> Found<Server> {
        Server::start_over(Databases::new(dir, Options::default()).map_err(why)?, fault)
    }

    fn start_over(databases: Databases, fault: Option<Fault>) -> Found<Server> {
        let runtime = Runtime::new().map_err(why)?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).map_err(why)?;
        let address = listener.local_addr().map_err(why)?;
        let service = SyncService::new(databases.clone());
        let router = match fault {
            Some(fault) => Faulty::serve(service, fault),
            None => transport().add_service(service.into_server()),
        };
        runtime.spawn(async move { router.serve_with_incoming(Incoming::new(listener, None)).await });
        let dir = databases.data_dir().to_owned();
        Ok(Server { dir, fault, databases, address, runtime: Some(runtime) })
    }

    fn database(&self) -> Found<Database> {
        self.databases.get("shop").map_err(why)?.ok_or_else(|| "the server has lost its database".to_owned())
    }

    fn stop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }

    fn restart(&mut self) -> Found<()> {
        self.stop();
        self.databases.close().map_err(why)?;
        *self = Server::start(&self.dir, self.fault)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A process that clones.
struct Clone(Child);

impl Clone {
    fn start(proxy: &Proxy, path: &Path, kind: &str) -> Found<Clone> {
        let what = format!("{}\n{}\n{kind}", url(&proxy.address()), path.display());
        let mut command = Command::new(std::env::current_exe().map_err(why)?);
        command.env(CLONE, what).stdin(Stdio::null());
        command.spawn().map(Clone).map_err(why)
    }

    /// With which status it has ended.
    fn status(&mut self) -> Found<Option<i32>> {
        let status = self.0.try_wait().map_err(why)?;
        Ok(status.map(|status| status.code().unwrap_or(-1)))
    }

    fn wait(&mut self) -> Found<i32> {
        Ok(self.0.wait().map_err(why)?.code().unwrap_or(-1))
    }

    fn kill(&mut self) -> Found<()> {
        self.0.kill().map_err(why)?;
        self.wait().map(drop)
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.kill();
    }
}

/// What this process is to do if it is a clone.
pub(crate) fn as_clone() -> Option<ExitCode> {
    let what = std::env::var(CLONE).ok()?;
    let status = match clone_process(&what) {
        Ok(()) => 0,
        Err(error) if is_cut(&error) => CUT,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    };
    Some(ExitCode::from(status as u8))
}

fn clone_process(what: &str) -> Result<(), Error> {
    let lost = |what: String| Error::Lost { what };
    let [url, path, kind] = what.split('\n').collect::<Vec<_>>()[..] else {
        return Err(lost(format!("{CLONE} has three lines")));
    };
    let runtime = Runtime::new().map_err(|error| lost(error.to_string()))?;
    runtime.block_on(async {
        let remote = Remote::connect(&RemoteUrl::parse(url)?).await?;
        clone_database(&remote, Path::new(path), Options::default(), &part(kind)).await?;
        Ok(())
    })
}

fn part(kind: &str) -> Part {
    match kind {
        "table" => Part { tables: vec![TABLES[0].to_owned()], ..Part::default() },
        "depth" => Part { depth: Some(2), ..Part::default() },
        "lazy" => Part { lazy: true, ..Part::default() },
        _ => Part::default(),
    }
}

fn url(address: &std::net::SocketAddr) -> RemoteUrl {
    RemoteUrl::parse(&format!("http://{address}/shop")).unwrap_or_else(|_| unreachable!("it is a URL"))
}

fn why(error: impl std::fmt::Display) -> String {
    error.to_string()
}

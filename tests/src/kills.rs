//! kill -9 of a server while several clients write to it and garbage is collected.
//!
//! One idea: each client writes rows of its own, numbered, one after the other, so what is there of each must be a beginning of what it
//! tried, and at least what was acknowledged.

use std::{iter::repeat_with, sync::mpsc, thread};

use crate::{Sandbox, Server};

/// What a loop of kills did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Kills {
    /// Servers killed.
    pub kills: u64,
    /// Collections that ended before a kill.
    pub collections: u64,
    /// Writes acknowledged, by all clients.
    pub acknowledged: u64,
    /// Writes that were there without having been acknowledged.
    pub unacknowledged: u64,
}

/// A database that is served and killed again and again.
pub struct Victim {
    sandbox: Sandbox,
    /// How many rows of each client are acknowledged.
    acknowledged: Vec<u64>,
    early: bool,
    done: Kills,
}

impl Victim {
    /// An empty database, and so many clients. `early`, a planted fault, counts writes as acknowledged when they are sent.
    pub fn new(clients: usize, early: bool) -> Victim {
        let victim =
            Victim { sandbox: Sandbox::new(), acknowledged: vec![0; clients], early, done: Kills::default() };
        let mut server = victim.serve();
        victim.sandbox.run(&["--server", &server.url(), "database", "create", "db"]).ok();
        assert_eq!(server.stop(), 0);
        victim
    }

    /// Starts the server, checks what it holds, lets the clients write while it collects, and kills it at the `writes`-th acknowledgement, when the other
    /// clients' writes are under way. Gives the counts so far.
    pub fn round(&mut self, writes: u64) -> Result<Kills, String> {
        let mut server = self.serve();
        self.check(&server)?;
        let (acknowledge, acknowledgements) = mpsc::channel();
        thread::scope(|scope| {
            let (sandbox, early, url) = (&self.sandbox, self.early, server.url());
            for (client, next) in self.acknowledged.iter_mut().enumerate() {
                let (acknowledge, url) = (acknowledge.clone(), url.clone());
                scope.spawn(move || {
                    loop {
                        *next += u64::from(early);
                        let row = format!("{:08}", *next - u64::from(early));
                        let put =
                            ["--server", &url, "--database", "db", "put", &table(client), &row, "value"];
                        if sandbox.run(&put).status != 0 {
                            return;
                        }
                        *next += u64::from(!early);
                        let _ = acknowledge.send(());
                    }
                });
            }
            drop(acknowledge);
            // Files are rewritten and removed all the while.
            let gc = ["--server", &url, "--database", "db", "gc"].map(str::to_owned);
            let collect = move || repeat_with(|| sandbox.run(&gc)).take_while(|run| run.status == 0).count();
            let collections = scope.spawn(collect);
            acknowledgements.iter().take(writes as usize).for_each(drop);
            server.kill();
            self.done.collections += collections.join().expect("a command is run") as u64;
        });
        self.done.kills += 1;
        self.done.acknowledged = self.acknowledged.iter().sum();
        Ok(self.done)
    }

    fn serve(&self) -> Server {
        self.sandbox.serve(&["--data-dir", "data", "--listen", "127.0.0.1:0"])
    }

    fn check(&mut self, server: &Server) -> Result<(), String> {
        for (client, acknowledged) in self.acknowledged.iter_mut().enumerate() {
            let scan = self.sandbox.run(&server.args("db", &["scan", &table(client)]));
            // A table is made by its first row.
            let is_absent = *acknowledged == 0 && scan.stderr.contains("not found");
            if scan.status != 0 && !is_absent {
                return Err(format!("after {} kills a scan fails: {}", self.done.kills, scan.stderr));
            }
            let found: Vec<&str> = scan.stdout.lines().collect();
            let expected = (0..found.len()).map(|row| format!("{row:08}\tvalue"));
            let rows = found.len() as u64;
            if !expected.eq(found) || !(*acknowledged..=*acknowledged + 1).contains(&rows) {
                let kills = self.done.kills;
                return Err(format!(
                    "after {kills} kills client {client} has {rows} rows, {acknowledged} acknowledged"
                ));
            }
            self.done.unacknowledged += rows - *acknowledged;
            *acknowledged = rows;
        }
        Ok(())
    }
}

fn table(client: usize) -> String {
    format!("client-{client}")
}

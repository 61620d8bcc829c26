//! `tokens`: clients that write and read on over a primary and read replicas which look at it once an hour, and never may see less than
//! what was written. What is done and checked is in `pleach_tests::tokens`.

use std::time::Duration;

use pleach_client::Options;
use pleach_tests::tokens::{Replicated, Tally, check};

use crate::{Plant, Run, Stop, forms::checked};

/// Reads of a round.
const ROUND: u64 = 20_000;
/// Tasks that read.
const READERS: usize = 16;

pub(crate) fn run(run: &Run) -> Result<String, Stop> {
    let servers = Replicated::new(run.replicas);
    let addresses = servers.addresses();
    let options = Options { read_your_writes: run.plant != Some(Plant::NoToken), ..Options::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Stop::Missing(error.to_string()))?;
    let mut all = Tally::default();
    let is_enough = |checks: u64| run.checks.is_some_and(|wanted| checks >= wanted);
    while run.goes_on() && !is_enough(all.checks) {
        let reads = run.checks.map_or(ROUND, |wanted| ROUND.min(wanted - all.checks));
        let pause = Duration::from_millis(run.pause_millis);
        let round = runtime.block_on(check(&addresses, options.clone(), reads, READERS, pause));
        let round = round.map_err(|error| Stop::Found(format!("a write failed: {error}")))?;
        if round.stale > 0 || !round.failures.is_empty() {
            return Err(Stop::Found(format!("{round:?}")));
        }
        all.checks += round.checks;
        all.writes += round.writes;
        all.took += round.took;
    }
    checked(&[("reads", all.checks), ("versions", all.writes)])?;
    Ok(format!(
        "{} reads over a primary and {} replicas, {} versions written meanwhile, {:.0} reads/s",
        all.checks,
        run.replicas,
        all.writes,
        all.checks as f64 / all.took.as_secs_f64()
    ))
}

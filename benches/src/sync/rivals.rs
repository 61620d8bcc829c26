//! The same small change by git, of a file with one line a row, and by rsync of that file: through the same proxy.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pleach_protocol::testing::Proxy;

use super::{Bench, MANY_ROWS, Passed, value};
use crate::rows::SplitMix64;
use crate::store::Figure;

/// Pulls by git: nothing, one row, many rows. Nothing is shown if there is no git.
pub(super) fn git(bench: &Bench<'_>, delay: Duration, show: &mut dyn FnMut(Figure)) -> Result<()> {
    if !is_there("git") {
        return Ok(());
    }
    let directory = bench.place.join("git");
    let there = directory.join("there");
    fs::create_dir_all(&there)?;
    let git = |at: &Path, arguments: &[&str]| {
        let status = Command::new("git")
            .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"])
            .args(arguments)
            .current_dir(at)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "git {arguments:?} failed");
        Ok(())
    };
    git(&there, &["init", "--quiet", "--initial-branch=main"])?;
    let mut rows: Vec<u64> = vec![0; usize::try_from(bench.count)?];
    let commit = |rows: &[u64]| {
        write_rows(&there.join("rows"), rows)?;
        git(&there, &["add", "rows"])?;
        git(&there, &["commit", "--quiet", "-m", "a change"])
    };
    commit(&rows)?;
    let port = free_port()?;
    let mut daemon = Command::new("git");
    daemon.args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
    daemon.arg(format!("--port={port}")).arg(format!("--base-path={}", directory.display())).arg(&directory);
    let _daemon = Running(daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("git daemon")?);
    wait_for(port)?;
    let proxy = bench.runtime.block_on(Proxy::start(([127, 0, 0, 1], port).into(), delay, || None))?;
    let url = format!("git://{}/there", proxy.address());
    git(&directory, &["clone", "--quiet", &url, "copy"])?;
    let copy = directory.join("copy");
    let mut random = SplitMix64::new(7);
    for (case, changed) in
        [("nothing to do", 0), ("pull of 1 row", 1), ("pull of 1,000 random rows", MANY_ROWS)]
    {
        for _ in 0..changed {
            rows[usize::try_from(random.next_u64() % bench.count)?] += 1;
        }
        if changed > 0 {
            commit(&rows)?;
        }
        let case = format!("git: {case}, {} ms", delay.as_millis());
        let mut figure = |metric, value: f64| show(Figure { case: case.clone(), metric, value });
        let before = proxy.counts();
        let passed = Passed::now(&proxy);
        git(&copy, &["fetch", "--quiet"])?;
        passed.tell(&proxy, &mut figure);
        let after = proxy.counts();
        figure("round_trips", (after.turns - before.turns) as f64);
        if changed > 0 {
            figure("bytes_a_row", (after.up + after.down - before.up - before.down) as f64 / changed as f64);
        }
    }
    drop(proxy);
    Ok(fs::remove_dir_all(&directory)?)
}

/// Brings the file up to date by rsync, and tells what it counts. Nothing is shown if there is no rsync.
pub(super) fn rsync(bench: &Bench<'_>, show: &mut dyn FnMut(Figure)) -> Result<()> {
    if !is_there("rsync") {
        return Ok(());
    }
    let directory = bench.place.join("rsync");
    fs::create_dir_all(directory.join("copy"))?;
    let mut rows: Vec<u64> = vec![0; usize::try_from(bench.count)?];
    let mut random = SplitMix64::new(7);
    for changed in [0, 1, MANY_ROWS] {
        for _ in 0..changed {
            rows[usize::try_from(random.next_u64() % bench.count)?] += 1;
        }
        write_rows(&directory.join("rows"), &rows)?;
        let output = Command::new("rsync")
            .args(["--compress", "--no-whole-file", "--ignore-times", "--stats"])
            .args([directory.join("rows"), directory.join("copy/rows")])
            .output()?;
        ensure!(output.status.success(), "rsync failed: {}", String::from_utf8_lossy(&output.stderr));
        let counted = |name: &str| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            line.and_then(|line| line.replace(',', "").trim().parse::<f64>().ok()).unwrap_or_default()
        };
        let value = counted("Total bytes sent:") + counted("Total bytes received:");
        if changed > 0 {
            show(Figure { case: format!("rsync: {changed} rows"), metric: "bytes", value });
        }
    }
    Ok(fs::remove_dir_all(&directory)?)
}

/// One line a row.
fn write_rows(path: &Path, versions: &[u64]) -> Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for (i, version) in versions.iter().enumerate() {
        file.write_all(format!("{i:08},").as_bytes())?;
        file.write_all(&value(i as u64, *version))?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn wait_for(port: u16) -> Result<()> {
    let since = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(since.elapsed() < Duration::from_secs(10), "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

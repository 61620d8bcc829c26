//! Remotes that are directories: the same commands as with a server, and nobody there to answer.

use std::path::Path;

use pleach_tests::Sandbox;
use serde_json::{Value, json};

/// A database `a` with a few rows, and `origin`, a directory that is not there yet.
fn sandbox() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "a"]).ok();
    commit(&sandbox, "a", "k", "1");
    let url = format!("file://{}", sandbox.path("remotes/shop").display());
    sandbox.run(&["-C", "a", "remote", "add", "origin", &url]).ok();
    (sandbox, url)
}

fn commit(sandbox: &Sandbox, dir: &str, key: &str, value: &str) {
    sandbox.run(&["-C", dir, "put", "t", key, value]).ok();
    sandbox.run(&["-C", dir, "commit", "-m", &format!("{key}={value}")]).ok();
}

fn json(sandbox: &Sandbox, args: &[&str]) -> Value {
    sandbox.run(args).json()
}

/// The files below a directory.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(self::files(&path)),
            path => files.push(path),
        }
    }
    files
}

#[test]
fn a_directory_is_pushed_to_cloned_and_followed() {
    let (sandbox, url) = sandbox();
    assert_eq!(json(&sandbox, &["-C", "a", "push", "--json"])["refs"][0]["status"], "new");
    let cloned = json(&sandbox, &["clone", &url, "b", "--json"]);
    assert!(cloned["bytes_received"].as_u64().unwrap() > 0, "{cloned}");
    assert_eq!(sandbox.run(&["-C", "b", "get", "t", "k"]).ok(), "1\n");

    commit(&sandbox, "b", "k", "2");
    let pushed = json(&sandbox, &["-C", "b", "push", "--json"]);
    assert_eq!((&pushed["refs"][0]["status"], &pushed["round_trips"]), (&json!("updated"), &json!(2)));
    let bytes = pushed["bytes_sent"].as_u64().unwrap();
    assert!(bytes < 4000, "{pushed}");
    let pulled = json(&sandbox, &["-C", "a", "pull", "--json"]);
    assert_eq!((&pulled["merge"], &pulled["round_trips"]), (&json!("fast-forward"), &json!(2)));
    let format = std::fs::metadata(sandbox.path("remotes/shop/format")).unwrap().len();
    assert_eq!(pulled["bytes_received"], bytes + format, "what was written is what is read");
    assert_eq!(sandbox.run(&["-C", "a", "get", "t", "k"]).ok(), "2\n");
    let nothing = json(&sandbox, &["-C", "a", "fetch", "--json"]);
    assert_eq!((&nothing["chunks"], &nothing["round_trips"]), (&json!(0), &json!(1)));
    assert_eq!(json(&sandbox, &["-C", "a", "push", "--json"])["refs"][0]["status"], "unchanged");
}

#[test]
fn a_push_that_is_no_fast_forward_is_refused_and_what_it_says_helps() {
    let (sandbox, url) = sandbox();
    sandbox.run(&["-C", "a", "push"]).ok();
    sandbox.run(&["clone", &url, "b"]).ok();
    commit(&sandbox, "a", "from", "a");
    sandbox.run(&["-C", "a", "push"]).ok();
    commit(&sandbox, "b", "too", "b");
    let refused = sandbox.run(&["-C", "b", "push", "--json"]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("pull"), "{}", refused.stderr);
    assert_eq!(serde_json::from_str::<Value>(&refused.stdout).unwrap()["refs"][0]["status"], "rejected");
    assert_eq!(json(&sandbox, &["-C", "b", "pull", "--json"])["merge"], "merged");
    sandbox.run(&["-C", "b", "tag", "v1"]).ok();
    sandbox.run(&["-C", "b", "push", "--all", "--tags"]).ok();
    sandbox.run(&["-C", "a", "pull"]).ok();
    assert_eq!(sandbox.run(&["-C", "a", "get", "t", "too", "--at", "v1"]).ok(), "b\n");
}

#[test]
fn what_is_wrong_with_a_directory_is_said_with_the_status_for_it() {
    let (sandbox, url) = sandbox();
    let nothing = sandbox.run(&["clone", &url, "b"]).fails(1);
    assert!(nothing.contains("there is no remote") && !sandbox.path("b").exists(), "{nothing}");
    sandbox.write("full/thesis.txt", "mine");
    let full = format!("file://{}", sandbox.path("full").display());
    sandbox.run(&["-C", "a", "remote", "add", "full", &full]).ok();
    let refused = sandbox.run(&["-C", "a", "push", "full"]).fails(1);
    assert!(refused.contains("thesis.txt"), "{refused}");
    assert_eq!(files(&sandbox.path("full")).len(), 1, "nothing was written into it");
    for bad in ["file://shop", "s3://key:secret@bucket/x", "ftp://host/x"] {
        sandbox.run(&["-C", "a", "remote", "add", "bad", bad]).fails(2);
    }
    sandbox.run(&["-C", "a", "push"]).ok();
    let manifest = files(&sandbox.path("remotes/shop/manifest")).remove(0);
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    let damaged = sandbox.run(&["clone", &url, "b"]).fails(3);
    assert!(damaged.contains("/18446744073709551/615 is damaged"), "{damaged}");
    assert!(!sandbox.path("b").exists());
}

#[test]
fn a_remote_that_is_removed_is_forgotten() {
    let (sandbox, _) = sandbox();
    sandbox.run(&["-C", "a", "push"]).ok();
    sandbox.run(&["-C", "a", "remote", "remove", "origin"]).ok();
    sandbox.run(&["-C", "a", "show", "remotes/origin/main"]).fails(1);
    let other = format!("file://{}", sandbox.path("other").display());
    sandbox.run(&["-C", "a", "remote", "add", "origin", &other]).ok();
    assert_eq!(json(&sandbox, &["-C", "a", "push", "--json"])["refs"][0]["status"], "new");
}

#[test]
fn a_push_that_is_killed_leaves_nothing_half_and_is_repeated() {
    let (sandbox, url) = sandbox();
    // Little that compresses, so that a push takes a while and is no inline pack.
    let mut word = 1u64;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{:016x}", word >> 3)
    };
    let lines: Vec<String> = (0..4000).map(|n| format!("{n},{}{}{}", next(), next(), next())).collect();
    sandbox.write("rows.csv", &format!("k,v\n{}\n", lines.join("\n")));
    sandbox.run(&["-C", "a", "import", "rows", "rows.csv", "--key", "k", "--commit", "rows"]).ok();
    let remote = sandbox.path("remotes/shop");
    let temporary = remote.join(".pleach-temporary");
    let mut killed = 0;
    // When it has begun; when something is being written; when the format, and when the pack is there.
    for there in [&remote, &temporary, &remote.join("format"), &remote.join("pack")] {
        let mut push = sandbox.command(&["-C", "a", "push"]).spawn().unwrap();
        while push.try_wait().unwrap().is_none() {
            if there.exists() {
                // It may have ended in this moment.
                let _ = push.kill();
            }
        }
        killed += usize::from(!push.wait().unwrap().success());
        // Whoever looks finds nothing, or everything.
        let clone = sandbox.run(&["clone", &url, "early"]);
        assert!(clone.status == 0 || clone.stderr.contains("there is no remote"), "{}", clone.stderr);
        let _ = std::fs::remove_dir_all(sandbox.path("early"));
    }
    println!("{killed} of 4 pushes killed");
    sandbox.run(&["-C", "a", "push"]).ok();
    assert_eq!(files(&remote.join("manifest")).len(), 1, "it was done once");
    sandbox.run(&["clone", &url, "b"]).ok();
    let rows = |dir: &str| sandbox.run(&["-C", dir, "export", "rows"]).ok();
    assert_eq!(rows("b"), rows("a"));
    sandbox.run(&["-C", "b", "fsck"]).ok();
}

#[test]
fn a_read_replica_follows_a_directory() {
    let (sandbox, url) = sandbox();
    sandbox.run(&["-C", "a", "push"]).ok();
    sandbox.run(&["clone", &url, "r/db"]).ok();
    let config = "data_dir: r\nlistener: {host: 127.0.0.1, port: 0}\nreplication: {read_replica_remote: origin, replicate_heads: main}\n";
    sandbox.write("r.yaml", config);
    let replica = sandbox.serve(&["--config", "r.yaml"]);
    for value in ["2", "3"] {
        commit(&sandbox, "a", "k", value);
        sandbox.run(&["-C", "a", "push"]).ok();
        assert_eq!(sandbox.run(&replica.args("db", &["get", "t", "k"])).ok(), format!("{value}\n"));
    }
}

#[test]
fn a_remote_is_compacted_and_collected() {
    let (sandbox, _) = sandbox();
    let remote = sandbox.path("remotes/shop");
    let packs = || files(&remote.join("pack")).len() as u64;
    let done = |args: &[&str]| json(&sandbox, &[&["-C", "a", "remote"], args, &["--json"]].concat());
    let nothing = sandbox.run(&["-C", "a", "remote", "compact"]).fails(1);
    assert!(nothing.contains("push to it first"), "{nothing}");
    for i in 0..3 {
        // Each is larger, so that none is too large to become one with those after it.
        commit(&sandbox, "a", "k", &noise(i, 80_000 + 20_000 * i));
        sandbox.run(&["-C", "a", "push"]).ok();
    }
    assert_eq!(packs(), 3);
    let compacted = done(&["compact"]);
    assert_eq!(
        (&compacted["packs"], &compacted["retired"], &compacted["removed"]),
        (&json!(1), &json!(3), &json!(0))
    );
    assert_eq!(packs(), 4, "whoever reads them can go on for a day");
    let compacted = done(&["compact", "origin", "--now"]);
    assert_eq!(
        (&compacted["packs"], &compacted["retired"], &compacted["removed"]),
        (&json!(1), &json!(0), &json!(3))
    );
    assert_eq!(packs(), 1);
    // What a push by force replaced is kept until it is collected.
    let bytes = |dir: &Path| files(dir).iter().map(|file| file.metadata().unwrap().len()).sum::<u64>();
    sandbox.run(&["-C", "a", "reset", "HEAD~3", "--hard"]).ok();
    commit(&sandbox, "a", "k", "instead");
    sandbox.run(&["-C", "a", "push", "--force"]).ok();
    done(&["compact", "--now"]);
    assert!(bytes(&remote.join("pack")) > 150_000);
    let line = sandbox.run(&["-C", "a", "remote", "collect", "--now"]).ok();
    assert!(line.starts_with("1 pack, ") && line.contains("0 to be removed later"), "{line}");
    assert!(bytes(&remote.join("pack")) < 20_000);
    sandbox.run(&["clone", &format!("file://{}", remote.display()), "b"]).ok();
    assert_eq!(sandbox.run(&["-C", "b", "get", "t", "k"]).ok(), "instead\n");
    // Whoever has not everything that is there cannot rewrite it.
    sandbox.run(&["init", "c"]).ok();
    sandbox.run(&["-C", "c", "remote", "add", "origin", &format!("file://{}", remote.display())]).ok();
    let refused = sandbox.run(&["-C", "c", "remote", "collect"]).fails(2);
    assert!(refused.contains("fetch, then try again"), "{refused}");
    let unknown = sandbox.run(&["-C", "c", "remote", "compact", "other"]).fails(1);
    assert!(unknown.contains("no remote `other`"), "{unknown}");
}

/// A value that does not compress and is no small push.
fn noise(seed: u64, chars: u64) -> String {
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 58) as u8)
    };
    (0..chars).map(|_| next()).collect()
}

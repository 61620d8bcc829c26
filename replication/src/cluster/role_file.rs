//! The durable standing of a node: one small file in its data directory, replaced as a whole. This file holds the only description of
//! its bytes.
//!
//! The file is called `cluster.role`, which no database can be called. 96 bytes, little-endian:
//!
//! ```text
//!  0   8 bytes   "plchrole"
//!  8   u32       version, 2
//! 12   u8        role: 1 primary, 2 standby, 3 detected_broken_config
//! 13   u8        1 if this node took writes in some epoch, else 0
//! 14   2 bytes   zero
//! 16   u64       epoch
//! 24   16 bytes  this node
//! 40   16 bytes  the primary of this epoch, see `Standing::leader`; zero if it is not known
//! 56   u64       the last epoch in which this node took writes, or zero
//! 64   32 bytes  BLAKE3-256 of what stands before
//! ```
//!
//! Invariants, held by the tests below:
//! 1. At every moment, a crash included, the file is the old standing or the new one: it is written beside, synced, renamed into
//!    place, and the directory is synced before [`RoleFile::write`] returns.
//! 2. A file that is not exactly this is an error, never a default: a node that forgot its epoch could accept a fenced primary.
//! 3. What the configuration says counts only if there is no file.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pleach_engine::Hash;

use crate::cluster::role::{Epoch, NodeId, Role, Standing, State};
use crate::error::{Error, Result};

const NAME: &str = "cluster.role";
const UNFINISHED: &str = "cluster.role.new";
const MAGIC: &[u8; 8] = b"plchrole";
const VERSION: u32 = 2;
const ROLE: usize = 12;
const HAS_LED: usize = 13;
const EPOCH: usize = 16;
const NODE: usize = 24;
const LEADER: usize = 40;
const LED: usize = 56;
const CHECKSUM: usize = 64;
const LEN: usize = CHECKSUM + Hash::LEN;

/// What the file says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) standing: Standing,
    /// The last epoch in which it took writes.
    pub(crate) led: Option<Epoch>,
}

impl From<&State> for Record {
    fn from(state: &State) -> Record {
        Record { standing: state.standing, led: state.led }
    }
}

/// The file.
pub(crate) struct RoleFile {
    dir: PathBuf,
}

/// A step of [`RoleFile::write`] after which a crash can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Written,
    Synced,
    Renamed,
}

impl RoleFile {
    /// Reads the file in `dir`, and begins with what it says; if there is none, makes it with the state that `bootstrap` gives for a
    /// new node.
    pub(crate) fn open(
        dir: &Path,
        bootstrap: impl FnOnce(NodeId) -> State,
        restart: impl FnOnce(NodeId, Record) -> State,
    ) -> Result<(RoleFile, State)> {
        fs::create_dir_all(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        let path = dir.join(NAME);
        match fs::read(&path) {
            Ok(bytes) => {
                let (node, record) = decode(&bytes).map_err(|what| Error::DamagedRole { path, what })?;
                Ok((RoleFile { dir: dir.to_owned() }, restart(node, record)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = RoleFile { dir: dir.to_owned() };
                let state = bootstrap(new_node());
                file.write(&state)?;
                Ok((file, state))
            }
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    /// Makes what is durable of `state` so. After an error the file holds the old record or the new one.
    pub(crate) fn write(&self, state: &State) -> Result<()> {
        self.write_until(state, |_| Ok(()))
    }

    fn write_until(&self, state: &State, crash: impl Fn(Step) -> io::Result<()>) -> Result<()> {
        let (path, unfinished) = (self.dir.join(NAME), self.dir.join(UNFINISHED));
        let replace = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&encode(state.me, &state.into()))?;
            crash(Step::Written)?;
            file.sync_all()?;
            crash(Step::Synced)?;
            fs::rename(&unfinished, &path)?;
            crash(Step::Renamed)?;
            File::open(&self.dir)?.sync_all()
        };
        replace().map_err(|source| Error::Io { path: path.clone(), source })
    }
}

/// A node id that no other node has: from the system's random keys, the time, and this process.
fn new_node() -> NodeId {
    let mut seed = Vec::new();
    for _ in 0..4 {
        seed.extend_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    seed.extend_from_slice(&now.to_le_bytes());
    seed.extend_from_slice(&std::process::id().to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&Hash::of(&seed).as_bytes()[..16]);
    NodeId(id)
}

fn encode(node: NodeId, Record { standing, led }: &Record) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..ROLE].copy_from_slice(&VERSION.to_le_bytes());
    bytes[ROLE] = match standing.role {
        Role::Primary => 1,
        Role::Standby => 2,
        Role::DetectedBrokenConfig => 3,
    };
    bytes[HAS_LED] = led.is_some().into();
    bytes[EPOCH..NODE].copy_from_slice(&standing.epoch.0.to_le_bytes());
    bytes[NODE..LEADER].copy_from_slice(&node.0);
    bytes[LEADER..LED].copy_from_slice(&standing.leader.map_or([0; 16], |leader| leader.0));
    bytes[LED..CHECKSUM].copy_from_slice(&led.map_or(0, |led| led.0).to_le_bytes());
    let checksum = Hash::of(&bytes[..CHECKSUM]);
    bytes[CHECKSUM..].copy_from_slice(checksum.as_bytes());
    bytes
}

/// What the bytes say, or what is wrong with them.
fn decode(bytes: &[u8]) -> Result<(NodeId, Record), String> {
    if !bytes.starts_with(MAGIC) {
        return Err("it does not begin with `plchrole`".into());
    }
    let version = bytes.get(MAGIC.len()..ROLE).map(le);
    if version != Some(u64::from(VERSION)) {
        let version = version.map_or("missing".to_owned(), |version| version.to_string());
        return Err(format!("its version is {version}, this program reads {VERSION}"));
    }
    let Some(bytes) = bytes.first_chunk::<LEN>().filter(|_| bytes.len() == LEN) else {
        return Err(format!("it has {} bytes, expected {LEN}", bytes.len()));
    };
    let checksum = Hash::of(&bytes[..CHECKSUM]);
    if checksum.as_bytes()[..] != bytes[CHECKSUM..] {
        return Err("its checksum does not match".into());
    }
    let role = match bytes[ROLE] {
        1 => Role::Primary,
        2 => Role::Standby,
        3 => Role::DetectedBrokenConfig,
        other => return Err(format!("role {other}, expected 1 to 3")),
    };
    let led = Epoch(le(&bytes[LED..CHECKSUM]));
    let led = match bytes[HAS_LED] {
        0 if led.0 == 0 => None,
        1 => Some(led),
        other => return Err(format!("byte 13 is {other}, and the epoch that it led {led}")),
    };
    if bytes[HAS_LED + 1..EPOCH] != [0; 2] {
        return Err("bytes 14 and 15 are not zero".into());
    }
    let leader = id(&bytes[LEADER..LED]);
    let standing = Standing {
        role,
        epoch: Epoch(le(&bytes[EPOCH..NODE])),
        leader: (leader.0 != [0; 16]).then_some(leader),
    };
    Ok((id(&bytes[NODE..LEADER]), Record { standing, led }))
}

/// At most eight bytes as a number, lowest first.
fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn id(bytes: &[u8]) -> NodeId {
    let mut id = [0; 16];
    id.copy_from_slice(bytes);
    NodeId(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    use crate::cluster::role::Quorum;

    fn state(me: NodeId, role: Role, epoch: u64) -> State {
        State::start(me, Standing { role, epoch: Epoch(epoch), leader: None }, None, Quorum::new(1, 0), true)
    }

    fn restart(me: NodeId, Record { standing, led }: Record) -> State {
        State { led, ..State::start(me, standing, led, Quorum::new(1, 0), true) }
    }

    fn never(_: NodeId) -> State {
        panic!("the configuration counts only if there is no file")
    }

    #[test]
    fn golden_bytes_of_a_role_file() {
        let leader = Some(NodeId([0x22; 16]));
        let standing = Standing { role: Role::Standby, epoch: Epoch(0x0102), leader };
        let record = Record { standing, led: Some(Epoch(0x0304)) };
        let bytes = encode(NodeId([0x11; 16]), &record);
        let golden = [
            &b"plchrole"[..],
            &[2, 0, 0, 0, 2, 1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0],
            &[0x11; 16],
            &[0x22; 16],
            &[4, 3, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes[..CHECKSUM], golden);
        assert_eq!(bytes[CHECKSUM..], Hash::of(&golden).as_bytes()[..]);
        assert_eq!(decode(&bytes), Ok((NodeId([0x11; 16]), record)));
    }

    #[test]
    fn c5_a_persisted_role_wins_over_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (file, first) = RoleFile::open(dir.path(), |me| state(me, Role::Primary, 1), restart).unwrap();
        assert_eq!(first.led, Some(Epoch(1)));
        let next = state(first.me, Role::Standby, 10);
        file.write(&next).unwrap();
        assert_eq!(RoleFile::open(dir.path(), never, restart).unwrap().1, next);
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_standing_or_the_new_one() {
        for step in [Step::Written, Step::Synced, Step::Renamed] {
            let dir = tempfile::tempdir().unwrap();
            let (file, old) = RoleFile::open(dir.path(), |me| state(me, Role::Primary, 1), restart).unwrap();
            let new = state(old.me, Role::Standby, 2);
            let crash = |at| if at == step { Err(io::Error::other("crash")) } else { Ok(()) };
            assert!(file.write_until(&new, crash).is_err());
            let expected = if step == Step::Renamed { &new } else { &old };
            assert_eq!(RoleFile::open(dir.path(), never, restart).unwrap().1, *expected, "{step:?}");
            // What the crash left behind does not hinder the next change.
            file.write(&new).unwrap();
            assert_eq!(RoleFile::open(dir.path(), never, restart).unwrap().1, new);
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_never_a_default() {
        let dir = tempfile::tempdir().unwrap();
        RoleFile::open(dir.path(), |me| state(me, Role::Standby, 7), restart).unwrap();
        let path = dir.path().join(NAME);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            let error = RoleFile::open(dir.path(), never, restart).err().unwrap();
            assert!(error.to_string().contains(NAME), "byte {at}: {error}");
        }
        for cut in [0, 1, good.len() - 1] {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(
                matches!(RoleFile::open(dir.path(), never, restart), Err(Error::DamagedRole { .. })),
                "{cut} bytes"
            );
        }
    }

    #[test]
    fn two_nodes_choose_different_ids() {
        assert_ne!(new_node(), new_node());
    }
}

//! The durable standing of a node: one small file in its data directory, replaced as a whole. This file holds the only description of
//! its bytes.
//!
//! The file is called `cluster.role`, which no database can be called. 72 bytes, little-endian:
//!
//! ```text
//!  0   8 bytes   "plchrole"
//!  8   u32       version, 1
//! 12   u8        role: 1 primary, 2 standby, 3 detected_broken_config
//! 13   3 bytes   zero
//! 16   u64       epoch
//! 24   16 bytes  this node
//! 40   16 bytes  the primary of this epoch; zero if it is not known
//! 56   32 bytes  BLAKE3-256 of what stands before
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

use crate::error::{Error, Result};
use crate::role::{Epoch, NodeId, Role, Standing};

const NAME: &str = "cluster.role";
const UNFINISHED: &str = "cluster.role.new";
const MAGIC: &[u8; 8] = b"plchrole";
const VERSION: u32 = 1;
const ROLE: usize = 12;
const EPOCH: usize = 16;
const NODE: usize = 24;
const LEADER: usize = 40;
const CHECKSUM: usize = 56;
const LEN: usize = CHECKSUM + Hash::LEN;

/// The file, and what it says.
pub(crate) struct RoleFile {
    dir: PathBuf,
    node: NodeId,
}

/// A step of [`RoleFile::write`] after which a crash can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Written,
    Synced,
    Renamed,
}

impl RoleFile {
    /// Reads the file in `dir`; if there is none, makes it with the standing that `bootstrap` gives for a new node.
    pub(crate) fn open(
        dir: &Path,
        bootstrap: impl FnOnce(NodeId) -> Standing,
    ) -> Result<(RoleFile, Standing)> {
        fs::create_dir_all(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        let path = dir.join(NAME);
        match fs::read(&path) {
            Ok(bytes) => {
                let (node, standing) = decode(&bytes).map_err(|what| Error::DamagedRole { path, what })?;
                Ok((RoleFile { dir: dir.to_owned(), node }, standing))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = RoleFile { dir: dir.to_owned(), node: new_node() };
                let standing = bootstrap(file.node);
                file.write(&standing)?;
                Ok((file, standing))
            }
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    /// Who this node is.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Makes `standing` durable. After an error the file holds the old standing or the new one.
    pub(crate) fn write(&self, standing: &Standing) -> Result<()> {
        self.write_until(standing, |_| Ok(()))
    }

    fn write_until(&self, standing: &Standing, crash: impl Fn(Step) -> io::Result<()>) -> Result<()> {
        let (path, unfinished) = (self.dir.join(NAME), self.dir.join(UNFINISHED));
        let replace = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&encode(self.node, standing))?;
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

fn encode(node: NodeId, standing: &Standing) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..ROLE].copy_from_slice(&VERSION.to_le_bytes());
    bytes[ROLE] = match standing.role {
        Role::Primary => 1,
        Role::Standby => 2,
        Role::DetectedBrokenConfig => 3,
    };
    bytes[EPOCH..NODE].copy_from_slice(&standing.epoch.0.to_le_bytes());
    bytes[NODE..LEADER].copy_from_slice(&node.0);
    bytes[LEADER..CHECKSUM].copy_from_slice(&standing.leader.map_or([0; 16], |leader| leader.0));
    let checksum = Hash::of(&bytes[..CHECKSUM]);
    bytes[CHECKSUM..].copy_from_slice(checksum.as_bytes());
    bytes
}

/// What the bytes say, or what is wrong with them.
fn decode(bytes: &[u8]) -> Result<(NodeId, Standing), String> {
    let Some(bytes) = bytes.first_chunk::<LEN>().filter(|_| bytes.len() == LEN) else {
        return Err(format!("it has {} bytes, expected {LEN}", bytes.len()));
    };
    if !bytes.starts_with(MAGIC) {
        return Err("it does not begin with `plchrole`".into());
    }
    let version = u64::from(le(&bytes[MAGIC.len()..ROLE]) as u32);
    if version != u64::from(VERSION) {
        return Err(format!("its version is {version}, this program reads {VERSION}"));
    }
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
    if bytes[ROLE + 1..EPOCH] != [0; 3] {
        return Err("bytes 13 to 15 are not zero".into());
    }
    let leader = id(&bytes[LEADER..CHECKSUM]);
    let standing = Standing {
        role,
        epoch: Epoch(le(&bytes[EPOCH..NODE])),
        leader: (leader.0 != [0; 16]).then_some(leader),
    };
    Ok((id(&bytes[NODE..LEADER]), standing))
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

    fn standing(role: Role, epoch: u64) -> Standing {
        Standing { role, epoch: Epoch(epoch), leader: None }
    }

    fn never(_: NodeId) -> Standing {
        panic!("the configuration counts only if there is no file")
    }

    #[test]
    fn golden_bytes_of_a_role_file() {
        let leader = Some(NodeId([0x22; 16]));
        let at = Standing { role: Role::Standby, epoch: Epoch(0x0102), leader };
        let bytes = encode(NodeId([0x11; 16]), &at);
        let golden =
            [&b"plchrole"[..], &[1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0], &[0x11; 16], &[0x22; 16]]
                .concat();
        assert_eq!(bytes[..CHECKSUM], golden);
        assert_eq!(bytes[CHECKSUM..], Hash::of(&golden).as_bytes()[..]);
        assert_eq!(decode(&bytes), Ok((NodeId([0x11; 16]), at)));
    }

    #[test]
    fn c5_a_persisted_role_wins_over_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (file, first) = RoleFile::open(dir.path(), |_| standing(Role::Primary, 1)).unwrap();
        assert_eq!(first, standing(Role::Primary, 1));
        file.write(&standing(Role::Standby, 10)).unwrap();
        let (again, found) = RoleFile::open(dir.path(), never).unwrap();
        assert_eq!((again.node(), found), (file.node(), standing(Role::Standby, 10)));
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_standing_or_the_new_one() {
        let (old, new) = (standing(Role::Primary, 1), standing(Role::Standby, 2));
        for step in [Step::Written, Step::Synced, Step::Renamed] {
            let dir = tempfile::tempdir().unwrap();
            let (file, _) = RoleFile::open(dir.path(), |_| old).unwrap();
            let crash = |at| if at == step { Err(io::Error::other("crash")) } else { Ok(()) };
            assert!(file.write_until(&new, crash).is_err());
            let expected = if step == Step::Renamed { new } else { old };
            assert_eq!(RoleFile::open(dir.path(), never).unwrap().1, expected, "{step:?}");
            // What the crash left behind does not hinder the next change.
            file.write(&new).unwrap();
            assert_eq!(RoleFile::open(dir.path(), never).unwrap().1, new);
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_never_a_default() {
        let dir = tempfile::tempdir().unwrap();
        let (_, _) = RoleFile::open(dir.path(), |_| standing(Role::Standby, 7)).unwrap();
        let path = dir.path().join(NAME);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            let error = RoleFile::open(dir.path(), never).err().unwrap();
            assert!(error.to_string().contains(NAME), "byte {at}: {error}");
        }
        for cut in [0, 1, good.len() - 1] {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(
                matches!(RoleFile::open(dir.path(), never), Err(Error::DamagedRole { .. })),
                "{cut} bytes"
            );
        }
    }

    #[test]
    fn two_nodes_choose_different_ids() {
        assert_ne!(new_node(), new_node());
    }
}

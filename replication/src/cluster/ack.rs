//! Acknowledgement policies: how many standbys must have a write, and how surely, before whoever wrote is told that it is done; and what
//! becomes of a write that does not get there in time. Called by `cluster`, after a write is durable here.

use std::time::Duration;

use crate::limits::ACK_TIMEOUT;

/// How many standbys must have a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckCount {
    /// So many; 0: writes wait for nobody, and can be lost with the primary.
    Number(usize),
    /// Each of them.
    All,
}

/// How surely a standby must have a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckLevel {
    /// It has arrived there: a crash of that standby may still lose it.
    Received,
    /// It survives a crash there.
    Durable,
    /// Readers see it there. A standby makes a change visible in the step that makes it durable, so that this is the same.
    Applied,
}

/// What becomes of a write that not enough standbys have in time. It is durable on the primary, and goes on to the standbys, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTimeout {
    /// It succeeds, with a warning: it can be lost with the primary.
    Warn,
    /// It fails, with an error that says that its outcome is open.
    Error,
    /// It waits on.
    Block,
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckPolicy {
    /// How many standbys must have it.
    pub count: AckCount,
    /// How surely.
    pub level: AckLevel,
    /// How long that may take.
    pub timeout: Duration,
    /// What happens then.
    pub on_timeout: OnTimeout,
}

impl Default for AckPolicy {
    /// Writes wait for nobody.
    fn default() -> AckPolicy {
        AckPolicy {
            count: AckCount::Number(0),
            level: AckLevel::Durable,
            timeout: ACK_TIMEOUT,
            on_timeout: OnTimeout::Warn,
        }
    }
}

impl AckPolicy {
    /// How many of `peers` standbys must have a write.
    pub(crate) fn needed(&self, peers: usize) -> usize {
        match self.count {
            AckCount::Number(number) => number,
            AckCount::All => peers,
        }
    }

    /// Why a write that was acknowledged can be lost with the primary, if it can.
    pub(crate) fn risk(&self) -> Option<&'static str> {
        match self {
            AckPolicy { count: AckCount::Number(0), .. } => Some(
                "writes wait for no standby (ack.count: 0): what was written just before the primary is lost can be lost with it",
            ),
            AckPolicy { level: AckLevel::Received, .. } => Some(
                "standbys acknowledge what is not durable there (ack.level: received): if they crash as well as the primary, \
                 acknowledged writes can be lost",
            ),
            AckPolicy { on_timeout: OnTimeout::Warn, .. } => Some(
                "a write that standbys do not have in time succeeds with a warning (ack.on_timeout: warn), and can be lost with the \
                 primary",
            ),
            _ => None,
        }
    }
}

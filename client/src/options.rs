//! How a client goes about it.

use std::time::Duration;

use pleach_protocol::Credential;

/// How reads are spread over the servers that can serve them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spread {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the one with the fewest calls of this client on their way.
    LeastOutstanding,
    /// To the one that kept this client's reads waiting least, lately: a server that is behind makes a read with a token wait, and so
    /// does one that is busy or far away. One read in sixteen goes to another, to see how that does.
    LeastLag,
}

/// How a client goes about it. `Options::default()` is a good start.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is shown to the servers, and whom to trust.
    pub credential: Credential,
    /// How reads are spread.
    pub spread: Spread,
    /// Keeps reads away from the primary, once it is known, as long as another server can serve them.
    pub spare_primary: bool,
    /// Reads see the writes of this client. Without, a read is answered at once with whatever its server has.
    pub read_your_writes: bool,
    /// How long a server may wait until it has the write of a read's token, before the read goes to another one; at most 10 s.
    pub token_wait: Duration,
    /// How often one call is tried at most, on all servers together.
    pub tries_max: u32,
    /// How long one call is tried again at most. A try that is under way is not cut off by this.
    pub time_max: Duration,
    /// How long one try outside a transaction may take until it is answered, or its answer begins; of a write that is given up it is unknown whether it was done. Without, as long as the
    /// server gives a sign of life: work of any length is waited for.
    pub try_max: Option<Duration>,
    /// The pause before all servers are tried again; it doubles each time, up to a second.
    pub pause: Duration,
    /// How long a server that could not be reached is left out; it doubles each time, up to sixteen times this.
    pub leave_out: Duration,
    /// How long a transaction may do nothing before its server rolls it back; at most, and by default, five minutes.
    pub idle_max: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            credential: Credential::default(),
            spread: Spread::default(),
            spare_primary: false,
            read_your_writes: true,
            token_wait: Duration::from_secs(2),
            tries_max: 64,
            time_max: Duration::from_secs(30),
            try_max: None,
            pause: Duration::from_millis(20),
            leave_out: Duration::from_secs(1),
            idle_max: None,
        }
    }
}

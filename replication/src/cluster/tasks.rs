//! What goes on while a node runs: to lead each of its standbys, or forward to it, and to look after keys, databases and what is kept for standbys.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::Inner;
use super::peer::Peer;
use super::role::{Role, Standing};
use super::session::{self, Forward};
use crate::error::Error;
use crate::limits::{BACK_OFF, HEAR, LOOK_FOR_DATABASES, MEASURE_PINS};

/// Leads one standby whenever this node is primary, or forwards to it.
pub(super) async fn lead(inner: Arc<Inner>, peer: Arc<Peer>) {
    let (node, mut standings) = (&inner.node, inner.node.changes());
    let forwards =
        |standing: &Standing| inner.cascade && standing.role == Role::Standby && standing.leader.is_some();
    loop {
        // The sender lives as long as the node.
        let leads = standings.wait_for(|standing| standing.role == Role::Primary || forwards(standing));
        let standing = match leads.await {
            Ok(standing) => *standing,
            Err(_) => return,
        };
        peer.reset();
        tokio::select! {
            () = lead_in(&inner, &peer, standing) => {}
            () = node.left(standing) => {}
        }
        peer.let_go();
    }
}

/// Leads one standby, connecting again and again.
async fn lead_in(inner: &Inner, peer: &Peer, standing: Standing) {
    let mut pause = BACK_OFF.0;
    loop {
        let progress = peer.progress();
        let mut feeds = inner.node.feeds();
        let error = match standing.role {
            Role::Primary => {
                session::run(&inner.node, peer, &inner.tracked, standing, &inner.greeting, None).await
            }
            _ => forward(inner, peer, standing).await,
        };
        if matches!(error, Error::Superseded) {
            // What comes here comes by another way now: it is forwarded from there on.
            continue;
        }
        if standing.role == Role::Standby && forwards_needlessly(&error) {
            if peer.needs_nothing(&error) {
                tracing::info!(standby = peer.name(), "nothing is sent to a standby: {error}");
            }
            // Who is fed by another may lose that; who feeds this node does not change before that does.
            let again = match error {
                Error::Loop { .. } => Duration::MAX,
                _ => BACK_OFF.1,
            };
            tokio::select! {
                () = tokio::time::sleep(again) => {}
                // The sender lives as long as the node.
                Ok(()) = feeds.changed() => {}
                () = peer.kicked() => {}
            }
            continue;
        }
        tracing::warn!(standby = peer.name(), %error, "replication to a standby was interrupted");
        peer.failed(&error);
        let came_on = progress.has_changed().unwrap_or(false);
        pause = if came_on { BACK_OFF.0 } else { (pause * 2).min(BACK_OFF.1) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = peer.kicked() => {}
        }
    }
}

/// Whether a standby does not take what this one forwards as it has it already: it feeds this one, or is fed by a way that is as short.
fn forwards_needlessly(error: &Error) -> bool {
    matches!(error, Error::Loop { .. } | Error::PeerRefused { code: Code::FailedPrecondition, .. })
}

/// Forwards to one standby, as long as changes come here by the same way.
async fn forward(inner: &Inner, peer: &Peer, standing: Standing) -> Error {
    let mut feeds = inner.node.feeds();
    // The sender lives as long as the node.
    let path = match feeds.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(feed)) => feed.path.clone(),
        _ => return Error::Superseded,
    };
    let forward = Forward { path: path.clone(), applied: inner.applied.clone() };
    let (greeting, tracked) = (&inner.greeting, &inner.tracked);
    tokio::select! {
        error = session::run(&inner.node, peer, tracked, standing, greeting, Some(forward)) => error,
        // While nothing comes, what is here is still to be forwarded.
        _ = feeds.wait_for(|feed| feed.as_ref().is_some_and(|feed| feed.path != path)) => Error::Superseded,
    }
}

/// Looks at what is kept for standbys that are behind, and lets go of what is too much.
pub(super) async fn measure(inner: Arc<Inner>) {
    let mut interval = tokio::time::interval(MEASURE_PINS);
    loop {
        interval.tick().await;
        let measuring = inner.clone();
        let measured = crate::blocking(move || {
            measuring.measure();
            Ok(())
        });
        if let Err(error) = measured.await {
            tracing::warn!(%error, "what is kept for standbys cannot be measured");
        }
    }
}

/// A primary that restarted hears its standbys. What it lost may take longer to come back: nobody waits for that but writes.
pub(super) async fn hear(inner: Arc<Inner>) {
    let waited = async {
        tokio::time::sleep(HEAR).await;
        inner.heard.send_replace(true);
        std::future::pending().await
    };
    let heard = tokio::select! {
        heard = inner.hear() => heard,
        never = waited => never,
    };
    if let Err(error) = heard {
        tracing::error!(%error, "this node takes no writes: what it is could not be made durable");
    }
    inner.heard.send_replace(true);
}

/// Keeps the keys that a peer publishes.
pub(super) async fn keep_keys(peer: Arc<Peer>) {
    let connect = || async {
        let connected = peer.connect().await.map_err(|error| error.to_string())?;
        Ok(connected.0)
    };
    peer.keys().clone().keep(peer.name(), connect).await;
}

/// Looks for databases that were made or dropped.
pub(super) async fn look(inner: Arc<Inner>) {
    let mut interval = tokio::time::interval(LOOK_FOR_DATABASES);
    let mut dropped = inner.node.register_changes().subscribe();
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            // The sender lives as long as the node.
            Ok(()) = dropped.changed() => {}
        }
        let looking = inner.clone();
        if let Err(error) = crate::blocking(move || looking.tracked.look()).await {
            tracing::error!(%error, "cannot look for databases");
        }
    }
}

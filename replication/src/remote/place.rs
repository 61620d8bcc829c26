//! Where databases are pushed to that nobody gave a remote: they get one, by their name, and it is made when the first push goes there.
//!
//! A database has its remote from the moment that a primary follows it, whether or not that can be reached; that it was made there is what the notes of
//! pushes begin with. So both survive a restart, and who waits for the remote is who waits for the push.

use std::pin::Pin;

use pleach_protocol::RemoteUrl;

use crate::error::{Error, Result};
use crate::remote::primary::{Pusher, is_noted, note_pushed};

/// What a [`Place`] does when it makes something: an error says why it is not there.
pub type Making = Pin<Box<dyn Future<Output = std::result::Result<(), String>> + Send>>;

/// Where databases are pushed to that have no such remote.
pub trait Place: Send + Sync {
    /// The URL of the database called `name`.
    fn url(&self, name: &str) -> String;

    /// Makes what `url` names, if it is not there.
    fn make(&self, url: String) -> Making;
}

fn remote_key(remote: &str) -> String {
    format!("remote.{remote}.url")
}

impl Pusher {
    /// Gives the database its remote, if it has none and there is a place for it; gives its URL if it is that place's.
    pub(crate) fn settle_down(&self) -> Result<Option<String>> {
        let Some(place) = self.shared.place() else { return Ok(None) };
        let Some(_permit) = (self.config().permit)() else { return Ok(None) };
        let remote = &self.config().remote;
        let (url, key, placed) = (place.url(self.name()), remote_key(remote), format!("placed.{remote}.url"));
        let now = self.database.setting(&key)?;
        if now.as_ref() == Some(&url) {
            return Ok(Some(url));
        }
        if let Some(now) = &now {
            // Of another template, by which nothing was pushed yet: that may have been a mistake, and this its correction.
            let is_free = self.database.setting(&placed)?.as_ref() == Some(now)
                && !is_noted(&self.database, remote, &now.parse::<RemoteUrl>()?.to_string())?;
            if !is_free {
                return Ok(None);
            }
        }
        self.database.set_setting(&placed, Some(&url))?;
        self.database.set_setting(&key, Some(&url))?;
        tracing::info!(database = self.name(), remote, "is pushed to {url}");
        Ok(Some(url))
    }

    /// Makes the database at its place, unless it was.
    pub(crate) async fn begin_there(self: &std::sync::Arc<Pusher>) -> Result<()> {
        let Some(place) = self.shared.place() else { return Ok(()) };
        let pusher = self.clone();
        let to_make = crate::blocking(move || {
            let Some(url) = pusher.settle_down()? else { return Ok(None) };
            let shown = url.parse::<RemoteUrl>()?.to_string();
            let is_made = is_noted(&pusher.database, &pusher.config().remote, &shown)?;
            Ok((!is_made).then_some((url, shown)))
        });
        let Some((url, shown)) = to_make.await? else { return Ok(()) };
        place.make(url).await.map_err(|what| Error::NotMade { url: shown.clone(), what })?;
        let pusher = self.clone();
        crate::blocking(move || note_pushed(&pusher.database, &pusher.config().remote, &shown, &[])).await
    }
}

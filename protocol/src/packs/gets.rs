//! Gets many objects at a time, and gives them in the order in which they were asked for. So many cost one wait; few are in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Place;
use crate::error::{Error, Result};

/// Objects on their way.
pub(super) struct Gets {
    place: Place,
    bytes_max: usize,
    ahead: usize,
    /// Keys not asked for yet, the next one last.
    keys: Vec<String>,
    asked: VecDeque<JoinHandle<Result<Option<Bytes>>>>,
}

impl Gets {
    /// Will get `keys`, `ahead` at a time, each of at most `bytes_max` bytes.
    pub(super) fn new(place: &Place, mut keys: Vec<String>, ahead: usize, bytes_max: usize) -> Gets {
        keys.reverse();
        Gets { place: place.clone(), bytes_max, ahead, keys, asked: VecDeque::new() }
    }

    /// The next object; `None` in it if there is none under its key.
    ///
    /// # Errors
    /// Those of [`Objects::get`](crate::objects::Objects::get).
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.asked.len() < self.ahead {
            let Some(key) = self.keys.pop() else { break };
            let (objects, bytes_max) = (self.place.objects.clone(), self.bytes_max);
            self.asked.push_back(tokio::spawn(async move { objects.get(&key, bytes_max).await }));
        }
        match self.asked.pop_front() {
            Some(asked) => asked.await.map_err(|lost| Error::Lost { what: lost.to_string() })?,
            None => Ok(None),
        }
    }
}

impl Drop for Gets {
    fn drop(&mut self) {
        self.asked.iter().for_each(JoinHandle::abort);
    }
}

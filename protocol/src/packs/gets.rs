//! Gets many objects at a time, and gives them in the order in which they were asked for. So many cost one wait; few are in memory,
//! and of them all but one may be held to a smaller size.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Place;
use crate::error::{Error, Result};

type Asked = JoinHandle<Result<Option<Bytes>>>;

/// Objects on their way.
pub(super) struct Gets {
    place: Place,
    bytes_max: usize,
    /// Bytes of an object that is got beside others.
    bytes_beside: usize,
    ahead: usize,
    /// Keys not asked for yet, the next one last.
    keys: Vec<String>,
    asked: VecDeque<(String, Asked)>,
    /// Objects that were got alone.
    alone: u32,
}

impl Gets {
    /// Will get `keys`, `ahead` at a time, each of at most `bytes_max` bytes.
    pub(super) fn new(place: &Place, mut keys: Vec<String>, ahead: usize, bytes_max: usize) -> Gets {
        keys.reverse();
        let (place, asked) = (place.clone(), VecDeque::new());
        Gets { place, bytes_max, bytes_beside: bytes_max, ahead, keys, asked, alone: 0 }
    }

    /// Will get what has more than `bytes_beside` bytes once more, one at a time.
    pub(super) fn beside(mut self, bytes_beside: usize) -> Gets {
        self.bytes_beside = bytes_beside;
        self
    }

    /// The next object; `None` in it if there is none under its key.
    ///
    /// # Errors
    /// Those of [`Objects::get`](crate::objects::Objects::get).
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.asked.len() < self.ahead {
            let Some(key) = self.keys.pop() else { break };
            let (objects, asked, bytes_max) = (self.place.objects.clone(), key.clone(), self.bytes_beside);
            let get = tokio::spawn(async move { objects.get(&asked, bytes_max).await });
            self.asked.push_back((key, get));
        }
        let Some((key, asked)) = self.asked.pop_front() else { return Ok(None) };
        match asked.await.map_err(|lost| Error::Lost { what: lost.to_string() })? {
            Err(Error::Limit { .. }) if self.bytes_beside < self.bytes_max => {
                self.alone += 1;
                self.place.objects.get(&key, self.bytes_max).await
            }
            got => got,
        }
    }

    /// Waits beyond the first: objects that were got alone.
    pub(super) fn more_waits(&self) -> u32 {
        self.alone
    }
}

impl Drop for Gets {
    fn drop(&mut self) {
        self.asked.iter().for_each(|(_, asked)| asked.abort());
    }
}

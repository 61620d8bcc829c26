//! Writes what a remote lacks as packs: the messages of a [`Sender`], gathered into objects.
//!
//! A small difference becomes no object: it goes inline into the manifest, and who catches up needs nothing else.

use bytes::{Bytes, BytesMut};
use pleach_engine::{Database, Extent, Hash, difference};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Place;
use super::manifest::Pack;
use crate::error::{Error, Result};
use crate::flow::Tally;
use crate::limits::{INLINE_BYTES_MAX, PACK_BYTES, PACKS_AHEAD};
use crate::sender::Sender;
use crate::transfer::Transfer;

/// Writes what a holder of `bases` lacks of `targets`, for manifest `number`. Both stay here as long as the caller keeps them.
pub(super) async fn write(
    place: &Place,
    database: &Database,
    targets: Vec<Hash>,
    bases: Vec<Hash>,
    number: u64,
    transfer: &mut Transfer,
) -> Result<Vec<Pack>> {
    let (cut, mut received) = mpsc::channel(1);
    let thread = {
        let (database, tally) = (database.clone(), place.flow.begin());
        tokio::task::spawn_blocking(move || produce(&database, &targets, &bases, &cut, tally))
    };
    let (mut packs, mut puts) = (Vec::new(), Puts::new(place));
    while let Some((bytes, records)) = received.recv().await {
        let pack = pack(number, number, &bytes, records);
        puts.put(pack.key(), bytes, transfer).await?;
        packs.push(pack);
    }
    let (rest, counted) = thread.await.map_err(|lost| Error::Lost { what: lost.to_string() })??;
    if let Some((bytes, records)) = rest {
        let mut pack = pack(number, number, &bytes, records);
        if packs.is_empty() && bytes.len() <= INLINE_BYTES_MAX {
            pack.inline = Some(bytes);
        } else {
            puts.put(pack.key(), bytes, transfer).await?;
        }
        packs.push(pack);
    }
    puts.finish().await?;
    if let Some((tally, done)) = counted {
        tally.end(done);
    }
    transfer.chunks += packs.iter().map(|pack| pack.records).sum::<u64>();
    Ok(packs)
}

/// A pack with an object of its own, made for manifest `made`, of records up to those of manifest `last`.
pub(super) fn pack(made: u64, last: u64, bytes: &[u8], records: u64) -> Pack {
    Pack { made, hash: Hash::of(bytes), bytes: bytes.len() as u64, records, last, inline: None }
}

/// The bytes of a pack, and how many records they are.
type Cut = (Bytes, u64);

/// What there is to be told as done when all is put.
type Counted = (Tally, Extent);

/// Gives full packs to `cut`, and returns what is left, and what all was.
fn produce(
    database: &Database,
    targets: &[Hash],
    bases: &[Hash],
    cut: &mpsc::Sender<Cut>,
    mut tally: Tally,
) -> Result<(Option<Cut>, Option<Counted>)> {
    let difference = difference(database, targets, bases)?;
    let mut sender = Sender::new(database, difference)?.with_all(bases.is_empty());
    let (mut bytes, mut before, mut records) = (BytesMut::new(), 0, 0);
    while let Some(message) = sender.next_message()? {
        if !bytes.is_empty() && bytes.len() + message.len() > PACK_BYTES {
            let full = (std::mem::take(&mut bytes).freeze(), records - before);
            before = records;
            if cut.blocking_send(full).is_err() {
                // Who put the packs failed, and says so.
                return Ok((None, None));
            }
        }
        bytes.extend_from_slice(&message);
        records = sender.records();
        tally.at(sender.done(), sender.totals()?.map(|totals| totals.total));
    }
    let rest = (!bytes.is_empty()).then(|| (bytes.freeze(), records - before));
    Ok((rest, Some((tally, sender.done()))))
}

/// Puts of objects that nobody sees yet, a few at a time; together they are one wait.
pub(super) struct Puts {
    place: Place,
    running: JoinSet<Result<()>>,
    begun: bool,
}

impl Puts {
    pub(super) fn new(place: &Place) -> Puts {
        Puts { place: place.clone(), running: JoinSet::new(), begun: false }
    }

    /// Begins a put, when few enough run.
    pub(super) async fn put(&mut self, key: String, object: Bytes, transfer: &mut Transfer) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            transfer.round_trips += 1;
        }
        transfer.bytes_sent += object.len() as u64;
        while self.running.len() >= PACKS_AHEAD {
            self.one().await?;
        }
        let objects = self.place.objects.clone();
        self.running.spawn(async move { objects.put(&key, object).await });
        Ok(())
    }

    /// Waits for all.
    pub(super) async fn finish(mut self) -> Result<()> {
        while !self.running.is_empty() {
            self.one().await?;
        }
        Ok(())
    }

    async fn one(&mut self) -> Result<()> {
        match self.running.join_next().await {
            Some(put) => put.map_err(|lost| Error::Lost { what: lost.to_string() })?,
            None => Ok(()),
        }
    }
}

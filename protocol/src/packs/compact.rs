//! Keeps a remote small: writes manifests that have everything, merges packs, and lets go of what nobody needs.
//!
//! Packs that follow each other are merged by concatenation, never across the size of one pack, and only where the one before is at most
//! twice as large as what follows it: so sizes fall by half along the list, and a byte is rewritten a number of times that grows with the
//! logarithm of the whole. Merged packs are *retired*: noted with the time, and their objects removed by a later manifest, when readers
//! who had begun are done. Old manifests become tombstones.

use std::collections::HashSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pleach_engine::{Database, Hash};

use super::Place;
use super::gets::Gets;
use super::log::{self, View};
use super::manifest::{self, Change, Full, PACKS, Pack};
use super::position::{self, Refs};
use super::push::{Next, commit, now_millis};
use super::write::{self, Puts};
use crate::error::{Error, Result};
use crate::limits::{MANIFESTS_KEPT, PACK_BYTES, PACK_BYTES_MAX, PACKS_AHEAD, PUSH_ATTEMPTS, TRIM_MAX};
use crate::remote::Remote;
use crate::transfer::Transfer;

/// What a compaction or collection of a remote did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Packs that the remote now consists of.
    pub packs: usize,
    /// Bytes of packs written.
    pub bytes_written: u64,
    /// Packs that are noted as retired; their objects go when the grace is over.
    pub retired: usize,
    /// Objects of packs removed.
    pub removed: usize,
}

/// Merges what small packs have piled up at `remote`, notes packs that nothing names (of pushes that were cut), and removes those that
/// were noted longer than `grace` ago. Pushes do the same for packs that are named, each 64th of them.
///
/// # Errors
/// [`Error::NoUpkeep`] if the remote is a server; [`Error::Busy`].
pub async fn compact_remote(remote: &Remote, grace: Duration) -> Result<Compacted> {
    let place = place(remote)?;
    let mut transfer = Transfer::default();
    for _ in 0..PUSH_ATTEMPTS {
        let Some(view) = look(place, &mut transfer).await? else { continue };
        let mut done = full(place, &view, &view.refs, grace, &mut transfer).await?;
        note_unnamed(place, &view, &mut done).await?;
        let next = Next::after(&view, Vec::new());
        let compacted = done.compacted();
        if commit(place, &view, &next, Vec::new(), Some(done.full), &mut transfer).await?.is_some() {
            return Ok(compacted);
        }
    }
    Err(Error::Busy { url: place.url.clone(), attempts: PUSH_ATTEMPTS })
}

/// Rewrites `remote` from `database`, which has all its branches and tags: what forced and deleted refs left, also under `recovery/`, is
/// not in it any more. The old packs are retired as by [`compact_remote`].
///
/// # Errors
/// [`Error::NotFetched`] if a branch or tag of the remote is not in `database`; those of [`compact_remote`].
pub async fn collect_remote(database: &Database, remote: &Remote, grace: Duration) -> Result<Compacted> {
    let place = place(remote)?;
    let mut transfer = Transfer::default();
    let hold = database.store().hold();
    for _ in 0..PUSH_ATTEMPTS {
        let Some(view) = look(place, &mut transfer).await? else { continue };
        if let Some((name, _)) = position::public(&view.refs).find(|(_, hash)| !hold.keep(hash)) {
            return Err(Error::NotFetched { url: place.url.clone(), name: name.clone() });
        }
        let mut targets: Vec<Hash> = position::public(&view.refs).map(|(_, hash)| *hash).collect();
        targets.sort_unstable();
        targets.dedup();
        let mut packs =
            write::write(place, database, targets, Vec::new(), view.next(), &mut transfer).await?;
        let bytes_written = packs.iter().map(|pack| pack.bytes).sum();
        for pack in &mut packs {
            if let Some(inline) = pack.inline.take() {
                place.objects.put(&pack.key(), inline).await?;
            }
        }
        let (mut retired, removed) = sweep(place, &view, grace).await?;
        let now = now_millis();
        retired.extend(view.packs().filter(|pack| pack.inline.is_none()).map(|pack| (pack.clone(), now)));
        let kept = view.refs.iter().filter(|(name, _)| !position::is_public(name));
        let changes =
            kept.map(|(name, old)| Change { name: name.clone(), old: Some(*old), new: None, forced: false });
        let next = Next::after(&view, changes.collect());
        let trimmed = trim(place, &view, &mut transfer).await?;
        let refs = next.refs.iter().map(|(name, hash)| (name.clone(), *hash)).collect();
        let mut done = Done { full: Full { refs, packs, retired, trimmed }, bytes_written, removed };
        note_unnamed(place, &view, &mut done).await?;
        let compacted = done.compacted();
        if commit(place, &view, &next, Vec::new(), Some(done.full), &mut transfer).await?.is_some() {
            return Ok(compacted);
        }
    }
    Err(Error::Busy { url: place.url.clone(), attempts: PUSH_ATTEMPTS })
}

fn place(remote: &Remote) -> Result<&Place> {
    remote.place().ok_or_else(|| Error::NoUpkeep { url: remote.url().to_string() })
}

async fn look(place: &Place, transfer: &mut Transfer) -> Result<Option<View>> {
    match log::head(place, None, transfer).await? {
        Some(head) => log::whole(place, head, transfer).await,
        None => Err(log::nothing(place)),
    }
}

/// Everything that the next manifest is to say, and what was done for it.
pub(super) struct Done {
    pub(super) full: Full,
    bytes_written: u64,
    removed: usize,
}

impl Done {
    fn compacted(&self) -> Compacted {
        Compacted {
            packs: self.full.packs.len(),
            bytes_written: self.bytes_written,
            retired: self.full.retired.len(),
            removed: self.removed,
        }
    }
}

/// What the manifest after `view`, which was read whole, says if it has everything and leaves `refs`: packs merged, those due removed,
/// old manifests trimmed.
pub(super) async fn full(
    place: &Place,
    view: &View,
    refs: &Refs,
    grace: Duration,
    transfer: &mut Transfer,
) -> Result<Done> {
    let (mut retired, removed) = sweep(place, view, grace).await?;
    let now = now_millis();
    let (mut packs, mut puts, mut bytes_written) = (Vec::new(), Puts::new(place), 0);
    for run in runs(view.packs()) {
        if let [one] = run[..]
            && one.inline.is_none()
        {
            packs.push(one.clone());
            continue;
        }
        let bytes = concatenate(place, &run, transfer).await?;
        let records = run.iter().map(|pack| pack.records).sum();
        let last = run.iter().map(|pack| pack.last).max().unwrap_or_default();
        let pack = write::pack(view.next(), last, &bytes, records);
        bytes_written += pack.bytes;
        puts.put(pack.key(), bytes, transfer).await?;
        packs.push(pack);
        let own = run.iter().filter(|pack| pack.inline.is_none());
        retired.extend(own.map(|pack| ((*pack).clone(), now)));
    }
    puts.finish().await?;
    // Equal bytes have one key: what is named stays.
    let named: HashSet<String> = packs.iter().map(Pack::key).collect();
    retired.retain(|(pack, _)| !named.contains(&pack.key()));
    let trimmed = trim(place, view, transfer).await?;
    let refs = refs.iter().map(|(name, hash)| (name.clone(), *hash)).collect();
    Ok(Done { full: Full { refs, packs, retired, trimmed }, bytes_written, removed })
}

/// Which packs become one, in order: those inline, which are written anyway, and then what is small beside what follows it.
fn runs<'a>(packs: impl Iterator<Item = &'a Pack>) -> Vec<Vec<&'a Pack>> {
    let bytes = |run: &[&Pack]| run.iter().map(|pack| pack.bytes).sum::<u64>();
    let mut groups: Vec<Vec<&Pack>> = Vec::new();
    for pack in packs {
        match groups.last_mut() {
            Some(group)
                if pack.inline.is_some()
                    && group.iter().all(|pack| pack.inline.is_some())
                    && bytes(group) + pack.bytes <= PACK_BYTES as u64 =>
            {
                group.push(pack);
            }
            _ => groups.push(vec![pack]),
        }
    }
    let mut runs: Vec<Vec<&Pack>> = Vec::new();
    for mut run in groups {
        while let Some(before) = runs.pop_if(|before| {
            let (before, after) = (bytes(before), bytes(&run));
            before + after <= PACK_BYTES as u64 && before <= 2 * after
        }) {
            run.splice(0..0, before);
        }
        runs.push(run);
    }
    runs
}

async fn concatenate(place: &Place, run: &[&Pack], transfer: &mut Transfer) -> Result<Bytes> {
    let keys: Vec<String> = run.iter().filter(|pack| pack.inline.is_none()).map(|pack| pack.key()).collect();
    transfer.round_trips += u32::from(!keys.is_empty());
    let mut gets = Gets::new(place, keys, PACKS_AHEAD, PACK_BYTES_MAX);
    let mut bytes = BytesMut::new();
    for pack in run {
        match &pack.inline {
            Some(inline) => bytes.extend_from_slice(inline),
            None => {
                let key = pack.key();
                let object = gets.next().await?.ok_or_else(|| place.missing(&key))?;
                transfer.bytes_received += object.len() as u64;
                if !pack.is(&object) {
                    return Err(place.damaged(&key, Error::protocol("its bytes do not hash to its name")));
                }
                bytes.extend_from_slice(&object);
            }
        }
    }
    Ok(bytes.freeze())
}

/// Removes the packs that were noted longer than `grace` ago. Gives the others, and how many went.
async fn sweep(place: &Place, view: &View, grace: Duration) -> Result<(Vec<(Pack, i64)>, usize)> {
    let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    let due = now_millis().saturating_sub(grace);
    let (mut kept, mut removed) = (Vec::new(), 0);
    for (pack, millis) in view.full().into_iter().flat_map(|(_, full)| &full.retired) {
        if *millis <= due {
            // No manifest from the one that noted it on names it, and no later one will.
            place.objects.delete(&pack.key()).await?;
            removed += 1;
        } else {
            kept.push((pack.clone(), *millis));
        }
    }
    Ok((kept, removed))
}

/// Makes tombstones of manifests that nobody needs. Gives the number below which all are.
async fn trim(place: &Place, view: &View, transfer: &mut Transfer) -> Result<u64> {
    let from = view.full().map_or(0, |(_, full)| full.trimmed);
    let to = view.next().saturating_sub(MANIFESTS_KEPT).min(from.saturating_add(TRIM_MAX)).max(from);
    let mut puts = Puts::new(place);
    for number in from..to {
        puts.put(manifest::key(&view.name, number), manifest::tombstone(number), transfer).await?;
    }
    puts.finish().await?;
    Ok(to)
}

/// Notes the objects of packs that no manifest names: of a push that was cut, or of one that runs now, which will find this manifest in
/// its way and put its packs again.
async fn note_unnamed(place: &Place, view: &View, done: &mut Done) -> Result<()> {
    let named: HashSet<String> = (done.full.packs.iter())
        .chain(done.full.retired.iter().map(|(pack, _)| pack))
        .chain(view.packs())
        .map(Pack::key)
        .collect();
    let now = now_millis();
    for key in place.objects.list(PACKS, usize::MAX).await? {
        if let Some(pack) = unnamed(&key).filter(|pack| pack.key() == key && !named.contains(&key)) {
            done.full.retired.push((pack, now));
        }
    }
    Ok(())
}

/// The pack that a key says, as far as it does.
fn unnamed(key: &str) -> Option<Pack> {
    let (made, hash) = key.strip_prefix(PACKS)?.split_once('-')?;
    let hash: Hash = hash.parse().ok()?;
    Some(Pack { made: made.parse().ok()?, hash, bytes: 0, records: 0, last: 0, inline: None })
}

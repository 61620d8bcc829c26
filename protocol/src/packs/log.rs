//! Reads the log of manifests: where its head is, and what stands there.
//!
//! The one idea: one list finds the head, under the name that `format` says, and all other numbers follow from it. From where a database is, the manifests since then are
//! read at once; if that is unknown or long ago, those from the last one that has everything, which is every 64th.

use super::gets::Gets;
use super::manifest::{self, Change, Entry, Full, MANIFESTS, Manifest, Name, Pack};
use super::position::{self, Position, Refs};
use super::{Place, begin};
use crate::error::{Error, Result, within};
use crate::limits::{
    CATCH_UP_MAX, MANIFEST_BYTES_BESIDE, MANIFEST_BYTES_MAX, MANIFESTS_AHEAD, MANIFESTS_BYTES_MAX,
    MANIFESTS_TO_FULL, REFS_MAX,
};
use crate::transfer::Transfer;
use pleach_engine::Hash;

/// The newest manifest, by name and number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Head {
    pub(super) name: Name,
    pub(super) number: u64,
}

/// A remote as it was when its head was read.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: Name,
    /// Number of the head, and the hash of its object; `None` before the first.
    pub(super) head: Option<(u64, Hash)>,
    /// All refs; without those under `recovery/` if nothing that has everything was read.
    pub(super) refs: Refs,
    /// The manifests that were read, up to the head.
    pub(super) manifests: Vec<Manifest>,
    /// Whether the first of them has everything.
    pub(super) whole: bool,
}

impl View {
    /// A remote without a manifest.
    pub(super) fn empty(name: Name) -> View {
        View { name, head: None, refs: Refs::new(), manifests: Vec::new(), whole: true }
    }

    /// The number of the next manifest.
    pub(super) fn next(&self) -> u64 {
        self.head.map_or(0, |(number, _)| number + 1)
    }

    /// The last manifest that has everything, of those read, and what that is.
    pub(super) fn full(&self) -> Option<(u64, &Full)> {
        self.manifests.iter().rev().find_map(|manifest| Some((manifest.number, manifest.full.as_ref()?)))
    }

    /// All packs, in order: those of the last manifest that has everything, and those since.
    pub(super) fn packs(&self) -> impl Iterator<Item = &Pack> {
        let full = self.full();
        let from = full.map_or(0, |(number, _)| number);
        let before = full.into_iter().flat_map(|(_, full)| &full.packs);
        before.chain(self.packs_from(from))
    }

    /// The packs of the manifests read from `number` on.
    pub(super) fn packs_from(&self, number: u64) -> impl Iterator<Item = &Pack> {
        let manifests = self.manifests.iter().filter(move |manifest| manifest.number >= number);
        manifests.flat_map(|manifest| &manifest.packs)
    }
}

impl Place {
    /// `error` as damage of the object `key`; another format stays what it is.
    pub(super) fn damaged(&self, key: &str, error: Error) -> Error {
        let (url, key) = (self.url.clone(), key.to_owned());
        match error {
            Error::Protocol { what } => Error::DamagedRemote { url, key, what },
            error @ (Error::Limit { .. } | Error::BadRef { .. }) => {
                Error::DamagedRemote { url, key, what: error.to_string() }
            }
            other => other,
        }
    }

    /// An object that must be there is not.
    pub(super) fn missing(&self, key: &str) -> Error {
        self.damaged(key, Error::protocol("it is missing"))
    }
}

/// Finds the head, by one list and the name that is read at the same time; `None` if there is no manifest. `known` is the remote that it
/// probably is.
///
/// Manifests of another name lie there if the remote was removed and begun again, and somebody pushed who did not know: they are nobody's.
pub(super) async fn head(
    place: &Place,
    known: Option<&Name>,
    transfer: &mut Transfer,
) -> Result<Option<Head>> {
    transfer.round_trips += 1;
    let prefix = known.map_or_else(|| MANIFESTS.to_owned(), manifest::prefix);
    let (name, keys) = tokio::join!(begin::name(place), place.objects.list(&prefix, 1));
    let (name, keys) = (name?, keys?);
    let found = keys.first().and_then(|key| manifest::parse_key(key));
    let Some((name, bytes)) = name else {
        return if found.is_some() { Err(place.missing(begin::FORMAT)) } else { Ok(None) };
    };
    transfer.bytes_received += bytes;
    if let Some((name, number)) = found.filter(|(of, _)| *of == name) {
        return Ok(Some(Head { name, number }));
    }
    if known.is_none_or(|known| *known == name) && keys.is_empty() {
        return Ok(None);
    }
    transfer.round_trips += 1;
    let keys = place.objects.list(&manifest::prefix(&name), 1).await?;
    let Some(key) = keys.first() else { return Ok(None) };
    let (name, number) = manifest::parse_key(key)
        .ok_or_else(|| place.damaged(key, Error::protocol("its key is none of a manifest")))?;
    Ok(Some(Head { name, number }))
}

/// [`head`], and whether the manifest of `position` is still what it was, by the same wait.
pub(super) async fn head_and(
    place: &Place,
    position: Option<&Position>,
    transfer: &mut Transfer,
) -> Result<(Option<Head>, bool)> {
    let Some(position) = position else { return Ok((head(place, None, transfer).await?, false)) };
    let key = manifest::key(&position.name, position.number);
    let head = head(place, Some(&position.name), transfer);
    let (head, object) = tokio::join!(head, place.objects.get(&key, MANIFEST_BYTES_MAX));
    let object = object?;
    transfer.bytes_received += object.as_ref().map_or(0, |object| object.len() as u64);
    Ok((head?, object.is_some_and(|object| Hash::of(&object) == position.hash)))
}

/// The error of reading where there is no manifest.
pub(super) fn nothing(place: &Place) -> Error {
    Error::NothingThere { url: place.url.clone() }
}

/// Reads what is needed to know the remote at `head`, from `position` if that is of use. `None` if what was read was trimmed away
/// meanwhile: look for the head again.
pub(super) async fn view(
    place: &Place,
    head: Head,
    position: Option<&Position>,
    transfer: &mut Transfer,
) -> Result<Option<View>> {
    let near = position.filter(|position| {
        position.name == head.name
            && position.number <= head.number
            && head.number - position.number <= CATCH_UP_MAX
    });
    if let Some(position) = near {
        match since(place, head, position, transfer).await {
            Ok(Some(view)) => return Ok(Some(view)),
            // What is damaged may lie before the last manifest that has everything.
            Ok(None) | Err(Error::DamagedRemote { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    whole(place, head, transfer).await
}

/// The remote at `head`, as the manifests after `position` say; `None` if the position is none of this log, or too old.
async fn since(
    place: &Place,
    head: Head,
    position: &Position,
    transfer: &mut Transfer,
) -> Result<Option<View>> {
    let mut view = View {
        name: head.name,
        head: Some((position.number, position.hash)),
        refs: position.refs.clone(),
        manifests: Vec::new(),
        whole: false,
    };
    match read(place, head, position.number + 1, transfer).await? {
        Some(read) if follows(&read, position.hash) => {
            for (manifest, hash) in read {
                apply(&mut view.refs, &manifest.changes);
                view.head = Some((manifest.number, hash));
                view.manifests.push(manifest);
            }
        }
        _ => return Ok(None),
    }
    let is_exact = view.manifests.last().is_none_or(|last| last.refs_digest == position::digest(&view.refs));
    Ok(is_exact.then_some(view))
}

/// The remote at `head`, as the manifests say from the last multiple of 64 on.
pub(super) async fn whole(place: &Place, head: Head, transfer: &mut Transfer) -> Result<Option<View>> {
    let first = head.number - head.number % MANIFESTS_TO_FULL;
    let Some(read) = read(place, head, first, transfer).await? else { return Ok(None) };
    let mut view = View { whole: true, ..View::empty(head.name) };
    for (manifest, hash) in read {
        let key = manifest::key(&head.name, manifest.number);
        let broken = |what: &str| Err(place.damaged(&key, Error::protocol(what)));
        match (view.head, &manifest.full) {
            (Some((_, before)), _) if manifest.previous != Some(before) => {
                return broken("it does not follow the manifest before it");
            }
            (None, None) => return broken("it must list everything, as every 64th manifest does"),
            (None, Some(full)) => view.refs = full.refs.iter().cloned().collect(),
            _ => apply(&mut view.refs, &manifest.changes),
        }
        if manifest.full.is_some() || manifest.number == head.number {
            // What pushes by force left since may exceed it, so that a collection can let go of it.
            within("refs of a remote", view.refs.len(), 2 * REFS_MAX)?;
            if manifest.refs_digest != position::digest(&view.refs) {
                return broken("the refs that follow from it are not those that it was written for");
            }
        }
        view.head = Some((manifest.number, hash));
        view.manifests.push(manifest);
    }
    Ok(Some(view))
}

/// Whether manifests are a chain that goes on from the one with hash `before`.
fn follows(read: &[(Manifest, Hash)], mut before: Hash) -> bool {
    read.iter().all(|(manifest, hash)| manifest.previous == Some(std::mem::replace(&mut before, *hash)))
}

/// What refs become by changes.
pub(super) fn apply(refs: &mut Refs, changes: &[Change]) {
    for change in changes {
        match change.new {
            Some(new) => refs.insert(change.name.clone(), new),
            None => refs.remove(&change.name),
        };
    }
}

/// The manifests from number `first` to the head, read at once; `None` if one of them is a tombstone.
async fn read(
    place: &Place,
    head: Head,
    first: u64,
    transfer: &mut Transfer,
) -> Result<Option<Vec<(Manifest, Hash)>>> {
    if first > head.number {
        return Ok(Some(Vec::new()));
    }
    let keys: Vec<String> = (first..=head.number).map(|number| manifest::key(&head.name, number)).collect();
    let gets = Gets::new(place, keys.clone(), MANIFESTS_AHEAD, MANIFEST_BYTES_MAX);
    let mut gets = gets.beside(MANIFEST_BYTES_BESIDE);
    transfer.round_trips += 1;
    let (mut manifests, mut bytes) = (Vec::with_capacity(keys.len()), 0);
    for (number, key) in (first..).zip(&keys) {
        let object = gets.next().await.map_err(|error| place.damaged(key, error))?;
        let object = object.ok_or_else(|| place.missing(key))?;
        transfer.bytes_received += object.len() as u64;
        bytes += object.len();
        within("bytes of manifests", bytes, MANIFESTS_BYTES_MAX)?;
        match manifest::decode(&object, number).map_err(|error| place.damaged(key, error))? {
            Entry::Manifest(manifest, hash) => manifests.push((*manifest, hash)),
            Entry::Tombstone => return Ok(None),
        }
    }
    transfer.round_trips += gets.more_waits();
    Ok(Some(manifests))
}

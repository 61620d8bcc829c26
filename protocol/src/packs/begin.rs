//! How a remote begins: the object `format`, put once by the first push.
//!
//! ```text
//! format = "pleach remote " version "\n" name "\n"      version 1; name: 32 hex digits, random
//! ```
//! All manifests lie under that name: so of two that begin at the same time one does, and a remote that was removed and begun again is
//! another, whatever anybody remembers of it.
//!
//! Before, the place is probed: some servers answer a put *if absent* with success whatever is there, and on these two pushes would
//! lose each other's commits.

use bytes::Bytes;

use super::Place;
use super::manifest::{Name, PACKS};
use crate::error::{Error, Result};
use crate::random;
use crate::transfer::Transfer;

const FORMAT: &str = "format";
const FORMAT_BYTES_MAX: usize = 1 << 10;
const HEAD: &str = "pleach remote ";
const VERSION: u32 = 1;
const PROBES: &str = "probe/";
/// What a first push that was cut can leave, and one key more.
const LEFT_MAX: usize = 64;

/// The name of the remote at `place`; `None` if there is none.
///
/// # Errors
/// [`Error::OtherFormat`], [`Error::DamagedRemote`].
pub(super) async fn name(place: &Place, transfer: &mut Transfer) -> Result<Option<Name>> {
    transfer.round_trips += 1;
    let Some(format) = place.objects.get(FORMAT, FORMAT_BYTES_MAX).await? else { return Ok(None) };
    transfer.bytes_received += format.len() as u64;
    parse(&format).map(Some).map_err(|error| place.damaged(FORMAT, error))
}

/// Begins a remote, or gives the name of the one that is there.
///
/// # Errors
/// [`Error::NotARemote`], [`Error::NotConditional`]; those of [`name`].
pub(super) async fn begin(place: &Place, transfer: &mut Transfer) -> Result<Name> {
    if let Some(name) = name(place, transfer).await? {
        return Ok(name);
    }
    transfer.round_trips += 1;
    let found = place.objects.list("", LEFT_MAX).await?;
    if let Some(found) = found.into_iter().find(|key| !key.starts_with(PROBES) && !key.starts_with(PACKS)) {
        // Somebody may have begun meanwhile.
        return match name(place, transfer).await? {
            Some(name) => Ok(name),
            None => Err(Error::NotARemote { url: place.url.clone(), found }),
        };
    }
    probe(place, transfer).await?;
    let own = Name(random::sixteen());
    let format = Bytes::from(format!("{HEAD}{VERSION}\n{own}\n"));
    transfer.round_trips += 1;
    transfer.bytes_sent += format.len() as u64;
    // If it is there, by somebody else or by a put whose answer was lost, what is there counts.
    place.objects.put_if_absent(FORMAT, format).await?;
    name(place, transfer).await?.ok_or_else(|| Error::NotConditional { url: place.url.clone() })
}

/// Puts the same key twice: the second must be refused, and leave what the first put.
async fn probe(place: &Place, transfer: &mut Transfer) -> Result<()> {
    let key = format!("{PROBES}{}", random::hex());
    let mut put = async |text: &'static str| {
        transfer.round_trips += 1;
        transfer.bytes_sent += text.len() as u64;
        place.objects.put_if_absent(&key, Bytes::from_static(text.as_bytes())).await
    };
    let first = put("first").await?;
    let second = put("second").await?;
    let found = place.objects.get(&key, FORMAT_BYTES_MAX).await?;
    place.objects.delete(&key).await?;
    transfer.round_trips += 2;
    // A put that was repeated below, since its answer was lost, finds itself there: that is no proof against the place.
    let kept = found.as_deref() == Some(b"first");
    match (first, second, kept) {
        (_, false, true) => Ok(()),
        _ => Err(Error::NotConditional { url: place.url.clone() }),
    }
}

fn parse(format: &Bytes) -> Result<Name> {
    let text = std::str::from_utf8(format).map_err(|_| Error::protocol("it is no text"))?;
    let (version, name) = text
        .strip_prefix(HEAD)
        .and_then(|rest| rest.split_once('\n'))
        .ok_or_else(|| Error::protocol(format!("it does not begin with `{HEAD}`")))?;
    if version != VERSION.to_string() {
        return Err(Error::OtherFormat { what: format!("a remote of version {version}"), known: VERSION });
    }
    name.strip_suffix('\n').and_then(Name::parse).ok_or_else(|| Error::protocol("it has no name"))
}

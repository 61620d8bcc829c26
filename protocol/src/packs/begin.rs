//! How a remote begins: the object `format`, put once by the first push, or before it by whoever wants the remote to be there.
//!
//! ```text
//! format = "pleach remote " version "\n" name "\n" hash "\n"      version 2; name: 32 hex digits, random
//!                                                                hash: 64 hex digits, BLAKE3-256 of all before
//! ```
//! All manifests lie under that name, and whoever looks for them reads it: so of two that begin at the same time one does, and a remote that was
//! removed and begun again is another, whatever anybody remembers of it, or puts there who does not know of that.
//!
//! Before, the place is probed: some servers answer a put *if absent* with success whatever is there, and on these two pushes would
//! lose each other's commits.

use bytes::Bytes;
use pleach_engine::Hash;

use super::Place;
use super::manifest::{Name, PACKS};
use crate::error::{Error, Result};
use crate::random;
use crate::transfer::Transfer;

pub(super) const FORMAT: &str = "format";
const FORMAT_BYTES_MAX: usize = 1 << 10;
const HEAD: &str = "pleach remote ";
const VERSION: u32 = 2;
const PROBES: &str = "probe/";
/// What a first push that was cut can leave, and one key more.
const LEFT_MAX: usize = 64;

/// The name of the remote at `place`, and how many bytes were read; `None` if there is none. It is one wait.
///
/// # Errors
/// [`Error::OtherFormat`], [`Error::DamagedRemote`].
pub(super) async fn name(place: &Place) -> Result<Option<(Name, u64)>> {
    let format =
        place.objects.get(FORMAT, FORMAT_BYTES_MAX).await.map_err(|error| place.damaged(FORMAT, error))?;
    let Some(format) = format else { return Ok(None) };
    let name = parse(&format).map_err(|error| place.damaged(FORMAT, error))?;
    Ok(Some((name, format.len() as u64)))
}

/// Begins a remote where none was found, or gives the name of the one that somebody else began.
///
/// # Errors
/// [`Error::NotARemote`], [`Error::NotConditional`]; those of [`name`].
pub(super) async fn begin(place: &Place, transfer: &mut Transfer) -> Result<Name> {
    transfer.round_trips += 1;
    let found = place.objects.list("", LEFT_MAX).await?;
    if let Some(found) = found.into_iter().find(|key| !key.starts_with(PROBES) && !key.starts_with(PACKS)) {
        // Somebody may have begun meanwhile.
        transfer.round_trips += 1;
        return match name(place).await? {
            Some((name, _)) => Ok(name),
            None => Err(Error::NotARemote { url: place.url.clone(), found }),
        };
    }
    probe(place, transfer).await?;
    let format = format(&Name(random::sixteen()));
    transfer.round_trips += 2;
    transfer.bytes_sent += format.len() as u64;
    // If it is there, by somebody else or by a put whose answer was lost, what is there counts.
    place.objects.put_if_absent(FORMAT, format).await?;
    match name(place).await? {
        Some((name, _)) => Ok(name),
        None => Err(Error::NotConditional { url: place.url.clone() }),
    }
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

fn format(name: &Name) -> Bytes {
    let mut format = format!("{HEAD}{VERSION}\n{name}\n");
    let hash = Hash::of(format.as_bytes());
    format.push_str(&format!("{hash}\n"));
    Bytes::from(format)
}

fn parse(bytes: &Bytes) -> Result<Name> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::protocol("it is no text"))?;
    let (version, rest) = text
        .strip_prefix(HEAD)
        .and_then(|rest| rest.split_once('\n'))
        .ok_or_else(|| Error::protocol(format!("it does not begin with `{HEAD}`")))?;
    let version: u32 = version.parse().map_err(|_| Error::protocol("it has no version"))?;
    if version != VERSION {
        return Err(Error::OtherFormat { what: format!("a remote of version {version}"), known: VERSION });
    }
    let name = rest.split_once('\n').and_then(|(name, _)| Name::parse(name));
    name.filter(|name| format(name) == bytes)
        .ok_or_else(|| Error::protocol("its bytes do not hash to what stands at their end"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_format_of_a_remote_is_these_bytes_and_no_others() {
        let name = Name([0xab; 16]);
        let bytes = format(&name);
        let golden = format!("pleach remote 2\n{}\n", "ab".repeat(16));
        assert_eq!(bytes, format!("{golden}{}\n", Hash::of(golden.as_bytes())));
        assert_eq!(parse(&bytes).unwrap(), name);
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x01;
            assert!(parse(&Bytes::from(changed)).is_err(), "byte {at}");
            assert!(parse(&bytes.slice(..at)).is_err(), "cut at {at}");
        }
    }
}

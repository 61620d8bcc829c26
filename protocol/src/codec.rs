//! Messages of the exchange as gRPC frames: by protocol buffers, but for one check before. A field of two bytes may become a
//! hundred times as many when it is read; so the fields of a message are counted first.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::limits::FIELDS_MAX;

/// Writes `T`, and reads `U` that has no more than [`FIELDS_MAX`] fields.
pub(crate) struct CountedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for CountedCodec<T, U> {
    fn default() -> CountedCodec<T, U> {
        CountedCodec(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for CountedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = CountedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> CountedDecoder<U> {
        CountedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

/// See [`CountedCodec`].
pub(crate) struct CountedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for CountedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if fields(bytes.chunk(), true) > FIELDS_MAX {
            return Err(Status::resource_exhausted(format!("a message of more than {FIELDS_MAX} fields")));
        }
        self.0.decode(bytes)
    }
}

/// The field whose own fields are counted too, in the messages that are one of several: Begin, Plan, Rejected. The one after it may be data.
const INNER: u64 = 1;

/// How many fields a message has, and those in its first; of bytes that are no message, as many as are read before that shows.
fn fields(mut message: &[u8], is_outer: bool) -> usize {
    let mut count = 0;
    while let (Some((tag, inside)), true) = (field(&mut message), count <= FIELDS_MAX) {
        count += 1;
        if is_outer && tag == INNER << 3 | 2 {
            count += fields(inside, false);
        }
    }
    count
}

/// Takes the first field off a message: its tag, and its bytes if it has a length. `None` at the end, and where it is no message.
pub(crate) fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let tag = varint(message)?;
    let len = match tag & 7 {
        0 => varint(message).map(|_| 0)?,
        1 => 8,
        5 => 4,
        2 => varint(message)?,
        // Where a group begins or ends, which nothing of ours has and who reads messages passes over.
        3 | 4 => 0,
        _ => return None,
    };
    let (inside, rest) = message.split_at_checked(usize::try_from(len).ok()?)?;
    *message = rest;
    Some((tag, inside))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or_default();
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

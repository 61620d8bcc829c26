//! Some columns of a row as a key: what indexes are made of.
//!
//! The bytes are those of `key.rs`, all columns ascending: they compare as the values do, and end by themselves.

use super::bytes::Reader;
use super::error::Error;
use super::key;
use super::schema::{Column, Schema, check_value};
use super::value::Value;

impl Schema {
    fn known(&self, id: u32) -> Result<&Column, Error> {
        self.column_by_id(id).ok_or(Error::UnknownColumn { id })
    }

    /// The values of the columns `ids` in a stored row. Other cells are not checked.
    pub(crate) fn values_of(&self, ids: &[u32], key: &[u8], value: &[u8]) -> Result<Vec<Value>, Error> {
        let mut key_values = None;
        let mut values = Vec::with_capacity(ids.len());
        for &id in ids {
            let place = self.key.iter().position(|&other| other == id);
            values.push(match place {
                None => self.cell(value, id)?,
                Some(place) => {
                    if key_values.is_none() {
                        key_values = Some(self.decode_key(key)?);
                    }
                    let found = key_values.as_ref().and_then(|values| values.get(place));
                    found.cloned().ok_or(Error::UnknownColumn { id })?
                }
            });
        }
        Ok(values)
    }

    /// The bytes of values of the columns `ids`, or of the first of them.
    pub(crate) fn encode_values(&self, ids: &[u32], values: &[Value]) -> Result<Vec<u8>, Error> {
        if values.len() > ids.len() {
            return Err(Error::WrongCount { expected: ids.len(), found: values.len() });
        }
        let mut out = Vec::new();
        for (&id, value) in ids.iter().zip(values) {
            check_value(self.known(id)?, value)?;
            key::put(&mut out, value, false);
        }
        Ok(out)
    }

    /// Reads values of the columns `ids`; also gives the bytes after them.
    pub(crate) fn decode_values<'a>(
        &self,
        ids: &[u32],
        bytes: &'a [u8],
    ) -> Result<(Vec<Value>, &'a [u8]), Error> {
        let mut reader = Reader::new("index key", bytes);
        let mut values = Vec::with_capacity(ids.len());
        for &id in ids {
            values.push(key::read(&mut reader, &self.known(id)?.ty, false)?);
        }
        Ok((values, reader.rest()))
    }

    /// `column=value` for people, of the columns `ids`.
    pub(crate) fn describe(&self, ids: &[u32], values: &[Value]) -> String {
        let mut parts = Vec::with_capacity(ids.len());
        for (&id, value) in ids.iter().zip(values) {
            let Some(column) = self.column_by_id(id) else { continue };
            let text = value.to_text(&column.ty).unwrap_or_else(|| "NULL".into());
            parts.push(format!("{}={text}", column.name));
        }
        parts.join(", ")
    }
}

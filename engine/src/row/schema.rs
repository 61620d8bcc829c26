//! The columns of a table, its key, and the way from values to key and value bytes and back.
//!
//! The one idea: a column is its id. Its name and its place among the columns are for people; stored rows know ids
//! only. A column that was dropped is remembered, because rows may still have its cells. The bytes of a schema are
//! `schema_bytes.rs`; its changes are `alter.rs`.

use super::bytes::Reader;
use super::cells::{self, COLUMN_ID_MAX, Slot};
use super::error::Error;
use super::key::{self, KEY_BYTES_MAX};
use super::types::Type;
use super::value::Value;

/// Most bytes of a column's name.
pub const NAME_BYTES_MAX: usize = 255;

/// Most columns of a table, those that were dropped included.
pub const COLUMNS_MAX: usize = 4096;

/// A column. Its identity is its id, not its name or its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Unique in the table and never reused; at most [`COLUMN_ID_MAX`]. Ids up to 4,095 take a bit of each row, others up to four
    /// bytes of each row that has a cell there.
    pub id: u32,
    /// Unique in the table; 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Type of its values.
    pub ty: Type,
}

/// A column that was dropped: rows that were last written before may still have its cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) id: u32,
    pub(super) ty: Type,
    pub(super) default: Value,
}

/// The columns and the key of a typed table; always valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    pub(super) columns: Vec<Column>,
    /// The creation defaults of `columns`, in their order.
    pub(super) defaults: Vec<Value>,
    /// Column ids in key order.
    pub(super) key: Vec<u32>,
    /// Whether each key column is descending, in key order.
    pub(super) descending: Vec<bool>,
    /// Positions in `columns` of the key columns, in key order; derived.
    key_positions: Vec<usize>,
    /// The columns outside the key and those that were dropped, by ascending id; derived, but for the latter.
    slots: Vec<Slot>,
}

impl Schema {
    /// A schema of `columns`, in the order in which they are shown, and the ids of its key columns in key order, all
    /// ascending.
    pub fn new(columns: Vec<Column>, key: Vec<u32>) -> Result<Schema, Error> {
        let defaults = vec![Value::Null; columns.len()];
        let key = key.into_iter().map(|id| (id, false)).collect();
        Schema::assemble(columns, defaults, key, Vec::new())
    }

    /// The same schema of a new table whose key columns with these ids are in descending order. Rows of a table that is there
    /// already are in another order: change no schema in use so.
    ///
    /// # Errors
    /// [`Error::UnknownKeyColumn`].
    pub fn descending(mut self, ids: &[u32]) -> Result<Schema, Error> {
        for &id in ids {
            let place = self.key.iter().position(|&other| other == id);
            match place.and_then(|place| self.descending.get_mut(place)) {
                Some(descending) => *descending = true,
                None => return Err(Error::UnknownKeyColumn { id }),
            }
        }
        Ok(self)
    }

    /// A schema of its parts, if they are valid: `defaults` are as many as `columns`; `key` is ids, and whether descending.
    pub(super) fn assemble(
        columns: Vec<Column>,
        defaults: Vec<Value>,
        key: Vec<(u32, bool)>,
        dropped: Vec<Dropped>,
    ) -> Result<Schema, Error> {
        if columns.len() + dropped.len() > COLUMNS_MAX {
            return Err(Error::TooManyColumns { count: columns.len() + dropped.len() });
        }
        for (position, (column, default)) in columns.iter().zip(&defaults).enumerate() {
            check_column(column)?;
            check_value(column, default)?;
            let before = columns.get(..position).unwrap_or_default();
            if before.iter().any(|other| other.id == column.id) {
                return Err(Error::DuplicateId { id: column.id });
            }
            if before.iter().any(|other| other.name == column.name) {
                return Err(Error::DuplicateName { name: column.name.clone() });
            }
        }
        if key.is_empty() {
            return Err(Error::NoKey);
        }
        let (key, descending): (Vec<u32>, Vec<bool>) = key.into_iter().unzip();
        let mut key_positions = Vec::with_capacity(key.len());
        for &id in &key {
            let position =
                columns.iter().position(|column| column.id == id).ok_or(Error::UnknownKeyColumn { id })?;
            let column = columns[position].name.clone();
            if key_positions.contains(&position) {
                return Err(Error::DuplicateKeyColumn { column });
            }
            if !defaults[position].is_null() {
                return Err(Error::KeyColumn { column, what: "have a creation default" });
            }
            key_positions.push(position);
        }
        let live = columns.iter().zip(&defaults).enumerate();
        let live = live.filter(|(position, _)| !key_positions.contains(position));
        let live = live.map(|(position, (column, default))| Slot {
            id: column.id,
            ty: column.ty,
            default: default.clone(),
            position: Some(position),
        });
        let dropped =
            dropped.into_iter().map(|Dropped { id, ty, default }| Slot { id, ty, default, position: None });
        let mut slots: Vec<Slot> = live.chain(dropped).collect();
        slots.sort_by_key(|slot| slot.id);
        let key_ids = key.iter().copied().filter(|id| slots.binary_search_by_key(id, |slot| slot.id).is_ok());
        let twice = slots.windows(2).find(|pair| pair[0].id == pair[1].id).map(|pair| pair[0].id);
        if let Some(id) = twice.or(key_ids.min()) {
            return Err(Error::DuplicateId { id });
        }
        Ok(Schema { columns, defaults, key, descending, key_positions, slots })
    }

    /// The columns in the order in which they are shown.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The ids of the key columns, in key order.
    pub fn key(&self) -> &[u32] {
        &self.key
    }

    /// The key columns, in key order.
    pub fn key_columns(&self) -> impl ExactSizeIterator<Item = &Column> + '_ {
        self.key_positions.iter().map(|&position| &self.columns[position])
    }

    /// The column called `name`.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The column with `id`.
    pub fn column_by_id(&self, id: u32) -> Option<&Column> {
        self.columns.iter().find(|column| column.id == id)
    }

    /// Where in [`Schema::columns`], and in a row's values, the column with `id` stands.
    pub fn position(&self, id: u32) -> Option<usize> {
        self.columns.iter().position(|column| column.id == id)
    }

    /// Whether the column with `id` is in the key.
    pub fn is_key(&self, id: u32) -> bool {
        self.key.contains(&id)
    }

    /// Whether the key column with `id` is in descending order.
    pub fn is_descending(&self, id: u32) -> bool {
        self.key.iter().zip(&self.descending).any(|(&key, &descending)| key == id && descending)
    }

    /// What rows that were written before the column with `id` was added read in it: its creation default. It never changes.
    pub fn creation_default(&self, id: u32) -> Option<&Value> {
        self.defaults.get(self.position(id)?)
    }

    /// The ids of the columns that were dropped, ascending. They are not used again.
    pub fn dropped(&self) -> impl Iterator<Item = u32> + '_ {
        self.dropped_slots().map(|slot| slot.id)
    }

    /// The columns that were dropped, by ascending id.
    pub(super) fn dropped_slots(&self) -> impl Iterator<Item = &Slot> + '_ {
        self.slots.iter().filter(|slot| slot.position.is_none())
    }

    /// Whether rows stored under `stored` read unchanged under this schema: same key, and every stored column is here
    /// with its type and creation default. Names and order may differ, and columns may be added; those read their creation
    /// defaults.
    pub fn compatible_with(&self, stored: &Schema) -> Result<(), Error> {
        for (position, column) in stored.columns.iter().enumerate() {
            let refuse = |expected: String, found: String| {
                Err(Error::Incompatible { column: column.name.clone(), expected, found })
            };
            let place = |schema: &Schema| match schema.key.iter().position(|&id| id == column.id) {
                Some(place) if schema.is_descending(column.id) => {
                    format!("descending key column {}", place + 1)
                }
                Some(place) => format!("key column {}", place + 1),
                None => "no key column".into(),
            };
            match self.column_by_id(column.id) {
                None => {
                    return refuse(
                        format!("no column with id {}", column.id),
                        format!("column {}", position + 1),
                    );
                }
                Some(here) if here.ty != column.ty => {
                    return refuse(here.ty.to_string(), column.ty.to_string());
                }
                Some(_) if place(self) != place(stored) => return refuse(place(self), place(stored)),
                Some(_) if self.creation_default(column.id) != stored.creation_default(column.id) => {
                    return refuse("its creation default".into(), "another one".into());
                }
                Some(_) => {}
            }
        }
        let forgotten = stored.dropped_slots().find(|gone| {
            !self
                .slots
                .iter()
                .any(|slot| slot.id == gone.id && slot.ty == gone.ty && slot.default == gone.default)
        });
        if let Some(gone) = forgotten {
            return Err(Error::Incompatible {
                column: format!("id {}", gone.id),
                expected: "no such column".into(),
                found: "one that was dropped".into(),
            });
        }
        match self.key_columns().find(|column| stored.column_by_id(column.id).is_none()) {
            Some(new) => Err(Error::Incompatible {
                column: new.name.clone(),
                expected: "a key column".into(),
                found: "no such column".into(),
            }),
            None => Ok(()),
        }
    }

    /// The key's bytes. `values` are the key's values in key order; or, when some columns are not in the key, those of
    /// all columns in column order. NULL is encoded, and sorts first.
    pub fn encode_key(&self, values: &[Value]) -> Result<Vec<u8>, Error> {
        if values.len() == self.key.len() {
            return self.put_key(values.iter());
        }
        self.check_count(values)?;
        self.put_key(self.key_positions.iter().map(|&position| &values[position]))
    }

    /// The key's values, in key order.
    pub fn decode_key(&self, key: &[u8]) -> Result<Vec<Value>, Error> {
        let mut reader = Reader::new("row key", key);
        if key.len() > KEY_BYTES_MAX {
            return Err(reader.malformed(
                0,
                format!("at most {KEY_BYTES_MAX} bytes"),
                format!("{} bytes", key.len()),
            ));
        }
        let columns = self.key_columns().zip(&self.descending);
        let values = columns
            .map(|(column, &descending)| key::read(&mut reader, &column.ty, descending))
            .collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(values)
    }

    /// The key and the value of a row, whose `values` are in column order.
    pub fn encode_row(&self, values: &[Value]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        self.check_count(values)?;
        let key = self.put_key(self.key_positions.iter().map(|&position| &values[position]))?;
        for slot in &self.slots {
            if let Some((column, value)) =
                slot.position.and_then(|at| self.columns.get(at).zip(values.get(at)))
            {
                check_value(column, value)?;
            }
        }
        Ok((key, cells::encode(&self.slots, values)))
    }

    /// The values of a row, in column order.
    pub fn decode_row(&self, key: &[u8], value: &[u8]) -> Result<Vec<Value>, Error> {
        let mut values = self.defaults.clone();
        for (&position, part) in self.key_positions.iter().zip(self.decode_key(key)?) {
            values[position] = part;
        }
        cells::decode(&self.slots, value, |slot, cell| {
            if let Some(place) = slot.position.and_then(|position| values.get_mut(position)) {
                *place = cell;
            }
        })?;
        Ok(values)
    }

    /// Whether a row's value bytes have a cell of a column that was dropped: then its bytes are not those that
    /// [`Schema::encode_row`] gives for its values.
    pub fn has_dropped_cells(&self, value: &[u8]) -> Result<bool, Error> {
        cells::decode(&self.slots, value, |_, _| ())
    }

    /// One cell of a row's value bytes, without decoding the others; its column's creation default if it is absent. A key
    /// column is [`Error::InKey`]. The other cells are passed over, not checked.
    pub fn cell(&self, value: &[u8], id: u32) -> Result<Value, Error> {
        let column = self.column_by_id(id).ok_or(Error::UnknownColumn { id })?;
        match self.slots.binary_search_by_key(&id, |slot| slot.id).ok().and_then(|at| self.slots.get(at)) {
            None => Err(Error::InKey { column: column.name.clone() }),
            Some(slot) => {
                let cell = cells::decode_one(&self.slots, slot, value)?;
                Ok(cell.unwrap_or_else(|| slot.default.clone()))
            }
        }
    }

    fn check_count(&self, values: &[Value]) -> Result<(), Error> {
        match values.len() == self.columns.len() {
            true => Ok(()),
            false => Err(Error::WrongCount { expected: self.columns.len(), found: values.len() }),
        }
    }

    /// Encodes values given in key order.
    fn put_key<'a>(&self, values: impl Iterator<Item = &'a Value>) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut widest = ("", 0);
        for ((column, &descending), value) in self.key_columns().zip(&self.descending).zip(values) {
            check_value(column, value)?;
            let start = out.len();
            key::put(&mut out, value, descending);
            if out.len() - start > widest.1 {
                widest = (&column.name, out.len() - start);
            }
        }
        if out.len() > KEY_BYTES_MAX {
            let (column, column_bytes) = widest;
            return Err(Error::KeyTooLong { column: column.to_owned(), column_bytes, length: out.len() });
        }
        Ok(out)
    }
}

pub(super) fn check_column(column: &Column) -> Result<(), Error> {
    if column.id > COLUMN_ID_MAX {
        return Err(Error::BadId { id: column.id });
    }
    if !(1..=NAME_BYTES_MAX).contains(&column.name.len()) {
        return Err(Error::BadName { length: column.name.len() });
    }
    column.ty.check()
}

pub(super) fn check_value(column: &Column, value: &Value) -> Result<(), Error> {
    value.check(&column.ty).map_err(|error| Error::WrongValue {
        column: column.name.clone(),
        expected: error.expected,
        found: error.found,
    })
}

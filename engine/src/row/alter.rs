//! Changes of a schema: a column added, dropped or renamed.
//!
//! The one idea: none of them touches a row. A column that is added has an id of its own, which no row has yet, so all
//! rows read its creation default; one that is dropped is remembered, and its cells are passed over until their rows are
//! written again; a name is in no row.
//!
//! The id of an added column is taken from a hash of what the column is: the first of
//!
//! ```text
//! 4,096 + BLAKE3("pleach column\0" name 00 type 00 default n)[0..4] as u32 little-endian, mod (2^28 - 4,096)
//! ```
//!
//! with `n` = 0, 1, … (u32 little-endian), that the schema does not have and never had; type as its name, default as its
//! text after `=`, nothing if it is NULL. So two branches that add different columns give them different ids
//! (but for one case in 2^28, which a merge refuses), and two that add the same column mean the same.
//!
//! Key columns can be renamed. They are neither added nor dropped: that would change the keys of all rows.

use pleach_chunkstore::Hash;

use super::cells::{self, BITMAP_ID_MAX, COLUMN_ID_MAX};
use super::error::Error;
use super::schema::{Column, Dropped, Schema, check_column, check_value};
use super::types::Type;
use super::value::Value;

/// Most bytes of a creation default.
pub const DEFAULT_BYTES_MAX: usize = 1024;

/// Most bytes of a schema to which a column is added.
const SCHEMA_BYTES_MAX: usize = 2 << 20;

impl Schema {
    /// The schema with one more column, the last one. Rows that are there read `default` in it: its creation default, which
    /// later rows do not have to have.
    ///
    /// # Errors
    /// [`Error::DuplicateName`], [`Error::BadName`], [`Error::BadDecimal`], [`Error::WrongValue`], [`Error::DefaultTooLong`],
    /// [`Error::TooManyColumns`].
    pub fn add_column(&self, name: &str, ty: Type, default: Value) -> Result<Schema, Error> {
        let mut column = Column { id: 0, name: name.to_owned(), ty };
        check_column(&column)?;
        check_value(&column, &default)?;
        let mut bytes = Vec::new();
        cells::put(&mut bytes, &default);
        if bytes.len() > DEFAULT_BYTES_MAX {
            return Err(Error::DefaultTooLong { length: bytes.len() });
        }
        column.id = self.new_id(&column, &default);
        let mut columns = self.columns.clone();
        columns.push(column);
        let mut defaults = self.defaults.clone();
        defaults.push(default);
        let schema = Schema::assemble(columns, defaults, self.key_parts(), self.dropped_columns())?;
        match schema.encode().len() {
            length if length > SCHEMA_BYTES_MAX => Err(Error::TooManyColumns { count: schema.columns.len() }),
            _ => Ok(schema),
        }
    }

    /// The schema without a column. Rows that have cells of it keep them, unread, until they are written again.
    ///
    /// # Errors
    /// [`Error::NoSuchColumn`], [`Error::KeyColumn`].
    pub fn drop_column(&self, name: &str) -> Result<Schema, Error> {
        let position = self.named(name)?;
        let (mut columns, mut defaults) = (self.columns.clone(), self.defaults.clone());
        let (column, default) = (columns.remove(position), defaults.remove(position));
        if self.is_key(column.id) {
            return Err(Error::KeyColumn { column: column.name, what: "be dropped" });
        }
        let mut dropped = self.dropped_columns();
        dropped.push(Dropped { id: column.id, ty: column.ty, default });
        Schema::assemble(columns, defaults, self.key_parts(), dropped)
    }

    /// The schema with a column under another name.
    ///
    /// # Errors
    /// [`Error::NoSuchColumn`], [`Error::DuplicateName`], [`Error::BadName`].
    pub fn rename_column(&self, from: &str, to: &str) -> Result<Schema, Error> {
        let position = self.named(from)?;
        let mut columns = self.columns.clone();
        columns[position].name = to.to_owned();
        Schema::assemble(columns, self.defaults.clone(), self.key_parts(), self.dropped_columns())
    }

    /// Whether both have the same columns in the same order, with the same defaults and the same key. Those that were dropped do not
    /// count.
    pub(crate) fn same_columns(&self, other: &Schema) -> bool {
        self.columns == other.columns
            && self.defaults == other.defaults
            && self.key_parts() == other.key_parts()
    }

    /// Whether there is or was a column with this id.
    pub(crate) fn has_or_had(&self, id: u32) -> bool {
        self.nature(id).is_some()
    }

    /// Whether changes of columns may have led from `earlier` here: the key is the same, and nothing that there was is forgotten.
    pub(crate) fn came_of(&self, earlier: &Schema) -> bool {
        self.key_parts() == earlier.key_parts()
            && earlier.ids().all(|id| self.nature(id) == earlier.nature(id))
    }

    /// The schema that knows, as dropped, those of the columns that `other` has or had and it never did, for which `is` says so.
    pub(crate) fn remembering(&self, other: &Schema, is: impl Fn(u32) -> bool) -> Result<Schema, Error> {
        let mut dropped = self.dropped_columns();
        for id in other.ids().filter(|id| !self.has_or_had(*id) && is(*id)) {
            dropped.extend(other.nature(id).map(|(ty, default)| Dropped { id, ty, default }));
        }
        Schema::assemble(self.columns.clone(), self.defaults.clone(), self.key_parts(), dropped)
    }

    /// The schema that knows nothing of some columns that were dropped: a row that has cells of them is none of it.
    pub(crate) fn forgetting(&self, ids: &[u32]) -> Result<Schema, Error> {
        let mut dropped = self.dropped_columns();
        dropped.retain(|dropped| !ids.contains(&dropped.id));
        Schema::assemble(self.columns.clone(), self.defaults.clone(), self.key_parts(), dropped)
    }

    /// The ids of all columns that there are or were.
    fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.columns.iter().map(|column| column.id).chain(self.dropped())
    }

    /// Type and creation default of a column that the schema has or had.
    pub(super) fn nature(&self, id: u32) -> Option<(Type, Value)> {
        match self.position(id) {
            Some(position) => Some((self.columns[position].ty, self.defaults[position].clone())),
            None => {
                let slot = self.dropped_slots().find(|slot| slot.id == id);
                slot.map(|slot| (slot.ty, slot.default.clone()))
            }
        }
    }

    fn named(&self, name: &str) -> Result<usize, Error> {
        let position = self.columns.iter().position(|column| column.name == name);
        position.ok_or_else(|| Error::NoSuchColumn { column: name.to_owned() })
    }

    pub(super) fn key_parts(&self) -> Vec<(u32, bool)> {
        self.key.iter().copied().zip(self.descending.iter().copied()).collect()
    }

    pub(super) fn dropped_columns(&self) -> Vec<Dropped> {
        let dropped = self.dropped_slots();
        dropped.map(|slot| Dropped { id: slot.id, ty: slot.ty, default: slot.default.clone() }).collect()
    }

    /// The id of a column that is added.
    fn new_id(&self, column: &Column, default: &Value) -> u32 {
        let text = match default.to_text(&column.ty) {
            None => String::new(),
            Some(text) => format!("={text}"),
        };
        let what = format!("pleach column\0{}\0{}\0{text}", column.name, column.ty);
        let mut n = 0u32;
        loop {
            let hash = Hash::of(&[what.as_bytes(), &n.to_le_bytes()].concat());
            let [a, b, c, d, ..] = *hash.as_bytes();
            let hashed = u32::from_le_bytes([a, b, c, d]) % (COLUMN_ID_MAX - BITMAP_ID_MAX);
            let id = BITMAP_ID_MAX + 1 + hashed;
            let used = self.column_by_id(id).is_some() || self.dropped().any(|dropped| dropped == id);
            if !used {
                return id;
            }
            n += 1;
        }
    }
}

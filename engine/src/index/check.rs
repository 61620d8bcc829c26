//! Whether an index is what its table's rows give.
//!
//! What this engine writes is. What a peer sent was checked chunk by chunk, which does not tell: an index of it may leave rows
//! out, or name others. Making the index anew (drop it, make it) mends that.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    error::Result,
    map::{cursor::Rows, node::Tag},
    snapshot::Table,
};

impl Table {
    /// The names of the indexes that are not what the rows give; none, if nobody sent wrong ones. All rows are read, and the entries of one
    /// index at a time are in memory.
    ///
    /// # Errors
    /// [`Error::Row`](crate::Error::Row) if a row is no row of the table; the store's.
    pub fn check_indexes(&self) -> Result<Vec<String>> {
        let Some(schema) = self.schema() else { return Ok(Vec::new()) };
        let mut wrong = Vec::new();
        for (name, index) in self.indexes()? {
            let definition = index.definition();
            let (mut expected, mut is_right) = (BTreeMap::new(), true);
            for row in self.scan(Bound::Unbounded, Bound::Unbounded)? {
                let (key, value) = row?;
                if let Some(entry) = definition.entry(schema, &key, &value)? {
                    let value = if definition.unique { key } else { Vec::new() };
                    is_right &= expected.insert(entry, value).is_none();
                }
            }
            let mut expected = expected.into_iter();
            let mut found = Rows::new(self.store(), &index.root(), Bound::Unbounded, Bound::Unbounded)?;
            while let Some((entry, value)) = found.next_row()? {
                let same = |(key, row): (Vec<u8>, Vec<u8>)| {
                    key == entry && value.tag == Tag::Inline && row == value.bytes
                };
                is_right &= expected.next().is_some_and(same);
            }
            if !is_right || expected.next().is_some() {
                wrong.push(name);
            }
        }
        Ok(wrong)
    }
}

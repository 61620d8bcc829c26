//! Whether an index is what its table's rows give.
//!
//! What this engine writes is. What a peer sent was checked chunk by chunk, which does not tell: an index of it may leave rows
//! out, or name others. Making the index anew (drop it, make it) mends that.

use std::ops::Bound;

use crate::{
    error::Result,
    map::{
        config::KEY_BYTES_MAX,
        cursor::Rows,
        node::{Stored, Tag},
        sort::Sorter,
    },
    snapshot::Table,
};

impl Table {
    /// The names of the indexes that are not what the rows give; none, if nobody sent wrong ones. All rows are read, and the entries
    /// that they give are sorted, in bounded memory, one index at a time.
    ///
    /// # Errors
    /// [`Error::Row`](crate::Error::Row) if a row is no row of the table; the store's.
    pub fn check_indexes(&self) -> Result<Vec<String>> {
        let Some(schema) = self.schema() else { return Ok(Vec::new()) };
        let mut wrong = Vec::new();
        for (name, index) in self.indexes()? {
            let definition = index.definition();
            let mut expected = Sorter::new(self.store(), usize::MAX);
            let (mut is_right, mut entries) = (true, 0_u64);
            let mut meter = self.store().meter("checking", "rows", Some(self.rows()?));
            for row in self.scan(Bound::Unbounded, Bound::Unbounded)? {
                let (key, value) = row?;
                meter.add(1);
                match definition.entry(schema, &key, &value)? {
                    // Who made the index could not have made this entry.
                    Some(entry) if entry.len() > KEY_BYTES_MAX => is_right = false,
                    Some(entry) => {
                        let bytes: &[u8] = if definition.unique { &key } else { &[] };
                        expected.push(&entry, Stored { tag: Tag::Inline, bytes })?;
                        entries += 1;
                    }
                    None => {}
                }
            }
            meter.end();
            let mut found = Rows::new(self.store(), &index.root(), Bound::Unbounded, Bound::Unbounded)?;
            expected.finish(|entry, row| {
                entries -= 1;
                let same = found.next_row()?.is_some_and(|(key, value)| key == entry && value == row);
                is_right &= same;
                Ok(())
            })?;
            // Of rows with one entry only one came out of the sorter.
            if !is_right || entries > 0 || found.next_row()?.is_some() {
                wrong.push(name);
            }
        }
        Ok(wrong)
    }
}

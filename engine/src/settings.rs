//! Local settings: durable text that stays with this copy of the database.
//!
//! One map from key to text under the ref `local/settings`. Remote URLs live under `remote.NAME.url`.

use std::ops::Bound;

use pleach_chunkstore::{Hash, RefUpdate};

use crate::{
    catalogue,
    chunks::Writer,
    database::Database,
    error::{Error, Result},
    map::{
        self, build,
        cursor::Rows,
        edit::{self as map_edit, Edit},
        node::{Tag, Value},
    },
    names,
};

/// The setting that names the current branch.
pub(crate) const CURRENT_BRANCH: &str = "branch.current";

impl Database {
    /// A local setting.
    ///
    /// # Errors
    /// The store's.
    pub fn setting(&self, key: &str) -> Result<Option<String>> {
        self.at_ref(names::SETTINGS, |root| self.setting_in(root, key))
    }

    /// A setting as appended, which may not be durable yet. For plans of [`Database::write`].
    pub(crate) fn appended_setting(&self, key: &str) -> Result<Option<String>> {
        self.setting_in(self.store().appended_ref(names::SETTINGS), key)
    }

    pub(crate) fn setting_in(&self, root: Option<Hash>, key: &str) -> Result<Option<String>> {
        let Some(root) = root else { return Ok(None) };
        let value = map::get(self.store(), &root, key.as_bytes())?;
        value.map(|value| utf8(&root, value.bytes)).transpose()
    }

    /// The local settings whose keys begin with `prefix`, by key.
    ///
    /// # Errors
    /// The store's.
    pub fn settings(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.at_ref(names::SETTINGS, |root| self.settings_in(root, prefix))
    }

    fn settings_in(&self, root: Option<Hash>, prefix: &str) -> Result<Vec<(String, String)>> {
        let Some(root) = root else { return Ok(Vec::new()) };
        let from = Bound::Included(prefix.as_bytes());
        let mut rows = Rows::new(self.store(), &root, from, Bound::Unbounded)?;
        let mut settings = Vec::new();
        while let Some((key, value)) = rows.next_row()? {
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            settings.push((utf8(&root, key.to_vec())?, utf8(&root, value.bytes.to_vec())?));
        }
        Ok(settings)
    }

    /// Sets a local setting, or removes it.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`], [`Error::ValueTooLong`] over 1,024 bytes.
    pub fn set_setting(&self, key: &str, value: Option<&str>) -> Result<()> {
        self.write_setting(|writer, updates| self.plan_setting(writer, updates, key, value))
    }

    /// Moves refs by compare-and-set, and sets a local setting, all or none; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Moved`] if a ref is not what its update moves it from; those of [`Database::update_refs`] and of
    /// [`Database::set_setting`].
    pub fn update_refs_and_setting(&self, moves: &[RefUpdate], key: &str, value: &str) -> Result<()> {
        self.write(|writer, updates| {
            updates.extend_from_slice(moves);
            self.plan_setting(writer, updates, key, Some(value))
        })?;
        Ok(())
    }

    /// [`Database::update_refs_and_setting`], as a change whose number is `sequence` or above.
    ///
    /// # Errors
    /// The same.
    pub fn update_refs_and_setting_at(
        &self,
        sequence: u64,
        moves: &[RefUpdate],
        key: &str,
        value: &str,
    ) -> Result<()> {
        self.write(|writer, updates| {
            updates.extend_from_slice(moves);
            self.plan_setting(writer, updates, key, Some(value))?;
            self.store().raise_sequence(sequence);
            Ok(())
        })?;
        Ok(())
    }

    pub(crate) fn plan_setting(
        &self,
        writer: &mut Writer,
        updates: &mut Vec<RefUpdate>,
        key: &str,
        value: Option<&str>,
    ) -> Result<()> {
        let max = usize::from(catalogue::CONFIG.inline_bytes);
        if let Some(value) = value.filter(|value| value.len() > max) {
            return Err(Error::ValueTooLong { found: value.len(), max });
        }
        if key.len() > map::config::KEY_BYTES_MAX {
            return Err(Error::KeyTooLong { found: key.len(), max: map::config::KEY_BYTES_MAX });
        }
        let old = self.store().appended_ref(names::SETTINGS);
        let root = match old {
            Some(root) => root,
            None => build::empty(writer)?,
        };
        let new = map_edit::apply(writer, &catalogue::CONFIG, root, &[edit(key, value)])?;
        updates.push(RefUpdate { name: names::SETTINGS.to_owned(), old, new: Some(new) });
        Ok(())
    }
}

/// The change of the settings' map that sets or removes one.
pub(crate) fn edit(key: &str, value: Option<&str>) -> Edit<Value> {
    let new = value.map(|value| Value { tag: Tag::Inline, bytes: value.as_bytes().to_vec() });
    Edit { key: key.as_bytes().to_vec(), new }
}

fn utf8(root: &Hash, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::malformed(root, "expected settings to be UTF-8"))
}

//! The salt of a database, for tables whose keys strangers choose.
//!
//! Who knows how a table is cut into nodes can choose keys so that one insert rewrites hundreds of leaves (`docs/decisions/0003`). A salt that
//! is not known takes that away. It is random and one for all such tables of a database, so that what two branches make of one name
//! merges, and equal content has equal roots within it. It stays with this copy of the database; a table has its own in its definition.

use std::hash::{BuildHasher, Hasher, RandomState};

use pleach_chunkstore::Hash;

use crate::{database::Database, error::Result};

/// The setting from whose text it is made, whatever that is.
const SALT: &str = "table.salt";

impl Database {
    /// The salt for tables whose keys strangers choose, in one line: random, made when it is first asked for, and then the same.
    ///
    /// ```
    /// use pleach_engine::{Database, Definition};
    ///
    /// # fn main() -> Result<(), pleach_engine::Error> {
    /// # let database = Database::memory()?;
    /// let mut transaction = database.begin("main")?;
    /// transaction.create_table_with("guests", Definition::new(None).salted(database.salt()?))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The store's.
    pub fn salt(&self) -> Result<u64> {
        if let Some(text) = self.setting(SALT)? {
            return Ok(made_of(&text));
        }
        let (salt, _) = self.write(|writer, updates| {
            if let Some(text) = self.appended_setting(SALT)? {
                return Ok(made_of(&text));
            }
            // Hashed with keys that the system gave to this process.
            let text = format!("{:016x}", RandomState::new().build_hasher().finish());
            self.plan_setting(writer, updates, SALT, Some(&text))?;
            Ok(made_of(&text))
        })?;
        Ok(salt)
    }
}

/// The first eight bytes of the text's hash.
fn made_of(text: &str) -> u64 {
    let hash = Hash::of(text.as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use crate::*;

    #[test]
    fn a_database_has_one_salt_which_is_another_in_every_database() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::init(&dir.path().join("db"), Options::default()).unwrap();
        let salts: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| database.salt().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(salts.iter().all(|salt| *salt == salts[0]), "{salts:?}");
        database.close().unwrap();
        let database = Database::open(&dir.path().join("db"), Options::default()).unwrap();
        assert_eq!(database.salt().unwrap(), salts[0]);
        let other = Database::memory().unwrap();
        assert_ne!(other.salt().unwrap(), salts[0]);
        // Whatever stands in the setting.
        other.set_setting("table.salt", Some("")).unwrap();
        assert_ne!(other.salt().unwrap(), 0);
    }

    #[test]
    fn equal_rows_have_equal_roots_under_one_salt_alone() {
        let root = |salt: Option<u64>| {
            let database = Database::memory().unwrap();
            let mut transaction = database.begin("main").unwrap();
            let plain = Definition::new(None);
            let definition = salt.map_or(plain.clone(), |salt| plain.salted(salt));
            transaction.create_table_with("t", definition).unwrap();
            transaction.load("t", (0..2000_u32).map(|n| (n.to_be_bytes(), b"v"))).unwrap();
            transaction.commit().unwrap();
            let work = database.branch("main").unwrap().unwrap().work;
            database.snapshot_of_root(work).unwrap().table("t").unwrap().unwrap().root()
        };
        assert_eq!(root(Some(7)), root(Some(7)));
        assert_ne!(root(Some(7)), root(Some(8)));
        assert_ne!(root(Some(7)), root(None));
        assert_eq!(root(Some(0)), root(None));
    }
}

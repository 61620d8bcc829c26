//! Branches and tags: names of commits, and each branch's uncommitted work.
//!
//! A branch is there if `work/NAME` is; `heads/NAME` appears with its first commit. What a change by force takes away
//! is kept, see [`crate::recovery`].

use pleach_chunkstore::{Hash, RefUpdate};

use crate::{
    database::Database,
    error::{Error, Result},
    map::build,
    names, settings,
};

/// A branch: its last commit and its uncommitted root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Its last commit; `None` before the first.
    pub head: Option<Hash>,
    /// The root of its work; equal to the head's root when there is nothing to commit.
    pub work: Hash,
}

impl Database {
    /// All branches, by name.
    ///
    /// # Errors
    /// The store's.
    pub fn branches(&self) -> Result<Vec<Branch>> {
        let works = self.refs(names::WORK);
        Ok(works
            .into_iter()
            .map(|(name, work)| {
                let name = name[names::WORK.len()..].to_owned();
                Branch { head: self.get_ref(&names::head(&name)), name, work }
            })
            .collect())
    }

    /// The branch called `name`.
    ///
    /// # Errors
    /// The store's.
    pub fn branch(&self, name: &str) -> Result<Option<Branch>> {
        let work = self.get_ref(&names::work(name));
        Ok(work.map(|work| Branch { name: name.to_owned(), head: self.get_ref(&names::head(name)), work }))
    }

    pub(crate) fn existing_branch(&self, name: &str) -> Result<Branch> {
        self.branch(name)?.ok_or_else(|| Error::UnknownBranch { name: name.to_owned() })
    }

    /// The branch as appended, which may not be durable yet. For plans of [`Database::write`].
    pub(crate) fn appended_branch(&self, name: &str) -> Result<Branch> {
        let work = self.store().appended_ref(&names::work(name));
        let work = work.ok_or_else(|| Error::UnknownBranch { name: name.to_owned() })?;
        Ok(Branch { name: name.to_owned(), head: self.store().appended_ref(&names::head(name)), work })
    }

    /// Makes a branch at a commit, or without any commit.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`].
    pub fn create_branch(&self, name: &str, at: Option<Hash>) -> Result<()> {
        names::check_ref("branch", name)?;
        self.write(|writer, updates| {
            if self.store().appended_ref(&names::work(name)).is_some() {
                return Err(Error::Exists { what: "branch", name: name.to_owned() });
            }
            let work = match &at {
                Some(commit) => self.commit_object(commit)?.root,
                None => build::empty(writer)?,
            };
            if at.is_some() {
                updates.push(RefUpdate { name: names::head(name), old: None, new: at });
            }
            updates.push(RefUpdate { name: names::work(name), old: None, new: Some(work) });
            Ok(())
        })?;
        Ok(())
    }

    /// Deletes a branch. What only it reached is kept under `recovery/`.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`]; [`Error::BranchInUse`] for the current one.
    pub fn delete_branch(&self, name: &str) -> Result<()> {
        self.write(|_, updates| {
            let branch = self.appended_branch(name)?;
            if self.appended_current_branch()? == name {
                return Err(Error::BranchInUse { name: name.to_owned() });
            }
            self.keep_branch(&branch, updates)?;
            updates.push(RefUpdate { name: names::work(name), old: Some(branch.work), new: None });
            if branch.head.is_some() {
                updates.push(RefUpdate { name: names::head(name), old: branch.head, new: None });
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Renames a branch, with its work.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`], [`Error::Exists`], [`Error::BadName`].
    pub fn rename_branch(&self, old: &str, new: &str) -> Result<()> {
        names::check_ref("branch", new)?;
        self.write(|writer, updates| {
            let branch = self.appended_branch(old)?;
            if self.store().appended_ref(&names::work(new)).is_some() {
                return Err(Error::Exists { what: "branch", name: new.to_owned() });
            }
            for (from, to, at) in [
                (names::work(old), names::work(new), Some(branch.work)),
                (names::head(old), names::head(new), branch.head),
            ] {
                if at.is_some() {
                    updates.push(RefUpdate { name: from, old: at, new: None });
                    updates.push(RefUpdate { name: to, old: None, new: at });
                }
            }
            if self.appended_current_branch()? == old {
                self.plan_setting(writer, updates, settings::CURRENT_BRANCH, Some(new))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The current branch as appended. For plans of [`Database::write`].
    fn appended_current_branch(&self) -> Result<String> {
        let current = self.appended_setting(settings::CURRENT_BRANCH)?;
        Ok(current.unwrap_or_else(|| crate::DEFAULT_BRANCH.to_owned()))
    }

    /// All tags, by name, with their commits.
    ///
    /// # Errors
    /// The store's.
    pub fn tags(&self) -> Result<Vec<(String, Hash)>> {
        let tags = self.refs(names::TAGS);
        Ok(tags.into_iter().map(|(name, hash)| (name[names::TAGS.len()..].to_owned(), hash)).collect())
    }

    /// Tags a commit.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`].
    pub fn create_tag(&self, name: &str, at: Hash) -> Result<()> {
        names::check_ref("tag", name)?;
        self.commit_object(&at)?;
        self.write(|_, updates| {
            if self.store().appended_ref(&names::tag(name)).is_some() {
                return Err(Error::Exists { what: "tag", name: name.to_owned() });
            }
            updates.push(RefUpdate { name: names::tag(name), old: None, new: Some(at) });
            Ok(())
        })?;
        Ok(())
    }

    /// Deletes a tag.
    ///
    /// # Errors
    /// [`Error::UnknownTag`].
    pub fn delete_tag(&self, name: &str) -> Result<()> {
        self.write(|_, updates| {
            let old = self.store().appended_ref(&names::tag(name));
            let old = old.ok_or_else(|| Error::UnknownTag { name: name.to_owned() })?;
            updates.push(RefUpdate { name: names::tag(name), old: Some(old), new: None });
            Ok(())
        })?;
        Ok(())
    }

    /// Makes `branch` the current one. Work stays with its branch.
    ///
    /// # Errors
    /// [`Error::UnknownBranch`].
    pub fn switch(&self, branch: &str) -> Result<()> {
        self.write(|writer, updates| {
            self.appended_branch(branch)?;
            self.plan_setting(writer, updates, settings::CURRENT_BRANCH, Some(branch))
        })?;
        Ok(())
    }

    /// The branch that commands use when none is named.
    ///
    /// # Errors
    /// The store's.
    pub fn current_branch(&self) -> Result<String> {
        Ok(self.setting(settings::CURRENT_BRANCH)?.unwrap_or_else(|| crate::DEFAULT_BRANCH.to_owned()))
    }
}

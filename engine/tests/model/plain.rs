//! The plain model of a database: maps of rows, a list of commits, and what each operation makes of them.
//!
//! An operation gives its outcome as a word: that of the engine's outcome, or the name of its error. It knows nothing of nodes,
//! chunks or the disk.

use std::collections::{BTreeMap, BTreeSet};

use pleach_engine::{
    Hash, Schema, Side,
    row::{Column, Type, Value},
};

/// Two raw tables and a typed one.
pub(crate) const TABLES: [&str; 3] = ["a", "b", "t"];
pub(crate) const TYPED: &str = "t";

pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
pub(crate) type Tables = BTreeMap<&'static str, Table>;
/// A row in the base, ours and theirs.
pub(crate) type Sides = [Option<Vec<u8>>; 3];
/// By table and key.
pub(crate) type Conflicts = BTreeMap<(&'static str, Vec<u8>), Sides>;
/// What an operation comes to, in a word.
pub(crate) type Word = String;

/// The columns of the typed table: `name` is in a unique index, `count` in another, if that was made.
pub(crate) fn schema() -> Schema {
    let columns = [("id", Type::Int), ("name", Type::Text), ("count", Type::Int), ("note", Type::Text)];
    let columns = columns.into_iter().zip(0..).map(|((name, ty), id)| Column { id, name: name.into(), ty });
    Schema::new(columns.collect(), vec![0]).unwrap()
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Tables of different salts are of different definitions.
    pub(crate) salt: u64,
    /// Whether there is an index of counts.
    pub(crate) counted: bool,
    pub(crate) rows: Rows,
}

/// What a branch has that is not committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) tables: Tables,
    /// The commit that is being merged.
    pub(crate) merging: Option<usize>,
    /// Rows that wait for a decision.
    pub(crate) conflicts: Conflicts,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Branch {
    pub(crate) head: Option<usize>,
    pub(crate) work: Work,
}

#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) hash: Hash,
    pub(crate) tables: Tables,
    pub(crate) parents: Vec<usize>,
    pub(crate) generation: u64,
}

/// What a transaction did to a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched {
    pub(crate) dropped: bool,
    /// The table was made, or all its rows replaced.
    pub(crate) replaced: bool,
    /// An index was made or dropped.
    pub(crate) indexed: bool,
    pub(crate) keys: BTreeSet<Vec<u8>>,
    /// Keys from the first to before the second went.
    pub(crate) ranges: Vec<[Vec<u8>; 2]>,
}

/// A transaction: what it saw, what it would leave, and what it touched.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    pub(crate) branch: String,
    pub(crate) seen: Tables,
    pub(crate) view: Tables,
    pub(crate) touched: BTreeMap<&'static str, Touched>,
}

/// All of a database. Commits are numbered in the order in which they were made, which is that of their dates.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) branches: BTreeMap<String, Branch>,
    pub(crate) current: String,
    pub(crate) commits: Vec<Commit>,
    pub(crate) tags: BTreeMap<String, usize>,
}

impl World {
    /// What the branch's head has; nothing before the first commit.
    pub(crate) fn committed(&self, head: Option<usize>) -> Tables {
        head.map(|head| self.commits[head].tables.clone()).unwrap_or_default()
    }

    pub(crate) fn is_dirty(&self, branch: &Branch) -> bool {
        branch.work != Work { tables: self.committed(branch.head), ..Work::default() }
    }

    /// A commit and all before it.
    pub(crate) fn ancestors(&self, of: usize) -> BTreeSet<usize> {
        let (mut found, mut open) = (BTreeSet::new(), vec![of]);
        while let Some(commit) = open.pop() {
            if found.insert(commit) {
                open.extend(&self.commits[commit].parents);
            }
        }
        found
    }

    pub(crate) fn merge_base(&self, a: usize, b: usize) -> Option<usize> {
        let (a, b) = (self.ancestors(a), self.ancestors(b));
        let rank = |at: &&usize| (self.commits[**at].generation, std::cmp::Reverse(self.commits[**at].hash));
        a.intersection(&b).max_by_key(rank).copied()
    }

    pub(crate) fn add_commit(&mut self, hash: Hash, tables: Tables, parents: Vec<usize>) -> usize {
        let generation = 1 + parents.iter().map(|parent| self.commits[*parent].generation).max().unwrap_or(0);
        self.commits.push(Commit { hash, tables, parents, generation });
        self.commits.len() - 1
    }

    /// The parents that a version commit would have, or why there can be none.
    pub(crate) fn plan_commit(&self, branch: &Branch, amend: bool) -> Result<Vec<usize>, Word> {
        if !branch.work.conflicts.is_empty() {
            return Err("UnresolvedConflicts".into());
        }
        match (amend, branch.head) {
            (true, Some(_)) if branch.work.merging.is_some() => Err("MergeUnderWay".into()),
            (true, None) => Err("NothingToAmend".into()),
            (true, Some(head)) => Ok(self.commits[head].parents.clone()),
            (false, head) if branch.work.merging.is_none() && self.committed(head) == branch.work.tables => {
                Err("NothingToCommit".into())
            }
            (false, head) => Ok(head.into_iter().chain(branch.work.merging).collect()),
        }
    }

    /// Commits a transaction; `None` if another one touched what it touched first, with where.
    pub(crate) fn finish(&mut self, changes: Changes) -> Word {
        let Some(branch) = self.branches.get_mut(&changes.branch) else { return "UnknownBranch".into() };
        let now = &mut branch.work;
        for (table, touched) in &changes.touched {
            if let Some(refused) = refusal(touched, now.tables.get(table), changes.seen.get(table)) {
                return format!("Refused {table} {refused:?}");
            }
        }
        let before = now.clone();
        for (table, touched) in &changes.touched {
            let is_touched = |key: &Vec<u8>| touched.keys.contains(key) || touched.has_in_range(key);
            match (changes.view.get(table), now.tables.get_mut(table)) {
                (Some(view), Some(now)) if !touched.replaced && !touched.dropped => {
                    now.rows.retain(|key, _| !is_touched(key));
                    let new = view.rows.iter().filter(|(key, _)| is_touched(key));
                    now.rows.extend(new.map(|(key, value)| (key.clone(), value.clone())));
                    if touched.indexed {
                        now.counted = view.counted;
                    }
                }
                // All its rows, and nothing else, were replaced.
                (Some(view), Some(now)) if !touched.dropped && !touched.indexed => {
                    now.rows.clone_from(&view.rows);
                }
                (Some(view), _) => drop(now.tables.insert(table, view.clone())),
                (None, _) => drop(now.tables.remove(table)),
            }
            if touched.replaced || touched.dropped {
                now.conflicts.retain(|(of, _), _| of != table);
            }
        }
        if violates_unique(&now.tables) {
            *now = before;
            return "UniqueViolation".into();
        }
        if *now == before { "Unchanged".into() } else { "Committed".into() }
    }

    /// Takes back a commit on a branch: what the transaction of it would leave.
    pub(crate) fn plan_revert(&self, branch: &Branch, commit: usize) -> Result<Tables, Word> {
        match () {
            () if !branch.work.conflicts.is_empty() => return Err("UnresolvedConflicts".into()),
            () if branch.work.merging.is_some() => return Err("MergeUnderWay".into()),
            () if self.is_dirty(branch) => return Err("UncommittedWork".into()),
            () => {}
        }
        let Commit { tables: from, parents, .. } = &self.commits[commit];
        let to = match parents.as_slice() {
            [] => Tables::new(),
            [parent] => self.commits[*parent].tables.clone(),
            _ => return Err("RevertsMerge".into()),
        };
        let mut work = branch.work.tables.clone();
        for table in TABLES.into_iter().filter(|table| from.get(table) != to.get(table)) {
            take_back(&mut work, table, from.get(table), to.get(table)).ok_or("PatchMismatch")?;
        }
        if violates_unique(&work) {
            return Err("UniqueViolation".into());
        }
        Ok(work)
    }
}

impl Touched {
    fn has_in_range(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|[from, to]| from.as_slice() <= key && key < to.as_slice())
    }
}

/// Why a transaction that touched a table is not admitted: a row, or the table (`None`) that somebody else changed first.
fn refusal(touched: &Touched, now: Option<&Table>, seen: Option<&Table>) -> Option<Option<Vec<u8>>> {
    let counted = [now, seen].map(|side| side.is_some_and(|table| table.counted));
    let without_index = |side: Option<&Table>| side.map(|table| Table { counted: false, ..table.clone() });
    if touched.replaced && !touched.dropped && !touched.indexed {
        return (without_index(now) != without_index(seen)).then_some(None);
    }
    if touched.replaced || touched.dropped {
        return (now != seen).then_some(None);
    }
    let (Some(now), Some(seen)) = (now, seen) else { return Some(None) };
    if now.salt != seen.salt {
        return Some(None);
    }
    let indexes = (touched.indexed && counted[0] != counted[1]).then_some(None);
    let differs = |key: &&Vec<u8>| now.rows.get(*key) != seen.rows.get(*key);
    let both: BTreeSet<&Vec<u8>> = now.rows.keys().chain(seen.rows.keys()).collect();
    let in_ranges = || both.into_iter().filter(|key| touched.has_in_range(key)).find(differs);
    touched.keys.iter().find(differs).or_else(in_ranges).map(|key| Some(key.clone())).or(indexes)
}

/// Changes `from` to `to` in the work; `None` if it is not as in `from` there.
fn take_back(work: &mut Tables, table: &'static str, from: Option<&Table>, to: Option<&Table>) -> Option<()> {
    let Some(from) = from else {
        return work.insert(table, to?.clone()).is_none().then_some(());
    };
    let found = work.get_mut(table)?;
    let Some(to) = to else {
        let same = *found == *from;
        work.remove(table);
        return same.then_some(());
    };
    if from.salt != to.salt {
        if found.salt != from.salt {
            return None;
        }
        found.salt = to.salt;
    }
    if from.counted != to.counted || (from.salt != to.salt && from.counted) {
        if found.counted != from.counted {
            return None;
        }
        found.counted = to.counted;
    }
    for key in from.rows.keys().chain(to.rows.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (from.rows.get(key), to.rows.get(key));
        if old == new {
            continue;
        }
        if found.rows.get(key) != old {
            return None;
        }
        match new {
            Some(new) => drop(found.rows.insert(key.clone(), new.clone())),
            None => drop(found.rows.remove(key)),
        }
    }
    Some(())
}

/// Whether two rows of the typed table have one name.
pub(crate) fn violates_unique(tables: &Tables) -> bool {
    let schema = schema();
    let rows = tables.get(TYPED).into_iter().flat_map(|table| &table.rows);
    let names = rows.map(|(key, value)| schema.decode_row(key, value).unwrap()[1].clone());
    let names: Vec<String> = names.filter_map(|name| name.to_text(&Type::Text)).collect();
    names.iter().collect::<BTreeSet<_>>().len() < names.len()
}

/// Merges tables; `prefer` decides about rows, and cells, that both sides changed.
pub(crate) fn merge(
    base: &Tables,
    ours: &Tables,
    theirs: &Tables,
    prefer: Option<Side>,
) -> Result<(Tables, Conflicts), Word> {
    let (mut merged, mut conflicts) = (ours.clone(), Conflicts::new());
    for table in TABLES {
        let sides = [base.get(table), ours.get(table), theirs.get(table)];
        let [base, ours, theirs] = sides;
        if theirs == base || theirs == ours {
            continue;
        }
        match (ours, theirs) {
            (ours, Some(theirs)) if ours == base => drop(merged.insert(table, theirs.clone())),
            (ours, None) if ours == base => drop(merged.remove(table)),
            (Some(ours), Some(theirs))
                if ours.salt == theirs.salt && base.is_none_or(|base| base.salt == ours.salt) =>
            {
                let nothing = Rows::new();
                let was_counted = base.is_some_and(|base| base.counted);
                let counted = if ours.counted == was_counted { theirs.counted } else { ours.counted };
                let base = base.map_or(&nothing, |base| &base.rows);
                let (rows, kept) = merge_rows(table, [base, &ours.rows, &theirs.rows], prefer);
                merged.insert(table, Table { salt: ours.salt, counted, rows });
                conflicts.extend(kept.into_iter().map(|(key, sides)| ((table, key), sides)));
                if table == TYPED && violates_unique(&merged) {
                    return Err("UniqueViolation".into());
                }
            }
            _ => return Err("TableConflict".into()),
        }
    }
    Ok((merged, conflicts))
}

fn merge_rows(
    table: &str,
    [base, ours, theirs]: [&Rows; 3],
    prefer: Option<Side>,
) -> (Rows, BTreeMap<Vec<u8>, Sides>) {
    let (mut merged, mut conflicts) = (ours.clone(), BTreeMap::new());
    for key in base.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let sides = [base, ours, theirs].map(|side| side.get(key).cloned());
        let [base, ours, theirs] = &sides;
        if theirs == base || theirs == ours {
            continue;
        }
        let new = if ours == base { Some(theirs.clone()) } else { decide(table, key, &sides, prefer) };
        match new {
            Some(Some(new)) => drop(merged.insert(key.clone(), new)),
            Some(None) => drop(merged.remove(key)),
            None => drop(conflicts.insert(key.clone(), sides)),
        }
    }
    (merged, conflicts)
}

/// What becomes of a row that both sides changed; `None` if that is not said.
pub(crate) fn decide(
    table: &str,
    key: &[u8],
    sides: &Sides,
    prefer: Option<Side>,
) -> Option<Option<Vec<u8>>> {
    let [base, ours, theirs] = sides;
    let (true, Some(base), Some(our), Some(their)) = (table == TYPED, base, ours, theirs) else {
        return prefer.map(|side| if side == Side::Ours { ours.clone() } else { theirs.clone() });
    };
    let schema = schema();
    let [base, our, their] = [base, our, their].map(|row| schema.decode_row(key, row).unwrap());
    let cells = base.into_iter().zip(our).zip(their);
    let cells = cells.map(|((base, our), their)| match () {
        () if their == base || their == our => Some(our),
        () if our == base => Some(their),
        () => prefer.map(|side| if side == Side::Ours { our } else { their }),
    });
    let cells: Option<Vec<Value>> = cells.collect();
    cells.map(|cells| Some(schema.encode_row(&cells).unwrap().1))
}

//! Random programs. What an operation is about is given by numbers, which stand for one of what there is when it runs.

use pleach_engine::{Side, row::Value};
use proptest::prelude::*;

use crate::plain;

/// An edit of a table, which is one of [`plain::TABLES`].
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Put(usize, Row),
    Delete(usize, u16),
    DeleteRange(usize, u16, u16),
    /// Replaces all rows: so many, from this number on, so far apart.
    Load(usize, u16, u16, u16),
    /// Makes the table, of one of two definitions.
    Create(usize, bool),
    Drop(usize),
    /// Makes the index of counts of the typed table, or drops it.
    Index,
}

/// A row of any table: its number, and what its value is made of.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) number: u16,
    pub(crate) value: u8,
    pub(crate) name: Option<u8>,
    pub(crate) count: u8,
}

/// Stands for one of what there is, and none if there is nothing.
pub(crate) type Index = usize;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A transaction, begun and committed.
    Write(Index, Vec<Edit>),
    /// Two transactions on one branch, that both see it as it was.
    Race(Index, [Vec<Edit>; 2]),
    Begin(Index),
    Edit(Index, Vec<Edit>),
    /// Ends an open transaction: commits it, or drops it.
    End(Index, bool),
    Commit {
        branch: Index,
        amend: bool,
    },
    Merge {
        branch: Index,
        theirs: Index,
        prefer: Option<Side>,
    },
    Resolve(Index, Side),
    Abort(Index),
    Revert(Index, Index),
    Reset {
        branch: Index,
        to: Index,
        hard: bool,
    },
    CreateBranch(u8, Option<Index>),
    DeleteBranch(Index),
    RenameBranch(Index, u8),
    Switch(Index),
    CreateTag(u8, Index),
    DeleteTag(u8),
    /// A view is kept until the end.
    View(Index),
    Collect,
    Compact,
    Reopen,
}

impl Row {
    /// Its key and value in a table.
    pub(crate) fn encode(&self, table: &str) -> (Vec<u8>, Vec<u8>) {
        if table != plain::TYPED {
            // Some values are kept out of line.
            let len = if self.value < 6 { 3000 } else { usize::from(self.count) };
            return (raw_key(self.number), vec![self.value; len]);
        }
        let name = self.name.map_or(Value::Null, |name| Value::Text(format!("name {name}")));
        let note = Value::Text(format!("note {}", self.value % 5));
        let id = Value::Int(i64::from(self.number % 96));
        plain::schema().encode_row(&[id, name, Value::Int(i64::from(self.count)), note]).unwrap()
    }
}

/// The key of a row that may be there.
pub(crate) fn key(table: &str, number: u16) -> Vec<u8> {
    Row { number, value: 0, name: None, count: 0 }.encode(table).0
}

/// Keys of two lengths, some of which begin with others.
fn raw_key(number: u16) -> Vec<u8> {
    let key = (number / 2).to_be_bytes().to_vec();
    if number.is_multiple_of(2) { key } else { [&key[..], b"beyond"].concat() }
}

/// Half of the time one of a few, so that changes meet.
fn number() -> impl Strategy<Value = u16> {
    prop_oneof![0_u16..400, 100_u16..116]
}

fn row() -> impl Strategy<Value = Row> {
    let name = prop_oneof![2 => Just(None), 1 => (0_u8..30).prop_map(Some)];
    (number(), any::<u8>(), name, 0_u8..30).prop_map(|(number, value, name, count)| Row {
        number,
        value,
        name,
        count,
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let table = || prop_oneof![3 => Just(0_usize), 1 => Just(1), 3 => Just(2)];
    prop_oneof![
        24 => (table(), row()).prop_map(|(table, row)| Edit::Put(table, row)),
        8 => (table(), number()).prop_map(|(table, number)| Edit::Delete(table, number)),
        3 => (table(), number(), 0_u16..60)
            .prop_map(|(table, from, count)| Edit::DeleteRange(table, from, from + count)),
        1 => (table(), 0_u16..200, 0_u16..150, 1_u16..4)
            .prop_map(|(table, from, count, apart)| Edit::Load(table, from, count, apart)),
        1 => (table(), any::<bool>()).prop_map(|(table, other)| Edit::Create(table, other)),
        1 => table().prop_map(Edit::Drop),
        1 => Just(Edit::Index),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let any = || 0_usize..1000;
    let side = || prop_oneof![Just(Side::Ours), Just(Side::Theirs)];
    let edits = || prop::collection::vec(edit(), 1..12);
    prop_oneof![
        12 => (any(), edits()).prop_map(|(branch, edits)| Step::Write(branch, edits)),
        4 => (any(), [edits(), edits()]).prop_map(|(branch, edits)| Step::Race(branch, edits)),
        3 => any().prop_map(Step::Begin),
        3 => (any(), edits()).prop_map(|(transaction, edits)| Step::Edit(transaction, edits)),
        4 => (any(), prop::bool::weighted(0.9)).prop_map(|(transaction, commit)| Step::End(transaction, commit)),
        10 => (any(), prop::bool::weighted(0.1)).prop_map(|(branch, amend)| Step::Commit { branch, amend }),
        8 => (any(), any(), prop::option::weighted(0.3, side()))
            .prop_map(|(branch, theirs, prefer)| Step::Merge { branch, theirs, prefer }),
        4 => (any(), side()).prop_map(|(branch, side)| Step::Resolve(branch, side)),
        1 => any().prop_map(Step::Abort),
        3 => (any(), any()).prop_map(|(branch, commit)| Step::Revert(branch, commit)),
        2 => (any(), any(), prop::bool::ANY).prop_map(|(branch, to, hard)| Step::Reset { branch, to, hard }),
        3 => (0_u8..6, prop::option::weighted(0.9, any())).prop_map(|(name, at)| Step::CreateBranch(name, at)),
        1 => any().prop_map(Step::DeleteBranch),
        1 => (any(), 0_u8..6).prop_map(|(branch, name)| Step::RenameBranch(branch, name)),
        1 => any().prop_map(Step::Switch),
        1 => (0_u8..4, any()).prop_map(|(name, at)| Step::CreateTag(name, at)),
        1 => (0_u8..4).prop_map(Step::DeleteTag),
        1 => any().prop_map(Step::View),
        1 => Just(Step::Collect),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

/// A program, whose first steps make the tables, a version and a second branch.
pub(crate) fn program() -> impl Strategy<Value = Vec<Step>> {
    let tables = vec![
        Edit::Create(0, false),
        Edit::Load(0, 0, 250, 1),
        Edit::Create(1, false),
        Edit::Load(1, 30, 20, 2),
        Edit::Create(2, false),
        Edit::Load(2, 0, 40, 2),
    ];
    let begin =
        [Step::Write(0, tables), Step::Commit { branch: 0, amend: false }, Step::CreateBranch(0, Some(0))];
    prop::collection::vec(step(), 1..120).prop_map(move |steps| begin.iter().cloned().chain(steps).collect())
}

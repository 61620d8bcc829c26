//! Any bytes as a schema, and as a row under it. What decodes must encode to the same bytes: rows are canonical.
//!
//! Input: one byte, the schema's length; the schema; one byte, the key's length; the key; the value.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pleach_engine::Schema;

fuzz_target!(|input: &[u8]| {
    let Some((schema, rest)) = piece(input) else { return };
    let Ok(decoded) = Schema::decode(schema) else { return };
    assert_eq!(decoded.encode(), schema);
    let Some((key, value)) = piece(rest) else { return };
    if let Ok(values) = decoded.decode_row(key, value) {
        let (key_again, value_again) = decoded.encode_row(&values).expect("a row that decodes, encodes");
        assert_eq!(key_again, key);
        // A row that was last written before a column was dropped has its cell still.
        match decoded.has_dropped_cells(value).expect("the row decodes") {
            false => assert_eq!(value_again, value),
            true => assert!(value_again.len() < value.len()),
        }
        for (column, cell) in
            decoded.columns().iter().zip(&values).filter(|(column, _)| !decoded.is_key(column.id))
        {
            assert_eq!(&decoded.cell(value, column.id).expect("the cell is there"), cell);
        }
    }
});

/// Splits a piece with its length in front from what follows.
fn piece(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = input.split_first()?;
    rest.split_at_checked(usize::from(length))
}

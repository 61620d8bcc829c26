//! One value as it is written, before its column's type is known.
//!
//! The one idea: CSV has only text, JSON has kinds; a cell keeps what the file said, and the column decides.

use std::borrow::Cow;

use pleach_engine::row::{ParseError, Type, Value};

/// A value as written.
pub(super) enum Cell<'a> {
    /// An empty unquoted field, or JSON's `null`.
    Null,
    /// A CSV field.
    Plain(&'a str),
    /// A JSON number, as written.
    Number(&'a str),
    /// JSON's `true` or `false`.
    Bool(&'a str),
    /// A JSON string.
    Text(Cow<'a, str>),
    /// Bytes in JSON: `{"hex":"00ff"}`.
    Hex(Vec<u8>),
}

impl Cell<'_> {
    /// The value it is in a column of type `ty`.
    pub(super) fn value(&self, ty: &Type) -> Result<Value, ParseError> {
        match (self, ty) {
            (Cell::Null, _) => Ok(Value::Null),
            (Cell::Hex(bytes), Type::Bytes) => Ok(Value::Bytes(bytes.clone())),
            (Cell::Hex(_), _) => {
                let expected =
                    Value::parse("", ty).err().map_or_else(|| ty.to_string(), |error| error.expected);
                Err(ParseError { expected, found: "bytes in hex".into() })
            }
            (Cell::Text(text), Type::Bytes) => Ok(Value::Bytes(text.as_bytes().to_vec())),
            (Cell::Plain(text) | Cell::Number(text) | Cell::Bool(text), _) => Value::parse(text, ty),
            (Cell::Text(text), _) => Value::parse(text, ty),
        }
    }

    /// Whether a column of type `ty` would write this cell as it is written here. A JSON number is its value, not its
    /// digits: `1.0` and `1` are one, as long as no digit is lost.
    pub(super) fn prints_back(&self, ty: &Type) -> bool {
        let again = |text: &str| Value::parse(text, ty).ok().and_then(|value| value.to_text(ty));
        match self {
            Cell::Null => true,
            Cell::Plain(text) => *ty != Type::Bytes && again(text).as_deref() == Some(text),
            Cell::Number(text) => match ty {
                Type::Int => again(text).as_deref() == Some(text),
                Type::Float => again(text).is_some_and(|again| magnitude(&again) == magnitude(text)),
                _ => false,
            },
            Cell::Bool(_) => *ty == Type::Bool,
            Cell::Text(text) => match ty {
                Type::Date | Type::Timestamp | Type::Uuid => again(text).as_deref() == Some(text),
                // As a float column writes what JSON has no number for.
                Type::Float => matches!(text.as_ref(), "NaN" | "inf" | "-inf"),
                Type::Bytes => true,
                _ => false,
            },
            Cell::Hex(_) => *ty == Type::Bytes,
        }
    }
}

/// A number's significant digits and the power of ten of the last; equal for equal numbers of one sign.
fn magnitude(text: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some((String::new(), 0));
    }
    let dropped = digits.len() - significant.len();
    let power = exponent.checked_sub(fraction.len() as i64)?.checked_add(dropped as i64)?;
    Some((significant.to_owned(), power))
}

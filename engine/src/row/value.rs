//! One value of a row.
//!
//! The one idea: a value does not carry its type's parameters (a decimal is its scaled integer), the column does; so
//! a value is checked against its column's type where it enters an encoding, and nowhere else.

use super::calendar;
use super::error::ParseError;
use super::types::Type;

/// A value. Equality is the equality of what is stored: −0 equals 0, and NaN equals NaN.
#[derive(Debug, Clone)]
pub enum Value {
    /// No value.
    Null,
    /// Of type `bool`.
    Bool(bool),
    /// Of type `int`.
    Int(i64),
    /// Of type `float`.
    Float(f64),
    /// Of type `decimal(P,S)`: the number times 10^S.
    Decimal(i128),
    /// Of type `text`.
    Text(String),
    /// Of type `bytes`.
    Bytes(Vec<u8>),
    /// Of type `date`: days since 1970-01-01.
    Date(i32),
    /// Of type `timestamp`: microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// Of type `uuid`: its 16 bytes in the order they are written.
    Uuid([u8; 16]),
}

impl Value {
    /// Whether this is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether the value may stand in a column of type `ty`; NULL may stand in any.
    pub(super) fn check(&self, ty: &Type) -> Result<(), ParseError> {
        let fits = match (self, ty) {
            (Value::Null, _)
            | (Value::Bool(_), Type::Bool)
            | (Value::Int(_), Type::Int)
            | (Value::Float(_), Type::Float)
            | (Value::Text(_), Type::Text)
            | (Value::Bytes(_), Type::Bytes)
            | (Value::Uuid(_), Type::Uuid) => true,
            (Value::Decimal(scaled), Type::Decimal { precision, .. }) => decimal_fits(*scaled, *precision),
            (Value::Date(days), Type::Date) => calendar::DAYS.contains(days),
            (Value::Timestamp(micros), Type::Timestamp) => calendar::MICROS.contains(micros),
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => Err(ParseError { expected: ty.expectation(), found: self.describe() }),
        }
    }

    /// The value in an error's words, for when it does not fit its column and so may have no text.
    fn describe(&self) -> String {
        match self {
            Value::Null => "NULL".into(),
            Value::Bool(value) => format!("the bool {value}"),
            Value::Int(value) => format!("the int {value}"),
            Value::Float(value) => format!("the float {value:?}"),
            Value::Decimal(scaled) => format!("a decimal of {scaled} units of its last place"),
            Value::Text(text) => format!("the text {}", super::error::quote(text)),
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Date(days) => format!("the date {days} days from 1970-01-01"),
            Value::Timestamp(micros) => {
                format!("the timestamp {micros} microseconds from 1970-01-01T00:00:00Z")
            }
            Value::Uuid(_) => "a uuid".into(),
        }
    }
}

/// Whether `scaled` has at most `precision` digits.
pub(super) fn decimal_fits(scaled: i128, precision: u8) -> bool {
    match 10u128.checked_pow(u32::from(precision)) {
        Some(limit) => scaled.unsigned_abs() < limit,
        None => true,
    }
}

/// The bits that stand for `value` in every encoding: −0 is 0, and every NaN is the positive quiet one.
pub(super) fn float_bits(value: f64) -> u64 {
    if value.is_nan() {
        0x7ff8_0000_0000_0000
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => float_bits(*a) == float_bits(*b),
            (Value::Decimal(a), Value::Decimal(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Date(a), Value::Date(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Uuid(a), Value::Uuid(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

//! The nine column types and their names.
//!
//! The one idea: a type decides one order, one set of bytes and one text for each of its values; anything that would
//! need two (time zones kept with a timestamp, collations) is not a type here. Used by everything in this module.

use std::fmt;
use std::str::FromStr;

use super::error::{Error, ParseError, quote};

/// Most digits of a decimal: the largest power of ten below 2^127 has 38 zeros.
pub const DECIMAL_PRECISION_MAX: u8 = 38;

/// The type of a column. Its name (`Display`, `FromStr`) is the lowercase word, or `decimal(P,S)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// `false` before `true`.
    Bool,
    /// 64 bits, signed.
    Int,
    /// IEEE 754 double; −0 is 0, and there is one NaN, which sorts last.
    Float,
    /// Exact: `precision` digits in all (1 to 38), `scale` of them after the point.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// UTF-8, ordered by code points.
    Text,
    /// Any bytes.
    Bytes,
    /// A day of the Gregorian calendar from 0001-01-01 to 9999-12-31.
    Date,
    /// Microseconds since 1970 in UTC, within the same years.
    Timestamp,
    /// 16 bytes, ordered bytewise.
    Uuid,
}

impl Type {
    /// What to write for a value of this type, as the "expected …" of an error.
    pub(super) fn expectation(&self) -> String {
        match self {
            Type::Bool => "a bool, true or false".into(),
            Type::Int => format!("an int, a whole number from {} to {}", i64::MIN, i64::MAX),
            Type::Float => "a float such as 1.5, -2, 1e300, NaN or inf".into(),
            Type::Decimal { precision, scale } => format!(
                "a {self}, at most {} digits before the point and {scale} after it",
                precision.saturating_sub(*scale)
            ),
            Type::Text => "text".into(),
            Type::Bytes => "bytes, \\x and pairs of hex digits".into(),
            Type::Date => "a date YYYY-MM-DD of the years 0001 to 9999".into(),
            Type::Timestamp => {
                "a timestamp with its offset such as 2024-01-02T03:04:05.123456Z, of the years 0001 to 9999"
                    .into()
            }
            Type::Uuid => "a uuid such as 67e55044-10b1-426f-9247-bb680e5fe0c8".into(),
        }
    }

    /// Refuses a decimal that no value fits.
    pub(super) fn check(&self) -> Result<(), Error> {
        match *self {
            Type::Decimal { precision, scale }
                if !(1..=DECIMAL_PRECISION_MAX).contains(&precision) || scale > precision =>
            {
                Err(Error::BadDecimal { precision, scale })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Bool => f.pad("bool"),
            Type::Int => f.pad("int"),
            Type::Float => f.pad("float"),
            Type::Decimal { precision, scale } => f.pad(&format!("decimal({precision},{scale})")),
            Type::Text => f.pad("text"),
            Type::Bytes => f.pad("bytes"),
            Type::Date => f.pad("date"),
            Type::Timestamp => f.pad("timestamp"),
            Type::Uuid => f.pad("uuid"),
        }
    }
}

impl FromStr for Type {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Type, ParseError> {
        let refuse = || ParseError {
            expected: format!(
                "a type: bool, int, float, decimal(P,S) with P from 1 to {DECIMAL_PRECISION_MAX} and S at most P, text, bytes, date, timestamp or uuid"
            ),
            found: quote(text),
        };
        match text {
            "bool" => Ok(Type::Bool),
            "int" => Ok(Type::Int),
            "float" => Ok(Type::Float),
            "text" => Ok(Type::Text),
            "bytes" => Ok(Type::Bytes),
            "date" => Ok(Type::Date),
            "timestamp" => Ok(Type::Timestamp),
            "uuid" => Ok(Type::Uuid),
            _ => {
                let arguments = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'));
                let (precision, scale) = arguments.and_then(|a| a.split_once(',')).ok_or_else(refuse)?;
                let digits = |part: &str| part.trim().parse::<u8>().map_err(|_| refuse());
                let ty = Type::Decimal { precision: digits(precision)?, scale: digits(scale)? };
                ty.check().map_err(|_| refuse())?;
                Ok(ty)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_parse_back() {
        for name in [
            "bool",
            "int",
            "float",
            "decimal(10,2)",
            "decimal(38,0)",
            "text",
            "bytes",
            "date",
            "timestamp",
            "uuid",
        ] {
            assert_eq!(name.parse::<Type>().unwrap().to_string(), name);
        }
        assert_eq!("decimal(10, 2)".parse::<Type>().unwrap(), Type::Decimal { precision: 10, scale: 2 });
    }

    #[test]
    fn unknown_names_and_impossible_decimals_are_refused_with_the_list_of_types() {
        for name in [
            "",
            "integer",
            "INT",
            "decimal",
            "decimal(39,1)",
            "decimal(0,0)",
            "decimal(2,3)",
            "decimal(1,-1)",
        ] {
            let error = name.parse::<Type>().unwrap_err();
            assert!(error.expected.contains("decimal(P,S)"), "{name}");
            assert_eq!(error.found, format!("{name:?}"));
        }
    }
}

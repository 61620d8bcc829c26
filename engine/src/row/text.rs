//! The text of a value: what `Value::parse` reads and `Value::to_text` writes.
//!
//! The one idea: reading is a little wider than writing, and every value is written in one way, its *canonical text*.
//!
//! | type | canonical text | also read |
//! |---|---|---|
//! | bool | `true`, `false` | |
//! | int | `-12` | `+12`, `007` |
//! | float | the fewest digits that read back as the same number: plain (`0.1`, `12`, `1500000`) from 0.000001 up to below 10^21, as ECMAScript does, else `d.ddde±x` without plus (`1e300`, `2.5e-7`); `NaN`, `inf`, `-inf` | any decimal or exponent form that does not overflow; `infinity`, any case |
//! | decimal(P,S) | exactly S digits after the point (`-0.50`), no point when S is 0 | fewer digits after the point, zeros beyond S, `+`, leading zeros |
//! | text | itself | |
//! | bytes | `\x` and lowercase hex (`\x00ff`) | uppercase hex |
//! | date | `2024-01-02` | |
//! | timestamp | `2024-01-02T03:04:05.5Z`: UTC, fraction trimmed | offsets, a space or `t` for `T`, `z` |
//! | uuid | lowercase, hyphens | uppercase; 32 digits without hyphens |
//!
//! NULL has no text. −0 is written `0`, because that is what is stored.

use super::calendar;
use super::error::ParseError;
use super::types::Type;
use super::value::{Value, decimal_fits, float_bits};

impl Value {
    /// Reads `text` as a value of type `ty`; never gives NULL, which has no text.
    pub fn parse(text: &str, ty: &Type) -> Result<Value, ParseError> {
        let value = match *ty {
            Type::Bool => text.parse().ok().map(Value::Bool),
            Type::Int => text.parse().ok().map(Value::Int),
            Type::Float => parse_float(text).map(Value::Float),
            Type::Decimal { precision, scale } => parse_decimal(text, precision, scale).map(Value::Decimal),
            Type::Text => Some(Value::Text(text.to_owned())),
            Type::Bytes => text.strip_prefix("\\x").and_then(parse_hex).map(Value::Bytes),
            Type::Date => calendar::parse_date(text).map(Value::Date),
            Type::Timestamp => calendar::parse_timestamp(text).map(Value::Timestamp),
            Type::Uuid => parse_uuid(text).map(Value::Uuid),
        };
        value.ok_or_else(|| ParseError::value(ty, text))
    }

    /// The canonical text in a column of type `ty`, which says where a decimal's point is; `None` for NULL.
    pub fn to_text(&self, ty: &Type) -> Option<String> {
        Some(match self {
            Value::Null => return None,
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => float_text(*value),
            Value::Decimal(scaled) => match ty {
                Type::Decimal { scale, .. } => decimal_text(*scaled, *scale),
                _ => scaled.to_string(),
            },
            Value::Text(text) => text.clone(),
            Value::Bytes(bytes) => format!("\\x{}", hex(bytes)),
            Value::Date(days) => calendar::date_text(*days),
            Value::Timestamp(micros) => calendar::timestamp_text(*micros),
            Value::Uuid(bytes) => uuid_text(bytes),
        })
    }
}

/// A number too large for a float is refused rather than read as infinity, which nobody wrote.
fn parse_float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    let overflowed = value.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit());
    (!overflowed).then(|| f64::from_bits(float_bits(value)))
}

fn float_text(value: f64) -> String {
    let value = f64::from_bits(float_bits(value));
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() || (1e-6..1e21).contains(&magnitude) {
        format!("{value}")
    } else {
        format!("{value:e}")
    }
}

fn parse_decimal(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (digits, ""),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = usize::from(scale);
    let kept = fraction.get(..scale.min(fraction.len()))?;
    if fraction.get(kept.len()..)?.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let padding = std::iter::repeat_n(b'0', scale - kept.len());
    let scaled = whole.bytes().chain(kept.bytes()).chain(padding).try_fold(0i128, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    decimal_fits(scaled, precision).then_some(if negative { -scaled } else { scaled })
}

fn decimal_text(scaled: i128, scale: u8) -> String {
    let scale = usize::from(scale);
    let sign = if scaled < 0 { "-" } else { "" };
    let digits = format!("{:0width$}", scaled.unsigned_abs(), width = scale + 1);
    match digits.split_at_checked(digits.len() - scale) {
        Some((whole, fraction)) if scale > 0 => format!("{sign}{whole}.{fraction}"),
        _ => format!("{sign}{digits}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = hex(bytes);
    for at in [8, 13, 18, 23] {
        text.insert(at, '-');
    }
    text
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut parts = [text, "", "", "", ""];
    if text.contains('-') {
        let mut split = text.split('-');
        parts = [split.next()?, split.next()?, split.next()?, split.next()?, split.next()?];
        if split.next().is_some() || parts.map(str::len) != [8, 4, 4, 4, 12] {
            return None;
        }
    }
    parse_hex(&parts.concat())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn again(text: &str, ty: &str) -> String {
        let ty = ty.parse().unwrap();
        Value::parse(text, &ty).unwrap().to_text(&ty).unwrap()
    }

    #[test]
    fn canonical_text_prints_back_as_written() {
        for (ty, texts) in [
            ("bool", &["true", "false"][..]),
            ("int", &["0", "-1", "9223372036854775807", "-9223372036854775808"]),
            (
                "float",
                &["0", "0.1", "-2.5", "12", "0.000001", "1.5e-7", "100000000000000000000", "1e21", "1e300"],
            ),
            ("float", &["5e-324", "1.7976931348623157e308", "NaN", "inf", "-inf"]),
            ("decimal(5,2)", &["0.00", "-0.50", "999.99", "-999.99", "1.10"]),
            ("decimal(3,0)", &["0", "-999"]),
            ("decimal(3,3)", &["0.001", "-0.999"]),
            ("decimal(38,0)", &["99999999999999999999999999999999999999"]),
            ("text", &["", " a ", "naïve"]),
            ("bytes", &["\\x", "\\x00ff"]),
            ("date", &["0001-01-01", "1969-12-31", "9999-12-31"]),
            ("timestamp", &["2024-01-02T03:04:05Z", "2024-01-02T03:04:05.000001Z"]),
            ("uuid", &["67e55044-10b1-426f-9247-bb680e5fe0c8"]),
        ] {
            for text in texts {
                assert_eq!(&again(text, ty), text, "{ty}");
            }
        }
    }

    #[test]
    fn wider_forms_are_read_and_written_in_the_canonical_one() {
        for (ty, text, canonical) in [
            ("int", "+12", "12"),
            ("int", "007", "7"),
            ("float", "-0", "0"),
            ("float", "1.50", "1.5"),
            ("float", "1E3", "1000"),
            ("float", "-nan", "NaN"),
            ("float", "Infinity", "inf"),
            ("decimal(5,2)", "1", "1.00"),
            ("decimal(5,2)", ".5", "0.50"),
            ("decimal(5,2)", "+001.5000", "1.50"),
            ("decimal(5,2)", "-0", "0.00"),
            ("bytes", "\\xFF", "\\xff"),
            ("timestamp", "2024-01-02 03:04:05.50+01:00", "2024-01-02T02:04:05.5Z"),
            ("uuid", "67E5504410B1426F9247BB680E5FE0C8", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
        ] {
            assert_eq!(again(text, ty), canonical, "{ty} {text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_was_expected_and_found() {
        for (ty, texts) in [
            ("bool", &["", "True", "1", "yes"][..]),
            ("int", &["", " 1", "1.0", "9223372036854775808", "1e3", "0x1"]),
            ("float", &["", "1,5", "1e400", "-1e400", "0x1p3", "1.5 "]),
            ("decimal(5,2)", &["", "-", ".", "1.", "1.005", "1000", "1e2", "1.2.3", "--1", "١"]),
            (
                "decimal(38,0)",
                &["100000000000000000000000000000000000000", "999999999999999999999999999999999999999999999"],
            ),
            ("bytes", &["", "00", "\\x0", "\\xgg", "\\x+1"]),
            (
                "uuid",
                &[
                    "",
                    "67e55044",
                    "67e5504410b1-426f-9247-bb680e5fe0c8",
                    "67e55044-10b1-426f-9247-bb680e5fe0c8-",
                ],
            ),
        ] {
            let ty: Type = ty.parse().unwrap();
            for text in texts {
                let error = Value::parse(text, &ty).unwrap_err();
                assert_eq!(error.found, format!("{text:?}"));
                assert_eq!(error.expected, ty.expectation());
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_in_the_error() {
        let error = Value::parse(&"é".repeat(100), &Type::Int).unwrap_err();
        assert_eq!(error.found, format!("\"{}\"…", "é".repeat(60)));
    }
}

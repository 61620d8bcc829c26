//! Durations and sizes as configuration writes them: `100ms`, `30s`, `256MiB`.

use std::time::Duration;

/// A number and a unit: ms, s, m, h or d.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let scale_millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale_millis)) {
        Some(millis) if scale_millis > 0 => Ok(Duration::from_millis(millis)),
        _ => Err(format!("expected a duration such as 100ms, 30s, 5m, 12h or 30d, found `{text}`")),
    }
}

/// A number and a unit: B, KiB, MiB, GiB or TiB.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let scale: u64 = match unit {
        "B" | "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)) {
        Some(bytes) if scale > 0 => Ok(bytes),
        _ => Err(format!("expected a size such as 64KiB, 256MiB or 2GiB, found `{text}`")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_written() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("2 d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(bytes("256MiB"), Ok(256 << 20));
        assert_eq!(bytes("17"), Ok(17));
    }

    #[test]
    fn anything_else_is_refused_with_what_was_found() {
        for text in ["", "ms", "-1s", "1 week", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).unwrap_err().contains(&format!("`{text}`")));
        }
        for text in ["MiB", "1MB", "99999999999TiB"] {
            assert!(bytes(text).unwrap_err().contains(&format!("`{text}`")));
        }
    }
}

//! Days and microseconds since 1970 to and from the Gregorian calendar, as text.
//!
//! The one idea: count days in 400-year eras that begin on 1 March, so that the leap day is the last of its year and
//! no table is needed (Howard Hinnant's `days_from_civil`). Years 0001 to 9999 only: that is what four digits can
//! write. There are no leap seconds, as in POSIX time. `text.rs` calls this.

use std::ops::RangeInclusive;

/// Days since 1970 of 0001-01-01 and 9999-12-31.
pub(super) const DAYS: RangeInclusive<i32> = -719_162..=2_932_896;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// Microseconds since 1970 of the first and the last moment of those days.
pub(super) const MICROS: RangeInclusive<i64> = -719_162 * DAY_MICROS..=2_932_897 * DAY_MICROS - 1;

/// Days since 1970 of a day; `None` if there is no such day in the years 0001 to 9999.
fn days_from_civil(year: i32, month: i32, day: i32) -> Option<i32> {
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || day < 1 || day > month_days(year, month) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Year, month and day; the inverse of [`days_from_civil`].
fn civil_from_days(days: i32) -> (i32, i32, i32) {
    let days = i64::from(days) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year as i32, month as i32, day as i32)
}

fn month_days(year: i32, month: i32) -> i32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `YYYY-MM-DD`.
pub(super) fn date_text(days: i32) -> String {
    let (year, month, day) = civil_from_days(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Reads exactly `YYYY-MM-DD`.
pub(super) fn parse_date(text: &str) -> Option<i32> {
    let mut scan = Scan { rest: text.as_bytes() };
    let days = scan.date()?;
    scan.rest.is_empty().then_some(days)
}

/// RFC 3339 in UTC, `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`, the fraction without trailing zeros.
pub(super) fn timestamp_text(micros: i64) -> String {
    let day = date_text(micros.div_euclid(DAY_MICROS) as i32);
    let in_day = micros.rem_euclid(DAY_MICROS);
    let seconds = in_day / 1_000_000;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let text = format!("{day}T{hour:02}:{minute:02}:{second:02}");
    match in_day % 1_000_000 {
        0 => text + "Z",
        fraction => {
            let fraction = format!("{fraction:06}");
            format!("{text}.{}Z", fraction.trim_end_matches('0'))
        }
    }
}

/// Reads RFC 3339: `T`, `t` or a space between day and time, at most six significant digits of fraction, and `Z`, `z`
/// or `±HH:MM`. A time without an offset is refused, because it names no moment.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    let mut scan = Scan { rest: text.as_bytes() };
    let day = scan.date()?;
    scan.one_of(b"Tt ")?;
    let hour = scan.digits(2)?;
    scan.one_of(b":")?;
    let minute = scan.digits(2)?;
    scan.one_of(b":")?;
    let second = scan.digits(2)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction = if scan.one_of(b".").is_some() { scan.fraction()? } else { 0 };
    let offset_minutes = scan.offset()?;
    if !scan.rest.is_empty() {
        return None;
    }
    let seconds = i64::from(hour * 3600 + minute * 60 + second) - i64::from(offset_minutes) * 60;
    let micros = i64::from(day) * DAY_MICROS + seconds * 1_000_000 + fraction;
    MICROS.contains(&micros).then_some(micros)
}

/// What is left of a text.
struct Scan<'a> {
    rest: &'a [u8],
}

impl Scan<'_> {
    fn one_of(&mut self, wanted: &[u8]) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        wanted.contains(&first).then(|| self.rest = rest)?;
        Some(first)
    }

    fn digit(&mut self) -> Option<i32> {
        Some(i32::from(self.one_of(b"0123456789")? - b'0'))
    }

    fn digits(&mut self, count: u32) -> Option<i32> {
        (0..count).try_fold(0, |number, _| Some(number * 10 + self.digit()?))
    }

    fn date(&mut self) -> Option<i32> {
        let year = self.digits(4)?;
        self.one_of(b"-")?;
        let month = self.digits(2)?;
        self.one_of(b"-")?;
        days_from_civil(year, month, self.digits(2)?)
    }

    /// The digits after a point, in microseconds.
    fn fraction(&mut self) -> Option<i64> {
        let (mut micros, mut unit) = (i64::from(self.digit()?) * 100_000, 10_000);
        while let Some(digit) = self.digit() {
            if unit == 0 && digit != 0 {
                return None;
            }
            micros += i64::from(digit) * unit;
            unit /= 10;
        }
        Some(micros)
    }

    fn offset(&mut self) -> Option<i32> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.digits(2)?;
        self.one_of(b":")?;
        let minutes = self.digits(2)?;
        (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_day_of_ten_thousand_years_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1, 1, 1);
        for days in DAYS {
            assert_eq!(civil_from_days(days), (year, month, day));
            assert_eq!(days_from_civil(year, month, day), Some(days));
            day += 1;
            if day > month_days(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    #[test]
    fn known_days_and_moments() {
        assert_eq!(parse_date("1970-01-01"), Some(0));
        assert_eq!(parse_date("2000-02-29"), Some(11_016));
        assert_eq!(parse_timestamp("2024-01-02T03:04:05.123456Z"), Some(1_704_164_645_123_456));
        assert_eq!(timestamp_text(1_704_164_645_120_000), "2024-01-02T03:04:05.12Z");
        assert_eq!(timestamp_text(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(timestamp_text(*MICROS.start()), "0001-01-01T00:00:00Z");
        assert_eq!(timestamp_text(*MICROS.end()), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn offsets_and_a_space_are_read_as_the_same_moment() {
        let moment = parse_timestamp("2024-01-02T03:04:05Z").unwrap();
        for text in [
            "2024-01-02 03:04:05z",
            "2024-01-02t05:04:05+02:00",
            "2024-01-01T21:34:05-05:30",
            "2024-01-02T03:04:05.0000000Z",
        ] {
            assert_eq!(parse_timestamp(text), Some(moment), "{text}");
        }
    }

    #[test]
    fn what_names_no_day_or_moment_is_refused() {
        for text in [
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "0000-01-01",
            "24-1-2",
            "2024-01-02 ",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
        for text in [
            "2024-01-02",
            "2024-01-02T03:04:05",
            "2024-01-02T24:00:00Z",
            "2024-01-02T03:60:00Z",
            "2024-01-02T03:04:60Z",
            "2024-01-02T03:04:05.Z",
            "2024-01-02T03:04:05.1234567Z",
            "2024-01-02T03:04:05+2",
            "2024-01-02T03:04:05ZZ",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }
}

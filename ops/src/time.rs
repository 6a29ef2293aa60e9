//! Moments and spans as people write and read them. Inside, moments are microseconds since 1970, UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};

/// Microseconds since 1970 by this machine's clock.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A moment as UTC in ISO 8601, to the microsecond: what [`parse_moment`] reads back.
pub fn iso(us: u64) -> String {
    let moment = i64::try_from(us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    moment.map_or_else(|| format!("{us} µs"), |moment| format!("{moment:.6}"))
}

/// Reads a moment: ISO 8601 with `Z` or an offset.
///
/// # Errors
/// A sentence with an example.
pub fn parse_moment(text: &str) -> Result<u64, String> {
    let moment: Timestamp = text.parse().map_err(|_| "write a UTC time as in 2025-07-01T00:00:00Z".to_owned())?;
    u64::try_from(moment.as_microsecond()).map_err(|_| "the time lies before 1970".to_owned())
}

/// Reads a span: `500ms`, `5s`, `2m`.
///
/// # Errors
/// A sentence with an example.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let span: SignedDuration = text.parse().map_err(|_| "write a number and its unit, as in 500ms or 5s".to_owned())?;
    match Duration::try_from(span) {
        Ok(span) if !span.is_zero() => Ok(span),
        _ => Err("a span must be longer than nothing".to_owned()),
    }
}

/// Reads an age: as [`parse_span`], or a number of days.
///
/// # Errors
/// A sentence with an example.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(|days| days.trim().parse::<u32>()) {
        Some(Ok(days)) if days > 0 => Ok(Duration::from_secs(u64::from(days) * 86_400)),
        Some(_) => Err("write a whole number of days, as in 90d".to_owned()),
        None => parse_span(text).map_err(|_| "write a number and its unit, as in 90d or 12h".to_owned()),
    }
}

/// A span in its largest fitting unit, as in `3 d` or `41 s`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_moment_reads_back_exactly() {
        for us in [0, 1, 1_751_328_000_000_001, 1_751_328_000_999_999] {
            assert_eq!(parse_moment(&iso(us)), Ok(us));
        }
        assert_eq!(iso(1_751_328_000_000_000), "2025-07-01T00:00:00.000000Z");
        assert_eq!(parse_moment("2025-07-01T07:00:00+07:00"), Ok(1_751_328_000_000_000));
    }

    #[test]
    fn a_moment_or_span_that_makes_no_sense_is_refused_with_an_example() {
        assert!(parse_moment("yesterday").is_err_and(|text| text.contains("2025-07-01T00:00:00Z")));
        assert!(parse_moment("1969-12-31T00:00:00Z").is_err());
        assert!(parse_span("soon").is_err_and(|text| text.contains("500ms")));
        assert!(parse_span("0s").is_err());
        assert!(parse_span("-1s").is_err());
        assert_eq!(parse_span("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn ages_count_in_days_too() {
        assert_eq!(parse_age("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_age("12h"), Ok(Duration::from_secs(12 * 3_600)));
        for bad in ["d", "0d", "-1d", "1.5d", "soon", "0s"] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([span(41), span(600), span(7_200), span(864_000)], ["41 s", "10 min", "2 h", "10 d"]);
    }
}

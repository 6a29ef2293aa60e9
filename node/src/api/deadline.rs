//! How long a call may take: what the client allows, less a margin for the answer's way back.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

/// For calls that name no deadline.
const DEFAULT: Duration = Duration::from_secs(10);
/// No call waits longer, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(60);
/// Kept back at most, so that the reason arrives before the client's own deadline ends the call.
const LONGEST_MARGIN: Duration = Duration::from_millis(100);

/// When work for a call must end.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// Of a call that begins now, from its `grpc-timeout` header.
    pub fn of(metadata: &MetadataMap) -> Deadline {
        Deadline(Instant::now() + allowed(metadata))
    }

    /// Time that is left, zero when it is over.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

fn allowed(metadata: &MetadataMap) -> Duration {
    let asked = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(parse);
    let whole = asked.unwrap_or(DEFAULT).min(LONGEST);
    whole - (whole / 10).min(LONGEST_MARGIN)
}

/// At most eight digits and a unit, as the gRPC protocol writes it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Duration {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().expect("ascii"));
        allowed(&metadata)
    }

    #[test]
    fn the_answer_leaves_before_the_clients_deadline() {
        assert_eq!(asked("5S"), Duration::from_millis(4900));
        assert_eq!(asked("500m"), Duration::from_millis(450));
        assert_eq!(asked("99H"), LONGEST - LONGEST_MARGIN);
    }

    #[test]
    fn an_unreadable_deadline_counts_as_none() {
        for text in ["", "S", "5", "-5S", "5X", "123456789S", "é"] {
            let mut metadata = MetadataMap::new();
            if let Ok(value) = text.parse() {
                metadata.insert("grpc-timeout", value);
            }
            assert_eq!(allowed(&metadata), DEFAULT - LONGEST_MARGIN, "{text}");
        }
    }
}

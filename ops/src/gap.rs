//! How long nothing was acknowledged: what users of a cluster feel of a failover.

use std::time::Duration;

/// The longest time without an acknowledgement that reaches beyond `from`, up to `to`: when it began, and its length. A gap
/// that was open at `from` counts from its last acknowledgement on.
pub fn longest_gap(acks: impl Iterator<Item = Duration> + Clone, from: Duration, to: Duration) -> (Duration, Duration) {
    let mut last = acks.clone().filter(|ack| *ack <= from).max().unwrap_or(from);
    let mut later: Vec<Duration> = acks.filter(|ack| *ack > from && *ack < to).collect();
    later.sort_unstable();
    let mut longest = (last, Duration::ZERO);
    for ack in later.into_iter().chain([to]) {
        let length = ack.saturating_sub(last);
        if length > longest.1 {
            longest = (last, length);
        }
        last = ack;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(acks: &[u64], from: u64, to: u64) -> u64 {
        let ms = Duration::from_millis;
        longest_gap(acks.iter().copied().map(ms), ms(from), ms(to)).1.as_millis() as u64
    }

    #[test]
    fn the_gap_counts_from_the_last_acknowledgement_before_the_trouble() {
        assert_eq!(gap(&[10, 90, 700, 720, 800], 100, 850), 610);
    }

    #[test]
    fn a_longer_gap_before_the_trouble_does_not_count() {
        assert_eq!(gap(&[0, 900, 1000, 1100, 1150], 1000, 1200), 100);
    }

    #[test]
    fn a_gap_that_stays_open_counts_to_the_end() {
        assert_eq!(gap(&[10, 90, 150], 100, 5_150), 5_000);
        assert_eq!(gap(&[], 100, 600), 500);
    }

    #[test]
    fn acknowledgements_need_not_come_in_order() {
        assert_eq!(gap(&[800, 90, 720, 10, 700], 100, 850), 610);
    }
}

//! Which time a leader stamps entries with.
//!
//! Its own clock, unless that is more than a second away from the median of the voters' clocks: then the median, and
//! an alarm. A wrong clock is never a reason to refuse writes; apply keeps recorded times rising in any case.

/// A leader's clock may differ so much from the voters' median before the median counts instead.
pub const CLOCK_TOLERANCE_US: i64 = 1_000_000;

/// A stamp and whether the leader's own clock was trusted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Microseconds since 1970.
    pub stamp_us: u64,
    /// How far the voters' median is ahead of the leader's clock, when that is too far.
    pub off_by_us: Option<i64>,
}

/// Decides the stamp. `offsets_us` says how far each other voter's clock is ahead of this one, as last heard.
pub fn stamp(own_us: u64, offsets_us: &[i64]) -> Stamp {
    let mut all: Vec<i64> = offsets_us.iter().copied().chain([0]).collect();
    all.sort_unstable();
    // Of an even number the middle one nearer to zero, so that one liar among two changes nothing.
    let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
    let median = if low.unsigned_abs() <= high.unsigned_abs() { low } else { high };
    match median.unsigned_abs() > CLOCK_TOLERANCE_US.unsigned_abs() {
        false => Stamp { stamp_us: own_us, off_by_us: None },
        true => Stamp { stamp_us: own_us.saturating_add_signed(median), off_by_us: Some(median) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;

    #[test]
    fn a_leader_near_the_median_is_trusted() {
        for offsets in [&[][..], &[900_000, -900_000], &[999_999, 999_999, 999_999, 999_999], &[5_000_000, 0, 0, 0]] {
            assert_eq!(stamp(NOW, offsets), Stamp { stamp_us: NOW, off_by_us: None }, "{offsets:?}");
        }
    }

    #[test]
    fn a_leader_far_from_the_median_stamps_with_the_median() {
        let hour = 3_600_000_000;
        let stamped = stamp(NOW, &[-hour, -hour - 10, -hour + 10, -hour]);
        assert_eq!(stamped, Stamp { stamp_us: NOW - 3_600_000_000, off_by_us: Some(-hour) });
        assert_eq!(stamp(NOW, &[hour, hour, 0, hour]).off_by_us, Some(hour));
    }

    #[test]
    fn one_wrong_voter_of_two_moves_nothing() {
        assert_eq!(stamp(NOW, &[9_000_000_000]).off_by_us, None);
    }
}

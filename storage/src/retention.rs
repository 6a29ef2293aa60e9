//! How long versions are kept: the policy of a collection, and the one decision that it makes.
//!
//! A version may go when it exceeds *any* limit that is set: its generation lies `max_generations` or more behind the
//! record's newest, or it was superseded `max_age_ms` ago by the replicated clock. While a hold is set nothing goes.
//! Limits say what *may* go: it goes when a [`crate::command::Collect`] comes by.

use prost::Message;

/// The policy of a collection. The default keeps all.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Retention {
    /// So many newest generations of a record stay; 0: all.
    #[prost(uint64, tag = "1")]
    pub max_generations: u64,
    /// A version stays for so long after the next one was written, milliseconds; 0: for ever.
    #[prost(uint64, tag = "2")]
    pub max_age_ms: u64,
    /// Why nothing may be removed now, whatever the limits say (legal hold); empty: no hold.
    #[prost(string, tag = "3")]
    pub hold: String,
}

/// A version that is not its record's newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The record's newest generation.
    pub newest_generation: u64,
    /// Its own generation.
    pub generation: u64,
    /// Revision of the version after it.
    pub next_revision: u64,
    /// When that was recorded, microseconds since 1970.
    pub next_recorded_at_us: u64,
}

impl Retention {
    /// True when a limit is set and no hold, so that there may be something to remove.
    pub fn removes(&self) -> bool {
        (self.max_generations > 0 || self.max_age_ms > 0) && self.hold.is_empty()
    }

    /// Whether a version goes when versions up to a revision are collected at a time (replicated clock, microseconds
    /// since 1970). A record's newest version at or below that revision stays, so that every read as of it or later
    /// shows the same as before. If a version goes, so do all earlier ones of its record.
    pub fn removable(&self, version: Superseded, up_to_revision: u64, clock_us: u64) -> bool {
        let behind = version.newest_generation.saturating_sub(version.generation);
        let too_many = self.max_generations > 0 && behind >= self.max_generations;
        let age_us = clock_us.saturating_sub(version.next_recorded_at_us);
        let too_old = self.max_age_ms > 0 && age_us >= self.max_age_ms.saturating_mul(1000);
        self.removes() && version.next_revision <= up_to_revision && (too_many || too_old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(max_generations: u64, max_age_ms: u64, hold: &str) -> Retention {
        Retention { max_generations, max_age_ms, hold: hold.into() }
    }

    /// Generation 3 of 5, followed at revision 40 and 7 s.
    const THIRD: Superseded =
        Superseded { newest_generation: 5, generation: 3, next_revision: 40, next_recorded_at_us: 7_000_000 };

    #[test]
    fn a_version_goes_when_it_exceeds_any_limit() {
        for (limits, clock_us, goes) in [
            (policy(0, 0, ""), u64::MAX, false),
            (policy(2, 0, ""), 0, true),
            (policy(3, 0, ""), 0, false),
            (policy(0, 1_000, ""), 7_999_999, false),
            (policy(0, 1_000, ""), 8_000_000, true),
            (policy(3, 1_000, ""), 8_000_000, true),
            (policy(2, 1_000, ""), 0, true),
            (policy(0, u64::MAX, ""), u64::MAX, false),
        ] {
            assert_eq!(limits.removable(THIRD, 40, clock_us), goes, "{limits:?} at {clock_us}");
        }
    }

    #[test]
    fn the_newest_version_at_or_below_the_revision_stays() {
        assert!(!policy(1, 1, "").removable(THIRD, 39, u64::MAX));
        assert!(policy(1, 1, "").removable(THIRD, 40, u64::MAX));
    }

    #[test]
    fn nothing_goes_under_a_hold() {
        assert!(!policy(1, 1, "case 7").removable(THIRD, 40, u64::MAX));
        assert!(!policy(1, 1, "case 7").removes());
    }
}

//! Where a follower's log ends, by its own word: what a new leader would otherwise search for.
//!
//! A leader does not know what its followers have. openraft halves what is left with each question, eight entries at a
//! time: for a log of 100,000 entries thirteen questions, one after the other, each a round trip and the opening of a
//! stream, so that on a link of 40 ms a new leader acknowledges nothing for most of a second. A follower says with each
//! answer where its flushed log ends. If the leader's own log has that entry, the two are equal up to there (Log Matching
//! Property: Ongaro and Ousterhout, In Search of an Understandable Consensus Algorithm, §5.3), and the follower, which has
//! accepted the leader's term in that answer, changes its log only as this leader says, or a later one. So the questions
//! that follow are answered here.

use saola_storage::types::LogId;

/// Where a follower's flushed log ends, and that the leader's log has the same entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd<I> {
    /// Of the leader.
    pub(crate) term: u64,
    /// The follower's last flushed entry.
    pub(crate) last: LogId,
    /// When the question was sent that was answered so.
    pub(crate) asked: I,
}

/// What the follower would say to entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// It has them.
    HasThem,
    /// It has not even the one before them.
    LacksTheOneBefore,
    /// Some of them are new to it.
    Unknown,
}

/// What a follower whose log ends at `end` says to the entries behind `prev` up to `last`. All three are in the leader's
/// log, so their indexes tell.
pub(crate) fn says(end: LogId, prev: Option<LogId>, last: Option<LogId>) -> Says {
    match (prev, last) {
        (_, Some(last)) if last.index <= end.index => Says::HasThem,
        (Some(prev), _) if prev.index > end.index => Says::LacksTheOneBefore,
        _ => Says::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use saola_storage::types::LeaderId;

    use super::*;

    #[test]
    fn only_entries_up_to_the_end_are_there_and_only_behind_it_is_one_lacking() {
        let id = |index| LogId { leader: LeaderId { term: 2, node_id: 1 }, index };
        let asked = |prev: Option<u64>, last: u64| says(id(100), prev.map(id), Some(id(last)));
        assert_eq!(asked(None, 8), Says::HasThem);
        assert_eq!(asked(Some(92), 100), Says::HasThem);
        assert_eq!(asked(Some(93), 101), Says::Unknown);
        assert_eq!(asked(Some(100), 108), Says::Unknown);
        assert_eq!(asked(Some(101), 109), Says::LacksTheOneBefore);
        assert_eq!(says(id(100), None, None), Says::Unknown);
    }
}

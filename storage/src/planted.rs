//! Bugs put in on purpose, so that the tests that must find them can be seen to do so. Without the feature `planted`, which only
//! `make planted` switches on, [`is`] is false at compile time and there are none.

use crate::named::named;

named! {
    /// One of them; what it is says what the code does wrong then.
    Bug {
        SyncSkipped = "sync-skipped", "the log reports entries and votes as durable without a sync";
        VoteNotSynced = "vote-not-synced", "a vote is given before it is synced";
        FailedSyncIgnored = "failed-sync-ignored", "a sync that failed counts as done";
        FolderNotSynced = "folder-not-synced", "a new segment's name is not synced";
        TailTrusted = "tail-trusted", "what a start finds in the page cache counts as durable";
        RotTakenForTail = "rot-taken-for-tail", "damage in the log is taken for a torn tail";
        RequestForgotten = "request-forgotten", "a repeated call is not recognised";
        ConditionIgnored = "condition-ignored", "a conditional write is written whatever is there";
        GenerationAgain = "generation-again", "generations begin anew after a deletion";
        ClockInApply = "clock-in-apply", "apply stamps a version with a number of its own";
        RequestsNotShipped = "requests-not-shipped", "a state that is sent lacks the table of calls";
        LeaderRestored = "leader-restored", "a leader that starts again goes on in its term";
        LocalRead = "local-read", "a linearizable read asks nobody";
        UnconfirmedRead = "unconfirmed-read", "a leader reads without asking its voters";
        LateReadJoins = "late-read-joins", "a read takes the answer of a round that began before it";
        ReadBeforeApply = "read-before-apply", "a read does not wait until its node has applied enough";
        NewLeaderReads = "new-leader-reads", "a new leader serves reads before its first entry may be shown";
        StaleAgeFromArrival = "stale-age-from-arrival", "a stale read counts its age from when a message arrived";
        UnknownRefused = "unknown-refused", "a write whose fate is unknown is said not to be applied";
        OldFolderTaken = "old-folder-taken", "an older copy of a node's folder goes on voting";
        PurgedTooFar = "purged-too-far", "the log is purged before the state machine is flushed";
        AcknowledgedEarly = "acknowledged-early", "the log answers before it has written anything";
        TruncationNotLogged = "truncation-not-logged", "entries that a leader took back stand in the log again after a start";
        TimeGoesBack = "time-goes-back", "a version takes the proposer's clock as it is";
        LeaseRead = "lease-read", "a leader that a quorum confirmed a short time ago reads without asking again";
        OldAnswerConfirms = "old-answer-confirms", "a voter's answer to an earlier round confirms a later one";
        ReadBeyondFrontier = "read-beyond-frontier", "a read shows what is applied and may not be shown yet";
        ConflictShownEarly = "conflict-shown-early", "a conflict is told before its entry may be shown";
        GateIgnored = "gate-ignored", "acknowledgements do not wait for the other site";
        OwnSiteCounts = "own-site-counts", "nodes of the leader's own site count as the other site's";
        GateOpensEarly = "gate-opens-early", "the gate opens before the degrade time is over";
        ZeroClaimed = "zero-claimed", "PROVEN ZERO is said whenever the other side stopped";
        BoundTooLow = "bound-too-low", "half of what may be lost is said";
        TailNotShipped = "tail-not-shipped", "a promotion begins without the newest survivor's tail";
        OldEpochGoesOn = "old-epoch-goes-on", "a node that meets a later epoch takes part in its own";
        PromiseForgotten = "promise-forgotten", "what a node promised for a later epoch is gone when it starts again";
        OrphansNotKept = "orphans-not-kept", "writes that a returning node alone has are dropped";
        SiteLacksKey = "site-lacks-key", "a site is added though a data key is not wrapped for it";
    }
}

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Puts it into whatever this thread does from now on.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// Whether it is there.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use chosen::{is, plant};

/// Whether it is there: it is not.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

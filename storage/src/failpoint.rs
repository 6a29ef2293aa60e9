//! Moments between two steps that belong together, by name: the simulation has nodes lose power there. Without the feature
//! `sim` [`reach`] is nothing.

use crate::named::named;

named! {
    /// Such a moment; what it is says what has happened by then.
    Failpoint {
        LogBeforeWrite = "log-before-write", "a batch of records is about to be written";
        LogBeforeSync = "log-before-sync", "it is written and not synced";
        LogAfterSync = "log-after-sync", "it is synced, and nobody knows";
        LogBeforeAnswers = "log-before-answers", "nobody has been told that it is synced";
        LogAfterAnswers = "log-after-answers", "all have been told, and nothing was tidied";
        LogVote = "log-vote", "a vote is about to go into a batch";
        LogTruncation = "log-truncation", "a truncation is";
        LogPurge = "log-purge", "a purge is";
        LogCommitted = "log-committed", "what is committed is";
        LogMark = "log-mark", "a mark is";
        SegmentBeforeHead = "segment-before-head", "a new segment has no head yet";
        SegmentBeforeRename = "segment-before-rename", "its head is synced, and it has no name yet";
        SegmentBeforeFolderSync = "segment-before-folder-sync", "it has its name, and the folder is not synced";
        SegmentsReleased = "segments-released", "old segments have lost their names, and the folder is not synced";
        TailBeforeCopy = "tail-before-copy", "a log that opens has read its tail and not copied it";
        TailCopied = "tail-copied", "it has";
        RepairBeforeSwitch = "repair-before-switch", "a repaired log is written, and does not count yet";
        RepairInSwitch = "repair-in-switch", "one of its segments counts";
        ApplyBeforeWrite = "apply-before-write", "entries are decided and not written to the records";
        ApplyAfterWrite = "apply-after-write", "they are written, and no reader sees them";
        FlushBefore = "flush-before", "the records are about to be flushed";
        FlushAfter = "flush-after", "they are, and nobody knows";
        ImportChunk = "import-chunk", "a piece of a state that comes is written";
        ImportBeforeFlush = "import-before-flush", "all of it is";
        StateBeforeSwitch = "state-before-switch", "a state that came is whole, and the former one counts";
        StateAfterSwitch = "state-after-switch", "it counts, and the former one is still there";
        OrphansBeforeSync = "orphans-before-sync", "what a node alone has is written beside its records and not synced";
        WitnessSkips = "witness-skips", "a witness goes on behind what it did not get";
        HoldBefore = "hold-before", "rows that are found damaged are about to be held back";
        FolderBeforeRename = "folder-before-rename", "a new identity is synced beside the one that counts";
        FolderBeforeSync = "folder-before-sync", "it counts, and the folder is not synced";
        VoteBefore = "vote-before", "a vote was asked for";
        VoteAfter = "vote-after", "it is given, and the candidate does not know";
        AppendBefore = "append-before", "entries have come from the leader";
        ProposalTaken = "proposal-taken", "commands are about to become an entry";
        ProposalDone = "proposal-done", "their entry is applied, and nobody was told";
        ReadConfirmed = "read-confirmed", "a quorum has confirmed a leader, and no reader knows";
        TakeOverAsked = "take-over-asked", "a node was asked to lead";
        SnapshotOffered = "snapshot-offered", "a state was offered";
        SnapshotReceived = "snapshot-received", "it has come, and Raft does not know";
        SnapshotInstalled = "snapshot-installed", "Raft knows, and the leader does not";
        SnapshotBuilt = "snapshot-built", "the records were flushed for the sake of a purge";
        NodeIdClaimed = "node-id-claimed", "a node's number is taken, and it is no member";
        MembershipBefore = "membership-before", "a change of members is about to be proposed";
        MembershipAfter = "membership-after", "it was made, and more steps follow";
        GateMoves = "gate-moves", "a leader is about to open or close the gate";
        LogRepairGathered = "log-repair-gathered", "others have given what a damaged log lacks";
        PromiseKept = "promise-kept", "a plan is promised, and nobody was told";
        TailTaken = "tail-taken", "the newest survivor's tail is in the log, and the epoch has not begun";
        EpochVoted = "epoch-voted", "the first vote of an epoch is in the log, and its first entry is not";
        EpochEntered = "epoch-entered", "the first entry of an epoch is in the log, and the folder does not know";
        EpochOpen = "epoch-open", "the first command of an epoch is applied, and votes are not given";
        ReinstateBegun = "reinstate-begun", "a node has its new number, and nothing of the new epoch";
        DifferenceTaken = "difference-taken", "it has the records of the epoch, and its folder does not know";
        FenceMet = "fence-met", "a node that was left behind has heard of a later epoch";
    }
}

#[cfg(feature = "sim")]
mod hook {
    use std::cell::Cell;

    use super::Failpoint;

    thread_local! {
        static HOOK: Cell<Option<fn(Failpoint)>> = const { Cell::new(None) };
    }

    /// Has this thread call it at each failpoint. It may unwind: then nothing that comes after it in the task happens.
    pub fn on_reach(hook: fn(Failpoint)) {
        HOOK.set(Some(hook));
    }

    /// Whoever calls it is there.
    pub fn reach(point: Failpoint) {
        if let Some(hook) = HOOK.get() {
            hook(point);
        }
    }
}

#[cfg(feature = "sim")]
pub use hook::{on_reach, reach};

/// Whoever calls it is there: nobody listens.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub const fn reach(_point: Failpoint) {}

//! The frontier: the log index up to which effects may be shown to anyone.
//!
//! `frontier` is a pure function of what the leader knows; [`FrontierCell`] keeps its highest value on one node.
//! The gate stays off until sites and protection modes are built, so the frontier equals the commit index here;
//! acknowledgements, outcomes, reads and revisions nevertheless all go through it.

use tokio::sync::watch;

/// What the frontier is decided from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontierView {
    /// Highest index known to be committed, plus one (0: nothing).
    pub committed_next: u64,
    /// The rule in force.
    pub gate: Gate,
}

/// Whether acknowledgements wait for the other site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// A commit is enough.
    Off,
}

/// First index that may not be shown yet.
pub fn frontier(view: FrontierView) -> u64 {
    match view.gate {
        Gate::Off => view.committed_next,
    }
}

/// The highest frontier this node has computed or heard of. It never goes back.
#[derive(Debug)]
pub(crate) struct FrontierCell {
    next: watch::Sender<u64>,
}

impl FrontierCell {
    pub(crate) fn new() -> Self {
        Self { next: watch::Sender::new(0) }
    }

    /// This node leads, or applied what a leader committed: `index` is committed.
    pub(crate) fn observe_committed(&self, index: u64) {
        self.raise(frontier(FrontierView { committed_next: index + 1, gate: Gate::Off }));
    }

    /// A leader said that everything below `next` may be shown.
    pub(crate) fn raise(&self, next: u64) {
        self.next.send_if_modified(|current| {
            let higher = next > *current;
            if higher {
                *current = next;
            }
            higher
        });
    }

    /// First index that may not be shown yet.
    pub(crate) fn next(&self) -> u64 {
        *self.next.borrow()
    }

    /// Resolves once the entry at `index` may be shown.
    pub(crate) async fn reached(&self, index: u64) {
        let mut changes = self.next.subscribe();
        // The sender lives in `self`, which outlives this borrow, so waiting can only end with the condition.
        let _reached = changes.wait_for(|next| *next > index).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_off_shows_exactly_what_is_committed() {
        assert_eq!(frontier(FrontierView { committed_next: 0, gate: Gate::Off }), 0);
        assert_eq!(frontier(FrontierView { committed_next: 8, gate: Gate::Off }), 8);
    }

    #[test]
    fn frontier_never_goes_back() {
        let cell = FrontierCell::new();
        cell.observe_committed(7);
        cell.raise(3);
        cell.observe_committed(2);
        assert_eq!(cell.next(), 8);
    }
}

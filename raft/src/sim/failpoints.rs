//! Power losses at [`Failpoint`]s.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use saola_storage::failpoint::{Failpoint, on_reach};
use saola_storage::types::NodeId;

use super::runtime::{NO_NODE, abort_tasks};

thread_local! {
    /// In whose task the thread is: power is lost by nodes, not by whoever looks at them.
    static IN_TASK_OF: Cell<Option<NodeId>> = const { Cell::new(None) };
    static ARMED: RefCell<BTreeMap<Failpoint, u64>> = const { RefCell::new(BTreeMap::new()) };
    static VISITS: RefCell<BTreeMap<Failpoint, Visits>> = const { RefCell::new(BTreeMap::new()) };
    static UNPOWERED: RefCell<BTreeMap<NodeId, Failpoint>> = const { RefCell::new(BTreeMap::new()) };
}

/// How often nodes were at a failpoint since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visits {
    /// At all.
    pub all: u64,
    /// And lost power there.
    pub last: u64,
}

/// What unwinds the task that was at a failpoint.
struct PowerLost;

/// Whichever node is the `nth` from now on to be there loses power: none of its tasks takes another step. Whoever keeps the
/// cluster finds it [`unpowered`], and ends it.
pub fn lose_power_at(point: Failpoint, nth: u64) {
    ARMED.with_borrow_mut(|armed| armed.insert(point, nth.max(1)));
}

/// Nobody loses power by [`lose_power_at`] any more.
pub fn lose_power_no_more() {
    ARMED.with_borrow_mut(BTreeMap::clear);
}

/// Nodes that have lost power and were not [killed](super::kill) since, and where.
pub fn unpowered() -> BTreeMap<NodeId, Failpoint> {
    UNPOWERED.with_borrow(Clone::clone)
}

/// At which failpoints nodes were.
pub fn visits() -> BTreeMap<Failpoint, Visits> {
    VISITS.with_borrow(Clone::clone)
}

/// A run begins.
pub(super) fn begin() {
    on_reach(at);
    lose_power_no_more();
    VISITS.with_borrow_mut(BTreeMap::clear);
    UNPOWERED.with_borrow_mut(BTreeMap::clear);
}

/// Whether a node has lost power; then it begins nothing any more.
pub(super) fn is_unpowered(node: NodeId) -> bool {
    UNPOWERED.with_borrow(|unpowered| unpowered.contains_key(&node))
}

/// A node is ended; what comes after it has power.
pub(super) fn ended(node: NodeId) {
    UNPOWERED.with_borrow_mut(|unpowered| unpowered.remove(&node));
}

/// Takes a step of a node's task.
pub(super) fn in_task_of<T>(node: NodeId, step: impl FnOnce() -> T) -> T {
    struct Back(Option<NodeId>);
    impl Drop for Back {
        fn drop(&mut self) {
            IN_TASK_OF.set(self.0);
        }
    }
    let _back = Back(IN_TASK_OF.replace(Some(node)));
    step()
}

fn at(point: Failpoint) {
    let Some(node) = IN_TASK_OF.get().filter(|node| *node != NO_NODE) else { return };
    if std::thread::panicking() {
        // What is let go of on the way out is not done any more.
        return;
    }
    let is_last = ARMED.with_borrow_mut(|armed| {
        let Some(left) = armed.get_mut(&point) else { return false };
        *left -= 1;
        *left == 0 && armed.remove(&point).is_some()
    });
    VISITS.with_borrow_mut(|visits| {
        let visits = visits.entry(point).or_default();
        (visits.all, visits.last) = (visits.all + 1, visits.last + u64::from(is_last));
    });
    if is_last {
        UNPOWERED.with_borrow_mut(|unpowered| unpowered.insert(node, point));
        abort_tasks(node);
        // Not a panic: nobody is told of it.
        std::panic::resume_unwind(Box::new(PowerLost));
    }
}

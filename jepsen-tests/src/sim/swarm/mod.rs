//! Random lives of whole clusters: which faults happen at all, how large the cluster is and what its clients do is drawn first,
//! so that each life is different in kind (Groce et al.: Swarm Testing, 2012); then clients call while faults happen; then
//! everything is mended, and the cluster must serve, and is judged by its history.
//!
//! - [`life`]: what a seed draws; - [`faults`]: what may happen (`damage`: to what is stored;
//!   `again`: over and over); - [`world`]: the cluster and what has befallen it so far;
//! - `clients`: who calls, and writes the history; - [`watch`]: what must hold at every moment; - `judge`: at the end;
//! - [`day`]: lives of another kind, in which a site goes on without the other by force;
//! - [`shrink`]: the least part of a failing life that still fails.
//!
//! Clients, faults and the product draw from sequences of their own: a life without one of its faults is otherwise the same.

mod again;
mod clients;
mod damage;
pub mod day;
mod dice;
pub mod faults;
mod judge;
pub mod life;
pub mod shrink;
pub mod watch;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use saola_raft::sim::{Visits, run, visits};
use saola_storage::failpoint::Failpoint;

use crate::history::Recorder;
use crate::operation::{Operation, Outcome};
pub use faults::Fault;
pub use life::{Life, Topology};
use world::World;

/// What came of a life.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong; empty: nothing.
    pub violations: Vec<String>,
    /// How often each fault, and what else may be met, really happened.
    pub met: BTreeMap<&'static str, u64>,
    /// Failpoints at which nodes were.
    pub visits: BTreeMap<Failpoint, Visits>,
    /// How a worst day ended.
    pub ended: Option<Ended>,
    /// How often the sites were seen to stand so to each other.
    pub states: BTreeMap<&'static str, u64>,
    /// Writes acknowledged, reads answered, calls refused, calls without an answer.
    pub calls: [u64; 4],
    /// Virtual time that passed, milliseconds.
    pub virtual_ms: u64,
    /// SHA-256 over the history and what happened: equal for equal lives.
    pub hash: [u8; 32],
    /// What was done, when.
    pub story: Vec<String>,
    /// Every call.
    pub operations: Vec<Operation>,
}

/// How a worst day ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The verdict of the plan by which an epoch began.
    pub how: &'static str,
    /// Acknowledged writes that were left behind, and kept.
    pub lost: u64,
    /// What the verdict said could be held against what was lost, and was.
    pub checked: bool,
}

/// Lives a life. A panic of a node or of the harness is a violation.
pub fn live(life: &Life) -> Report {
    let panics = panics::listen();
    let story = Arc::new(world::Story::default());
    let told = story.clone();
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(life.seed, async {
            let recorder = Arc::new(Recorder::default());
            if life.is_worst_day {
                return day::live_day(life, told).await;
            }
            let mut world = World::begin(life, recorder, told).await;
            world.live().await;
            world.end().await
        })
    }));
    let mut report = lived.unwrap_or_default();
    report.visits = visits();
    report.violations.extend(panics.take().into_iter().map(|what| format!("panic: {what}")));
    report.story = story.told();
    report.hash = hash(&report);
    report
}

fn hash(report: &Report) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for line in &report.story {
        hash.update(line);
    }
    for operation in &report.operations {
        let Operation { op_id, record, action, inv_ns, ret_ns, outcome, .. } = operation;
        // Reasons name folders, which are others each time.
        let outcome = match outcome {
            Outcome::Refused { found, .. } => format!("refused {found:?}"),
            Outcome::Unknown { .. } => "unknown".to_owned(),
            answered => format!("{answered:?}"),
        };
        hash.update(format!("{op_id} {record} {action:?} {inv_ns} {ret_ns} {outcome}"));
    }
    hash.finalize().into()
}

mod panics {
    //! A task that panics does so for itself alone, and nobody need ask what became of it: the hook tells.

    use std::cell::RefCell;
    use std::sync::Once;

    thread_local! {
        static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    }

    /// While it is there, panics of this thread are collected instead of printed.
    pub struct Listener(());

    pub fn listen() -> Listener {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                let heard = HEARD.with_borrow_mut(|heard| heard.as_mut().map(|it| it.push(info.to_string())).is_some());
                if !heard {
                    before(info);
                }
            }));
        });
        HEARD.set(Some(Vec::new()));
        Listener(())
    }

    impl Listener {
        pub fn take(&self) -> Vec<String> {
            HEARD.with_borrow_mut(|heard| heard.as_mut().map(std::mem::take)).unwrap_or_default()
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            HEARD.set(None);
        }
    }
}

//! openraft's runtime over tokio's paused clock, with seeded randomness and tasks that belong to nodes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::{Instant as _, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioWatch};
use rand::SeedableRng;
use rand::rngs::StdRng;
use saola_storage::types::NodeId;
use tokio::task::AbortHandle;

use super::clock::{SimInstant, forget_all, truly};
use super::failpoints;
use crate::types::{Runtime, Takes};

tokio::task_local! {
    static NODE: NodeId;
}

thread_local! {
    static TASKS: RefCell<BTreeMap<NodeId, Vec<AbortHandle>>> = const { RefCell::new(BTreeMap::new()) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    static HUNG: RefCell<BTreeSet<NodeId>> = const { RefCell::new(BTreeSet::new()) };
    static PAUSED: RefCell<BTreeMap<NodeId, Vec<Waker>>> = const { RefCell::new(BTreeMap::new()) };
    static PAUSES_AFTER: RefCell<BTreeMap<NodeId, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Tasks of no node: the test itself.
pub(super) const NO_NODE: NodeId = 0;

/// Runs a simulation to its end under a seed.
pub fn run<F: Future>(seed: u64, simulation: F) -> F::Output {
    RANDOM.set(seed);
    TASKS.with_borrow_mut(BTreeMap::clear);
    HUNG.with_borrow_mut(BTreeSet::clear);
    PAUSED.with_borrow_mut(BTreeMap::clear);
    PAUSES_AFTER.with_borrow_mut(BTreeMap::clear);
    forget_all();
    failpoints::begin();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a current-thread runtime with a clock only asks the system for nothing that can fail");
    let output = runtime.block_on(NODE.scope(NO_NODE, simulation));
    TASKS.with_borrow_mut(BTreeMap::clear);
    output
}

/// Whose task asks.
pub(super) fn this_node() -> NodeId {
    NODE.try_with(|node| *node).unwrap_or(NO_NODE)
}

/// Next number of the run's random sequence (splitmix64; Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
pub fn random_u64() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Spawns a task that belongs to a node.
pub fn spawn_on<T>(node: NodeId, future: T) -> tokio::task::JoinHandle<T::Output>
where
    T: Future + Send + 'static,
    T::Output: Send + 'static,
{
    let handle = tokio::task::spawn(OnNode { node, task: Box::pin(NODE.scope(node, future)) });
    TASKS.with_borrow_mut(|tasks| {
        let own = tasks.entry(node).or_default();
        own.retain(|task| !task.is_finished());
        own.push(handle.abort_handle());
    });
    if failpoints::is_unpowered(node) {
        handle.abort();
    }
    handle
}

/// Does something as a node, by its clock.
pub fn as_node<T>(node: NodeId, act: impl FnOnce() -> T) -> T {
    NODE.sync_scope(node, act)
}

/// A task that takes no step while its node is paused.
struct OnNode<F> {
    node: NodeId,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for OnNode<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if is_paused(self.node, context) {
            return Poll::Pending;
        }
        let node = self.node;
        failpoints::in_task_of(node, || self.task.as_mut().poll(context))
    }
}

/// Counts a step, and pauses the node if it is the last one before an appointed pause.
fn is_paused(node: NodeId, context: &Context<'_>) -> bool {
    let is_last = PAUSES_AFTER.with_borrow_mut(|after| {
        let Some(left) = after.get_mut(&node) else { return false };
        *left = left.saturating_sub(1);
        *left == 0 && after.remove(&node).is_some()
    });
    if is_last {
        pause(node);
    }
    PAUSED.with_borrow_mut(|paused| match paused.get_mut(&node) {
        Some(wakers) => {
            wakers.push(context.waker().clone());
            true
        }
        None => false,
    })
}

/// No task of a node takes a step from now on, as if its process had got a SIGSTOP; its clocks and timers go on.
pub fn pause(node: NodeId) {
    PAUSED.with_borrow_mut(|paused| {
        paused.entry(node).or_default();
    });
}

/// The same after so many more steps of its tasks: whatever they are doing then, between any two awaits.
pub fn pause_after(node: NodeId, steps: u64) {
    PAUSES_AFTER.with_borrow_mut(|after| after.insert(node, steps.max(1)));
}

/// Whether a node is paused.
pub fn paused(node: NodeId) -> bool {
    PAUSED.with_borrow(|paused| paused.contains_key(&node))
}

/// Its tasks go on.
pub fn resume(node: NodeId) {
    PAUSES_AFTER.with_borrow_mut(|after| after.remove(&node));
    let wakers = PAUSED.with_borrow_mut(|paused| paused.remove(&node)).unwrap_or_default();
    wakers.into_iter().for_each(Waker::wake);
}

/// Ends every task of a node at once; returns when they have let go of everything they held. What comes after it on that node
/// is not paused.
pub async fn kill(node: NodeId) {
    failpoints::ended(node);
    PAUSES_AFTER.with_borrow_mut(|after| after.remove(&node));
    PAUSED.with_borrow_mut(|paused| paused.remove(&node));
    abort_tasks(node);
    let tasks = TASKS.with_borrow_mut(|tasks| tasks.remove(&node)).unwrap_or_default();
    while tasks.iter().any(|task| !task.is_finished()) {
        tokio::task::yield_now().await;
    }
}

pub(super) fn abort_tasks(node: NodeId) {
    TASKS.with_borrow(|tasks| tasks.get(&node).into_iter().flatten().for_each(AbortHandle::abort));
}

/// The state machine's disk of a node hangs from now on: what the node begins to read or write there waits.
pub fn hang_disk(node: NodeId) {
    HUNG.with_borrow_mut(|hung| hung.insert(node));
}

/// The disk goes on.
pub fn release_disk(node: NodeId) {
    HUNG.with_borrow_mut(|hung| hung.remove(&node));
}

/// How often a node looks whether its disk goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Runtime for SimRuntime {
    async fn disk<T: Send + 'static>(_takes: Takes, work: impl FnOnce() -> T + Send + 'static) -> T {
        let node = this_node();
        while HUNG.with_borrow(|hung| hung.contains(&node)) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        work()
    }
}

/// Virtual time by the clock of the node that asks, seeded randomness, tasks that belong to the node that spawns them.
#[derive(Debug)]
pub struct SimRuntime;

impl openraft::AsyncRuntime for SimRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = SimInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = StdRng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn_on(this_node(), future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(truly(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Self::sleep(deadline.saturating_duration_since(SimInstant::now()))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(truly(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Self::timeout(deadline.saturating_duration_since(SimInstant::now()), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        StdRng::seed_from_u64(random_u64())
    }

    fn new(_threads: usize) -> Self {
        SimRuntime
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        run(RANDOM.get(), future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let result = f();
        async move { Ok(result) }
    }
}

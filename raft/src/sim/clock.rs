//! Clocks of simulated machines: each runs at a rate of its own, as quartz does, only worse.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use saola_storage::types::NodeId;
use tokio::time::Instant;

use super::runtime::this_node;

/// Thousandths of the true rate.
const TRUE_RATE: u64 = 1_000;

/// A clock that does not run at the true rate.
#[derive(Clone, Copy)]
struct Clock {
    per_mille: u64,
    /// When it was set to run so, and what it showed then.
    since: Instant,
    showed: Instant,
}

thread_local! {
    static CLOCKS: RefCell<BTreeMap<NodeId, Clock>> = const { RefCell::new(BTreeMap::new()) };
}

/// All clocks are right.
pub(super) fn forget_all() {
    CLOCKS.with_borrow_mut(BTreeMap::clear);
}

/// A machine's monotonic clock runs at so many thousandths of the true rate from now on, and its timers with it; those that are
/// set already end when they would have.
pub fn set_clock_rate(node: NodeId, per_mille: u64) {
    let showed = shows(node);
    // One that was never wrong shows true time, and is not asked for.
    let is_known = CLOCKS.with_borrow(|clocks| clocks.contains_key(&node));
    if is_known || per_mille != TRUE_RATE {
        let clock = Clock { per_mille: per_mille.max(1), since: Instant::now(), showed };
        CLOCKS.with_borrow_mut(|clocks| clocks.insert(node, clock));
    }
}

fn clock_of(node: NodeId) -> Option<Clock> {
    CLOCKS.with_borrow(|clocks| clocks.get(&node).copied())
}

fn shows(node: NodeId) -> Instant {
    let now = Instant::now();
    clock_of(node).map_or(now, |clock| clock.showed + scaled(now - clock.since, clock.per_mille, TRUE_RATE))
}

/// How long a machine that waits for `duration` by its own clock truly waits.
pub(super) fn truly(duration: Duration) -> Duration {
    clock_of(this_node()).map_or(duration, |clock| scaled(duration, TRUE_RATE, clock.per_mille))
}

fn scaled(duration: Duration, times: u64, by: u64) -> Duration {
    if times == by {
        return duration;
    }
    // Up, so that nobody wakes before its own clock says so.
    let nanos = (duration.as_nanos().saturating_mul(times.into())).div_ceil(by.into());
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// What the clock of the machine shows that asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct SimInstant(Instant);

impl openraft::Instant for SimInstant {
    fn now() -> Self {
        Self(shows(this_node()))
    }
}

impl Add<Duration> for SimInstant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0 + later)
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, later: Duration) {
        self.0 += later;
    }
}

impl Sub<Duration> for SimInstant {
    type Output = Self;

    fn sub(self, earlier: Duration) -> Self {
        Self(self.0 - earlier)
    }
}

impl Sub<Self> for SimInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, earlier: Duration) {
        self.0 -= earlier;
    }
}

#[cfg(test)]
mod tests {
    use openraft::{AsyncRuntime, Instant as _};

    use super::super::{SimRuntime, run, spawn_on};
    use super::*;

    /// How long a second by the clock of machine 1 truly takes, and what that clock shows meanwhile.
    fn a_second_at(per_mille: u64) -> (Duration, Duration) {
        run(1, async move {
            set_clock_rate(1, per_mille);
            let began = Instant::now();
            let showed = spawn_on(1, async {
                let began = SimInstant::now();
                SimRuntime::sleep(Duration::from_secs(1)).await;
                SimRuntime::sleep_until(began + Duration::from_secs(2)).await;
                began.elapsed()
            });
            let showed = showed.await.expect("it does not panic");
            (began.elapsed() / 2, showed / 2)
        })
    }

    #[test]
    fn timers_run_by_the_clock_of_their_machine() {
        let within_ms = |took: Duration, ms: u128| took.as_millis().abs_diff(ms) <= 2;
        for (per_mille, truly_ms) in [(500, 2_000), (1_000, 1_000), (2_000, 500)] {
            let (truly, showed) = a_second_at(per_mille);
            assert!(within_ms(truly, truly_ms), "{per_mille}: a second took {truly:?}");
            assert!(within_ms(showed, 1_000), "{per_mille}: a second showed as {showed:?}");
        }
    }

    #[test]
    fn a_clock_never_goes_back_when_its_rate_changes() {
        run(1, async {
            let mut last = shows(1);
            for per_mille in [2_000, 500, 1_000, 1_250] {
                set_clock_rate(1, per_mille);
                tokio::time::sleep(Duration::from_millis(100)).await;
                assert_eq!(shows(1) - last, Duration::from_micros(100 * per_mille));
                last = shows(1);
            }
        });
    }
}

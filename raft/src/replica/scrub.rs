//! Reads all rows of this node's copy in the background, at a pace, and has a bad copy repaired.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::scrub::ScrubReport;

use super::copy::bump;
use super::propose::TimeLeft;
use super::{InstantOf, Replica};
use crate::types::{Runtime, Takes};

/// Rows are read in steps of so many bytes.
const STEP_BYTES: usize = 256 << 10;
/// The first pass begins so long after the start, when that is earlier than the interval between passes.
const FIRST_AFTER: Duration = Duration::from_secs(5 * 60);
/// Reads that meet damage start a pass, but not sooner after the last one: what it found is known.
const AFTER_DAMAGE: Duration = Duration::from_secs(60);

/// One task per data node; it ends with the replica.
pub(super) async fn run<RT: Runtime>(replica: Replica<RT>) {
    let (shared, copy) = (replica.shared.clone(), &replica.shared.copy);
    let met = copy.damage_met.clone();
    shared.store.on_damage(Box::new(move || bump(&met)));
    let (mut asked, mut damage) = (copy.scrub_now.subscribe(), copy.damage_met.subscribe());
    let mut due = InstantOf::<RT>::now() + copy.settings.every.min(FIRST_AFTER);
    if let Some(held) = shared.store.held() {
        // From before the restart: what is open is looked at again, what is bad is replaced.
        let mut known = copy.known.lock();
        known.bad = held.whole.then(|| held.why.clone());
        known.differs = !held.whole;
        due = InstantOf::<RT>::now();
    }
    let mut last_pass = None;
    while !shared.has_stopped() {
        if !copy.is_bad() {
            // A read that has met damage is answered by a pass, unless the last one has only just ended.
            let quiet = last_pass.is_some_and(|last: InstantOf<RT>| last.elapsed() < AFTER_DAMAGE);
            let woken = async {
                if quiet {
                    let _due = asked.changed().await;
                    return;
                }
                let (one, other) = (std::pin::pin!(asked.changed()), std::pin::pin!(damage.changed()));
                let _due = futures::future::select(one, other).await;
            };
            let pause = if quiet {
                due.saturating_duration_since_now().min(AFTER_DAMAGE)
            } else {
                due.saturating_duration_since_now()
            };
            let timed_out = RT::timeout(pause, woken).await.is_err();
            if timed_out && due.saturating_duration_since_now() > Duration::ZERO {
                continue;
            }
            if !copy.is_bad() {
                damage.mark_unchanged();
                let report = replica.pass().await;
                last_pass = Some(InstantOf::<RT>::now());
                due = InstantOf::<RT>::now() + copy.settings.every;
                replica.take_report(report).await;
            }
        }
        if copy.is_bad() {
            replica.repair().await;
            // The next pass proves the repair.
            due = InstantOf::<RT>::now();
            last_pass = None;
        }
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Reads all rows, no faster than the settings allow.
    async fn pass(&self) -> ScrubReport {
        let (store, copy) = (self.shared.store.clone(), &self.shared.copy);
        let of_bytes = store.data_bytes();
        let mut scrub = store.scrub();
        let pace = copy.settings.bytes_per_s.max(1);
        loop {
            let report;
            (scrub, report) = RT::disk(Takes::Long, move || {
                let report = scrub.step(STEP_BYTES);
                (scrub, report)
            })
            .await;
            let (_, bytes) = scrub.progress();
            if let Some(report) = report {
                copy.known.lock().running = None;
                return report;
            }
            copy.known.lock().running = Some((bytes, of_bytes.max(bytes)));
            RT::sleep(Duration::from_secs_f64(STEP_BYTES as f64 / pace as f64)).await;
        }
    }

    /// Acts on what a pass has found.
    async fn take_report(&self, report: ScrubReport) {
        let copy = &self.shared.copy;
        {
            let mut known = copy.known.lock();
            known.passes += 1;
            known.damaged_by_passes += report.damaged;
            known.checked = Some(report.damaged_buckets.clone());
            if report.is_bad() {
                known.bad = Some(report.to_string());
            }
            known.last = Some(report.clone());
        }
        let (rows, bytes) = (report.rows, report.bytes);
        if report.is_bad() {
            tracing::error!(
                "scrub: this node's copy of the records is bad ({report}); it is not served and will be replaced from \
                 another data node: check this machine's disk and memory"
            );
            self.hold(report.held(false)).await;
        } else if report.damaged > 0 {
            tracing::error!(
                "scrub: {} damaged rows that this copy's sums cover: {}; unless copies differ, all have them: write them anew",
                report.damaged,
                report.named.join("; ")
            );
        } else {
            tracing::info!(rows, bytes, "scrub: all rows are as they were written");
        }
        bump(&copy.compare_now);
    }

    /// Serves nothing of what is given from now on, nor of what was held back before: only to hold nothing takes back.
    pub(super) async fn hold(&self, held: saola_storage::quarantine::Held) {
        let store: Arc<_> = self.shared.store.clone();
        let held = match store.held() {
            Some(before) => held.with(&before),
            None => held,
        };
        if let Err(error) = RT::disk(Takes::Long, move || store.hold(Some(held))).await {
            tracing::error!("write down what is not served: {error}");
        }
    }
}

//! Compares this node's copy of the records with the other data nodes' at the log index of a DIGEST entry, and acts on
//! the verdict: a bad copy is held back and replaced, and while it is open which copy is right, none serves what differs.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::Instant as _;
use saola_storage::command::{Command, Op, TakeDigest};
use saola_storage::digest::{BucketSet, Buckets};
use saola_storage::quarantine::Held;
use saola_storage::types::NodeId;

use super::copy::bump;
use super::propose::TimeLeft;
use super::{InstantOf, Replica};
use crate::types::{Runtime, Takes};
use crate::verdict::{CopyView, Verdict, judge};
use crate::wire::CopyState;

/// Other nodes get so long to apply up to the DIGEST entry; who takes longer is not counted this time.
const APPLY_LIMIT: Duration = Duration::from_secs(5);
/// While copies differ they are compared again so often.
const OPEN_EVERY: Duration = Duration::from_secs(10);

/// One task per data node; it ends with the replica.
pub(super) async fn run<RT: Runtime>(replica: Replica<RT>) {
    let (shared, copy) = (replica.shared.clone(), &replica.shared.copy);
    let (mut taken, mut asked) = (shared.digest_taken.subscribe(), copy.compare_now.subscribe());
    let mut due = InstantOf::<RT>::now() + copy.settings.compare_every;
    let (mut revision, mut again) = (None, false);
    while !shared.has_stopped() {
        let open = copy.known.lock().differs || again;
        let left = due.saturating_duration_since_now();
        let woken = async {
            let (one, other) = (std::pin::pin!(taken.changed()), std::pin::pin!(asked.changed()));
            let _woken = futures::future::select(one, other).await;
        };
        let timed_out = RT::timeout(if open { left.min(OPEN_EVERY) } else { left }, woken).await.is_err();
        if timed_out {
            // A DIGEST entry wakes all nodes. While copies differ, any node asks for one: the buckets of an older one may
            // be gone with a restart.
            let written = shared.store.applied().revision;
            let leads = shared.is_leader() && revision != Some(written);
            if open || leads {
                replica.take_digest().await;
                (revision, again) = (Some(written), false);
            }
            if due.saturating_duration_since_now() == Duration::ZERO {
                due = InstantOf::<RT>::now() + copy.settings.compare_every;
            }
            continue;
        }
        taken.mark_unchanged();
        if let Some(index) = shared.store.newest_digest() {
            again = !replica.compare(index).await;
        }
    }
}

impl<RT: Runtime> Replica<RT> {
    async fn take_digest(&self) {
        let command = Command { request: None, op: Some(Op::TakeDigest(TakeDigest {})) };
        if let Err(error) = self.propose(command, APPLY_LIMIT).await {
            tracing::debug!("no digest was taken, the next one is: {error}");
        }
    }

    /// Compares all copies at a log index. False when some differ and the buckets of that moment are gone with a restart:
    /// then another digest is needed.
    async fn compare(&self, index: u64) -> bool {
        let own_id = self.shared.claim.node_id;
        let Some(own_total) = self.shared.store.digest_at(index) else { return true };
        let members = self.shared.members();
        let others = members.iter().filter(|member| member.role_value().is_data() && member.node_id != own_id);
        let asked = others.map(|member| async move { (member.node_id, self.total_of(member.node_id, index).await) });
        let totals: Vec<(NodeId, [u8; 32])> =
            join_all(asked).await.into_iter().filter_map(|(id, total)| Some((id, total?))).collect();
        if totals.is_empty() {
            return true;
        }
        let all = members.iter().filter(|member| member.role_value().is_data()).count();
        let mut compared = totals.len() + 1;
        let verdict = if totals.iter().all(|(_, total)| *total == own_total) {
            Verdict::default()
        } else {
            let others = totals.iter().map(|(id, _)| async move { (*id, self.peer_copy(*id, index).await) });
            let states = join_all(others).await.into_iter().filter_map(|(id, state)| Some((id, state.ok()?)));
            // Without its own sums of that moment it has nothing to compare: it restarted since, or fell behind.
            let Some(own) = view_of(own_id, &self.own_copy(index)) else { return false };
            let copies: Vec<CopyView> = states.filter_map(|(id, state)| view_of(id, &state)).chain([own]).collect();
            if copies.len() < 2 {
                return false;
            }
            compared = copies.len();
            judge(&copies, all)
        };
        // Silence of the others is no proof that this copy is right.
        let proves = !verdict.bad.is_empty() || 2 * compared > all;
        self.act_on(verdict, index, proves).await;
        true
    }

    /// A node's digest, once it has applied that far.
    async fn total_of(&self, node_id: NodeId, index: u64) -> Option<[u8; 32]> {
        let until = InstantOf::<RT>::now() + APPLY_LIMIT;
        self.shared.until_deadline(until, || async { self.peer_digest(node_id, index).await.ok().flatten() }).await
    }

    async fn act_on(&self, verdict: Verdict, index: u64, proves: bool) {
        let (own_id, copy) = (self.shared.claim.node_id, &self.shared.copy);
        copy.known.lock().accused = verdict.bad.clone();
        if copy.is_bad() {
            return;
        }
        if verdict.bad.contains(&own_id) {
            let why = format!("copies were compared at log index {index}, and this node's is the one that is wrong");
            copy.known.lock().bad = Some(why.clone());
            tracing::error!("{why}; it is not served and will be replaced: check this machine's disk and memory");
            self.hold(Held { whole: true, buckets: BucketSet::all(), why }).await;
            bump(&copy.scrub_now);
            return;
        }
        if !verdict.bad.is_empty() {
            tracing::warn!(nodes = ?verdict.bad, index, "other nodes' copies of the records are wrong, they repair themselves");
        }
        {
            let mut known = copy.known.lock();
            // A copy that was found right says so until none differs any more: the bad one decides by it, too.
            let differed = std::mem::replace(&mut known.differs, verdict != Verdict::default());
            if !differed {
                known.checked = None;
            }
            if !verdict.open.is_empty() && known.checked.is_none() && known.running.is_none() {
                bump(&copy.scrub_now);
            }
        }
        if !verdict.open.is_empty() {
            if self.shared.store.held().is_none_or(|held| !verdict.open.is_within(&held.buckets)) {
                let why = format!(
                    "copies differ in {} of 4096 buckets since log index {index}, and no majority tells which is right",
                    verdict.open.len()
                );
                tracing::error!(
                    "{why}: what differs is not served until the rows' own checks decide, or an operator does with \
                     `saola scrub repair --node NAME`"
                );
                self.hold(Held { whole: false, buckets: verdict.open, why }).await;
            }
        } else if proves && self.shared.store.held().is_some() {
            let store = self.shared.store.clone();
            match RT::disk(Takes::Long, move || store.hold(None)).await {
                Ok(()) => tracing::info!("this node's copy of the records is right: all of it is served again"),
                Err(error) => tracing::error!("write down that all is served again: {error}"),
            }
        }
    }
}

/// A copy as it says of itself; none when it has no sums at that index.
fn view_of(node_id: NodeId, state: &CopyState) -> Option<CopyView> {
    let sums = Arc::new(Buckets::from_bytes(&state.sums)?);
    Some(CopyView { node_id, sums, bad: state.bad, checked: BucketSet::from_bytes(&state.checked) })
}

//! Replaces a bad copy of the records by another data node's, at the log index that this node has applied.
//!
//! Raft knows nothing of it: the state that comes is brought up to this node's own index by this node's own log, which
//! is kept meanwhile. A bad copy is not led from either: apply is right everywhere, but linearizable reads and snapshots
//! should not depend on a leader that serves neither.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use saola_storage::digest::BucketSet;
use saola_storage::engine::EngineError;
use saola_storage::error::StoreError;
use saola_storage::log::Log;
use saola_storage::quarantine::Held;
use saola_storage::store::ApplyEntry;
use saola_storage::types::{LogId, NodeId};

use super::fetch::fetch_state;
use super::{Replica, Writes};
use crate::member::Member;
use crate::payload;
use crate::types::{Runtime, Takes};

/// Between two attempts.
pub(super) const PAUSE: Duration = Duration::from_secs(5);
/// A source that has sent nothing for so long is left for the next one.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Entries of the log are read in portions of so many bytes.
const READ_BYTES: usize = 4 << 20;

impl<RT: Runtime> Replica<RT> {
    /// Attempts to replace this node's copy, which is bad, until it is not any more or the replica has stopped.
    pub(super) async fn repair(&self) {
        let (shared, copy) = (&self.shared, &self.shared.copy);
        let mut told = None;
        while copy.is_bad() && !shared.has_stopped() {
            self.lead_no_more().await;
            // What a repair may need of the log is all that is there now.
            copy.keep_log_from(shared.log.state().last_purged.map_or(0, |last| last.index + 1));
            let replaced = self.replace_copy_here().await;
            copy.keep_log_from(u64::MAX);
            copy.known.lock().repairing_from = None;
            match replaced {
                Ok(from) => {
                    let mut known = copy.known.lock();
                    known.repairs += 1;
                    (known.bad, known.last, known.checked, known.differs) = (None, None, None, false);
                    tracing::info!("the bad copy of the records was replaced by that of {from}, and is served again");
                }
                Err(reason) => {
                    if told.as_ref() != Some(&reason) {
                        tracing::warn!("the bad copy of the records cannot be replaced yet: {reason}");
                    }
                    told = Some(reason);
                    RT::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Hands leadership to a node whose copy is right, if this one leads.
    async fn lead_no_more(&self) {
        if !self.shared.is_leader() {
            return;
        }
        let Some(to) = self.successor().await else { return };
        tracing::warn!("this leader's copy of the records is bad: handing over to node {to}");
        if let Err(error) = self.transfer_here(to, Writes::MayBeUnderWay).await {
            tracing::error!("hand over to node {to}, because this node's copy is bad: {error}");
        }
    }

    /// Pulls a sound copy and switches to it; answers from whom.
    async fn replace_copy_here(&self) -> Result<String, String> {
        let (shared, copy) = (&self.shared, &self.shared.copy);
        let sources = self.sound_copies().await?;
        let held = shared.store.held();
        if held.as_ref().is_none_or(|held| !held.whole) {
            // Others serve in its stead, so nothing of this one is.
            let why = copy.known.lock().bad.clone().unwrap_or_default();
            let buckets = held.map_or_else(BucketSet::all, |held| held.buckets.clone());
            self.hold(Held { whole: true, buckets, why }).await;
        }
        let mut reasons = Vec::new();
        for source in sources {
            copy.known.lock().repairing_from = Some(source.node_id);
            match self.replace_copy_by(&source).await {
                Ok(()) => return Ok(format!("node {} ({})", source.node_id, source.name)),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }

    /// Data nodes that do not know their copies to be bad, those at this site first and the leader last: it has other
    /// work. An error: there is none, and why.
    pub(super) async fn sound_copies(&self) -> Result<Vec<Member>, String> {
        let shared = &self.shared;
        let index = shared.store.newest_digest().unwrap_or(0);
        let accused = shared.copy.known.lock().accused.clone();
        let others = worth_asking(shared.members(), shared.claim.node_id, &accused);
        let asked = others.into_iter().map(|member| async move {
            let reason = match self.peer_copy(member.node_id, index).await {
                Ok(state) if !state.bad => return Ok(member),
                Ok(_) => "has a bad copy itself".to_owned(),
                Err(error) => format!("does not give it: {error}"),
            };
            Err(format!("node {} ({}) {reason}", member.node_id, member.name))
        });
        let (mut sound, mut reasons) = (Vec::new(), Vec::new());
        for answer in join_all(asked).await {
            match answer {
                Ok(member) => sound.push(member),
                Err(reason) => reasons.push(reason),
            }
        }
        if sound.is_empty() && reasons.is_empty() {
            return Err("there is no other data node whose copy the last comparison did not find bad".to_owned());
        }
        if sound.is_empty() {
            return Err(format!("no other data node has a sound copy to give: {}", reasons.join(", ")));
        }
        let leader = shared.leader();
        sound.sort_by_key(|it: &Member| (Some(it.node_id) == leader, it.site != shared.claim.site, it.node_id));
        Ok(sound)
    }

    async fn replace_copy_by(&self, source: &Member) -> Result<(), String> {
        let shared = &self.shared;
        let import = fetch_state(shared, source, None, PATIENCE, None).await.map_err(|error| error.to_string())?;
        let received = import.manifest().and_then(|manifest| manifest.log_id).map(LogId::from);
        if let Some(received) = received {
            // It may be ahead of this node: what it has applied is committed, so it comes.
            shared.applied(received.index).await;
        }
        let log = shared.log.clone();
        let replace = move || import.replace_damaged(&mut |from, to| read_log::<RT>(&log, from, to));
        let replaced = RT::disk(Takes::Long, replace).await;
        replaced.map(drop).map_err(|error| format!("what {} sent was not taken: {error}", source.name))
    }
}

/// The other data nodes, without those that the last comparison accused: they may not know it yet.
fn worth_asking(members: Vec<Member>, own: NodeId, accused: &BTreeSet<NodeId>) -> Vec<Member> {
    let other = |it: &Member| it.role_value().is_data() && it.node_id != own && !accused.contains(&it.node_id);
    members.into_iter().filter(other).collect()
}

/// Entries of this node's log from one index to another, or as many as fit a portion.
pub(super) fn read_log<RT: Runtime>(log: &Log, from: u64, to: u64) -> Result<Vec<ApplyEntry>, StoreError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        let what = format!("read this node's log from entry {from} for the repair of its records");
        StoreError::from(EngineError { what, source, damage: false })
    };
    let entries = log.entries(from..to + 1, READ_BYTES).map_err(|error| failed(error.into()))?;
    let to_apply = |entry: saola_storage::log::LogEntry| {
        let payload = payload::decode::<RT>(entry.payload).and_then(|payload| payload::to_apply::<RT>(&payload));
        Ok(ApplyEntry { log_id: entry.log_id, payload: payload.map_err(|error| failed(error.into()))? })
    };
    entries.into_iter().map(to_apply).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Role;

    #[test]
    fn a_copy_that_others_have_accused_is_not_a_source_though_it_may_not_know_it_yet() {
        let member = |node_id, role| Member { node_id, role: role as i32, ..Member::default() };
        let members = vec![
            member(1, Role::Voter),
            member(2, Role::Voter),
            member(3, Role::Learner),
            member(4, Role::Voter),
            member(5, Role::Witness),
        ];
        let asked = worth_asking(members, 1, &BTreeSet::from([2]));
        assert_eq!(asked.iter().map(|it| it.node_id).collect::<Vec<_>>(), [3, 4]);
    }
}

//! How a node stands, for those who ask: what its log and its rows say of members, approvers and the gate.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use saola_storage::command::{Op, SetApprovers};
use saola_storage::log::{Log, LogEntry};
use saola_storage::payload;
use saola_storage::promotion::{Plan, SignedPlan};
use saola_storage::protection::Mode;
use saola_storage::store::ApplyPayload;
use saola_storage::types::LogId;

use super::Shared;
use crate::member::MembershipRecord;
use crate::types::{Runtime, Takes};
use crate::wire::{Came, GateSeen, Standing};

/// Entries are read in pieces of about so many bytes.
const PIECE_BYTES: usize = 4 << 20;

/// What the entries of a log above what is applied say.
#[derive(Default)]
pub(super) struct Tail {
    /// The newest membership of a term below the one that was asked for.
    pub(super) membership: Option<(LogId, MembershipRecord)>,
    /// Who may approve a forced promotion, each list with the entry that set it.
    approvers: Vec<(u64, SetApprovers)>,
    /// Some of them say something of the gate, or cannot be read.
    moves_gate: bool,
}

pub(super) fn read_tail(log: &Log, applied: Option<LogId>, below_term: u64) -> Tail {
    let state = log.state();
    let mut from = applied.max(state.last_purged).map_or(0, |it| it.index + 1);
    let (end, mut tail) = (state.last.map_or(0, |last| last.index + 1), Tail::default());
    // A log of which nothing was purged may begin anywhere.
    while from < end && log.log_id_at(from).is_none() {
        from += 1;
    }
    while from < end {
        let entries = match log.entries(from..end, PIECE_BYTES) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!("read the log from index {from} on, for what it says of members and the gate: {error}");
                Vec::new()
            }
        };
        let Some(last) = entries.last() else {
            tail.moves_gate = true;
            break;
        };
        from = last.log_id.index + 1;
        entries.into_iter().for_each(|entry| tail.add(entry, below_term));
    }
    tail
}

impl Tail {
    fn add(&mut self, entry: LogEntry, below_term: u64) {
        let LogId { leader, index } = entry.log_id;
        match payload::decode(&entry.payload) {
            Ok(ApplyPayload::Blank) => {}
            Ok(ApplyPayload::Membership(body)) => match MembershipRecord::decode(body) {
                Ok(record) if leader.term < below_term => self.membership = Some((entry.log_id, record)),
                Ok(_) => {}
                Err(_) => self.moves_gate = true,
            },
            Ok(ApplyPayload::Commands(batch)) => {
                for command in batch.commands {
                    match command.op {
                        Some(Op::SetApprovers(set)) => self.approvers.push((index, set)),
                        op => self.moves_gate |= moves_gate(&op),
                    }
                }
            }
            Err(_) => self.moves_gate = true,
        }
    }
}

/// The list of approvers, each with the entry that set it and the newest last, that stood at an index of the log; the oldest
/// one if all came later: whoever shows a plan with a low base must not find that nobody has to approve it.
fn list_at(lists: &[(u64, SetApprovers)], index: u64) -> Option<&(u64, SetApprovers)> {
    lists.iter().rev().find(|(at, _)| *at <= index).or(lists.first())
}

fn moves_gate(op: &Option<Op>) -> bool {
    let by_itself = matches!(op, Some(Op::Degrade(_) | Op::Synchronize(_) | Op::WaitForWitness(_)));
    by_itself || matches!(op, None | Some(Op::SetProtection(_) | Op::BeginEpoch(_) | Op::Bootstrap(_)))
}

impl<RT: Runtime> Shared<RT> {
    /// Terms from this one on are those of an epoch that this node waits for and that has not begun in its folder.
    pub(super) fn promised_term(&self) -> u64 {
        let promised = self.lineage().promised.and_then(|it| SignedPlan::from_bytes(&it.plan).ok());
        promised.map_or(u64::MAX, |(_, plan)| plan.term)
    }

    /// Whether enough of those have approved who could at the plan's base, as this node knows them by its own rows and log.
    /// One that has never heard of any list goes by the plan's own: nobody was ever named, or it has not come so far.
    pub(super) async fn check_record(&self, signed: &SignedPlan, plan: &Plan) -> Result<(), String> {
        let own = self.own_epoch().ok_or("this node is not part of a cluster")?;
        if plan.cluster_id != own.cluster_id[..] {
            let other = &plan.cluster_name;
            return Err(format!("the plan is of another cluster ({other}): see `saola dr show PLAN`"));
        }
        let (log, applied) = (self.log.clone(), self.store.applied().log_id);
        let tail = RT::disk(Takes::Long, move || read_tail(&log, applied, 0).approvers).await;
        let known = self.approvers_at(plan.base.map_or(0, |base| base.index), &tail);
        let (_, SetApprovers { approvers, needed }) = match known {
            Some(known) => known,
            None => (0, SetApprovers { approvers: plan.approvers.clone(), needed: plan.needed }),
        };
        signed.check(&approvers, needed).map(drop).map_err(|error| error.to_string())
    }

    /// See [`list_at`], of what this node's rows and `tail` say. None: nobody was ever named.
    fn approvers_at(&self, index: u64, tail: &[(u64, SetApprovers)]) -> Option<(u64, SetApprovers)> {
        let applied = self.store.approvers().into_iter();
        let applied = applied.map(|it| (it.at_index, SetApprovers { approvers: it.list, needed: it.needed }));
        list_at(&applied.chain(tail.iter().cloned()).collect::<Vec<_>>(), index).cloned()
    }

    /// How this node stands.
    pub(super) async fn standing(&self) -> Standing {
        let log = self.log.state();
        let applied = self.store.applied();
        let (own_log, at, below) = (self.log.clone(), applied.log_id, self.promised_term());
        let is_data = self.claim.role.is_data();
        let tail = RT::disk(Takes::Long, move || read_tail(&own_log, at, below)).await;
        let applied_members = applied
            .membership
            .as_ref()
            .and_then(|(at, bytes)| Some((*at, MembershipRecord::decode(bytes.clone()).ok()?)));
        let applied_voters = applied_members.as_ref().map(|(_, record)| record.configs.clone()).unwrap_or_default();
        let approvers = self.approvers_at(u64::MAX, &tail.approvers);
        let newest = tail.membership.or(applied_members);
        let protection = self.store.protection();
        let limits = self.limits(protection.rule);
        let acknowledged_age = self.heard_back.lock().age(self.moment());
        let gate = is_data.then(|| GateSeen {
            is_closed: protection.is_closed(),
            is_maximum: protection.rule.mode == Mode::MaximumProtection,
            acks: protection.rule.acks,
            degrade_ms: limits.degrade_ms,
            is_newest: !tail.moves_gate,
            acknowledged_age_ms: acknowledged_age.map(|age| age.as_millis() as u64 + 1),
        });
        Standing {
            last: log.last.map(Into::into),
            committed: log.committed.map(Into::into),
            purged: log.last_purged.map(Into::into),
            vote_term: log.vote.map_or(0, |vote| vote.leader.term),
            membership_at: newest.as_ref().map(|(at, _)| (*at).into()),
            membership: newest.map(|(_, record)| record),
            applied_voters,
            gate,
            approvers_at: approvers.as_ref().map_or(0, |(at, _)| *at),
            approvers: approvers.map(|(_, list)| list),
            revision: applied.revision,
            copy_is_bad: self.copy.is_bad(),
            cluster_name: self.store.view().info().map(|info| info.cluster_name).unwrap_or_default(),
            epochs: self.chain(),
            ..self.standing_in_brief()
        }
    }

    /// The same without what stands in log and rows.
    pub(super) fn standing_in_brief(&self) -> Standing {
        let (lineage, identity) = (self.lineage(), self.own_epoch());
        let runs = self.raft().is_some() && !self.has_stopped();
        let age = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Standing {
            member: Some(self.own_member()),
            cluster_id: identity.as_ref().map(|own| Bytes::copy_from_slice(&own.cluster_id)).unwrap_or_default(),
            epoch: identity.as_ref().map_or(0, |own| own.epoch),
            record: lineage.record.unwrap_or_default(),
            promised: lineage.promised.map(|promise| promise.plan).unwrap_or_default(),
            outbid: lineage.outbid.into_iter().map(|promise| promise.plan).collect(),
            given_up: lineage.given_up,
            reinstating: lineage.reinstating.is_some(),
            came: self.shipped().map(|it| Came { bytes: it.bytes, of_bytes: it.of_bytes, orphans: it.orphans }),
            fenced: lineage.fenced.map(|fence| fence.why).unwrap_or_default(),
            runs,
            leader: if runs { self.leader().unwrap_or(0) } else { 0 },
            quorum_age_ms: self.quorum_age().or_else(|| self.heard_quorum_age()).map_or(u64::MAX, age),
            ..Standing::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_a_low_base_needs_approval_by_the_oldest_list_and_not_by_nobody() {
        let lists = [(10, 2), (20, 3)].map(|(at, needed)| (at, SetApprovers { approvers: Vec::new(), needed }));
        let needed = |index| list_at(&lists, index).map(|(_, list)| list.needed);
        assert_eq!([0, 9, 10, 19, 20, u64::MAX].map(needed), [2, 2, 2, 2, 3, 3].map(Some));
        assert_eq!(list_at(&[], 5), None, "nobody was ever named");
    }
}

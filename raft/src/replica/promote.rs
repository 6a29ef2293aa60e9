//! A site goes on without the other by force: the plan is made, carried out step by step, and completed.
//!
//! 1. All survivors, fenced ones too, *promise* durably to take no part in their epoch any more; that is refused if one of
//!    them has more by then than the plan says. A plan for a later epoch takes the place of an earlier promise, as with
//!    Paxos ballots. A plan that has not begun may be given up: by the base node first.
//! 2. The base node *begins*: it ships the tail of whoever has the base, adds an entry by which it is the only voter, and
//!    writes the new epoch and the approved plan into its folder. Then its process starts anew.
//! 3. It leads at once, and *completes*: its first command ([`BeginEpoch`]) opens the gate; the other survivors, which hear
//!    from it by its appends, meet the record, start anew, catch up, and get their votes.
//!
//! Each step does only what is left to do, so that the plan is finished by carrying it out again, whoever crashed when.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use saola_storage::command::{Approver, BeginEpoch, Command, Op, SetApprovers};
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::log::{LogEntry, LogOp};
use saola_storage::payload::{self, PayloadKind};
use saola_storage::promotion::{Attested, Plan, SignedPlan, Survivor, is_public_key, is_same_plan};
use saola_storage::types::{LeaderId, LogId, Vote};
use tokio::sync::oneshot;

use super::admin::{invalid, to_its_end};
use super::lineage::names;
use super::protection::new_id;
use super::{AdminError, ProposeError, Replica, Shared};
use crate::folder::{Lineage, Promise};
use crate::member::{Member, MembershipRecord, Seat, VoterSet};
use crate::promotion::{View, is_same, plan};
use crate::repair::PIECE_BYTES;
use crate::types::Runtime;
use crate::wire::{
    Answer, EntriesFrom, EntriesReply, LineageAsk, LineageVerb, Nothing, Question, Refusal, RefusalCode, Standing,
};

/// One step at one node may take so long; the base node may have a tail to ship.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// The first command of an epoch may take so long.
const FIRST_COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A plan that has been carried out so far that its epoch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The epoch.
    pub epoch: u64,
    /// The node that leads it first. It may still be starting.
    pub base_node: u64,
}

/// What came of a word to all nodes of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Names of those that have done so.
    pub done: Vec<String>,
    /// Of those that did not answer.
    pub silent: Vec<String>,
    /// Those that would not, each with the reason.
    pub refused: Vec<String>,
}

impl<RT: Runtime> Replica<RT> {
    /// Says who may approve a forced promotion, and how many of them must; in the place of what was said before. Nobody
    /// and none: a plan needs no approval.
    pub async fn set_approvers(
        &self,
        list: Vec<Approver>,
        needed: u32,
        deadline: Duration,
    ) -> Result<(), ProposeError> {
        let refused = |why: String| Err(ProposeError::Refused(why));
        if let Some(bad) = list.iter().find(|it| !is_public_key(&it.public_key)) {
            return refused(format!("the key of {} is no Ed25519 public key of 32 bytes", bad.name));
        }
        let names: BTreeSet<&str> = list.iter().map(|it| it.name.as_str()).collect();
        let keys: BTreeSet<&Bytes> = list.iter().map(|it| &it.public_key).collect();
        if names.len() < list.len() || keys.len() < list.len() || names.contains("") {
            return refused("each approver has a name and a key of their own".into());
        }
        if needed as usize > list.len() || (needed == 0 && !list.is_empty()) {
            let count = list.len();
            return refused(format!("of {count} approvers {needed} cannot be needed: ask for 1 to {count}"));
        }
        let op = Op::SetApprovers(SetApprovers { approvers: list, needed });
        self.propose(Command { request: None, op: Some(op) }, deadline).await.map(drop)
    }

    /// How all members stand, this node first, as far as they answer.
    async fn all_standings(&self) -> Vec<Standing> {
        let own = self.shared.standing().await;
        let others = members_in(&own).into_iter().filter(|member| member.node_id != self.shared.claim.node_id);
        let ask = LineageVerb::Stand(Nothing {});
        let answers = self.standings_of(&others.collect::<Vec<_>>(), ask).await;
        std::iter::once(own).chain(answers.into_iter().filter_map(|(_, answer)| answer.ok())).collect()
    }

    /// Makes the plan by which `site` goes on without the other; nothing is changed.
    ///
    /// # Errors
    /// There is no plan to make; the message says why, and what to do.
    pub async fn plan_promotion(&self, site: &str, attested: &Attested) -> Result<Plan, AdminError> {
        let own = self.shared.identity().ok_or_else(|| invalid("this node is not part of a cluster"))?;
        // Before they are asked: how old something is they say as of their answers.
        let now_us = self.shared.now_us();
        let standings = self.all_standings().await;
        let view = View { epoch: own.epoch, site, standings: &standings, attested, now_us, carried_out: &[] };
        plan(&view).map_err(|why| invalid(why.to_string()))
    }

    /// Carries an approved plan out, as far as it has not been. Whoever asked may ask again after any failure.
    ///
    /// # Errors
    /// It is not approved, has expired, or does not fit the nodes any more; or a node that is needed does not answer.
    pub async fn apply_promotion(&self, record: Bytes) -> Result<Begun, AdminError> {
        let replica = self.clone();
        to_its_end::<RT, _>(async move { replica.apply_here(&record).await }).await
    }

    async fn apply_here(&self, record: &Bytes) -> Result<Begun, AdminError> {
        let shared = &self.shared;
        let (signed, plan) = SignedPlan::from_bytes(record).map_err(|error| invalid(error.to_string()))?;
        shared.check_record(&signed, &plan).await.map_err(invalid)?;
        let begun = Begun { epoch: plan.epoch, base_node: plan.base_node };
        let own = shared.identity().ok_or_else(|| invalid("this node is not part of a cluster"))?;
        if own.epoch >= plan.epoch {
            return match is_same_plan(&shared.record(), record) {
                true => Ok(begun),
                false => Err(invalid(format!("epoch {} has begun already, by another plan", own.epoch))),
            };
        }
        let now_us = shared.now_us();
        let standings = self.all_standings().await;
        if standings.iter().any(|it| it.epoch == plan.epoch && is_same_plan(&it.record, record)) {
            // The others hear of it from the base node.
            return Ok(begun);
        }
        let of =
            |node_id| standings.iter().find(|it| it.member.as_ref().is_some_and(|member| member.node_id == node_id));
        let has_promised = |it: &Survivor| of(it.node_id).is_some_and(|it| is_same_plan(&it.promised, record));
        if plan.survivors.iter().all(has_promised) {
            return self.have_begun(&plan, record).await.map(|()| begun);
        }
        let promised = plan.survivors.iter().any(has_promised);
        if promised && of(plan.base_node).is_none() {
            let base = plan.member(plan.base_node).map_or("?", |member| member.name.as_str());
            return Err(AdminError::Unknown(format!("the epoch may have begun at {base}, which does not answer now")));
        }
        if !promised && shared.now_us() > plan.expires_us {
            return Err(invalid(
                "the plan has expired: make a new one with `saola dr plan promote`, and have it approved",
            ));
        }
        let attested = plan.attested.clone().unwrap_or_default();
        let (epoch, site, standings) = (own.epoch, &plan.site, &standings);
        let view = View { epoch, site, standings, attested: &attested, now_us, carried_out: record };
        let now = crate::promotion::plan(&view).map_err(|why| invalid(why.to_string()))?;
        // What a survivor remembered of acknowledgements may be gone with a restart, once it has promised.
        if !is_same(&plan, &now) || !promised && plan.verdict != now.verdict {
            return Err(invalid(format!(
                "the nodes do not stand any more as the plan says ({}): make a new one with `saola dr plan promote`, and \
                 have it approved",
                difference(&plan, &now)
            )));
        }
        for survivor in &plan.survivors {
            let member = self.survivor(survivor.node_id)?;
            self.have(&member, LineageVerb::Promise(record.clone())).await?;
        }
        self.have_begun(&plan, record).await.map(|()| begun)
    }

    async fn have_begun(&self, plan: &Plan, record: &Bytes) -> Result<(), AdminError> {
        let base = plan.member(plan.base_node).ok_or_else(|| invalid("the plan names no node to begin the epoch"))?;
        self.have(base, LineageVerb::Begin(record.clone())).await
    }

    fn survivor(&self, node_id: u64) -> Result<Member, AdminError> {
        if node_id == self.shared.claim.node_id {
            return Ok(Member { node_id, ..Member::default() });
        }
        let known = self.shared.any_member(node_id);
        known.ok_or_else(|| invalid(format!("node {node_id} is not known to be a member here: ask another survivor")))
    }

    /// Gives a plan up that has not begun: whoever has promised it takes part in its epoch again.
    ///
    /// # Errors
    /// It has begun, or the node that would begin it does not answer; or another one does not, and it is done again.
    pub async fn abandon_promotion(&self, record: Bytes) -> Result<(), AdminError> {
        let replica = self.clone();
        to_its_end::<RT, _>(async move {
            let (_, plan) = SignedPlan::from_bytes(&record).map_err(|error| invalid(error.to_string()))?;
            // The base node first: without its promise nobody begins the epoch any more.
            let rest = plan.survivors.iter().map(|it| it.node_id).filter(|id| *id != plan.base_node);
            for node_id in std::iter::once(plan.base_node).chain(rest) {
                let member = replica.survivor(node_id)?;
                replica.have(&member, LineageVerb::Abandon(record.clone())).await?;
            }
            Ok(())
        })
        .await
    }

    /// Has a node, this one or another, take a step.
    async fn have(&self, member: &Member, step: LineageVerb) -> Result<(), AdminError> {
        self.have_within(member, step, STEP_LIMIT).await
    }

    pub(super) async fn have_within(
        &self,
        member: &Member,
        step: LineageVerb,
        limit: Duration,
    ) -> Result<(), AdminError> {
        if member.node_id == self.shared.claim.node_id {
            return self.take_step(step).await;
        }
        let question = Question::Lineage(LineageAsk { verb: Some(step), record: Bytes::new() });
        self.ask(member, question, limit).await.map(drop)
    }

    /// Fences all nodes of a site that answer.
    pub async fn fence_site(&self, site: &str, why: &str) -> Result<Told, AdminError> {
        self.tell_site(site, &LineageVerb::Fence(why.to_owned())).await
    }

    /// Lets the nodes of a site take part again which nothing but a fence, or nobody's answer, keeps from it.
    pub async fn unfence_site(&self, site: &str) -> Result<Told, AdminError> {
        self.tell_site(site, &LineageVerb::Unfence(Nothing {})).await
    }

    async fn tell_site(&self, site: &str, step: &LineageVerb) -> Result<Told, AdminError> {
        let there = members_in(&self.shared.standing().await).into_iter().filter(|member| member.site == site);
        let asked = there.map(|member| async move { (self.have(&member, step.clone()).await, member.name) });
        let answers = futures::future::join_all(asked).await;
        if answers.is_empty() {
            return Err(invalid(format!("site {site} has no node of this cluster, as far as this node knows")));
        }
        let mut told = Told::default();
        for (result, name) in answers {
            match result {
                Ok(()) => told.done.push(name),
                Err(AdminError::PeerUnreachable { .. }) => told.silent.push(name),
                Err(error) => told.refused.push(format!("{name}: {error}")),
            }
        }
        Ok(told)
    }

    /// Takes no part in this epoch any more, for the sake of an approved plan.
    pub(super) async fn promise(&self, record: &Bytes) -> Result<(), Refusal> {
        let shared = &self.shared;
        let refuse = |message: String| Err(Refusal::new(RefusalCode::Invalid, message));
        let (signed, plan) = checked(record)?;
        let _one_at_a_time = shared.lineage.lock().await;
        let lineage = shared.lineage();
        let own = shared.identity().ok_or_else(|| Refusal::new(RefusalCode::NotAdopted, "this node has no cluster"))?;
        if let Some(fence) = lineage.fenced.as_ref().filter(|fence| fence.record.is_some()) {
            return refuse(fence.why.clone());
        }
        if own.epoch != plan.former_epoch || self.should_start_anew() {
            return refuse(format!(
                "node {} is in epoch {}, or about to start anew, and the plan ends epoch {}",
                own.node_id, own.epoch, plan.former_epoch
            ));
        }
        if lineage.reinstating.is_some() {
            return refuse(format!("node {} has not got the records of epoch {} yet", own.node_id, own.epoch));
        }
        if lineage.promised.as_ref().is_some_and(|promise| is_same_plan(&promise.plan, record)) {
            return Ok(());
        }
        if plan.epoch <= lineage.given_up {
            return refuse(format!("the plan was given up at node {}: make a new one", own.node_id));
        }
        if let Some(promise) = lineage.promised.as_ref().filter(|promise| promise.epoch >= plan.epoch) {
            return refuse(format!(
                "node {} waits for epoch {} by another plan already: finish that one, or make a new one",
                own.node_id, promise.epoch
            ));
        }
        if let Err(why) = shared.check_record(&signed, &plan).await {
            return refuse(why);
        }
        if shared.now_us() > plan.expires_us {
            return refuse(format!("by the clock of node {} the plan has expired: make a new one", own.node_id));
        }
        let Some(planned) = plan.survivors.iter().find(|it| it.node_id == own.node_id) else {
            return refuse(format!("node {} is not among the plan's survivors", own.node_id));
        };
        let promised = Some(Promise { epoch: plan.epoch, plan: record.clone() });
        let outbid = lineage.outbid.iter().chain(&lineage.promised).cloned().collect();
        self.keep_lineage(Lineage { promised, outbid, ..lineage.clone() }).await?;
        // Now that Raft has stopped the log stays as it is.
        if planned.last.map(LogId::from) != shared.log.state().last {
            self.keep_lineage(lineage).await?;
            shared.starts_anew.send_replace(true);
            return refuse(format!(
                "the log of node {} has changed since the plan was made: make a new one with `saola dr plan promote`",
                own.node_id
            ));
        }
        reach(Failpoint::PromiseKept);
        tracing::warn!(epoch = plan.epoch, "this node takes no part in epoch {} any more", own.epoch);
        Ok(())
    }

    /// Forgets the promise of a plan that has not begun here.
    pub(super) async fn abandon(&self, record: &Bytes) -> Result<(), Refusal> {
        let shared = &self.shared;
        let (_, plan) = checked(record)?;
        let _one_at_a_time = shared.lineage.lock().await;
        let lineage = shared.lineage();
        if is_same_plan(&shared.record(), record) {
            let message = format!("epoch {} has begun at node {}", plan.epoch, shared.claim.node_id);
            return Err(Refusal::new(RefusalCode::Invalid, message));
        }
        let given_up = lineage.given_up.max(plan.epoch);
        if lineage.promised.as_ref().is_none_or(|promise| !is_same_plan(&promise.plan, record)) {
            // It must not be promised later either.
            return shared.keep_in_folder(Lineage { given_up, ..lineage });
        }
        // The entry that would have begun the epoch is in no other log, and no member of the former one goes by it.
        let last = shared.log.state().last.filter(|last| last.leader.term >= plan.term);
        if let Some(first) = last {
            let before = first.index.checked_sub(1).and_then(|index| shared.log.log_id_at(index));
            self.durable(LogOp::TruncateAfter(before)).await?;
        }
        // What it had promised before holds again: that plan may have begun.
        let mut outbid = lineage.outbid.clone();
        let promised = outbid.pop();
        tracing::warn!(epoch = plan.epoch, "the plan for epoch {} is given up here: this node starts anew", plan.epoch);
        self.keep_lineage(Lineage { promised, outbid, given_up, ..lineage }).await?;
        shared.starts_anew.send_replace(true);
        Ok(())
    }

    /// Begins the epoch of a plan that this node and all other survivors have promised.
    pub(super) async fn begin(&self, record: &Bytes) -> Result<(), Refusal> {
        let shared = &self.shared;
        let (_, plan) = checked(record)?;
        let _one_at_a_time = shared.lineage.lock().await;
        if is_same_plan(&shared.record(), record) {
            return Ok(());
        }
        let own = shared.identity().ok_or_else(|| Refusal::new(RefusalCode::NotAdopted, "this node has no cluster"))?;
        let promised = shared.lineage().promised.is_some_and(|promise| is_same_plan(&promise.plan, record));
        if !promised || plan.base_node != own.node_id {
            let message = format!("node {} has not promised this plan, or is not to begin it", own.node_id);
            return Err(Refusal::new(RefusalCode::Invalid, message));
        }
        let base: Option<LogId> = plan.base.map(LogId::from);
        let first = LogId {
            leader: LeaderId { term: plan.term, node_id: own.node_id },
            index: base.map_or(0, |base| base.index + 1),
        };
        if shared.log.state().last != Some(first) {
            self.take_tail(&plan, base).await?;
            reach(Failpoint::TailTaken);
            // Not elected: it asks for votes when it starts, and its own is enough.
            self.durable(LogOp::Vote(Vote { leader: first.leader, committed: false })).await?;
            reach(Failpoint::EpochVoted);
            let payload = payload::encode(PayloadKind::Membership, &first_members(&plan));
            self.durable(LogOp::Append(vec![LogEntry { log_id: first, payload }])).await?;
        }
        reach(Failpoint::EpochEntered);
        self.go_along(plan.epoch, record).await;
        match self.should_start_anew() {
            true => Ok(()),
            false => {
                Err(Refusal::new(RefusalCode::Stopped, "the folder could not take note of the epoch; see the log"))
            }
        }
    }

    async fn durable(&self, op: LogOp) -> Result<(), Refusal> {
        let (done, synced) = oneshot::channel();
        // Nobody may be left to hear of it.
        self.shared.log.submit(op, Some(Box::new(move |result| drop(done.send(result)))));
        let failed = |why: String| Refusal::new(RefusalCode::Stopped, format!("this node's log: {why}"));
        match synced.await {
            Ok(result) => result.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed("its writer has ended".into())),
        }
    }

    /// Brings this node's log up to the base, which another survivor has. What this one has beside it was never committed.
    async fn take_tail(&self, plan: &Plan, base: Option<LogId>) -> Result<(), Refusal> {
        let shared = &self.shared;
        let Some(base) = base.filter(|base| shared.log.state().last != Some(*base)) else { return Ok(()) };
        let refuse = |message: String| Refusal::new(RefusalCode::Invalid, message);
        let holder = plan.survivors.iter().find(|it| it.node_id == plan.holder);
        let name = holder.map_or("?", |it| it.name.as_str());
        let member = shared.any_member(plan.holder);
        let member =
            member.ok_or_else(|| refuse(format!("this node does not know {name}, which has the newest entries")))?;
        let state = shared.log.state();
        let committed = state.committed.max(shared.store.applied().log_id).max(state.last_purged);
        let mut next = committed.map_or(0, |it| it.index + 1);
        while next <= base.index {
            let EntriesReply { entries, purged, .. } = self.ask_entries(&member, next, base.index + 1).await?;
            // What it has purged is committed, and so the same wherever it stands.
            let skips = purged.map(LogId::from).filter(|purged| purged.index >= next);
            if let Some(purged) = skips.filter(|purged| shared.log.log_id_at(purged.index) == Some(*purged)) {
                next = purged.index + 1;
                continue;
            }
            let entries: Vec<LogEntry> = entries
                .into_iter()
                .map(|it| LogEntry { log_id: it.log_id.map(LogId::from).unwrap_or_default(), payload: it.payload })
                .collect();
            let Some(last) = entries.last().map(|it| it.log_id.index) else {
                return Err(refuse(format!("{name} does not give the entries from index {next} on: make a new plan")));
            };
            if (next..).zip(&entries).any(|(index, entry)| entry.log_id.index != index) {
                return Err(refuse(format!("{name} gave entries with a hole behind index {next}")));
            }
            let known = entries.iter().take_while(|it| shared.log.log_id_at(it.log_id.index) == Some(it.log_id));
            let lacking = entries[known.count()..].to_vec();
            if let Some(first) = lacking.first() {
                if shared.log.state().last.is_some_and(|own| own.index >= first.log_id.index) {
                    let before = first.log_id.index.checked_sub(1).and_then(|index| shared.log.log_id_at(index));
                    self.durable(LogOp::TruncateAfter(before)).await?;
                }
                self.durable(LogOp::Append(lacking)).await?;
            }
            next = last + 1;
        }
        match shared.log.state().last == Some(base) {
            true => Ok(()),
            false => Err(refuse(format!("{name} gave other entries than the plan says: make a new one"))),
        }
    }

    async fn ask_entries(&self, member: &Member, from: u64, end: u64) -> Result<EntriesReply, Refusal> {
        let which = EntriesFrom { from, end, max_bytes: PIECE_BYTES as u64 };
        match self.ask(member, Question::Entries(which), STEP_LIMIT).await {
            Ok(Answer::Entries(reply)) => Ok(reply),
            Ok(_) => {
                Err(Refusal::new(RefusalCode::BadMessage, "an answer of the wrong kind to a question for entries"))
            }
            Err(error) => Err(Refusal::new(RefusalCode::Invalid, error.to_string())),
        }
    }
}

/// The leader of an epoch that a promotion began writes its first command, and gives the other survivors their votes.
pub(super) async fn complete<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    let record = shared.record();
    let Ok((_, plan)) = SignedPlan::from_bytes(&record) else { return };
    let pause = Duration::from_millis(shared.timing.heartbeat_ms);
    while !shared.has_stopped() {
        RT::sleep(pause).await;
        let is_open = shared.store.epochs().last().is_some_and(|epoch| epoch.number >= plan.epoch);
        shared.epoch_is_open.store(is_open, Ordering::Release);
        if !shared.is_leader() {
            continue;
        }
        if !is_open {
            let state_id = Bytes::copy_from_slice(&new_id::<RT>());
            let begin = BeginEpoch { epoch: plan.epoch, record: record.clone(), site: plan.site.clone(), state_id };
            let command = Command { request: None, op: Some(Op::BeginEpoch(begin)) };
            match replica.propose_within(command, FIRST_COMMAND_LIMIT).await {
                Ok(_) => {
                    reach(Failpoint::EpochOpen);
                    shared.epoch_is_open.store(true, Ordering::Release);
                    tracing::warn!(epoch = plan.epoch, "epoch {} goes on, led from site {}", plan.epoch, plan.site)
                }
                Err(refusal) => tracing::warn!("begin epoch {}: {}; it is tried again", plan.epoch, refusal.message),
            }
            continue;
        }
        let voteless: Vec<Member> = plan.members.iter().filter(|it| waits_for_vote(shared, it)).cloned().collect();
        if voteless.is_empty() {
            return;
        }
        // Side by side: one that is dead holds up no other.
        let given = voteless.into_iter().map(|member| async {
            let name = member.name.clone();
            if let Err(error) = replica.add_here(member).await {
                tracing::warn!("give {name} its vote in epoch {}: {error}", plan.epoch);
            }
        });
        futures::future::join_all(given).await;
    }
}

/// A member by the plan that is a member still and has no vote, which nobody has taken from it.
fn waits_for_vote<RT: Runtime>(shared: &Shared<RT>, member: &Member) -> bool {
    let known = shared.member(member.node_id).filter(|known| !known.demoted);
    known.is_some_and(|known| known.role_value().votes()) && !shared.has_vote(member.node_id)
}

/// Members of the newest membership that a node knows.
fn members_in(standing: &Standing) -> Vec<Member> {
    let seats = standing.membership.iter().flat_map(|record| record.seats.iter());
    seats.filter_map(|seat| seat.member.clone()).collect()
}

pub(super) fn checked(record: &Bytes) -> Result<(SignedPlan, Plan), Refusal> {
    SignedPlan::from_bytes(record).map_err(|error| Refusal::new(RefusalCode::Invalid, error.to_string()))
}

/// The membership that begins an epoch: the base node votes, and the other survivors are to.
fn first_members(plan: &Plan) -> MembershipRecord {
    MembershipRecord {
        configs: vec![VoterSet { node_ids: vec![plan.base_node] }],
        seats: plan.members.iter().map(|it| Seat { node_id: it.node_id, member: Some(it.clone()) }).collect(),
    }
}

/// What is not as the plan says, in words.
fn difference(planned: &Plan, now: &Plan) -> String {
    let ids = |plan: &Plan| plan.survivors.iter().map(|it| it.node_id).collect::<BTreeSet<_>>();
    let (before, after) = (ids(planned), ids(now));
    if before != after {
        let of = |plan: &Plan, ids: &BTreeSet<u64>| {
            let them = plan.survivors.iter().filter(|it| ids.contains(&it.node_id));
            them.map(|it| it.name.clone()).collect::<Vec<_>>().join(", ")
        };
        let (gone, came) = (&before - &after, &after - &before);
        return format!("answers no more: [{}]; answers now: [{}]", of(planned, &gone), of(now, &came));
    }
    let changed = planned.survivors.iter().filter(|it| !now.survivors.contains(it));
    let changed: Vec<&str> = changed.map(|it| it.name.as_str()).collect();
    match changed.is_empty() {
        true if planned.verdict != now.verdict => "the loss cannot be proven any more as it was".into(),
        true => format!("members then {}, now {}", names(planned.members.iter()), names(now.members.iter())),
        false => format!("the logs of {} have changed", changed.join(", ")),
    }
}

//! Epochs, as one node meets them: taking no part any more, asking before it takes part again, and answering those who
//! ask how it stands.
//!
//! What fences a node is durable in its folder before anybody hears of it. A node that meets the approved record of a
//! later epoch goes along if the record names it as a member, and is fenced else; a number alone fences nobody. A voter
//! asks before its Raft runs, because while it was away another site may have gone on without it: any node of another site
//! or the witness may say that nothing has, or a node of its own site that follows a leader with a quorum.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use saola_storage::command::{Op, SetApprovers};
use saola_storage::log::Log;
use saola_storage::payload::{self, PayloadKind};
use saola_storage::promotion::{Plan, SignedPlan, short_hash};
use saola_storage::store::ApplyPayload;
use saola_storage::types::{LogId, NodeId};

use super::start::StartError;
use super::{InstantOf, Replica, Shared};
use crate::folder::{Fence, Lineage, NodeIdentity};
use crate::member::{Member, MembershipRecord, Role};
use crate::types::{Runtime, Takes, detach};
use crate::wire::{
    Answer, GateSeen, Header, LineageAsk, LineageVerb, Nothing, Question, Refusal, RefusalCode, Standing,
};

/// One question about epochs may take so long.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Of what is not applied no more entries than this are read for what they say of the gate.
const TAIL_ENTRIES: u64 = 200_000;
const PIECE_BYTES: usize = 4 << 20;

/// What a node that asks before it takes part has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing has gone on without it.
    Clear,
    /// This record says otherwise.
    Record(Bytes),
    /// Nobody has said who could.
    Nobody(String),
}

/// Decides what the answers say; `quorum_ms`: a leader whose quorum was confirmed within this time has one.
fn heard(own: &NodeIdentity, answers: &[(Member, Result<Standing, String>)], quorum_ms: u64) -> Heard {
    let said = || answers.iter().filter_map(|(member, answer)| Some((member, answer.as_ref().ok()?)));
    if let Some((_, later)) = said().find(|(_, it)| it.epoch > own.epoch && !it.record.is_empty()) {
        return Heard::Record(later.record.clone());
    }
    let clears = |(member, it): &(&Member, &Standing)| {
        let has_quorum = it.runs && it.leader != 0 && it.quorum_age_ms <= quorum_ms;
        it.epoch == own.epoch && (member.site != own.site || has_quorum)
    };
    if let Some((member, it)) = said().find(|(_, it)| it.epoch > own.epoch) {
        return Heard::Nobody(format!("{} is in epoch {} and shows no record of it", member.name, it.epoch));
    }
    if said().any(|it| clears(&it)) {
        return Heard::Clear;
    }
    let says = answers.iter().filter(|(member, _)| member.site != own.site).map(|(member, answer)| match answer {
        Ok(it) => format!("{} is in epoch {}", member.name, it.epoch),
        Err(reason) => format!("{}: {reason}", member.name),
    });
    Heard::Nobody(says.collect::<Vec<_>>().join("; "))
}

/// The newest membership of a log, of the entries above `applied`.
fn membership_behind(log: &Log, applied: Option<LogId>) -> Option<(LogId, MembershipRecord)> {
    let from = applied.map_or(0, |applied| applied.index + 1).max(log.state().last_purged.map_or(0, |it| it.index + 1));
    let (mut from, mut newest) = (from, None);
    loop {
        let entries = log.entries(from..u64::MAX, PIECE_BYTES).ok()?;
        let Some(last) = entries.last() else { return newest };
        from = last.log_id.index + 1;
        for entry in entries {
            if let Ok((PayloadKind::Membership, body)) = payload::split(&entry.payload)
                && let Ok(record) = MembershipRecord::decode(body)
            {
                newest = Some((entry.log_id, record));
            }
        }
    }
}

/// Whether none of the entries above `applied` says anything of the gate; too many are as good as one that does.
fn gate_is_newest(log: &Log, applied: Option<LogId>) -> bool {
    let (mut from, end) = (applied.map_or(0, |it| it.index + 1), log.state().last.map_or(0, |last| last.index + 1));
    if end.saturating_sub(from) > TAIL_ENTRIES {
        return false;
    }
    while from < end {
        let Ok(entries) = log.entries(from..end, PIECE_BYTES) else { return false };
        let Some(last) = entries.last() else { return false };
        from = last.log_id.index + 1;
        for entry in entries {
            let Ok(payload) = payload::decode(&entry.payload) else { return false };
            let ApplyPayload::Commands(batch) = payload else { continue };
            let moves = |op: &Option<Op>| {
                matches!(
                    op,
                    Some(Op::SetProtection(_) | Op::Degrade(_) | Op::Synchronize(_) | Op::WaitForWitness(_))
                        | Some(Op::BeginEpoch(_) | Op::Bootstrap(_))
                )
            };
            if batch.commands.iter().any(|command| moves(&command.op)) {
                return false;
            }
        }
    }
    true
}

impl<RT: Runtime> Replica<RT> {
    /// True once and for all when this process should end and start anew on its folder.
    pub fn should_start_anew(&self) -> bool {
        *self.shared.starts_anew.borrow()
    }

    /// Resolves when it should.
    pub async fn starts_anew(&self) {
        let mut anew = self.shared.starts_anew.subscribe();
        // The sender lives in `self`, so waiting can only end with the condition.
        drop(anew.wait_for(|anew| *anew).await);
    }

    /// A client has seen a later epoch: asks the other members for its record.
    pub fn look_for_later_epoch(&self) {
        let others = self.shared.members().into_iter().filter(|it| it.node_id != self.shared.claim.node_id);
        self.shared.look_for_epoch(others.map(|it| it.node_id).collect());
    }

    /// A fence or a promise stands in the folder: Raft does not run.
    pub(super) fn takes_no_part(&self) -> bool {
        let shared = &self.shared;
        let lineage = shared.lineage();
        match reason(&lineage) {
            Some(reason) => {
                shared.set_refused(reason);
                true
            }
            None => false,
        }
    }

    /// Runs Raft; first asks, where another site may have gone on without this node.
    pub(super) async fn take_part(&self, identity: NodeIdentity) -> Result<(), StartError> {
        let others = if identity.role.votes() { self.shared.others_of_all_sites() } else { Vec::new() };
        if others.iter().all(|member| member.site == identity.site) {
            return self.run_raft(&identity).await;
        }
        let shared = &self.shared;
        shared.asks_its_epoch.store(true, Ordering::Release);
        tracing::info!("this node asks the other sites for their epoch before it takes part");
        *shared.waiting_for.lock() = Some("it asks the other sites for their epoch".into());
        let replica = self.clone();
        detach::<RT>(async move {
            if replica.hear_of_epoch(&identity, &others).await {
                let _one_at_a_time = replica.shared.admin.lock().await;
                *replica.shared.waiting_for.lock() = None;
                if replica.shared.refused.lock().is_none()
                    && let Err(error) = replica.run_raft(&identity).await
                {
                    replica.shared.stopped.send_replace(Some(error.to_string()));
                }
            }
            replica.shared.asks_its_epoch.store(false, Ordering::Release);
        });
        Ok(())
    }

    /// Asks until somebody has answered who can know; false: this node takes no part.
    async fn hear_of_epoch(&self, identity: &NodeIdentity, others: &[Member]) -> bool {
        let shared = &self.shared;
        loop {
            if shared.refused.lock().is_some() {
                return false;
            }
            let answers = self.standings_of(others).await;
            match heard(identity, &answers, shared.timing.election_max_ms) {
                Heard::Clear => return true,
                Heard::Record(record) => {
                    self.meet(&record).await;
                    if shared.refused.lock().is_some() || self.should_start_anew() {
                        return false;
                    }
                    shared.set_asking("a node of another site shows a record of a later epoch that is not valid".into());
                }
                Heard::Nobody(says) => shared.set_asking(format!(
                    "node {} was away, and another site may have gone on without it: it takes no part until the witness or a \
                     node of another site answers, or a node of its own that follows a leader ({says}); if nothing can \
                     have gone on, let it in with `saola site unfence {}`",
                    identity.node_id, identity.site
                )),
            }
            if shared.may_go_unasked.load(Ordering::Acquire) {
                return true;
            }
            RT::sleep(Duration::from_millis(shared.timing.election_min_ms)).await;
        }
    }

    /// How other nodes stand, asked side by side.
    pub(super) async fn standings_of(&self, others: &[Member]) -> Vec<(Member, Result<Standing, String>)> {
        let asked = others.iter().map(|member| async move {
            let question = Question::Lineage(LineageAsk { verb: Some(LineageVerb::Stand(Nothing {})) });
            let answer = match self.ask(member, question, ASK_LIMIT).await {
                Ok(Answer::Standing(standing)) => Ok(*standing),
                Ok(_) => Err("it gave an answer of the wrong kind".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            (member.clone(), answer)
        });
        futures::future::join_all(asked).await
    }

    /// The record of a later epoch: this node goes along, or is fenced. Anything else changes nothing.
    pub(crate) async fn meet(&self, record: &Bytes) {
        let shared = &self.shared;
        let Some(own) = shared.identity() else { return };
        let checked = SignedPlan::from_bytes(record).map_err(|error| error.to_string());
        let checked = checked.and_then(|(signed, plan)| shared.check_record(&signed, &plan).map(|()| plan));
        let plan = match checked {
            Ok(plan) if plan.epoch > own.epoch => plan,
            Ok(_) => return,
            Err(why) => {
                tracing::warn!("a peer shows the record of another epoch, which counts for nothing here: {why}");
                return;
            }
        };
        let is_this = |member: &Member| member.folder_id == own.folder_id[..] && member.site == own.site;
        if plan.member(own.node_id).is_some_and(is_this) {
            self.go_along(plan.epoch, record).await;
            return;
        }
        let why = format!(
            "site {} was promoted by force and goes on in epoch {}, without this node: what it has beyond the base (index {}) \
             is kept; give it back with `saola dr reinstate {}`",
            plan.site,
            plan.epoch,
            plan.base.map_or(0, |base| base.index),
            own.site
        );
        let lineage = shared.lineage();
        if lineage.fenced.as_ref().is_some_and(|fence| fence.record.is_some()) {
            return;
        }
        let fence = Fence { why, record: Some(record.clone()) };
        if let Err(error) = self.keep_lineage(Lineage { fenced: Some(fence), ..lineage }).await {
            tracing::error!("this node stays fenced in memory alone: {}", error.message);
        }
    }

    /// Goes on in a later epoch, from the next start on, which is at once.
    pub(super) async fn go_along(&self, epoch: u64, record: &Bytes) {
        let shared = &self.shared;
        self.stop_raft(format!("this node goes on in epoch {epoch}")).await;
        let begun = shared.folder.lock().begin_epoch(epoch, record.clone());
        match begun {
            Ok(()) => {
                tracing::info!(epoch, "this node goes on in another epoch, and starts anew for it");
                shared.starts_anew.send_replace(true);
            }
            Err(error) => shared.set_refused(format!("the folder cannot take note of epoch {epoch}: {error}")),
        }
    }

    /// Takes no part any more; what the folder says now is durable when this ends.
    pub(super) async fn keep_lineage(&self, lineage: Lineage) -> Result<(), Refusal> {
        let shared = &self.shared;
        let why = reason(&lineage).unwrap_or_else(|| "this node starts anew".into());
        // Nobody hears an answer of this node any more before it is durable.
        self.stop_raft(why).await;
        let kept = shared.folder.lock().set_lineage(lineage);
        kept.map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))
    }

    async fn stop_raft(&self, why: String) {
        let shared = &self.shared;
        shared.set_refused(why);
        if let Some(raft) = shared.raft.get().cloned()
            && let Err(error) = raft.shutdown().await
        {
            tracing::error!("stop Raft: {error}");
        }
    }

    /// Answers across epochs, also while Raft does not run.
    pub(crate) async fn answer_about_lineage(&self, header: &Header, ask: LineageAsk) -> Result<Answer, Refusal> {
        let shared = &self.shared;
        let own = shared.identity();
        if own.as_ref().is_none_or(|own| header.cluster_id != own.cluster_id[..] || header.to != own.node_id) {
            let message = format!("node {} does not belong to the sender's cluster", shared.claim.node_id);
            return Err(Refusal::new(RefusalCode::WrongCluster, message));
        }
        let bad = || Refusal::new(RefusalCode::BadMessage, "a question about epochs without its content");
        match ask.verb.ok_or_else(bad)? {
            LineageVerb::Stand(Nothing {}) => return Ok(Answer::Standing(Box::new(shared.standing().await))),
            LineageVerb::Promise(plan) => self.promise(&plan).await?,
            LineageVerb::Begin(plan) => self.begin(&plan).await?,
            LineageVerb::Fence(why) => self.fence_here(why).await?,
            LineageVerb::Unfence(Nothing {}) => self.unfence_here().await?,
        }
        Ok(Answer::Done(Nothing {}))
    }

    /// Takes no part any more, because people say so.
    pub(super) async fn fence_here(&self, why: String) -> Result<(), Refusal> {
        let lineage = self.shared.lineage();
        if lineage.fenced.is_some() {
            return Ok(());
        }
        let why = format!("by an operator: {why}");
        self.keep_lineage(Lineage { fenced: Some(Fence { why, record: None }), ..lineage }).await
    }

    /// Takes part again, unless another epoch goes on without this node.
    pub(super) async fn unfence_here(&self) -> Result<(), Refusal> {
        let shared = &self.shared;
        let lineage = shared.lineage();
        match &lineage.fenced {
            Some(Fence { why, record: Some(_) }) => Err(Refusal::new(RefusalCode::Invalid, why.clone())),
            Some(Fence { record: None, .. }) => {
                self.keep_lineage(Lineage { fenced: None, ..lineage }).await?;
                shared.starts_anew.send_replace(true);
                Ok(())
            }
            None => {
                shared.may_go_unasked.store(true, Ordering::Release);
                Ok(())
            }
        }
    }
}

/// Why a folder's node takes no part, if so.
fn reason(lineage: &Lineage) -> Option<String> {
    let fenced = lineage.fenced.as_ref().map(|fence| format!("fenced: {}", fence.why));
    let promised = |promise: &crate::folder::Promise| {
        let hash =
            SignedPlan::from_bytes(&promise.plan).map_or_else(|_| "?".into(), |(signed, _)| short_hash(&signed.plan));
        format!(
            "this node waits for epoch {}, by promotion plan {hash}, and takes no part in its own any more: finish it with \
             `saola dr apply`",
            promise.epoch
        )
    };
    fenced.or_else(|| lineage.promised.as_ref().map(promised))
}

impl<RT: Runtime> Shared<RT> {
    pub(crate) fn lineage(&self) -> Lineage {
        self.folder.lock().lineage().clone()
    }

    /// The record that began this node's epoch; empty: none.
    pub(crate) fn record(&self) -> Bytes {
        self.folder.lock().lineage().record.clone().unwrap_or_default()
    }

    /// The plan that began this node's epoch, as long as its log holds no membership of that epoch: then the plan says who
    /// the members are.
    fn plan_before_log(&self) -> Option<Plan> {
        let record = self.folder.lock().lineage().record.clone()?;
        let (_, plan) = SignedPlan::from_bytes(&record).ok()?;
        let term = self.log.state().last.map_or(0, |last| last.leader.term);
        (term < plan.term).then_some(plan)
    }

    /// A member by the plan of an epoch that has just begun.
    pub(crate) fn member_by_plan(&self, node_id: u64) -> Option<Member> {
        self.plan_before_log()?.member(node_id).cloned()
    }

    /// What a node waits for that asks; the log says it when it changes.
    fn set_asking(&self, reason: String) {
        let mut known = self.waiting_for.lock();
        if known.as_deref() != Some(&reason) {
            tracing::warn!("{reason}");
            *known = Some(reason);
        }
    }

    /// Another member, also while Raft does not run.
    pub(crate) fn any_member(&self, node_id: NodeId) -> Option<Member> {
        self.member(node_id).or_else(|| self.others_of_all_sites().into_iter().find(|it| it.node_id == node_id))
    }

    /// All other members, also those that only the log knows of.
    fn others_of_all_sites(&self) -> Vec<Member> {
        let members = match self.plan_before_log() {
            Some(plan) => plan.members,
            None => match membership_behind(&self.log, self.store.applied().log_id) {
                Some((_, record)) => record.seats.into_iter().filter_map(|seat| seat.member).collect(),
                None => self.members(),
            },
        };
        members.into_iter().filter(|member| member.node_id != self.claim.node_id).collect()
    }

    /// Whether enough of those who could approve have approved; a node without records goes by the list in the plan.
    pub(super) fn check_record(&self, signed: &SignedPlan, plan: &Plan) -> Result<(), String> {
        let own = self.identity().ok_or("this node is not part of a cluster")?;
        if plan.cluster_id != own.cluster_id[..] {
            return Err("it is of another cluster".into());
        }
        let SetApprovers { approvers, needed } = match self.claim.role {
            Role::Witness => SetApprovers { approvers: plan.approvers.clone(), needed: plan.needed },
            _ => self.approvers_at(plan.base.map_or(0, |base| base.index)),
        };
        signed.check(&approvers, needed).map(drop).map_err(|error| error.to_string())
    }

    /// Who could approve at an index of the log, as far as this node has applied it.
    fn approvers_at(&self, index: u64) -> SetApprovers {
        let lists = self.store.approvers();
        let list = lists.into_iter().rev().find(|list| list.at_index <= index);
        list.map_or_else(SetApprovers::default, |it| SetApprovers { approvers: it.list, needed: it.needed })
    }

    /// See [`crate::wire::AppendRequest::heard_answer`].
    pub(crate) fn heard_back(&self, answer: u64, age_ms: u64) {
        if age_ms > 0 {
            self.heard_back.lock().heard(answer, Duration::from_millis(age_ms));
        }
    }

    /// Looks at the record that came with a refusal, beside whatever was refused.
    pub(crate) fn meet_later(self: &Arc<Self>, record: Bytes) {
        let replica = Replica { shared: self.clone() };
        detach::<RT>(async move { replica.meet(&record).await });
    }

    /// Somebody has spoken of a later epoch: asks these nodes for its record, one round at a time.
    pub(crate) fn look_for_epoch(self: &Arc<Self>, node_ids: Vec<NodeId>) {
        if self.asks_for_epoch.swap(true, Ordering::AcqRel) {
            return;
        }
        let replica = Replica { shared: self.clone() };
        detach::<RT>(async move {
            let known: Vec<Member> = node_ids.iter().filter_map(|id| replica.shared.any_member(*id)).collect();
            for (_, answer) in replica.standings_of(&known).await {
                if let Ok(standing) = answer
                    && !standing.record.is_empty()
                {
                    replica.meet(&standing.record).await;
                }
            }
            replica.shared.asks_for_epoch.store(false, Ordering::Release);
        });
    }

    /// How this node stands.
    pub(super) async fn standing(&self) -> Standing {
        let (lineage, identity, log) = (self.lineage(), self.identity(), self.log.state());
        let applied = self.store.applied();
        let runs = self.raft().is_some() && !self.has_stopped();
        let (own_log, at) = (self.log.clone(), applied.log_id);
        let is_data = self.claim.role.is_data();
        let reads = move || (membership_behind(&own_log, at), is_data && gate_is_newest(&own_log, at));
        let (behind, is_newest) = RT::disk(Takes::Long, reads).await;
        let applied_members = applied
            .membership
            .as_ref()
            .and_then(|(at, bytes)| Some((*at, MembershipRecord::decode(bytes.clone()).ok()?)));
        let applied_voters = applied_members.as_ref().map(|(_, record)| record.configs.clone()).unwrap_or_default();
        let newest = behind.or(applied_members);
        let protection = self.store.protection();
        let limits = self.limits(protection.rule);
        let acknowledged = self.heard_back.lock().acknowledged();
        let acknowledged_us = acknowledged.map_or(0, |at| self.now_us().saturating_sub(elapsed_us::<RT>(at)));
        let gate = is_data.then(|| GateSeen {
            is_closed: protection.is_closed(),
            is_maximum: protection.rule.mode == saola_storage::protection::Mode::MaximumProtection,
            acks: protection.rule.acks,
            degrade_ms: limits.degrade_ms,
            is_newest,
            acknowledged_us,
        });
        let age = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let quorum_age_ms = match self.quorum_age() {
            Some(quorum_age) => age(quorum_age),
            None => self.heard_quorum_age().map_or(u64::MAX, age),
        };
        Standing {
            member: Some(self.own_member()),
            cluster_id: identity.as_ref().map(|own| Bytes::copy_from_slice(&own.cluster_id)).unwrap_or_default(),
            epoch: identity.as_ref().map_or(0, |own| own.epoch),
            record: lineage.record.unwrap_or_default(),
            promised: lineage.promised.map(|promise| promise.plan).unwrap_or_default(),
            fenced: lineage.fenced.map(|fence| fence.why).unwrap_or_default(),
            runs,
            leader: if runs { self.leader().unwrap_or(0) } else { 0 },
            quorum_age_ms,
            last: log.last.map(Into::into),
            committed: log.committed.map(Into::into),
            purged: log.last_purged.map(Into::into),
            vote_term: log.vote.map_or(0, |vote| vote.leader.term),
            membership_at: newest.as_ref().map(|(at, _)| (*at).into()),
            membership: newest.map(|(_, record)| record),
            applied_voters,
            gate,
            approvers: Some(self.approvers_at(u64::MAX)),
            revision: applied.revision,
            copy_is_bad: self.copy.is_bad(),
            cluster_name: self.store.view().info().map(|info| info.cluster_name).unwrap_or_default(),
        }
    }
}

fn elapsed_us<RT: Runtime>(at: InstantOf<RT>) -> u64 {
    use openraft::Instant as _;
    u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Names of members, for messages.
pub(super) fn names<'m>(members: impl Iterator<Item = &'m Member>) -> String {
    members.map(|member| member.name.as_str()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> NodeIdentity {
        NodeIdentity {
            cluster_id: [1; 16],
            epoch: 2,
            node_id: 1,
            folder_id: [1; 16],
            role: Role::Voter,
            site: "main".into(),
            name: "main-1".into(),
            group_id: 0,
        }
    }

    fn at(site: &str, standing: Result<Standing, String>) -> (Member, Result<Standing, String>) {
        (Member { name: format!("{site}-x"), site: site.into(), ..Member::default() }, standing)
    }

    fn in_epoch(epoch: u64) -> Standing {
        Standing { epoch, quorum_age_ms: u64::MAX, ..Standing::default() }
    }

    #[test]
    fn a_node_that_was_away_goes_by_other_sites_or_by_a_live_quorum() {
        let of = |answers: &[(Member, Result<Standing, String>)]| heard(&own(), answers, 300);
        let silent = || Err("no answer".to_owned());
        assert_eq!(of(&[at("dr", Ok(in_epoch(2))), at("main", silent())]), Heard::Clear);
        assert!(matches!(of(&[at("main", Ok(in_epoch(2))), at("dr", silent())]), Heard::Nobody(_)), "it was away too");
        let follows = |quorum_age_ms| Standing { runs: true, leader: 3, quorum_age_ms, ..in_epoch(2) };
        assert_eq!(of(&[at("main", Ok(follows(300)))]), Heard::Clear);
        assert!(matches!(of(&[at("main", Ok(follows(301)))]), Heard::Nobody(_)), "its leader may be alone");
        assert!(matches!(of(&[at("dr", Ok(in_epoch(1)))]), Heard::Nobody(_)), "an older side knows nothing");
    }

    #[test]
    fn one_that_shows_the_record_of_a_later_epoch_outweighs_all_others() {
        let later = Standing { record: Bytes::from_static(b"record"), ..in_epoch(3) };
        let answers = [at("third", Ok(in_epoch(2))), at("dr", Ok(later))];
        assert_eq!(heard(&own(), &answers, 300), Heard::Record(Bytes::from_static(b"record")));
        let without = [at("third", Ok(in_epoch(2))), at("dr", Ok(in_epoch(3)))];
        assert!(
            matches!(heard(&own(), &without, 300), Heard::Nobody(_)),
            "a number alone fences nobody, nor clears it"
        );
    }
}

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
use openraft::Instant as _;
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::planted::{self, Bug};
use saola_storage::promotion::{Plan, SignedPlan, epoch_id, is_same_plan, short_hash};
use saola_storage::types::NodeId;

use super::admin::to_its_end;
use super::standing::read_tail;
use super::start::StartError;
use super::{AdminError, InstantOf, Replica, Shared};
use crate::asking::{Heard, heard};
use crate::folder::{Fence, Lineage, NodeIdentity, Promise};
use crate::heard_back::Moment;
use crate::member::Member;
use crate::types::{Runtime, detach};
use crate::wire::{Answer, Header, LineageAsk, LineageVerb, Nothing, Question, Refusal, RefusalCode, Standing};

/// One question about epochs may take so long.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// What a node makes of the valid record of a later epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meeting {
    /// It is fenced already, or waits for a still later epoch.
    Nothing,
    /// It goes on in that epoch.
    GoesAlong,
    /// That epoch goes on without it.
    IsFenced,
}

fn meeting(own: &NodeIdentity, lineage: &Lineage, plan: &Plan, record: &[u8]) -> Meeting {
    let promised_it = |it: &Promise| is_same_plan(&it.plan, record);
    // What was promised for a later epoch still holds: an earlier one gains nobody any more.
    let outbid = |it: &Promise| it.epoch > plan.epoch || it.epoch == plan.epoch && !promised_it(it);
    let is_this = |member: &Member| member.folder_id == own.folder_id[..] && member.site == own.site;
    // Only a log that has stood still since the promise is a part of the base's.
    let goes_along =
        || plan.member(own.node_id).is_some_and(is_this) && lineage.promised.as_ref().is_some_and(promised_it);
    match () {
        () if lineage.promised.as_ref().is_some_and(outbid) => Meeting::Nothing,
        () if goes_along() => Meeting::GoesAlong,
        () if lineage.fenced.as_ref().is_some_and(|fence| fence.record.is_some()) => Meeting::Nothing,
        () => Meeting::IsFenced,
    }
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
        let reason = reason(&self.shared.lineage());
        if let Some(reason) = &reason {
            self.shared.set_refused(reason.clone());
        }
        reason.is_some()
    }

    /// Why nobody may have this node take part, if so.
    pub(super) fn keeps_out(&self) -> Option<String> {
        let asks = || self.shared.waiting_for.lock().clone();
        let asks = || self.shared.asks_its_epoch.load(Ordering::Acquire).then(asks).flatten();
        reason(&self.shared.lineage()).or_else(asks)
    }

    /// Runs Raft; first asks, where another site may have gone on without this node.
    pub(super) async fn take_part(&self, identity: NodeIdentity) -> Result<(), StartError> {
        let others = if identity.role.votes() { self.shared.others_of_all_sites() } else { Vec::new() };
        let elsewhere = others.iter().any(|member| member.site != identity.site);
        // A site that goes on alone asks its own nodes, and waits for none of them.
        if !elsewhere && self.shared.record().is_empty() {
            return self.run_raft(&identity).await;
        }
        let shared = &self.shared;
        shared.asks_its_epoch.store(true, Ordering::Release);
        shared.set_waiting_for(format!("node {} asks the other sites for their epoch", identity.node_id));
        let replica = self.clone();
        detach::<RT>(async move {
            if replica.hear_of_epoch(&identity, &others, elsewhere).await {
                let _one_at_a_time = replica.shared.admin.lock().await;
                *replica.shared.waiting_for.lock() = None;
                if replica.shared.refused.lock().is_none()
                    && let Err(error) = replica.run_raft(&identity).await
                {
                    replica.gives_up(&error);
                }
            }
            replica.shared.asks_its_epoch.store(false, Ordering::Release);
        });
        Ok(())
    }

    /// This node waits for nothing any more, and takes no part before it is started anew.
    pub(super) fn gives_up(&self, error: &StartError) {
        tracing::error!("node {} does not take part: {error}", self.shared.claim.node_id);
        *self.shared.waiting_for.lock() = None;
        self.shared.stopped.send_replace(Some(error.to_string()));
    }

    /// Asks until somebody has answered who can know, or once; false: this node takes no part.
    async fn hear_of_epoch(&self, identity: &NodeIdentity, others: &[Member], until_answered: bool) -> bool {
        let shared = &self.shared;
        loop {
            if shared.refused.lock().is_some() {
                return false;
            }
            let answers = self.standings_of(others, LineageVerb::AskEpoch(Nothing {})).await;
            match heard(identity, &shared.record(), &answers, shared.timing.election_max_ms) {
                Heard::Clear => return true,
                Heard::Nobody(_) if !until_answered => return true,
                Heard::Record(record) => {
                    self.meet(&record).await;
                    if shared.refused.lock().is_some() || self.should_start_anew() {
                        return false;
                    }
                    shared.set_waiting_for("a node of another site shows a record of a later epoch that is not valid".into());
                }
                Heard::Nobody(says) => shared.set_waiting_for(format!(
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
    pub(super) async fn standings_of(
        &self,
        others: &[Member],
        verb: LineageVerb,
    ) -> Vec<(Member, Result<Standing, String>)> {
        let question = &Question::Lineage(LineageAsk { verb: Some(verb), record: self.shared.record() });
        let asked = others.iter().map(|member| async move {
            let answer = match self.ask(member, question.clone(), ASK_LIMIT).await {
                Ok(Answer::Standing(standing)) => Ok(*standing),
                Ok(_) => Err("it gave an answer of the wrong kind".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            (member.clone(), answer)
        });
        futures::future::join_all(asked).await
    }

    /// The record of a later epoch: this node goes along, or is fenced. Of one with this one's number people are told.
    /// Anything else changes nothing.
    pub(crate) async fn meet(&self, record: &Bytes) {
        let shared = &self.shared;
        let _one_at_a_time = shared.lineage.lock().await;
        let (Some(own), lineage) = (shared.own_epoch(), shared.lineage()) else { return };
        let read = SignedPlan::from_bytes(record).map_err(|error| error.to_string());
        let twin = |number| epoch_id(number, Some(record));
        if let Ok((_, plan)) = &read
            && shared.is_known_twin(twin(plan.epoch))
        {
            return;
        }
        let checked = match read {
            Ok((_, plan)) if meeting(&own, &lineage, &plan, record) == Meeting::Nothing && plan.epoch > own.epoch => {
                return;
            }
            Ok((_, plan)) if plan.epoch <= own.epoch && !twin(plan.epoch).is_twin_of(own.epoch_id()) => return,
            Ok((signed, plan)) => shared.check_record(&signed, &plan).await.map(|()| plan),
            Err(why) => Err(why),
        };
        let plan = match checked {
            Ok(plan) => plan,
            Err(why) => {
                tracing::warn!("a peer shows the record of another epoch, which counts for nothing here: {why}");
                return;
            }
        };
        if plan.epoch <= own.epoch {
            return shared.met_twin(&plan, twin(plan.epoch), own.epoch_id());
        }
        match meeting(&own, &lineage, &plan, record) {
            Meeting::Nothing => return,
            Meeting::IsFenced if planted::is(Bug::OldEpochGoesOn) => return,
            Meeting::GoesAlong => return self.go_along(plan.epoch, record).await,
            Meeting::IsFenced => {}
        }
        let why = format!(
            "site {} was promoted by force and goes on in epoch {}, without this node: what it has beyond the base (index {}) \
             is kept, and it takes no part any more",
            plan.site,
            plan.epoch,
            plan.base.map_or(0, |base| base.index)
        );
        reach(Failpoint::FenceMet);
        let fence = Fence { why, record: Some(record.clone()) };
        if let Err(error) = self.keep_lineage(Lineage { fenced: Some(fence), ..lineage }).await {
            tracing::error!("this node is fenced in memory alone, until its process ends: {}", error.message);
        }
    }

    /// Goes on in a later epoch, from the next start on, which is at once. For callers that hold `Shared::lineage`.
    pub(super) async fn go_along(&self, epoch: u64, record: &Bytes) {
        let shared = &self.shared;
        shared.set_refused(format!("this node goes on in epoch {epoch}"));
        let begun = shared.folder.lock().begin_epoch(epoch, record.clone());
        self.stop_raft().await;
        match begun {
            Ok(()) => {
                tracing::info!(epoch, "this node goes on in another epoch, and starts anew for it");
                shared.starts_anew.send_replace(true);
            }
            Err(error) => tracing::error!("the folder cannot take note of epoch {epoch}: {error}"),
        }
    }

    /// Takes no part any more, or another one; what the folder says now is durable, and Raft has stopped, when this ends. For
    /// callers that hold `Shared::lineage`.
    pub(super) async fn keep_lineage(&self, lineage: Lineage) -> Result<(), Refusal> {
        let shared = &self.shared;
        // From here on nobody is let in or answered, and nobody hears of what is not durable yet.
        shared.set_refused(reason(&lineage).unwrap_or_else(|| "this node starts anew".into()));
        let kept = shared.keep_in_folder(lineage);
        self.stop_raft().await;
        kept
    }

    async fn stop_raft(&self) {
        if let Some(raft) = self.shared.raft.get().cloned()
            && let Err(error) = raft.shutdown().await
        {
            tracing::error!("stop Raft: {error}");
        }
    }

    /// Answers across epochs, also while Raft does not run.
    pub(crate) async fn answer_about_lineage(&self, header: &Header, ask: LineageAsk) -> Result<Answer, Refusal> {
        let shared = &self.shared;
        let own = shared.own_epoch();
        let is_asked = |it: &NodeIdentity| header.to == it.node_id || shared.former_id() == Some(header.to);
        let Some(own) = own.filter(|own| header.cluster_id == own.cluster_id[..] && is_asked(own)) else {
            let message = format!("node {} does not belong to the sender's cluster", shared.claim.node_id);
            return Err(Refusal::new(RefusalCode::WrongCluster, message));
        };
        // It may know the sender by another number, or not at all.
        match header.epoch > own.epoch || header.epoch_id().is_twin_of(own.epoch_id()) {
            true if ask.record.is_empty() => shared.look_for_epoch(vec![header.from]),
            true => shared.meet_later(ask.record.clone()),
            false => {}
        }
        let bad = || Refusal::new(RefusalCode::BadMessage, "a question about epochs without its content");
        match ask.verb.ok_or_else(bad)? {
            LineageVerb::Stand(Nothing {}) => Ok(Answer::Standing(Box::new(shared.standing().await))),
            LineageVerb::AskEpoch(Nothing {}) => Ok(Answer::Standing(Box::new(shared.standing_in_brief()))),
            step => {
                // Its role may be another one by now in another epoch.
                let is_sender = |it: &Member| it.folder_id == header.from_folder && it.name == header.from_name;
                // Whoever leads later need not have been a member then: the approved record speaks for it.
                let by_record = matches!(step, LineageVerb::Reinstate(_));
                if !by_record && !shared.any_member(header.from).is_some_and(|it| is_sender(&it)) {
                    let message = format!("node {} is not known to be a member here", header.from);
                    return Err(Refusal::new(RefusalCode::UnknownSender, message));
                }
                self.take_step(step).await.map_err(Refusal::from)?;
                Ok(Answer::Done(Nothing {}))
            }
        }
    }

    /// Takes a step to its end, whether or not the caller stays.
    pub(super) async fn take_step(&self, step: LineageVerb) -> Result<(), AdminError> {
        let replica = self.clone();
        to_its_end::<RT, _>(async move {
            let done = match step {
                LineageVerb::Promise(plan) => replica.promise(&plan).await,
                LineageVerb::Begin(plan) => replica.begin(&plan).await,
                LineageVerb::Abandon(plan) => replica.abandon(&plan).await,
                LineageVerb::Fence(why) => replica.fence_here(why).await,
                LineageVerb::Unfence(Nothing {}) => replica.unfence_here().await,
                LineageVerb::Reinstate(ask) => replica.begin_anew(ask).await,
                LineageVerb::Stand(Nothing {}) | LineageVerb::AskEpoch(Nothing {}) => Ok(()),
            };
            done.map_err(AdminError::from)
        })
        .await
    }

    /// Takes no part any more, because people say so.
    async fn fence_here(&self, why: String) -> Result<(), Refusal> {
        let _one_at_a_time = self.shared.lineage.lock().await;
        let lineage = self.shared.lineage();
        if lineage.fenced.is_some() {
            return Ok(());
        }
        let fence = Fence { why: format!("by an operator: {why}"), record: None };
        self.keep_lineage(Lineage { fenced: Some(fence), ..lineage }).await
    }

    /// Takes part again, unless another epoch goes on without this node, or is about to.
    async fn unfence_here(&self) -> Result<(), Refusal> {
        let shared = &self.shared;
        let _one_at_a_time = shared.lineage.lock().await;
        let lineage = shared.lineage();
        let refuse = |why: String| Err(Refusal::new(RefusalCode::Invalid, why));
        if lineage.promised.is_some() {
            return refuse(reason(&Lineage { fenced: None, ..lineage }).unwrap_or_default());
        }
        match &lineage.fenced {
            Some(Fence { why, record: Some(_) }) => refuse(why.clone()),
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
pub(super) fn reason(lineage: &Lineage) -> Option<String> {
    let fenced = lineage.fenced.as_ref().map(|fence| format!("fenced: {}", fence.why));
    let promised = |promise: &crate::folder::Promise| {
        let hash =
            SignedPlan::from_bytes(&promise.plan).map_or_else(|_| "?".into(), |(signed, _)| short_hash(&signed.plan));
        format!(
            "this node waits for epoch {}, by promotion plan {hash}, and takes no part in its own any more: finish it with \
             `saola dr apply PLAN`, or give it up with `saola dr abandon PLAN`",
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
        // Whoever joined later knows the members by the log alone.
        plan.member(self.claim.node_id)?;
        let newest = self.log.state().last.max(self.store.applied().log_id);
        let term = newest.map_or(0, |last| last.leader.term);
        (term < plan.term && self.folder.lock().lineage().reinstating.is_none()).then_some(plan)
    }

    /// A member by the plan of an epoch that has just begun.
    pub(crate) fn member_by_plan(&self, node_id: u64) -> Option<Member> {
        self.plan_before_log()?.member(node_id).cloned()
    }

    /// Another member, also while Raft does not run.
    pub(crate) fn any_member(&self, node_id: NodeId) -> Option<Member> {
        self.member(node_id).or_else(|| self.others_of_all_sites().into_iter().find(|it| it.node_id == node_id))
    }

    /// Who this node is, with the epoch that its folder says: the process may not have started anew for it yet.
    pub(super) fn own_epoch(&self) -> Option<NodeIdentity> {
        self.folder.lock().identity()
    }

    /// What the folder says from now on.
    pub(super) fn keep_in_folder(&self, lineage: Lineage) -> Result<(), Refusal> {
        let kept = self.folder.lock().set_lineage(lineage);
        kept.map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))
    }

    /// All other members, also those that only the log knows of.
    fn others_of_all_sites(&self) -> Vec<Member> {
        let members = match self.plan_before_log() {
            Some(plan) => plan.members,
            None if self.raft.get().is_some() || self.members_while_away().is_some() => self.members(),
            // The log stands still as long as Raft has not run.
            None => self.members_at_start.get_or_init(|| self.members_by_log()).clone(),
        };
        members.into_iter().filter(|member| member.node_id != self.claim.node_id).collect()
    }

    fn members_by_log(&self) -> Vec<Member> {
        match read_tail(&self.log, self.store.applied().log_id, self.promised_term()).membership {
            Some((_, record)) => record.seats.into_iter().filter_map(|seat| seat.member).collect(),
            None => self.members(),
        }
    }

    /// See [`crate::wire::AppendRequest::heard_answer`].
    pub(crate) fn heard_back(&self, answer: u64, age_ms: u64) {
        if age_ms > 0 {
            self.heard_back.lock().heard(answer, Duration::from_millis(age_ms), self.moment());
        }
    }

    /// Number of the answer to an append that is about to be sent.
    pub(crate) fn next_answer(&self) -> u64 {
        self.heard_back.lock().answer(self.moment())
    }

    pub(super) fn moment(&self) -> Moment<InstantOf<RT>> {
        Moment { steady: InstantOf::<RT>::now(), wall_us: self.now_us() }
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
            let former = replica.shared.former_members();
            let left = |id: &NodeId| former.iter().find(|it| it.node_id == *id).cloned();
            let known = node_ids.iter().filter_map(|id| replica.shared.any_member(*id).or_else(|| left(id)));
            let known: Vec<Member> = known.collect();
            for (_, answer) in replica.standings_of(&known, LineageVerb::AskEpoch(Nothing {})).await {
                if let Ok(standing) = answer
                    && !standing.record.is_empty()
                {
                    replica.meet(&standing.record).await;
                }
            }
            replica.shared.asks_for_epoch.store(false, Ordering::Release);
        });
    }
}

/// Names of members, for messages.
pub(super) fn names<'m>(members: impl Iterator<Item = &'m Member>) -> String {
    members.map(|member| member.name.as_str()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asking::tests::own;

    #[test]
    fn a_record_gains_a_member_that_has_promised_it_and_fences_whoever_else_has_promised_nothing_later() {
        let member = Member { node_id: 1, site: "main".into(), folder_id: vec![1; 16].into(), ..Member::default() };
        let plan = Plan { epoch: 4, members: vec![member], ..Plan::default() };
        let signed =
            |plan: &'static [u8]| SignedPlan { plan: Bytes::from_static(plan), approvals: Vec::new() }.to_bytes();
        let (record, other) = (signed(b"this"), signed(b"other"));
        let promised = |epoch, plan: &Bytes| Lineage {
            promised: Some(Promise { epoch, plan: plan.clone() }),
            ..Lineage::default()
        };
        let meets = |lineage: &Lineage, plan: &Plan| meeting(&own(), lineage, plan, &record);
        assert_eq!(meets(&promised(4, &record), &plan), Meeting::GoesAlong);
        assert_eq!(meets(&promised(5, &other), &plan), Meeting::Nothing, "a later plan has outbid it");
        assert_eq!(meets(&promised(4, &other), &plan), Meeting::Nothing, "another plan for this epoch");
        assert_eq!(meets(&promised(3, &other), &plan), Meeting::IsFenced, "its log may have moved on since");
        assert_eq!(meets(&Lineage::default(), &plan), Meeting::IsFenced, "it has promised nothing");
        let without = Plan { members: Vec::new(), ..plan };
        assert_eq!(meets(&promised(4, &record), &without), Meeting::IsFenced, "a survivor that is no member");
        let fence = |record| Some(Fence { why: "why".into(), record });
        let by_operator = Lineage { fenced: fence(None), ..Lineage::default() };
        let by_record = Lineage { fenced: fence(Some(other.clone())), ..Lineage::default() };
        assert_eq!((meets(&by_operator, &without), meets(&by_record, &without)), (Meeting::IsFenced, Meeting::Nothing));
    }
}

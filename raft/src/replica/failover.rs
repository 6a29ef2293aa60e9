//! Who campaigns for the loss of a site, and leadership's way home: what [`crate::failover`] decides is done here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::command::{CameBy, Command, LeadFrom, Op};
use saola_storage::failover::{Failover, FailoverState, Held};
use saola_storage::protection::Mode;

use super::admin::invalid;
use super::{AdminError, InstantOf, ProposeError, Replica, Shared};
use crate::failover::{CampaignView, goes_home, may_campaign};
use crate::member::{Member, Role};
use crate::protection::State;
use crate::types::Runtime;
use crate::wire::{Answer, Nothing, Question};

/// After an attempt to go home that failed, so long passes before the next one.
const HOME_PAUSE: Duration = Duration::from_secs(30);
/// An entry that says where leadership is has so long to be shown, and then so long until it is said again.
const SAY_LIMIT: Duration = Duration::from_secs(2);
const SAY_PAUSE: Duration = Duration::from_secs(1);

/// What is done when the site that leads is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverStatus {
    /// As the applied state has it.
    pub replicated: FailoverState,
    /// Failovers that count for the limit.
    pub recent: usize,
    /// Why no other site takes over by itself, if so.
    pub held: Option<Held>,
    /// A site is lost, and this voter would have campaigned for it.
    pub held_back: Option<String>,
}

impl<RT: Runtime> Replica<RT> {
    /// Changes what is done when the site that leads is lost. Also acknowledges the failovers so far: they count no more.
    pub async fn set_failover(&self, rule: Failover, deadline: Duration) -> Result<(), ProposeError> {
        let known =
            |site: &String| self.shared.members().iter().any(|it| it.site == *site && it.role_value() == Role::Voter);
        if !rule.home.is_empty() && !known(&rule.home) {
            let why = format!("site {} has no voter that keeps records: leadership cannot belong there", rule.home);
            return Err(ProposeError::Refused(why));
        }
        let command = Command { request: None, op: Some(Op::SetFailover(rule.to_command())) };
        self.propose(command, deadline).await.map(drop)
    }

    /// Whether a voter with records at a site takes part, this node excepted.
    async fn site_answers(&self, site: &str) -> bool {
        let shared = &self.shared;
        let limit = Duration::from_millis(shared.timing.election_max_ms / 2);
        let there = |member: &Member| {
            member.site == site && member.role_value() == Role::Voter && member.node_id != shared.claim.node_id
        };
        let asked = shared.members().into_iter().filter(there).map(|member| async move {
            let answer = self.ask(&member, Question::Identify(Nothing {}), limit).await;
            matches!(answer, Ok(Answer::Identity(identity)) if self.takes_part(&member, &identity))
        });
        futures::future::join_all(asked).await.contains(&true)
    }
}

impl<RT: Runtime> Shared<RT> {
    /// None on a witness, which does not know the rule.
    pub(super) fn failover_status(&self) -> Option<FailoverStatus> {
        if !self.claim.role.is_data() {
            return None;
        }
        let replicated = self.store.failover();
        let now_us = self.now_us();
        let (held, recent) = (replicated.held(now_us), replicated.recent(now_us));
        Some(FailoverStatus { replicated, recent, held, held_back: self.held_back.lock().clone() })
    }
}

/// One task per voter that keeps records.
pub(super) async fn watch<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    let every = Duration::from_millis(shared.timing.election_max_ms / 4);
    let mut campaigns = true;
    let mut leads_since: Option<InstantOf<RT>> = None;
    let mut rests_until: Option<InstantOf<RT>> = None;
    while !shared.has_stopped() {
        let leader = shared.data_leader();
        let replicated = shared.store.failover();
        if leader.is_some() {
            shared.told_to_campaign.store(false, Ordering::Release);
        }
        let told = shared.told_to_campaign.load(Ordering::Acquire);
        let held = replicated.held(shared.now_us()).filter(|_| !told);
        let asks = held.is_some() && leader.is_none() && replicated.led_from != shared.claim.site;
        let view = CampaignView {
            is_held: held.is_some(),
            own_site: &shared.claim.site,
            led_from: &replicated.led_from,
            leader_known: leader.is_some(),
            site_answers: asks && replica.site_answers(&replicated.led_from).await,
        };
        let may = may_campaign(&view);
        if may != campaigns
            && let Some(raft) = shared.raft()
        {
            raft.runtime_config().elect(may);
            campaigns = may;
        }
        shared.note_held_back(held.filter(|_| !may && leader.is_none()), &replicated.led_from);
        leads_since = shared.is_leader().then(|| leads_since.unwrap_or_else(InstantOf::<RT>::now));
        let rested = rests_until.is_none_or(|until| InstantOf::<RT>::now() >= until);
        if let Some(since) = leads_since.filter(|_| rested) {
            let pause = match shared.came_by(&replicated, since) {
                Some(came_by) => replica.say_where_from(came_by).await,
                None if shared.should_go_home(&replicated) => replica.go_home(&replicated.rule.home).await,
                None => Duration::ZERO,
            };
            rests_until = Some(InstantOf::<RT>::now() + pause);
        }
        RT::sleep(every).await;
    }
}

impl<RT: Runtime> Shared<RT> {
    /// The leader, unless it is a witness, which leads only until a data node does.
    fn data_leader(&self) -> Option<u64> {
        let witness = |id| self.member(id).is_some_and(|it| it.role_value() == Role::Witness);
        self.leader().filter(|id| !witness(*id))
    }

    /// The site for whose loss this voter does not campaign by itself; empty: it does, or it has been told to.
    pub(super) fn holds_back_for(&self) -> String {
        let replicated = self.store.failover();
        let told = self.told_to_campaign.load(Ordering::Acquire);
        let held = !told && replicated.held(self.now_us()).is_some() && replicated.led_from != self.claim.site;
        if held { replicated.led_from } else { String::new() }
    }

    /// How leadership came to this leader's site, if that is not known yet; none also while it cannot be told. A site
    /// counts as lost when none of its voters answers this leader and no acknowledgement has come for as long as writes
    /// wait for one.
    fn came_by(&self, replicated: &FailoverState, since: InstantOf<RT>) -> Option<CameBy> {
        if replicated.led_from == self.claim.site || self.is_moving.load(Ordering::Acquire) {
            return None;
        }
        let answered = |id: u64| self.links.last_answer(id).is_some_and(|(at, _)| at >= since);
        let there = |it: &Member| it.site == replicated.led_from && it.role_value() == Role::Voter;
        if self.members().iter().any(|it| there(it) && answered(it.node_id)) {
            return Some(CameBy::Election);
        }
        let limits = self.limits(self.store.protection().rule);
        let seen = (*self.protection_seen.lock())?;
        // Of a site that has just come back too: the silence before this leader says nothing of it.
        let asked = since.elapsed() >= Duration::from_millis(limits.degrade_ms);
        (asked && seen.has_quorum && seen.acknowledged_ms >= limits.degrade_ms).then_some(CameBy::Loss)
    }
}

impl<RT: Runtime> Shared<RT> {
    /// Remembers that this voter holds back, and says so once.
    fn note_held_back(&self, held: Option<Held>, lost_site: &str) {
        let why = held.map(|held| {
            format!(
                "site {lost_site} is lost, and {held}: this site does not take over by itself; bring back a voter of \
                 {lost_site}, or, if it stays away, `saola auto-failover override --site {}`",
                self.claim.site
            )
        });
        let mut known = self.held_back.lock();
        if *known != why {
            match &why {
                Some(why) => tracing::error!("{why}"),
                None => tracing::info!("the lost site answers, or a leader does: nothing is held back any more"),
            }
            *known = why;
        }
    }

    fn should_go_home(&self, replicated: &FailoverState) -> bool {
        let seen = (*self.protection_seen.lock()).filter(|_| self.is_leader());
        let by_choice = self.store.protection().rule.mode == Mode::MaximumPerformance;
        seen.is_some_and(|seen| {
            let is_well = matches!(seen.state, State::Synchronized | State::WitnessLost) || by_choice;
            let lasted = Duration::from_millis(if is_well { seen.for_ms } else { 0 });
            goes_home(&replicated.rule, &self.claim.site, replicated.away, lasted)
        })
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Answers how long to wait before the next attempt.
    async fn say_where_from(&self, came_by: CameBy) -> Duration {
        let site = self.shared.claim.site.clone();
        tracing::info!(site, ?came_by, "leadership is at this site now");
        let lead = LeadFrom { site, came_by: came_by.into() };
        let command = Command { request: None, op: Some(Op::LeadFrom(lead)) };
        if let Err(refusal) = self.propose_within(command, SAY_LIMIT).await {
            tracing::warn!("say where leadership is: {}; it is tried again", refusal.message);
        }
        SAY_PAUSE
    }

    /// Notes that somebody moves leadership to a site, or that it stays after all.
    pub(super) async fn say_moved(&self, site: String, limit: Duration) {
        let lead = LeadFrom { site, came_by: CameBy::Request.into() };
        let command = Command { request: None, op: Some(Op::LeadFrom(lead)) };
        if let Err(refusal) = self.propose_within(command, limit.min(SAY_LIMIT)).await {
            tracing::warn!("note that leadership is moved on purpose: {}", refusal.message);
        }
    }

    /// Somebody moves leadership to one of these nodes. For callers that hold `Shared::admin`.
    pub(super) async fn move_on_purpose(&self, candidates: Vec<u64>) -> Result<(), AdminError> {
        self.shared.is_moving.store(true, Ordering::Release);
        let moved = self.transfer_to_any(candidates, true).await;
        self.shared.is_moving.store(false, Ordering::Release);
        moved
    }

    /// The same to a site.
    pub(super) async fn move_to_site(&self, site: &str) -> Result<(), AdminError> {
        if self.shared.claim.site == site {
            return Ok(());
        }
        let candidates = self.candidates_at(site);
        if candidates.is_empty() {
            let said =
                format!("site {site:?} has no voter that keeps records and has room for writes: see `saola status`");
            return Err(invalid(said));
        }
        self.move_on_purpose(candidates).await
    }

    /// This voter campaigns for the lost site although nobody is to take over by itself, until a leader is known.
    /// Answers what it held back for; none: nothing.
    pub fn campaign_now(&self) -> Option<String> {
        let held_back = self.shared.held_back.lock().clone()?;
        tracing::warn!("told to campaign: {held_back}");
        self.shared.told_to_campaign.store(true, Ordering::Release);
        Some(held_back)
    }

    /// To the voter at home that has most and room for it, if it can take over at once. Answers how long to wait before
    /// the next attempt.
    async fn go_home(&self, home: &str) -> Duration {
        let shared = &self.shared;
        let _one_at_a_time = shared.admin.lock().await;
        match self.transfer_to_any(self.candidates_at(home), false).await {
            Ok(()) => tracing::info!(home, "leadership goes home"),
            Err(error) => tracing::warn!(home, "leadership does not go home now: {error}"),
        }
        HOME_PAUSE
    }
}

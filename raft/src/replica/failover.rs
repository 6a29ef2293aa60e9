//! Who campaigns for the loss of a site, and leadership's way home: what [`crate::failover`] decides is done here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::command::{Command, Op};
use saola_storage::failover::{Failover, FailoverState, Held};

use super::{InstantOf, ProposeError, Replica, Shared};
use crate::failover::{CampaignView, goes_home, may_campaign};
use crate::member::{Member, Role};
use crate::types::Runtime;
use crate::wire::{Answer, Nothing, Question};

/// After an attempt to go home that failed, so long passes before the next one.
const HOME_PAUSE: Duration = Duration::from_secs(30);

/// What is done when the site that leads is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverStatus {
    /// As the applied state has it.
    pub replicated: FailoverState,
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
        let held = replicated.held(self.now_us());
        Some(FailoverStatus { replicated, held, held_back: self.held_back.lock().clone() })
    }

    pub(super) fn site_of(&self, node_id: u64) -> Option<String> {
        self.member(node_id).filter(|it| it.role_value() == Role::Voter).map(|it| it.site)
    }
}

/// One task per voter that keeps records.
pub(super) async fn watch<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    let every = Duration::from_millis(shared.timing.election_max_ms / 4);
    // Before it has heard any: the leader that its vote was for.
    let mut former_site = shared.log.state().vote.and_then(|vote| shared.site_of(vote.leader.node_id));
    let mut campaigns = true;
    let mut home_tried: Option<InstantOf<RT>> = None;
    while !shared.has_stopped() {
        let leader = shared.leader();
        if let Some(site) = leader.and_then(|id| shared.site_of(id)) {
            former_site = Some(site);
        }
        let held = shared.store.failover().held(shared.now_us());
        let asks = held.is_some() && leader.is_none();
        let answers = match former_site.as_deref().filter(|site| asks && *site != shared.claim.site) {
            Some(site) => replica.site_answers(site).await,
            None => false,
        };
        let view = CampaignView {
            is_held: held.is_some(),
            own_site: &shared.claim.site,
            former_site: former_site.as_deref(),
            leader_known: leader.is_some(),
            former_site_answers: answers,
        };
        let may = may_campaign(&view);
        if may != campaigns
            && let Some(raft) = shared.raft()
        {
            raft.runtime_config().elect(may);
            campaigns = may;
        }
        shared.note_held_back(held.filter(|_| !may && leader.is_none()), former_site.as_deref().unwrap_or_default());
        let rested = home_tried.is_none_or(|at| at.elapsed() >= HOME_PAUSE);
        if rested && shared.should_go_home() {
            home_tried = Some(InstantOf::<RT>::now());
            replica.go_home().await;
        }
        RT::sleep(every).await;
    }
}

impl<RT: Runtime> Shared<RT> {
    /// Remembers that this voter holds back, and says so once.
    fn note_held_back(&self, held: Option<Held>, lost_site: &str) {
        let why = held.map(|held| {
            let because = match held {
                Held::ObserveOnly => "automatic failover is set to observe-only".to_owned(),
                Held::LimitReached(limit) => format!("{limit} automatic failovers within six hours are the limit"),
            };
            format!(
                "site {lost_site} is lost, and {because}: this site does not take over by itself; bring back a voter of \
                 {lost_site}"
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

    fn should_go_home(&self) -> bool {
        let seen = (*self.protection_seen.lock()).filter(|_| self.is_leader());
        seen.is_some_and(|seen| {
            let FailoverState { rule, away, .. } = self.store.failover();
            let asked = self.asked_to_lead_after.load(Ordering::Acquire) + 1;
            let by_request = self.with_metrics(|metrics| metrics.current_term) == Some(asked);
            goes_home(&rule, &self.claim.site, away || by_request, seen.state, Duration::from_millis(seen.for_ms))
        })
    }
}

impl<RT: Runtime> Replica<RT> {
    /// To the voter at home that has most, if it can take over at once.
    async fn go_home(&self) {
        let shared = &self.shared;
        let home = shared.store.failover().rule.home;
        let at_home = shared
            .members()
            .into_iter()
            .filter(|it| it.site == home && it.role_value() == Role::Voter && shared.has_vote(it.node_id));
        let mut at_home: Vec<u64> = at_home.map(|it| it.node_id).collect();
        at_home.sort_by_key(|id| std::cmp::Reverse(shared.matched_index(*id).flatten()));
        for to in at_home {
            match self.transfer_here(to).await {
                Ok(()) => {
                    tracing::info!(to, home, "leadership goes home");
                    return;
                }
                Err(error) => tracing::warn!(to, home, "leadership does not go home now: {error}"),
            }
        }
    }
}

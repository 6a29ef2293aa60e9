//! The declared survival goal: what a membership must bear. Changes that would break it are refused.

use std::time::Duration;

use saola_storage::command::{Command, Op, SetGoal};
use saola_storage::goal::{self, Goal};
use saola_storage::types::NodeId;
use tokio::sync::MutexGuard;

use super::admin::invalid;
use super::{AdminError, ProposeError, Replica, Shared};
use crate::goal::broken;
use crate::member::Member;
use crate::types::Runtime;
use crate::wire::{Refusal, RefusalCode};

/// What is declared, and whether the membership bears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoalStatus {
    /// None: nothing is declared.
    pub goal: Option<Goal>,
    /// Why the membership does not bear it, if so.
    pub broken: Option<String>,
}

impl<RT: Runtime> Replica<RT> {
    /// Declares what the cluster survives; none: nothing. Refused when the membership does not bear it.
    pub async fn set_goal(&self, goal: Option<Goal>, deadline: Duration) -> Result<(), ProposeError> {
        let command =
            Command { request: None, op: Some(Op::SetGoal(SetGoal { survive: goal::to_command(goal).into() })) };
        self.propose(command, deadline).await.map(drop)
    }

    /// At the leader: refuses a goal that the membership does not bear. No change of the membership is made while the
    /// guard lives: it is let go once the goal may be shown, or its caller waits no longer.
    pub(super) async fn may_declare(&self, declared: &SetGoal) -> Result<Option<MutexGuard<'_, ()>>, Refusal> {
        let shared = &self.shared;
        let goal = goal::of_command(declared.survive).map_err(|_| {
            // In the log it would stop every node of this release.
            Refusal::new(RefusalCode::Invalid, "the leader does not know this goal: run the same release on all nodes")
        })?;
        let Some(goal) = goal else { return Ok(None) };
        let one_at_a_time = self.alone().await?;
        match shared.breaks(goal, |_| {}) {
            None => Ok(Some(one_at_a_time)),
            Some(why) => {
                let next = match shared.votes_are_taken() {
                    true => "bring back the site that has lost its votes (saola why)",
                    false => "add nodes first (saola cluster add)",
                };
                let said = format!("this cluster does not bear {}: {why}; {next}", goal.as_str());
                Err(Refusal::new(RefusalCode::Invalid, said))
            }
        }
    }

    /// A change that would break what is declared is not begun; one of a membership that does not bear it already is, for
    /// it may be a step on the way to one that does.
    pub(super) fn check_goal(&self, goes: Option<NodeId>, comes: Option<&Member>) -> Result<(), AdminError> {
        let shared = &self.shared;
        let Some(goal) = shared.store.goal().filter(|goal| shared.breaks(*goal, |_| {}).is_none()) else {
            return Ok(());
        };
        let after = shared.breaks(goal, |seats| {
            let comes_id = comes.map(|member| member.node_id);
            seats.retain(|(member, _)| ![goes, comes_id].contains(&Some(member.node_id)));
            seats.extend(comes.map(|member| (member.clone(), member.role_value().votes())));
        });
        after.map_or(Ok(()), |why| {
            Err(invalid(format!(
                "{} is declared, and would not hold any more: {why}; declare less while you change the nodes (saola goal set)",
                goal.as_str()
            )))
        })
    }
}

impl<RT: Runtime> Shared<RT> {
    /// None on a witness, which does not know.
    pub(super) fn goal_status(&self) -> Option<GoalStatus> {
        let goal = self.claim.role.is_data().then(|| self.store.goal())?;
        Some(GoalStatus { goal, broken: goal.and_then(|goal| self.breaks(goal, |_| {})) })
    }

    /// See [`broken`], for the membership after a change; members with whether they vote.
    fn breaks(&self, goal: Goal, change: impl FnOnce(&mut Vec<(Member, bool)>)) -> Option<String> {
        let vote = |member: Member| {
            let votes = self.has_vote(member.node_id);
            (member, votes)
        };
        let mut seats: Vec<(Member, bool)> = self.members().into_iter().map(vote).collect();
        change(&mut seats);
        let voters = seats.iter().filter(|(_, votes)| *votes).map(|(member, _)| member.node_id).collect();
        let members: Vec<Member> = seats.into_iter().map(|(member, _)| member).collect();
        broken(goal, &members, &voters)
    }
}

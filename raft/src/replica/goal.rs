//! The declared survival goal: what a membership must bear. Changes that would break it are refused.

use std::collections::BTreeSet;
use std::time::Duration;

use saola_storage::command::{Command, Op, SetGoal};
use saola_storage::goal::{self, Goal};
use saola_storage::types::NodeId;

use super::admin::invalid;
use super::{AdminError, ProposeError, Replica, Shared};
use crate::member::Member;
use crate::types::Runtime;

/// What is declared, and whether the membership bears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoalStatus {
    /// None: nothing is declared.
    pub goal: Option<Goal>,
    /// Why the membership does not bear it, if so.
    pub broken: Option<String>,
}

/// Why a membership does not bear a goal, if so: after the loss a majority of the voters must be left, and one of them
/// must keep records.
pub(super) fn broken(goal: Goal, members: &[Member], voters: &BTreeSet<NodeId>) -> Option<String> {
    let voting: Vec<&Member> = members.iter().filter(|it| voters.contains(&it.node_id)).collect();
    let quorum = voters.len() / 2 + 1;
    let without = |lost: &dyn Fn(&Member) -> bool, what: String| {
        let left: Vec<&&Member> = voting.iter().filter(|it| !lost(it)).collect();
        let lead = left.iter().any(|it| it.role_value().is_data());
        let why = match left.len() < quorum {
            true => format!("{} of {} voters would be left and {quorum} are needed", left.len(), voters.len()),
            false if !lead => "no voter that keeps records would be left".to_owned(),
            false => return None,
        };
        Some(format!("without {what} {why}"))
    };
    match goal {
        Goal::Node => {
            let lose = |node: &&Member| without(&|it| it.node_id == node.node_id, format!("node {}", node.name));
            voting.iter().find_map(lose)
        }
        Goal::Site => {
            let sites: BTreeSet<&str> = voting.iter().map(|it| it.site.as_str()).collect();
            sites.into_iter().find_map(|site| without(&|it| it.site == site, format!("site {site}")))
        }
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Declares what the cluster survives; none: nothing. Refused when the membership does not bear it.
    pub async fn set_goal(&self, goal: Option<Goal>, deadline: Duration) -> Result<(), ProposeError> {
        let why = goal.and_then(|goal| self.shared.breaks(goal, |_| {}).map(|why| (goal, why)));
        if let Some((goal, why)) = why {
            let said =
                format!("this cluster does not bear {}: {why}; add nodes first (saola cluster add)", goal.as_str());
            return Err(ProposeError::Refused(said));
        }
        let command =
            Command { request: None, op: Some(Op::SetGoal(SetGoal { survive: goal::to_command(goal).into() })) };
        self.propose(command, deadline).await.map(drop)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Role;

    fn of(sites: &[(&str, u64, Role)]) -> (Vec<Member>, BTreeSet<NodeId>) {
        let mut members = Vec::new();
        for (site, count, role) in sites {
            for number in 1..=*count {
                let (node_id, name) = (members.len() as u64 + 1, format!("{site}-{number}"));
                members.push(Member { node_id, name, site: (*site).into(), role: *role as i32, ..Member::default() });
            }
        }
        let voters = members.iter().filter(|it| it.role_value().votes()).map(|it| it.node_id).collect();
        (members, voters)
    }

    fn why(goal: Goal, sites: &[(&str, u64, Role)]) -> Option<String> {
        let (members, voters) = of(sites);
        broken(goal, &members, &voters)
    }

    #[test]
    fn a_topology_bears_what_its_votes_allow() {
        let (main, dr, third) = ("main", "dr", "third");
        let sites = |each| [(main, each, Role::Voter), (dr, each, Role::Voter), (third, 1, Role::Witness)];
        for each in [2, 3] {
            assert_eq!((why(Goal::Node, &sites(each)), why(Goal::Site, &sites(each))), (None, None));
        }
        let learners = [(main, 3, Role::Voter), (dr, 2, Role::Learner)];
        assert_eq!(why(Goal::Node, &learners), None);
        let lost = why(Goal::Site, &learners);
        assert_eq!(lost.as_deref(), Some("without site main 0 of 3 voters would be left and 2 are needed"));
        let two = why(Goal::Node, &[(main, 2, Role::Voter)]);
        assert_eq!(two.as_deref(), Some("without node main-1 1 of 2 voters would be left and 2 are needed"));
        assert!(
            why(Goal::Site, &[(main, 1, Role::Voter), (third, 3, Role::Witness)]).unwrap().contains("keeps records")
        );
        assert!(why(Goal::Site, &[(main, 3, Role::Voter), (dr, 2, Role::Voter)]).is_some());
    }
}

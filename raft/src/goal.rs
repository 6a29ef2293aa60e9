//! Whether a membership bears the loss that is declared: a pure function of who votes, and where.

use std::collections::BTreeSet;

use saola_storage::goal::Goal;
use saola_storage::types::NodeId;

use crate::member::Member;

/// Why a membership does not bear a goal, if so: after the loss a majority of the voters must be left, and one of them
/// must keep records.
pub(crate) fn broken(goal: Goal, members: &[Member], voters: &BTreeSet<NodeId>) -> Option<String> {
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

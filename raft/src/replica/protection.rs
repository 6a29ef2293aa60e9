//! What an acknowledgement waits for: changing it, and what stands in the way.

use std::collections::BTreeSet;
use std::time::Duration;

use saola_storage::command::{Command, Op};
use saola_storage::protection::{Mode, Protection};

use super::{ProposeError, Replica};
use crate::member::Member;
use crate::types::Runtime;

/// Why a cluster cannot give a protection, if so: whichever site leads, `acks` data nodes of the others must be there.
pub(super) fn lacking(protection: Protection, members: &[Member]) -> Option<String> {
    if protection.mode == Mode::MaximumPerformance {
        return None;
    }
    let data = || members.iter().filter(|it| it.role_value().is_data());
    let sites: BTreeSet<&str> = data().map(|it| it.site.as_str()).collect();
    sites.into_iter().find_map(|site| {
        let elsewhere = data().filter(|it| it.site != site).count();
        (elsewhere < protection.acks as usize).then(|| {
            format!(
                "with a leader at site {site} there are {elsewhere} data nodes at other sites, and {} must acknowledge: add \
                 nodes there (saola cluster add), or lower the protection (saola protection set)",
                protection.acks
            )
        })
    })
}

impl<RT: Runtime> Replica<RT> {
    /// Changes what an acknowledgement waits for. It is in force from the answer on: everything that is acknowledged
    /// later is also where the new rule wants it.
    pub async fn set_protection(&self, protection: Protection, deadline: Duration) -> Result<(), ProposeError> {
        if protection.acks == 0 {
            return Err(ProposeError::Refused("at least one node of another site must acknowledge: ask for 1".into()));
        }
        if let Some(lacks) = lacking(protection, &self.shared.members()) {
            return Err(ProposeError::Refused(lacks));
        }
        // Said twice it says the same.
        let command = Command { request: None, op: Some(Op::SetProtection(protection.into())) };
        self.propose(command, deadline).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Role;

    fn member(node_id: u64, site: &str, role: Role) -> Member {
        Member { node_id, site: site.into(), role: role as i32, ..Member::default() }
    }

    #[test]
    fn protection_is_refused_where_too_few_data_nodes_are_elsewhere() {
        let protected = |acks| Protection { mode: Mode::MaximumProtection, acks };
        let mut members = vec![member(1, "main", Role::Voter), member(2, "main", Role::Voter)];
        members.push(member(3, "third", Role::Witness));
        assert!(lacking(protected(1), &members).unwrap().contains("at site main there are 0 data nodes"));
        assert_eq!(lacking(Protection::default(), &members), None);
        members.push(member(4, "dr", Role::Learner));
        assert_eq!(lacking(protected(1), &members), None);
        assert!(lacking(protected(2), &members).unwrap().contains("at site main there are 1 data nodes"));
    }
}

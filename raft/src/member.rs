//! Between Raft's membership and its bytes, whose form is [`saola_storage::member`].

use std::collections::{BTreeMap, BTreeSet};

pub use saola_storage::member::{Member, MembershipRecord, Role, Seat, VoterSet};
use saola_storage::types::NodeId;

pub(crate) type Membership = openraft::Membership<NodeId, Member>;

pub(crate) fn membership_to_record(membership: &Membership) -> MembershipRecord {
    MembershipRecord {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|set| VoterSet { node_ids: set.iter().copied().collect() })
            .collect(),
        seats: membership.nodes().map(|(id, member)| Seat { node_id: *id, member: Some(member.clone()) }).collect(),
    }
}

pub(crate) fn membership_from_record(record: MembershipRecord) -> Result<Membership, String> {
    let configs: Vec<BTreeSet<NodeId>> =
        record.configs.into_iter().map(|set| set.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<NodeId, Member> =
        record.seats.into_iter().map(|seat| (seat.node_id, seat.member.unwrap_or_default())).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| format!("membership record: {error}"))
}

/// Whether those that `has` tells of are a majority of each set of voters. There are two sets while a membership is joint.
pub(crate) fn is_quorum(voter_sets: &[BTreeSet<NodeId>], has: impl Fn(NodeId) -> bool) -> bool {
    !voter_sets.is_empty() && voter_sets.iter().all(|set| set.iter().filter(|id| has(**id)).count() > set.len() / 2)
}

/// All members of a membership in node-id order.
pub(crate) fn members_of(membership: &Membership) -> Vec<Member> {
    membership.nodes().map(|(_, member)| member.clone()).collect()
}

/// The voters of one site alone cannot commit: the rest has a part in every commit.
pub(crate) fn needs_two_sites(voter_sets: &[BTreeSet<NodeId>], members: &[Member]) -> bool {
    let sites: BTreeSet<&str> = members.iter().map(|it| it.site.as_str()).collect();
    let at = |site: &str, id: &NodeId| members.iter().any(|it| it.node_id == *id && it.site == site);
    let alone = |site: &str| voter_sets.iter().any(|set| set.iter().filter(|id| at(site, id)).count() > set.len() / 2);
    !voter_sets.is_empty() && !sites.into_iter().any(alone)
}

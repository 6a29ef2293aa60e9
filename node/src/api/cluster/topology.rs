//! What a topology may be: checked before a cluster is made of it, and named for people.

use std::collections::{BTreeMap, BTreeSet};

use saola_client::proto::{Member, Role, Site, Topology};

use crate::settings::check::check_name;

/// A topology that cannot become a cluster: what is wrong, and what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("topology: {problem}")]
pub struct TopologyError {
    /// What is wrong, and where.
    pub problem: String,
    /// What to change in the topology file.
    pub next: String,
}

fn error(problem: String, next: &str) -> TopologyError {
    TopologyError { problem, next: next.into() }
}

/// Checks a whole topology; `called` is the node that was asked to make the cluster.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(topology: &Topology, called: &Member) -> Result<(), TopologyError> {
    if topology.cluster_name.trim().is_empty() {
        return Err(error("cluster_name is empty".into(), "name the cluster: destructive verbs ask for it"));
    }
    if topology.members.is_empty() {
        return Err(error("it has no node".into(), "write one [[node]] section per node"));
    }
    check_sites(&topology.sites)?;
    for member in &topology.members {
        check_member(member, &topology.sites)?;
    }
    check_unique(&topology.members)?;
    for site in &topology.sites {
        let mut here = topology.members.iter().filter(|m| m.site == site.name).peekable();
        if here.peek().is_none() {
            return Err(error(format!("site {} has no node", site.name), "remove the site or give it a node"));
        }
        check_site_key(site, here.any(|m| m.role() != Role::Witness))?;
    }
    if !topology.members.iter().any(|m| m.role() == Role::Voter) {
        return Err(error("it has no voter that keeps records".into(), "give at least one node role = \"voter\""));
    }
    if topology.members.iter().filter(|m| m.role() == Role::Witness).count() > 1 {
        return Err(error("it has more than one witness".into(), "keep one witness, at a third place"));
    }
    let Some(own) = topology.members.iter().find(|m| m.node_id == called.node_id) else {
        return Err(error(
            format!("the node that you called, {} (id {}), is not in it", called.name, called.node_id),
            "call a data node of the topology: `saola --endpoint HOST:PORT cluster init`",
        ));
    };
    if (&own.name, &own.site, own.role) != (&called.name, &called.site, called.role) {
        return Err(error(
            format!(
                "node {} is {} ({}, site {}) in it, but its own settings say {} ({}, site {})",
                called.node_id,
                own.name,
                role_name(own.role()),
                own.site,
                called.name,
                role_name(called.role()),
                called.site
            ),
            "correct the topology file or the node's settings",
        ));
    }
    if own.role() == Role::Witness {
        return Err(error(
            format!("the node that you called, {}, is a witness", called.name),
            "call a data node of the topology",
        ));
    }
    Ok(())
}

/// Checks one node entry against the site map.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_member(member: &Member, sites: &[Site]) -> Result<(), TopologyError> {
    let id = member.node_id;
    if id == 0 {
        return Err(error(format!("node {:?} has node_id 0", member.name), "number the nodes from 1"));
    }
    check_name(&member.name)
        .map_err(|reason| error(format!("node {id}: {reason}"), "use lower-case letters, digits and inner hyphens"))?;
    if !sites.iter().any(|s| s.name == member.site) {
        return Err(error(
            format!("node {} is at site {:?}, which is not in the site map", member.name, member.site),
            "add a [[site]] section of that name",
        ));
    }
    if member.role() == Role::Unspecified {
        return Err(error(
            format!("node {} has no role", member.name),
            "write role = \"voter\", \"learner\" or \"witness\"",
        ));
    }
    for (key, address) in [("peer_address", &member.peer_address), ("client_address", &member.client_address)] {
        if !is_address(address) {
            return Err(error(
                format!("node {}: {key} {address:?} is no address", member.name),
                "write host:port, as in \"10.0.0.1:7101\"",
            ));
        }
    }
    Ok(())
}

/// Checks that a site with data nodes has a public key and one without has none.
///
/// # Errors
/// Says which.
pub fn check_site_key(site: &Site, has_data_nodes: bool) -> Result<(), TopologyError> {
    match (has_data_nodes, site.kek_public.len()) {
        (true, 32) | (false, 0) => Ok(()),
        (true, found) => Err(error(
            format!("site {} has data nodes, but its kek_public has {found} bytes instead of 32", site.name),
            "write the 64 digits that `saola-node keygen public --file FILE` prints",
        )),
        (false, _) => Err(error(
            format!("site {} has only the witness, which holds no key, but a kek_public", site.name),
            "remove kek_public there",
        )),
    }
}

fn check_sites(sites: &[Site]) -> Result<(), TopologyError> {
    let mut seen = BTreeSet::new();
    for site in sites {
        check_name(&site.name)
            .map_err(|reason| error(format!("site: {reason}"), "use lower-case letters, digits and inner hyphens"))?;
        if !seen.insert(&site.name) {
            return Err(error(format!("site {} stands in it twice", site.name), "name each site once"));
        }
    }
    Ok(())
}

fn check_unique(members: &[Member]) -> Result<(), TopologyError> {
    let mut seen = BTreeMap::new();
    for member in members {
        for (what, value) in [
            ("node_id", member.node_id.to_string()),
            ("name", member.name.clone()),
            ("address", member.peer_address.clone()),
            ("address", member.client_address.clone()),
        ] {
            if let Some(other) = seen.insert((what, value.clone()), &member.name) {
                return Err(error(
                    format!("{what} {value} stands in it twice (nodes {other} and {})", member.name),
                    "give each node its own node_id, name and addresses",
                ));
            }
        }
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|p| p != 0)
    })
}

/// Name of a role for people.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Witness => "witness",
        Role::Unspecified => "no role",
    }
}

/// The topology's short name: `2+2+w`, `3+3+w`, `3+2l`, a number for one site, or `custom`.
pub fn name(members: &[Member]) -> String {
    let mut voters = BTreeMap::<&str, usize>::new();
    let mut learners = BTreeMap::<&str, usize>::new();
    let mut witnesses = 0;
    for member in members {
        match member.role() {
            Role::Voter => *voters.entry(&member.site).or_default() += 1,
            Role::Learner => *learners.entry(&member.site).or_default() += 1,
            Role::Witness | Role::Unspecified => witnesses += 1,
        }
    }
    let by_site = |sites: &BTreeMap<&str, usize>| sites.values().copied().collect::<Vec<_>>();
    match (&by_site(&voters)[..], &by_site(&learners)[..], witnesses) {
        ([a, b], [], 1) if a == b => format!("{a}+{b}+w"),
        ([a], [l], 0) if !learners.keys().any(|s| voters.contains_key(s)) => format!("{a}+{l}l"),
        ([a], [], 0) => a.to_string(),
        _ => "custom".into(),
    }
}

/// Advice about a topology that works, but not as well as it could.
pub fn advice(members: &[Member]) -> Option<String> {
    let voters = members.iter().filter(|m| matches!(m.role(), Role::Voter | Role::Witness)).count();
    (voters % 2 == 0)
        .then(|| format!("{voters} voters bear the loss of no more nodes than {} would: use an odd number", voters - 1))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn member(node_id: u64, name: &str, site: &str, role: Role) -> Member {
        Member {
            node_id,
            name: name.into(),
            site: site.into(),
            role: role.into(),
            peer_address: format!("10.0.0.{node_id}:7101"),
            client_address: format!("10.0.0.{node_id}:7001"),
        }
    }

    pub(crate) fn five() -> Vec<Member> {
        vec![
            member(1, "main-1", "main", Role::Voter),
            member(2, "main-2", "main", Role::Voter),
            member(3, "dr-1", "dr", Role::Voter),
            member(4, "dr-2", "dr", Role::Voter),
            member(5, "witness", "third", Role::Witness),
        ]
    }

    fn topology() -> Topology {
        let site = |name: &str, key: usize| Site { name: name.into(), kek_public: vec![7; key].into() };
        Topology {
            cluster_name: "test".into(),
            sites: vec![site("main", 32), site("dr", 32), site("third", 0)],
            members: five(),
        }
    }

    #[test]
    fn a_good_topology_passes() {
        assert_eq!(check(&topology(), &five()[0]), Ok(()));
        assert_eq!(advice(&five()), None);
    }

    #[test]
    fn every_flaw_is_named() {
        type Change = fn(&mut Topology);
        let flaws: [(Change, &str); 16] = [
            (|t| t.cluster_name = " ".into(), "cluster_name"),
            (|t| t.members.clear(), "no node"),
            (|t| t.members[1].node_id = 0, "node_id 0"),
            (|t| t.members[1].node_id = 1, "node_id 1 stands in it twice (nodes main-1 and main-2)"),
            (|t| t.members[1].name = "main-1".into(), "name main-1 stands in it twice"),
            (|t| t.members[1].peer_address = t.members[0].client_address.clone(), "address 10.0.0.1:7001"),
            (|t| t.members[1].peer_address = "nowhere".into(), "peer_address \"nowhere\""),
            (|t| t.members[1].role = 0, "no role"),
            (|t| t.members[1].site = "moon".into(), "\"moon\""),
            (|t| t.sites[1].name = "main".into(), "site main stands in it twice"),
            (|t| t.sites[1].kek_public = vec![1; 31].into(), "31 bytes"),
            (|t| t.sites[2].kek_public = vec![1; 32].into(), "holds no key"),
            (|t| t.sites.push(Site { name: "spare".into(), ..Default::default() }), "site spare has no node"),
            (|t| t.members[3].role = Role::Witness.into(), "more than one witness"),
            (|t| t.members[0].name = "main-9".into(), "own settings say main-1"),
            (|t| drop(t.members.remove(0)), "is not in it"),
        ];
        for (change, expected) in flaws {
            let mut topology = topology();
            change(&mut topology);
            let found = check(&topology, &five()[0]).expect_err(expected);
            assert!(found.problem.contains(expected), "{expected}: {found}");
            assert!(!found.next.is_empty());
        }
        let witness = check(&topology(), &five()[4]).expect_err("witness");
        assert!(witness.problem.contains("is a witness"));
    }

    #[test]
    fn topologies_have_their_names() {
        assert_eq!(name(&five()), "2+2+w");
        assert_eq!(name(&five()[..1]), "1");
        assert_eq!(name(&five()[..4]), "custom");
        let two_sites = [
            member(1, "a", "main", Role::Voter),
            member(2, "b", "main", Role::Voter),
            member(3, "c", "main", Role::Voter),
            member(4, "d", "dr", Role::Learner),
            member(5, "e", "dr", Role::Learner),
        ];
        assert_eq!(name(&two_sites), "3+2l");
        assert_eq!(name(&two_sites[..3]), "3");
        assert!(advice(&five()[..4]).is_some_and(|a| a.contains("4 voters")));
    }
}

//! The cluster that a drill is held on, and what the words of a scenario mean there.

use std::collections::BTreeMap;

use saola_client::proto::{Member, Role, StatusResponse};

use super::scenario::{Scenario, Step};

/// A node as a drill sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its role.
    pub role: Role,
    /// Where clients reach it.
    pub address: String,
}

/// The cluster that a scenario is held on: what its words mean there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// All members.
    pub nodes: Vec<Place>,
    words: BTreeMap<&'static str, String>,
}

/// All members of a cluster.
pub fn places(status: &StatusResponse) -> Vec<Place> {
    let place = |it: &Member| Place {
        name: it.name.clone(),
        site: it.site.clone(),
        role: it.role(),
        address: it.client_address.clone(),
    };
    status.nodes.iter().filter_map(|node| node.member.as_ref()).map(place).collect()
}

impl Stage {
    /// As the cluster stands now.
    ///
    /// # Errors
    /// Nobody leads.
    pub fn of(status: &StatusResponse) -> Result<Stage, String> {
        let mut members = status.nodes.iter().filter_map(|node| node.member.as_ref());
        let nodes = places(status);
        let leader = members.find(|it| it.node_id == status.leader).ok_or("nobody leads")?;
        let mut words = BTreeMap::from([("leading", leader.site.clone())]);
        let other = nodes.iter().find(|it| it.role != Role::Witness && it.site != leader.site);
        if let Some(other) = other {
            words.insert("other", other.site.clone());
        }
        Ok(Stage { nodes, words })
    }

    /// The site that a word of a scenario means.
    ///
    /// # Errors
    /// There is none.
    pub fn site(&self, word: &str) -> Result<&str, String> {
        if let Some(site) = self.words.get(word) {
            return Ok(site);
        }
        match self.nodes.iter().find(|it| it.site == word) {
            Some(place) => Ok(&place.site),
            None if word == "other" => Err("there is no other site with records".into()),
            None => Err(format!("there is no site {word:?}")),
        }
    }

    /// Nodes of a site.
    pub fn nodes_of(&self, site: &str) -> Vec<&Place> {
        self.nodes.iter().filter(|it| it.site == site).collect()
    }

    /// Sites with records.
    pub fn data_sites(&self) -> Vec<&str> {
        let mut sites: Vec<&str> =
            self.nodes.iter().filter(|it| it.role != Role::Witness).map(|it| it.site.as_str()).collect();
        sites.sort_unstable();
        sites.dedup();
        sites
    }

    /// Why the scenario cannot be held here.
    ///
    /// # Errors
    /// A sentence.
    pub fn bears(&self, scenario: &Scenario) -> Result<(), String> {
        if scenario.needs.witness && !self.nodes.iter().any(|it| it.role == Role::Witness) {
            return Err("it needs a witness, and there is none".into());
        }
        if scenario.forks() && self.data_sites().len() < 2 {
            return Err("it promotes a site without the other one, and there is one site".into());
        }
        for step in &scenario.clone().on(self)?.steps {
            if let Step::Crash { node, .. } | Step::HangDisk { node } = step
                && node != "leader"
                && !self.nodes.iter().any(|it| it.name == *node && it.role != Role::Witness)
            {
                return Err(format!("there is no data node {node:?}"));
            }
            if let Step::Isolate { site } = step
                && self.nodes_of(site).iter().any(|it| it.role == Role::Witness)
            {
                return Err(format!("the witness stands at site {site}, so the others would have no quorum"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use saola_client::proto::NodeStatus;

    use super::*;

    /// Two sites and a witness; dr leads.
    pub(in crate::drill) fn stage() -> Stage {
        let member = |node_id, name: &str, site: &str, role: Role| NodeStatus {
            member: Some(Member {
                node_id,
                name: name.into(),
                site: site.into(),
                role: role.into(),
                ..Member::default()
            }),
            ..NodeStatus::default()
        };
        let nodes = vec![
            member(1, "main-1", "main", Role::Voter),
            member(2, "dr-1", "dr", Role::Voter),
            member(3, "witness", "third", Role::Witness),
        ];
        Stage::of(&StatusResponse { leader: 2, nodes, ..StatusResponse::default() }).expect("dr-1 leads")
    }

    #[test]
    fn words_mean_the_sites_as_they_were_when_the_drill_began() {
        let stage = stage();
        assert_eq!((stage.site("leading"), stage.site("other")), (Ok("dr"), Ok("main")));
        assert_eq!(stage.site("main"), Ok("main"));
        assert_eq!(stage.site("moon"), Err("there is no site \"moon\"".into()));
        assert_eq!(stage.data_sites(), ["dr", "main"]);
    }
}

//! The topology file of `saola cluster init`: nodes, roles, sites, addresses, and each site's public KEK.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use saola_client::proto;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// A node's part in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes and keeps records.
    Voter,
    /// Keeps records, does not vote.
    Learner,
    /// Votes and keeps the sealed log; holds no records and no key.
    Witness,
}

impl Role {
    /// The word in files and on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::Learner => "learner",
            Role::Witness => "witness",
        }
    }
}

impl From<Role> for proto::Role {
    fn from(role: Role) -> proto::Role {
        match role {
            Role::Voter => proto::Role::Voter,
            Role::Learner => proto::Role::Learner,
            Role::Witness => proto::Role::Witness,
        }
    }
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Name that operators type to confirm what cannot be undone.
    pub cluster_name: String,
    /// The sites.
    pub site: Vec<Site>,
    /// The nodes.
    pub node: Vec<Node>,
}

/// `[[site]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// X25519 public key as 64 hexadecimal digits; empty or left out for a witness's site.
    #[serde(default)]
    pub kek_public: String,
}

/// `[[node]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Number, from 1; never used again.
    pub node_id: u64,
    /// Name as in its certificate.
    pub name: String,
    /// Name of its site.
    pub site: String,
    /// Its part.
    pub role: Role,
    /// `host:port` for other nodes.
    pub peer_address: String,
    /// `host:port` for clients.
    pub client_address: String,
}

impl Topology {
    /// Reads and checks a topology file.
    ///
    /// # Errors
    /// What is wrong in it, with the next step.
    pub fn read(path: &Path) -> Result<Topology, Failure> {
        let doing = format!("read topology {}", path.display());
        let text = fs::read_to_string(path).map_err(|source| Failure::input(&doing, &source))?;
        Topology::parse(&text).map_err(|reason| {
            Failure::usage(
                format!("{doing}: {reason}"),
                "correct the file and run the same command again; nothing was done yet",
            )
        })
    }

    /// Reads a topology from TOML.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Topology, String> {
        let topology: Topology = toml::from_str(text).map_err(|error| error.to_string())?;
        topology.check()?;
        Ok(topology)
    }

    fn check(&self) -> Result<(), String> {
        if self.cluster_name.is_empty() {
            return Err("cluster_name is empty".into());
        }
        let mut sites = BTreeSet::new();
        for site in &self.site {
            if !sites.insert(site.name.as_str()) {
                return Err(format!("site {} stands there twice", site.name));
            }
            kek_public(&site.kek_public).map_err(|reason| format!("site {}: {reason}", site.name))?;
        }
        let mut taken = BTreeSet::new();
        for node in &self.node {
            let name = &node.name;
            if node.node_id == 0 {
                return Err(format!("node {name}: node_id starts at 1"));
            }
            let Some(site) = self.site.iter().find(|site| site.name == node.site) else {
                return Err(format!("node {name}: there is no [[site]] named {}", node.site));
            };
            if node.role != Role::Witness && site.kek_public.is_empty() {
                return Err(format!(
                    "site {}: kek_public is missing, and {name} keeps records there; make one with `saola-node keygen kek`",
                    site.name
                ));
            }
            let unique = [
                format!("node_id {}", node.node_id),
                format!("name {name}"),
                format!("address {}", node.peer_address),
                format!("address {}", node.client_address),
            ];
            for claim in unique {
                if !taken.insert(claim.clone()) {
                    return Err(format!("node {name}: {claim} stands there twice"));
                }
            }
        }
        if !self.node.iter().any(|node| node.role == Role::Voter) {
            return Err("no node is a voter".into());
        }
        Ok(())
    }

    /// The same as the contract says it. Checked topologies only: a key that is not hexadecimal is left empty.
    pub fn to_proto(&self) -> proto::Topology {
        let site = |site: &Site| proto::Site {
            name: site.name.clone(),
            kek_public: kek_public(&site.kek_public).unwrap_or_default().into(),
        };
        proto::Topology {
            cluster_name: self.cluster_name.clone(),
            sites: self.site.iter().map(site).collect(),
            members: self.node.iter().map(Node::to_proto).collect(),
        }
    }
}

impl Node {
    /// The same as the contract says it.
    pub fn to_proto(&self) -> proto::Member {
        proto::Member {
            node_id: self.node_id,
            name: self.name.clone(),
            site: self.site.clone(),
            role: proto::Role::from(self.role).into(),
            peer_address: self.peer_address.clone(),
            client_address: self.client_address.clone(),
        }
    }
}

/// Reads a public KEK: 64 hexadecimal digits, or nothing.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn kek_public(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || "kek_public must be 64 hexadecimal digits, as `saola-node keygen kek` prints them".to_owned();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEK: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn file(site_key: &str, second_node: &str) -> String {
        format!(
            r#"
cluster_name = "registry"
[[site]]
name = "main"
kek_public = "{site_key}"
[[site]]
name = "third"
[[node]]
node_id = 1
name = "main-1"
site = "main"
role = "voter"
peer_address = "127.0.0.1:7101"
client_address = "127.0.0.1:7001"
{second_node}
"#
        )
    }

    fn node(node_id: u64, name: &str, site: &str, role: &str, port: u16) -> String {
        format!(
            "[[node]]\nnode_id = {node_id}\nname = \"{name}\"\nsite = \"{site}\"\nrole = \"{role}\"\n\
             peer_address = \"127.0.0.1:{port}\"\nclient_address = \"127.0.0.1:{}\"\n",
            port + 100
        )
    }

    #[test]
    fn a_topology_becomes_what_the_contract_says() {
        let topology = Topology::parse(&file(KEK, &node(2, "witness", "third", "witness", 9000))).unwrap();
        let proto = topology.to_proto();
        assert_eq!(proto.sites[0].kek_public.len(), 32);
        assert_eq!(proto.sites[0].kek_public[1], 0x11);
        assert!(proto.sites[1].kek_public.is_empty());
        assert_eq!(proto.members[1].role(), proto::Role::Witness);
        assert_eq!(proto.members[0].peer_address, "127.0.0.1:7101");
        let written = toml::to_string(&topology).unwrap();
        assert_eq!(Topology::parse(&written).unwrap(), topology);
    }

    #[test]
    fn mistakes_in_a_topology_are_named() {
        let mistakes = [
            (file("12", ""), "64 hexadecimal digits"),
            (file("", ""), "kek_public is missing"),
            (file(KEK, &node(1, "main-2", "main", "voter", 9000)), "node_id 1 stands there twice"),
            (file(KEK, &node(2, "main-1", "main", "voter", 9000)), "name main-1 stands there twice"),
            (file(KEK, &node(2, "main-2", "main", "voter", 7101)), "address 127.0.0.1:7101 stands there twice"),
            (file(KEK, &node(2, "main-2", "nowhere", "voter", 9000)), "no [[site]] named nowhere"),
            (file(KEK, &node(0, "main-2", "main", "voter", 9000)), "node_id starts at 1"),
            (file(KEK, &node(2, "main-2", "main", "boss", 9000)), "boss"),
            (file(KEK, "colour = \"red\""), "colour"),
        ];
        for (text, expected) in mistakes {
            let reason = Topology::parse(&text).unwrap_err();
            assert!(reason.contains(expected), "{reason} should contain {expected}");
        }
    }
}

//! Which nodes a local cluster has.

use std::collections::BTreeMap;

use crate::topology::Role;

/// The nodes of a local cluster; the n-th has node id n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the cluster.
    pub cluster_name: String,
    /// The nodes.
    pub nodes: Vec<PlannedNode>,
    /// Preset of Raft's clocks: `lan` or `wan`.
    pub timing: String,
    /// Below so much free space a node refuses writes, bytes.
    pub min_free_bytes: u64,
    /// Nodes, or all nodes of a site, that are not on the loopback device of this process, but in networks of their own; by
    /// the node's name or the site's.
    pub networks: BTreeMap<String, OwnNetwork>,
}

/// Where a node runs, or all of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNetwork {
    /// Its address there.
    pub address: String,
    /// What runs a program there, as `nsenter --net=FILE`.
    pub inside: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its part.
    pub role: Role,
}

impl Plan {
    /// A cluster of these nodes, given as name, site and role.
    pub fn new(cluster_name: &str, nodes: &[(&str, &str, Role)]) -> Plan {
        let node = |(name, site, role): &(&str, &str, Role)| PlannedNode {
            name: (*name).to_owned(),
            site: (*site).to_owned(),
            role: *role,
        };
        Plan {
            cluster_name: cluster_name.to_owned(),
            nodes: nodes.iter().map(node).collect(),
            timing: "lan".to_owned(),
            // Local clusters are small; the product's own mark would keep them from small disks.
            min_free_bytes: 64 << 20,
            networks: BTreeMap::new(),
        }
    }

    /// `2+2+w`: two data nodes at `main`, two at `dr`, a witness at a third place.
    pub fn two_sites_and_witness() -> Plan {
        let nodes = [
            ("main-1", "main", Role::Voter),
            ("main-2", "main", Role::Voter),
            ("dr-1", "dr", Role::Voter),
            ("dr-2", "dr", Role::Voter),
            ("witness", "third", Role::Witness),
        ];
        Plan::new("demo", &nodes)
    }

    /// `1`: one node, for trying.
    pub fn one_node() -> Plan {
        Plan::new("dev", &[("dev-1", "dev", Role::Voter)])
    }

    /// Address of a node.
    pub fn address(&self, node: &str, site: &str) -> &str {
        self.network(node, site).map_or("127.0.0.1", |network| &network.address)
    }

    /// What runs a program where a node is; nothing: this process may.
    pub fn inside(&self, node: &str, site: &str) -> &[String] {
        self.network(node, site).map_or(&[], |network| &network.inside)
    }

    fn network(&self, node: &str, site: &str) -> Option<&OwnNetwork> {
        self.networks.get(node).or_else(|| self.networks.get(site))
    }

    /// Sites with data nodes, in order.
    pub fn data_sites(&self) -> Vec<&str> {
        let mut sites = Vec::new();
        for node in self.nodes.iter().filter(|node| node.role != Role::Witness) {
            if !sites.contains(&node.site.as_str()) {
                sites.push(&node.site);
            }
        }
        sites
    }

    /// All sites, in order.
    pub fn sites(&self) -> Vec<&str> {
        let mut sites = Vec::new();
        for node in &self.nodes {
            if !sites.contains(&node.site.as_str()) {
                sites.push(&node.site);
            }
        }
        sites
    }
}

//! What stands in a local cluster's folder before its nodes start.
//!
//! ```text
//! certs/        the development authority, and the client's certificate
//! keys/         each data site's KEK; none for a witness's site
//! nodes/NAME/   all of one node: node.toml, certificate, KEK, node.log, data/
//! topology.toml profile.toml
//! ```

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::plan::{Plan, PlannedNode};
use super::ports::Ports;
use crate::certificates::{Authority, Holder, Issued};
use crate::connect::Profile;
use crate::exit::{Exit, Failure};
use crate::topology::{Node, Role, Site, Topology};

/// Validity of a local cluster's certificates.
const DAYS: i32 = 365;
/// Name of the client whose certificate is made.
const CLIENT: &str = "operator";

/// Paths of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFiles {
    /// Its folder.
    pub folder: PathBuf,
    /// Its settings file.
    pub settings: PathBuf,
    /// What it prints.
    pub log: PathBuf,
    /// Log and state.
    pub data: PathBuf,
}

impl NodeFiles {
    /// The node's paths below the cluster's folder.
    pub fn of(cluster: &Path, name: &str) -> NodeFiles {
        let folder = cluster.join("nodes").join(name);
        NodeFiles {
            settings: folder.join("node.toml"),
            log: folder.join("node.log"),
            data: folder.join("data"),
            folder,
        }
    }
}

/// Paths and topology of a written cluster.
#[derive(Debug)]
pub struct Written {
    /// The topology that the cluster is made from.
    pub topology: Topology,
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The client's certificate and key.
    pub client: Issued,
    /// Those of the nodes.
    pub ports: Ports,
}

#[derive(Serialize)]
struct Settings<'a> {
    node: NodeSection<'a>,
    listen: Listen<'a>,
    tls: Tls,
    #[serde(skip_serializing_if = "Option::is_none")]
    kek: Option<Kek>,
    timing: Timing<'a>,
    limits: Limits,
}

#[derive(Serialize)]
struct NodeSection<'a> {
    name: &'a str,
    node_id: u64,
    site: &'a str,
    role: &'a str,
    data_dir: &'static str,
}

#[derive(Serialize)]
struct Listen<'a> {
    peer: &'a str,
    client: &'a str,
    metrics: &'a str,
}

#[derive(Serialize)]
struct Tls {
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
}

#[derive(Serialize)]
struct Kek {
    file: String,
}

#[derive(Serialize)]
struct Timing<'a> {
    preset: &'a str,
}

#[derive(Serialize)]
struct Limits {
    min_free_bytes: u64,
}

/// The settings file of a node, TOML.
///
/// # Errors
/// When it cannot be written as TOML.
pub fn settings(plan: &Plan, node: &Node, metrics: &str) -> Result<String, Failure> {
    let settings = Settings {
        node: NodeSection {
            name: &node.name,
            node_id: node.node_id,
            site: &node.site,
            role: node.role.as_str(),
            data_dir: "data",
        },
        listen: Listen { peer: &node.peer_address, client: &node.client_address, metrics },
        tls: Tls { ca: "ca.pem", cert: "node.pem", key: "node.key" },
        kek: (node.role != Role::Witness).then(|| Kek { file: format!("{}.kek", node.site) }),
        timing: Timing { preset: &plan.timing },
        limits: Limits { min_free_bytes: plan.min_free_bytes },
    };
    to_toml(&settings)
}

fn to_toml(value: &impl Serialize) -> Result<String, Failure> {
    toml::to_string(value)
        .map_err(|error| Failure::new(Exit::Other, format!("write TOML: {error}"), "choose other names"))
}

/// Writes everything that a cluster needs into `folder`, which must be fresh or empty.
///
/// # Errors
/// A folder with something in it, files that cannot be written, or keys that cannot be made.
pub fn write(plan: &Plan, folder: &Path, binary: &Path) -> Result<Written, Failure> {
    make_folder(folder)?;
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::usage(
            format!("prepare folder {}: it is not empty", folder.display()),
            "name a fresh folder",
        ));
    }
    let authority = Authority::open(&folder.join("certs"))?;
    let client = authority.issue(Holder::Client, CLIENT, DAYS)?;
    let keys = folder.join("keys");
    make_folder(&keys)?;
    let mut sites = Vec::new();
    for site in plan.sites() {
        let kek_public = match plan.data_sites().contains(&site) {
            true => keygen(binary, &keys.join(format!("{site}.kek")))?,
            false => String::new(),
        };
        sites.push(Site { name: site.to_owned(), kek_public });
    }
    let ports = Ports::take(plan.nodes.len() * 3)?;
    let mut nodes = Vec::new();
    for ((planned, three), node_id) in plan.nodes.iter().zip(ports.numbers.chunks(3)).zip(1..) {
        nodes.push(write_node(plan, planned, node_id, three, folder, &authority)?);
    }
    let topology = Topology { cluster_name: plan.cluster_name.clone(), site: sites, node: nodes };
    write_file(&folder.join("topology.toml"), &to_toml(&topology)?)?;
    let ca = folder.join("certs/ca.pem");
    let profile = Profile {
        endpoints: data_endpoints(&topology),
        ca: Some("certs/ca.pem".into()),
        cert: Some(format!("certs/{CLIENT}.pem").into()),
        key: Some(format!("certs/{CLIENT}.key").into()),
    };
    write_file(&folder.join("profile.toml"), &to_toml(&profile)?)?;
    Ok(Written { topology, ca, client, ports })
}

/// Client addresses of the data nodes.
pub fn data_endpoints(topology: &Topology) -> Vec<String> {
    topology.node.iter().filter(|node| node.role != Role::Witness).map(|node| node.client_address.clone()).collect()
}

/// Writes the folder of one more node into that of a cluster; its site must have its KEK there already.
///
/// # Errors
/// A node of that name, files that cannot be written, or no free ports.
pub fn write_another(
    plan: &Plan,
    planned: &PlannedNode,
    node_id: u64,
    folder: &Path,
) -> Result<(Node, Ports), Failure> {
    let authority = Authority::open(&folder.join("certs"))?;
    let ports = Ports::take(3)?;
    Ok((write_node(plan, planned, node_id, &ports.numbers, folder, &authority)?, ports))
}

/// `ports` are for peers, clients and metrics.
fn write_node(
    plan: &Plan,
    planned: &PlannedNode,
    node_id: u64,
    ports: &[u16],
    folder: &Path,
    authority: &Authority,
) -> Result<Node, Failure> {
    let address = |port: usize| format!("{}:{}", plan.address(&planned.name, &planned.site), ports[port]);
    let node = &Node {
        node_id,
        name: planned.name.clone(),
        site: planned.site.clone(),
        role: planned.role,
        peer_address: address(0),
        client_address: address(1),
    };
    let files = NodeFiles::of(folder, &node.name);
    make_folder(&files.folder)?;
    let issued = Issued { cert: files.folder.join("node.pem"), key: files.folder.join("node.key") };
    authority.issue_to(Holder::Node, &node.name, DAYS, &issued)?;
    write_file(&files.folder.join("ca.pem"), authority.pem())?;
    write_file(&files.settings, &settings(plan, node, &address(2))?)?;
    if node.role != Role::Witness {
        let name = format!("{}.kek", node.site);
        let (from, to) = (folder.join("keys").join(&name), files.folder.join(&name));
        let copied = fs::copy(&from, &to).and_then(|_| fs::set_permissions(&to, Permissions::from_mode(0o600)));
        copied.map_err(|source| Failure::file(format!("copy {} to {}", from.display(), to.display()), &source))?;
    }
    Ok(node.clone())
}

/// Makes a KEK pair; returns the public half.
fn keygen(binary: &Path, out: &Path) -> Result<String, Failure> {
    let doing = format!("make KEK {}", out.display());
    let output = Command::new(binary)
        .args(["keygen", "kek", "--out"])
        .arg(out)
        .output()
        .map_err(|source| Failure::file(format!("{doing}: run {}", binary.display()), &source))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Failure::new(Exit::Other, format!("{doing}: {said}"), "build both programs with `make build`"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|source| Failure::file(format!("create folder {}", folder.display()), &source))
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|source| Failure::file(format!("write {}", path.display()), &source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: Role) -> Node {
        Node {
            node_id: 3,
            name: "dr-1".into(),
            site: "dr".into(),
            role,
            peer_address: "127.0.0.1:11000".into(),
            client_address: "127.0.0.1:11001".into(),
        }
    }

    #[test]
    fn settings_say_what_the_node_reads() {
        let text = settings(&Plan::two_sites_and_witness(), &node(Role::Voter), "127.0.0.1:11002").unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["node"]["name"].as_str(), Some("dr-1"));
        assert_eq!(read["node"]["node_id"].as_integer(), Some(3));
        assert_eq!(read["node"]["role"].as_str(), Some("voter"));
        assert_eq!(read["listen"]["peer"].as_str(), Some("127.0.0.1:11000"));
        assert_eq!(read["listen"]["metrics"].as_str(), Some("127.0.0.1:11002"));
        assert_eq!(read["tls"]["key"].as_str(), Some("node.key"));
        assert_eq!(read["kek"]["file"].as_str(), Some("dr.kek"));
        assert_eq!(read["timing"]["preset"].as_str(), Some("lan"));
        assert_eq!(read["limits"]["min_free_bytes"].as_integer(), Some(64 << 20));
    }

    #[test]
    fn a_witness_is_given_no_key() {
        let text = settings(&Plan::two_sites_and_witness(), &node(Role::Witness), "127.0.0.1:11002").unwrap();
        assert!(!text.contains("kek"), "{text}");
        assert_eq!(Plan::two_sites_and_witness().data_sites(), ["main", "dr"]);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("precious"), "x").unwrap();
        let failure = write(&Plan::one_node(), folder.path(), Path::new("saola-node")).unwrap_err();
        assert!(failure.what().contains("not empty"), "{failure}");
    }
}

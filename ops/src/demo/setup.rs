//! Steps 1 and 2: certificates, keys, and five running nodes.

use std::path::Path;
use std::time::Instant;

use super::screen::Screen;
use crate::exit::Failure;
use crate::launch::{LocalCluster, Place, Plan};

/// Step 1: makes the folder with certificates and keys.
///
/// # Errors
/// Files that cannot be written.
pub fn prepare(screen: &Screen, place: Place, binary: &Path) -> Result<LocalCluster, Failure> {
    screen.step(1, "Certificates and keys")?;
    let plan = Plan::two_sites_and_witness();
    let cluster = LocalCluster::prepare(&plan, place, binary)?;
    screen.line(format!("folder {}", cluster.folder().display()))?;
    screen.line(format!("a development authority; certificates for {} nodes and one client", plan.nodes.len()))?;
    screen.line(format!("one KEK pair for each of {}; none for the witness", plan.data_sites().join(" and ")))?;
    Ok(cluster)
}

/// Step 2: starts the nodes and makes them one cluster.
///
/// # Errors
/// A node that does not start, or no leader.
pub async fn start(screen: &Screen, cluster: &mut LocalCluster) -> Result<(), Failure> {
    screen.step(2, "Five nodes: main-1 main-2 | dr-1 dr-2 | witness, mutual TLS on every link")?;
    let begun = Instant::now();
    cluster.start_all().await?;
    screen.line(format!("all five answer after {:.1} s", begun.elapsed().as_secs_f64()))?;
    let status = cluster.init().await?;
    screen.line(format!(
        "cluster {} ({}): {} leads in term {}, {:.1} s after the start",
        status.cluster_name,
        status.topology,
        leader_name(&status).unwrap_or("nobody"),
        status.term,
        begun.elapsed().as_secs_f64()
    ))?;
    screen.line(&status.protection)
}

/// Name of the leader, if one is known.
pub fn leader_name(status: &saola_client::proto::StatusResponse) -> Option<&str> {
    let members = status.nodes.iter().filter_map(|node| node.member.as_ref());
    members.into_iter().find(|member| member.node_id == status.leader).map(|member| member.name.as_str())
}

//! Step 7: the main site comes back, catches up, and holds the same state.

use std::time::{Duration, Instant};

use saola_client::proto::{DigestResponse, StatusResponse};

use super::drill::MAIN;
use super::screen::Screen;
use crate::exit::{Exit, Failure};
use crate::launch::{LocalCluster, wait_until};
use crate::output::{grouped, hex};
use crate::verbs::cluster::{Digests, compare};

const DIGEST_LIMIT: Duration = Duration::from_secs(60);

/// Runs the step.
///
/// # Errors
/// A node that does not catch up, or data nodes that differ.
pub async fn bring_main_back(screen: &Screen, cluster: &mut LocalCluster) -> Result<(), Failure> {
    screen.step(7, "The main site comes back")?;
    let begun = Instant::now();
    for name in MAIN {
        cluster.start(name)?;
    }
    for name in MAIN {
        cluster.wait_for_answer(name).await?;
    }
    let target = cluster.client_at("dr-1")?.cluster_status(false).await?;
    let target = target.nodes.iter().map(|node| node.committed_index).max().unwrap_or(0);
    cluster.wait_for_status("catch up", |status| caught_up(status, target)).await?;
    screen.line(format!(
        "{} have applied log index {}, {:.1} s after their start",
        MAIN.join(" and "),
        grouped(target),
        begun.elapsed().as_secs_f64()
    ))?;
    let client = cluster.client();
    let digests = wait_until("compare digests", DIGEST_LIMIT, || async {
        let reply = client.digest().await.map_err(|error| error.to_string())?;
        match compare(&reply) {
            Digests::Incomplete => Err(unanswered(&reply)),
            Digests::Equal | Digests::Different => Ok(reply),
        }
    });
    let digests = digests.await?;
    for it in &digests.digests {
        screen.line(format!("node {}  {}", it.node_id, hex(&it.digest)))?;
    }
    if compare(&digests) == Digests::Different {
        return Err(Failure::new(
            Exit::Verification,
            format!("the data nodes differ at log index {}", digests.log_index),
            "keep the folders of all nodes",
        ));
    }
    screen.line(format!("equal on {} data nodes at log index {}", digests.digests.len(), grouped(digests.log_index)))
}

fn caught_up(status: &StatusResponse, target: u64) -> Result<(), String> {
    for node in &status.nodes {
        let name = node.member.as_ref().map_or("?", |member| member.name.as_str());
        if !node.reachable {
            return Err(format!("{name} does not answer: {}", node.error));
        }
        if node.applied_index < target {
            return Err(format!("{name} has applied {} of {target}", node.applied_index));
        }
    }
    Ok(())
}

fn unanswered(reply: &DigestResponse) -> String {
    let missing = reply.digests.iter().filter(|it| it.digest.is_empty());
    missing.map(|it| format!("node {}: {}", it.node_id, it.error)).collect::<Vec<_>>().join("; ")
}

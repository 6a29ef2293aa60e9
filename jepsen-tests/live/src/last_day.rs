//! How a round on two sites ends: main loses power, the other site goes on by force, main comes back, is fenced, and is let in
//! again. The sites protected each other until then, so whatever was acknowledged before must be there after it.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, wait_until};
use saola_ops::topology::{Node, Role};

use crate::command::{Refused, saola};
use crate::machines::Machines;
use crate::round::well;
use crate::workload::COLLECTION;

/// Each step of the day is tried again for so long.
const STEP: Duration = Duration::from_secs(90);
/// Those who may approve; two of them must.
const APPROVERS: [&str; 3] = ["director", "security", "operations"];

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastDay {
    /// What the plan said of the loss.
    pub verdict: String,
    /// From main's end to the first write that the other site acknowledged, ms.
    pub away_ms: u64,
}

/// Lives it.
///
/// # Errors
/// A step does not succeed in time.
pub async fn live(cluster: &mut LocalCluster, machines: &mut Machines, nodes: &[Node]) -> Result<LastDay, Failure> {
    let of = |site: &str| -> Vec<Node> {
        nodes.iter().filter(|it| it.site == site && it.role != Role::Witness).cloned().collect()
    };
    let (main, dr) = (of("main"), of("dr"));
    let main: Vec<&str> = main.iter().map(|it| it.name.as_str()).collect();
    let name = cluster.topology().cluster_name.clone();
    let through = dr.first().map(|it| it.client_address.clone()).unwrap_or_default();
    let keys = name_approvers(cluster, &name).await?;

    for node in &main {
        machines.disk(node).cut_power()?;
    }
    cluster.kill(&main).await?;
    let lost = Instant::now();
    let plan = text(&cluster.folder().join("promote.plan"));
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let stopped = saola_ops::time::iso(now_us);
    let shown = repeated(
        cluster,
        "plan the promotion",
        &[
            "dr",
            "plan",
            "promote",
            "--site",
            "dr",
            "--out",
            &plan,
            "--attest",
            "its power was cut",
            "--unchanged",
            "--stopped-at",
            &stopped,
            "--endpoint",
            &through,
        ],
    )
    .await?;
    let hash = shown.split_whitespace().nth(1).unwrap_or_default();
    for key in &keys[..2] {
        repeated(cluster, "approve it", &["dr", "approve", &plan, "--key", key, "--confirm", hash]).await?;
    }
    repeated(cluster, "carry it out", &["dr", "apply", &plan, "--confirm", &name, "--endpoint", &through]).await?;
    let client = cluster.client_at(&dr[0].name)?;
    wait_until("write at the site that goes on", STEP, || async {
        client.put(COLLECTION, "after", "the site goes on").send().await.map_err(|error| error.to_string())
    })
    .await?;
    let away_ms = lost.elapsed().as_millis() as u64;

    for node in &main {
        machines.disk(node).come_back()?;
        cluster.start(node)?;
    }
    for node in &main {
        cluster.wait_for_answer(node).await?;
    }
    let reinstate = ["dr", "reinstate", "main", "--confirm", &name, "--endpoint", &through];
    repeated(cluster, "let the main site in again", &reinstate).await?;
    repeated(cluster, "protect both sites", &["dr", "re-protect", "--confirm", &name, "--endpoint", &through]).await?;
    cluster.wait_for_status("be well again", well).await?;
    let verdict = shown.lines().find_map(|line| line.trim().strip_prefix("loss: ")).unwrap_or_default();
    Ok(LastDay { verdict: verdict.split(':').next().unwrap_or_default().to_owned(), away_ms })
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

/// Answers the files of their keys.
async fn name_approvers(cluster: &LocalCluster, name: &str) -> Result<Vec<String>, Failure> {
    let keys: Vec<PathBuf> = APPROVERS.iter().map(|who| cluster.folder().join(format!("{who}.key"))).collect();
    let keys: Vec<String> = keys.iter().map(|path| text(path)).collect();
    let mut set = vec!["approver", "set", "--needed", "2", "--confirm", name];
    let named: Vec<String> = APPROVERS.iter().zip(&keys).map(|(who, key)| format!("{who}={key}.pub")).collect();
    for (key, named) in keys.iter().zip(&named) {
        repeated(cluster, "make an approver's key", &["approver", "keygen", "--out", key]).await?;
        set.extend(["--approver", named]);
    }
    repeated(cluster, "name the approvers", &set).await?;
    Ok(keys)
}

/// What the command says once it succeeds: what it asks may be on its way up.
async fn repeated(cluster: &LocalCluster, what: &str, arguments: &[&str]) -> Result<String, Failure> {
    wait_until(what, STEP, || async { saola(cluster.folder(), arguments).await.map_err(|Refused { why, .. }| why) })
        .await
}

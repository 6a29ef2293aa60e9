//! `saola dr reinstate` and `saola dr re-protect`: the side that was left behind comes back.

use std::time::{Duration, Instant};

use saola_client::proto::{FormerMember, ReinstateResponse, StatusResponse};
use saola_client::{Client, Error};
use serde_json::json;

use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, grouped, print_json, print_line, size, table};
use crate::verbs::cluster::{Digests, compare, confirmed};
use crate::verbs::view::cluster_view;

/// The sites have so long to protect each other again, once all nodes are back.
const PROTECTED_LIMIT: Duration = Duration::from_secs(180);
/// A node that is coming back is asked for again until it has made no progress for so long.
const SILENT_LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A node that is back.
struct Back {
    name: String,
    now: ReinstateResponse,
    took: Duration,
}

/// Has the nodes of a site come back that answer, one after the other, and proves that all replicas are equal then.
///
/// # Errors
/// Not confirmed, nobody to bring back, a node that cannot come back, or replicas that differ.
pub async fn reinstate(
    client: &Client,
    patient: &Client,
    site: &str,
    dry_run: bool,
    confirm: Option<String>,
    format: Format,
) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let former = client.former_members(site).await;
    let former = former.map_err(doing(format!("ask who was left behind at site {site}")))?;
    if former.is_empty() {
        if !status.sites.iter().any(|it| it.name == site) {
            let next = "`saola epoch history` shows which sites were promoted, `saola status` the members";
            return Err(Failure::usage(format!("site {site} has no node, and none was left behind there"), next));
        }
        match format {
            Format::Json => print_json("dr-reinstate", json!({ "dry_run": dry_run, "nodes": [], "refused": [] }))?,
            Format::Table => print_line(format!("no node of site {site} is left behind"))?,
        }
        return Ok(Exit::Done);
    }
    let what = format!("reinstate site {site}");
    if dry_run {
        show(&former, format)?;
        eprintln!("nothing was changed: a dry run");
        return Ok(if former.iter().all(|it| it.silent.is_empty()) { Exit::Done } else { Exit::Degraded });
    }
    if format == Format::Table {
        show(&former, format)?;
    }
    confirmed(&status, &what, confirm).await?;
    let came = bring_back(patient, &former).await;
    let digests = compare(&client.digest().await.map_err(doing("compare the replicas"))?);
    report("dr-reinstate", &came, digests, format)?;
    match digests {
        Digests::Different => Err(differ(&what)),
        Digests::Equal if came.refused.is_empty() => Ok(Exit::Done),
        _ => Ok(Exit::Degraded),
    }
}

fn differ(what: &str) -> Failure {
    Failure::new(
        Exit::Verification,
        format!("{what}: the replicas differ"),
        "`saola cluster digest` shows which; keep all folders, and do not let leadership move to a node that differs",
    )
}

/// Brings back whoever was left behind at any site and answers, and waits until the sites protect each other again.
///
/// # Errors
/// As [`reinstate`].
pub async fn re_protect(
    client: &Client,
    patient: &Client,
    confirm: Option<String>,
    format: Format,
) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let what = "have the sites protect each other again";
    confirmed(&status, what, confirm).await?;
    // The sites that were left behind have no member, and so are not among the status's.
    let former = client.former_members("").await.map_err(doing("ask who was left behind"))?;
    let came = bring_back(patient, &former).await;
    let began = Instant::now();
    let protected = loop {
        let status = cluster_view(client).await?;
        if is_protected(&status) || began.elapsed() > PROTECTED_LIMIT {
            break status;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let digests = compare(&client.digest().await.map_err(doing("compare the replicas"))?);
    report("dr-re-protect", &came, digests, format)?;
    if digests == Digests::Different {
        return Err(differ(what));
    }
    if is_protected(&protected) {
        if format == Format::Table {
            print_line("the sites protect each other: SYNCHRONIZED")?;
        }
        let all = came.refused.is_empty() && digests == Digests::Equal;
        return Ok(if all { Exit::Done } else { Exit::Degraded });
    }
    eprintln!("attention: the sites do not protect each other yet: {}", protected.protection);
    eprintln!("next: `saola why`; nodes that are lost for good: `saola cluster add` with fresh ones");
    Ok(Exit::Degraded)
}

fn is_protected(status: &StatusResponse) -> bool {
    status.protection_status.as_ref().is_some_and(|it| it.state == "SYNCHRONIZED")
}

/// What came of those that were left behind.
#[derive(Default)]
struct Came {
    back: Vec<Back>,
    /// Names of those that are not back, each with the reason.
    refused: Vec<(String, String)>,
}

/// One that cannot come back holds up no other.
async fn bring_back(patient: &Client, former: &[FormerMember]) -> Came {
    let mut came = Came::default();
    for node in former {
        if !node.silent.is_empty() {
            came.refused.push((node.name.clone(), format!("no answer ({}): start it", node.silent)));
            continue;
        }
        eprintln!("{}: comes back; this takes as long as its records take to come", node.name);
        let begun = Instant::now();
        loop {
            // The leader may change on the way; what is left the next one does.
            match patient.reinstate(&node.name).await {
                Ok(now) => {
                    came.back.push(Back { name: node.name.clone(), now, took: begun.elapsed() });
                    break;
                }
                Err(error @ (Error::Unavailable { .. } | Error::UnknownOutcome { .. }))
                    if begun.elapsed() < SILENT_LIMIT =>
                {
                    eprintln!("{}: {error}; asking again", node.name);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(error) => {
                    let failure = doing(format!("have {} come back", node.name))(error);
                    came.refused.push((node.name.clone(), format!("{failure}; {}", failure.next())));
                    break;
                }
            }
        }
    }
    came
}

fn stands(node: &FormerMember) -> String {
    match () {
        () if !node.silent.is_empty() => format!("no answer: {}", node.silent),
        () if node.back_as > 0 => format!("coming back as node {}", node.back_as),
        () if !node.twin_plan.is_empty() && node.fenced.is_empty() => {
            format!(
                "goes on in another epoch of this number (plan {}): it is not asked to give way before it is fenced",
                node.twin_plan
            )
        }
        () if node.fenced.is_empty() => "not fenced yet: it has not met the new epoch".into(),
        () => "fenced".into(),
    }
}

fn show(former: &[FormerMember], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        let shown = former.iter().map(|it| {
            json!({
                "node": it.name, "node_id": it.node_id, "site": it.site, "role": it.role, "stands": stands(it),
                "epoch": it.epoch, "entries_beyond_base": it.entries_beyond, "revision": it.revision,
                "base_revision": it.base_revision, "twin_plan": it.twin_plan, "silent": !it.silent.is_empty(),
            })
        });
        return print_json("dr-reinstate", json!({ "dry_run": true, "nodes": shown.collect::<Vec<_>>() }));
    }
    let row = |it: &FormerMember| {
        let known = it.silent.is_empty() && it.back_as == 0;
        vec![
            it.name.clone(),
            it.role.clone(),
            if it.silent.is_empty() { it.epoch.to_string() } else { String::new() },
            if known { grouped(it.entries_beyond) } else { String::new() },
            stands(it),
        ]
    };
    let heading = ["NODE", "ROLE", "EPOCH", "ENTRIES BEYOND THE BASE", "STANDS"];
    print_line(table(&heading, &[2, 3], former.iter().map(row).collect()))?;
    print_line(
        "Each comes back under a new number, gets only what its records lack, and a vote. What it alone has written is kept as \
         an orphan bundle in its folder.",
    )
}

fn report(verb: &str, came: &Came, digests: Digests, format: Format) -> Result<(), Failure> {
    let Came { back, refused } = came;
    refused.iter().for_each(|(name, why)| eprintln!("attention: {name} is not back: {why}"));
    let equal = digests == Digests::Equal;
    if format == Format::Json {
        let shown = back.iter().map(|it| {
            json!({
                "node": it.name, "node_id": it.now.node_id, "bytes": it.now.bytes, "of_bytes": it.now.of_bytes,
                "orphans": it.now.orphans, "ms": it.took.as_millis() as u64,
            })
        });
        let nodes: Vec<_> = shown.collect();
        let refused: Vec<_> = refused.iter().map(|(name, why)| json!({ "node": name, "why": why })).collect();
        let body = json!({ "dry_run": false, "nodes": nodes, "refused": refused, "equal": equal });
        return print_json(verb, body);
    }
    for it in back {
        let came = match it.now.of_bytes {
            0 => String::new(),
            of => format!(", {} came of {}", size(it.now.bytes), size(of)),
        };
        let kept = match it.now.orphans {
            0 => "it had nothing alone".to_owned(),
            1 => "one write that it alone had is kept".to_owned(),
            count => format!("{} writes that it alone had are kept", grouped(count)),
        };
        print_line(format!(
            "{} is back as node {} after {:.1} s{came}; {kept}",
            it.name,
            it.now.node_id,
            it.took.as_secs_f64()
        ))?;
    }
    print_line(match digests {
        Digests::Equal => "all replicas have the same digest",
        Digests::Incomplete => "not every replica answered when they were compared",
        Digests::Different => "the replicas DIFFER",
    })?;
    if back.iter().any(|it| it.now.orphans > 0) {
        eprintln!("next: `saola orphan list`, then `saola orphan diff BUNDLE`: somebody decides about these writes");
    }
    if !refused.is_empty() {
        eprintln!("next: see to those that are not back, and repeat the command: it finishes what is left");
    }
    Ok(())
}

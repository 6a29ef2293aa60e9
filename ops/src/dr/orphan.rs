//! `saola orphan …`: writes of a side that was left behind, for people to decide about.

use std::collections::BTreeMap;

use futures::future::join_all;
use saola_client::Client;
use saola_client::proto::{NodeStatus, Op, OrphanBundle, OrphanFate, OrphanOutcome};
use serde_json::{Value, json};

use crate::cli::OrphanVerb;
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, grouped, print_json, print_line, size, table};
use crate::time;
use crate::verbs::cluster::confirmed;
use crate::verbs::view::cluster_view;

/// A bundle, and where it is.
struct Found {
    node: String,
    client: Client,
    bundle: OrphanBundle,
}

/// Runs a verb of `saola orphan`.
///
/// # Errors
/// No such bundle, one that is damaged, not confirmed, or a failed call.
pub async fn orphan(client: &Client, verb: OrphanVerb, format: Format) -> Result<Exit, Failure> {
    match verb {
        OrphanVerb::List => list(client, format).await,
        OrphanVerb::Diff { bundle } => {
            let found = find(client, &bundle).await?;
            let outcomes = all(&found, true, format).await?;
            end(&found, &outcomes, true, format)
        }
        OrphanVerb::Replay { bundle, confirm } => {
            let found = find(client, &bundle).await?;
            let what = format!("write the orphans of bundle {bundle} again");
            confirmed(&cluster_view(client).await?, &what, confirm).await?;
            let outcomes = all(&found, false, format).await?;
            end(&found, &outcomes, false, format)
        }
        OrphanVerb::Discard { bundle, confirm } => {
            let found = find(client, &bundle).await?;
            let lost = lost_with(&found).await;
            let what = format!("remove orphan bundle {bundle} for good ({lost})");
            confirmed(&cluster_view(client).await?, &what, confirm).await?;
            found.client.discard_orphans(&bundle).await.map_err(doing(&what))?;
            match format {
                Format::Json => print_json("orphan-discard", json!({ "bundle": bundle, "node": found.node }))?,
                Format::Table => print_line(format!("bundle {bundle} of {} is removed", found.node))?,
            }
            Ok(Exit::Done)
        }
    }
}

/// The bundles of all data nodes, and the names of the nodes that did not answer.
async fn bundles(client: &Client) -> Result<(Vec<Found>, Vec<String>), Failure> {
    let status = cluster_view(client).await?;
    let members = status.nodes.iter().filter_map(|node: &NodeStatus| node.member.as_ref());
    let asked = members.map(|member| async move {
        let one = client.at_endpoint(&member.client_address);
        let answer = match &one {
            Ok(one) => one.orphan_bundles().await.ok(),
            Err(_) => None,
        };
        (member.name.clone(), one.ok(), answer)
    });
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (node, client, answer) in join_all(asked).await {
        match (client, answer) {
            (Some(client), Some(bundles)) => found.extend(bundles.into_iter().map(|bundle| Found {
                node: node.clone(),
                client: client.clone(),
                bundle,
            })),
            _ => silent.push(node),
        }
    }
    Ok((found, silent))
}

async fn find(client: &Client, name: &str) -> Result<Found, Failure> {
    let (found, silent) = bundles(client).await?;
    found.into_iter().find(|it| it.bundle.name == name).ok_or_else(|| {
        let silent = if silent.is_empty() { String::new() } else { format!(" (no answer from {})", silent.join(", ")) };
        Failure::usage(format!("no node that answers has an orphan bundle {name}{silent}"), "see `saola orphan list`")
    })
}

async fn list(client: &Client, format: Format) -> Result<Exit, Failure> {
    let (found, silent) = bundles(client).await?;
    if format == Format::Json {
        let shown = found.iter().map(|Found { node, bundle: it, .. }| {
            json!({
                "bundle": it.name, "at": node, "node": it.node, "site": it.site, "epoch": it.epoch,
                "left_by_epoch": it.left_by_epoch, "base_revision": it.base_revision, "writes": it.orphans,
                "uncertain": it.uncertain, "bytes": it.bytes, "problem": it.problem,
            })
        });
        print_json("orphan-list", json!({ "bundles": shown.collect::<Vec<_>>(), "silent": silent }))?;
    } else if found.is_empty() {
        print_line("no orphan bundles: no node that answers has come back with writes that it alone had")?;
    } else {
        let row = |Found { node, bundle: it, .. }: &Found| {
            let writes = if it.problem.is_empty() { grouped(it.orphans) } else { format!("? {}", it.problem) };
            vec![it.name.clone(), node.clone(), it.epoch.to_string(), writes, grouped(it.uncertain), size(it.bytes)]
        };
        let heading = ["BUNDLE", "AT", "EPOCH", "WRITES", "UNCERTAIN", "SIZE"];
        print_line(table(&heading, &[2, 3, 4, 5], found.iter().map(row).collect()))?;
        eprintln!("uncertain: the node did not know that they were committed; another one may have");
        eprintln!("next: `saola orphan diff BUNDLE`");
    }
    if !silent.is_empty() {
        eprintln!("attention: no answer from {}", silent.join(", "));
    }
    Ok(if silent.is_empty() { Exit::Done } else { Exit::Degraded })
}

/// What nobody will have any more without a bundle.
async fn lost_with(found: &Found) -> String {
    if !found.bundle.problem.is_empty() {
        return format!("it cannot be read: {}", found.bundle.problem);
    }
    let writes = grouped(found.bundle.orphans);
    match all(found, true, Format::Json).await {
        Ok(outcomes) => {
            let lost = outcomes.iter().filter(|it| it.fate() != OrphanFate::IsThere).count() as u64;
            format!("{} of its {writes} writes are not in the records", grouped(lost))
        }
        Err(failure) => format!("{writes} writes; whether they are in the records cannot be said: {failure}"),
    }
}

/// What comes of each write, printed as it comes.
async fn all(found: &Found, dry_run: bool, format: Format) -> Result<Vec<OrphanOutcome>, Failure> {
    let (mut outcomes, mut after) = (Vec::new(), 0);
    let what = || match dry_run {
        true => format!("compare bundle {} with the records", found.bundle.name),
        false => format!(
            "write the orphans of bundle {} again; what was written stays, and the command can be repeated",
            found.bundle.name
        ),
    };
    loop {
        let page = found.client.replay_orphans(&found.bundle.name, after, dry_run).await.map_err(doing(what()))?;
        if format == Format::Table {
            for outcome in &page.outcomes {
                print_line(line(outcome))?;
            }
        }
        outcomes.extend(page.outcomes);
        if page.next == 0 {
            return Ok(outcomes);
        }
        after = page.next;
    }
}

fn fate(outcome: &OrphanOutcome) -> &'static str {
    match outcome.fate() {
        OrphanFate::Unspecified => "?",
        OrphanFate::Written => "written",
        OrphanFate::WouldBeWritten => "would be written",
        OrphanFate::IsThere => "is there",
        OrphanFate::After => "after those before it",
        OrphanFate::Conflict => "CONFLICT",
        OrphanFate::Refused => "refused",
        OrphanFate::NoCollection => "no such collection",
    }
}

fn op(outcome: &OrphanOutcome) -> &'static str {
    match outcome.op() {
        Op::Unspecified => "?",
        Op::Put => "put",
        Op::Delete => "delete",
        Op::Undelete => "undelete",
        Op::Rollback => "rollback",
    }
}

/// As in `12 agency/ward/1 g3 put by registry (2026-…): would be written`.
fn line(it: &OrphanOutcome) -> String {
    let actor = it.provenance.as_ref().map(|from| from.actor.as_str()).filter(|actor| !actor.is_empty());
    let by = actor.map_or(String::new(), |actor| format!(" by {actor}"));
    let sure = if it.was_committed { "" } else { " (uncertain)" };
    let detail = if it.detail.is_empty() { String::new() } else { format!(": {}", it.detail) };
    format!(
        "r{} {}/{} g{} {}{by} at {}{sure}: {}{detail}",
        it.revision,
        it.collection,
        String::from_utf8_lossy(&it.id),
        it.generation,
        op(it),
        time::iso(it.recorded_at_us),
        fate(it)
    )
}

fn document(it: &OrphanOutcome) -> Value {
    let from = it.provenance.clone().unwrap_or_default();
    json!({
        "revision": it.revision, "collection": it.collection, "id": String::from_utf8_lossy(&it.id),
        "generation": it.generation, "op": op(it), "recorded_at_us": it.recorded_at_us, "actor": from.actor,
        "source_system": from.source_system, "reason": from.reason, "value_bytes": it.value_bytes,
        "committed": it.was_committed, "fate": fate(it), "detail": it.detail,
    })
}

fn end(found: &Found, outcomes: &[OrphanOutcome], dry_run: bool, format: Format) -> Result<Exit, Failure> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    outcomes.iter().for_each(|outcome| *counts.entry(fate(outcome)).or_default() += 1);
    let open = outcomes.iter().filter(|it| {
        [OrphanFate::Conflict, OrphanFate::After, OrphanFate::Refused, OrphanFate::NoCollection].contains(&it.fate())
    });
    let open = open.count();
    let name = &found.bundle.name;
    match format {
        Format::Json => {
            let verb = if dry_run { "orphan-diff" } else { "orphan-replay" };
            let writes: Vec<_> = outcomes.iter().map(document).collect();
            print_json(verb, json!({ "bundle": name, "counts": counts, "writes": writes }))?;
        }
        Format::Table => {
            let counted: Vec<String> =
                counts.iter().map(|(fate, count)| format!("{} {fate}", grouped(*count))).collect();
            print_line(format!("{name}: {}", counted.join(", ")))?;
        }
    }
    match (dry_run, open) {
        (true, _) => {
            eprintln!("next: `saola orphan replay {name}` writes again what can be; conflicts stay as they are")
        }
        (false, 0) => eprintln!("next: all of it is there; `saola orphan discard {name}` removes the bundle"),
        (false, _) => eprintln!(
            "next: decide about the rest with those who own the records (`saola history`); then `saola orphan discard {name}`"
        ),
    }
    Ok(if open == 0 || dry_run { Exit::Done } else { Exit::Degraded })
}

#[cfg(test)]
mod tests {
    use saola_client::proto::Provenance;

    use super::*;

    #[test]
    fn a_write_is_told_in_one_line_with_who_wrote_it_and_what_comes_of_it() {
        let outcome = OrphanOutcome {
            revision: 12,
            collection: "agency".into(),
            id: "ward/1".into(),
            generation: 3,
            op: Op::Put.into(),
            provenance: Some(Provenance { actor: "registry".into(), ..Provenance::default() }),
            fate: OrphanFate::Conflict.into(),
            detail: "it is at generation 4".into(),
            ..OrphanOutcome::default()
        };
        assert_eq!(
            line(&outcome),
            "r12 agency/ward/1 g3 put by registry at 1970-01-01T00:00:00.000000Z (uncertain): CONFLICT: it is at generation 4"
        );
    }
}

//! `saola validate …`: one verdict on a switchover, a failover or a drill, with codes, causes and next commands.

use saola_client::Client;
use saola_client::proto::StatusResponse;
use serde_json::{Value, json};

use super::cluster::{Digests, compare};
use super::findings::{Finding, Level, Question, findings};
use super::verdict::without_quorum;
use super::view::cluster_view;
use crate::cli::ValidateVerb;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print_json, print_line};

/// Prints the verdict.
///
/// # Errors
/// No node that answers.
pub async fn validate(client: &Client, verb: ValidateVerb, format: Format) -> Result<Exit, Failure> {
    let (name, to, strict) = match &verb {
        ValidateVerb::Switchover { to, strict } => ("switchover", to.as_ref(), *strict),
        ValidateVerb::Failover { strict } => ("failover", None, *strict),
        ValidateVerb::Drill { to, strict } => ("drill", to.as_ref(), *strict),
    };
    let status = cluster_view(client).await?;
    let to = match (to, &verb) {
        (Some(to), _) => to.clone(),
        (None, ValidateVerb::Failover { .. }) => String::new(),
        (None, _) => other_site(&status)?,
    };
    let question = match verb {
        ValidateVerb::Switchover { .. } => Question::Switchover(&to),
        ValidateVerb::Failover { .. } => Question::Failover,
        ValidateVerb::Drill { .. } => Question::Drill(&to),
    };
    let mut found = findings(&status, question, copies(client, &status).await, approvers(client).await);
    let two_sites = status.sites.iter().filter(|site| site.data_nodes > 0).count() > 1;
    if two_sites && !matches!(question, Question::Switchover(_)) {
        // They only warn, and so come last.
        found.extend(drills(client).await);
    }
    print(name, question, &found, strict, format)?;
    Ok(exit(&found, strict))
}

/// What a comparison of the replicas says; none: it cannot be made.
pub(crate) async fn copies(client: &Client, status: &StatusResponse) -> Option<Digests> {
    if status.leader == 0 || without_quorum(status).is_some() {
        return None;
    }
    client.digest().await.ok().map(|reply| compare(&reply))
}

/// What is to be said of drills.
#[cfg(feature = "offline")]
async fn drills(client: &Client) -> Vec<Finding> {
    crate::drill::archive::glance(client).await.map(|glance| glance.findings()).unwrap_or_default()
}

#[cfg(not(feature = "offline"))]
async fn drills(_: &Client) -> Vec<Finding> {
    Vec::new()
}

/// How many may approve a forced promotion; none: no node says.
pub(crate) async fn approvers(client: &Client) -> Option<usize> {
    client.epochs().await.ok().map(|known| known.approvers.len())
}

/// The site with records that does not lead; empty: there is none.
///
/// # Errors
/// There are several.
pub(crate) fn other_site(status: &StatusResponse) -> Result<String, Failure> {
    let leads = |site: &str| {
        let leader = status.nodes.iter().filter_map(|node| node.member.as_ref()).find(|it| it.node_id == status.leader);
        leader.is_some_and(|it| it.site == site)
    };
    let others = status.sites.iter().filter(|site| site.data_nodes > 0 && !leads(&site.name));
    let others: Vec<&str> = others.map(|site| site.name.as_str()).collect();
    match others[..] {
        [] => Ok(String::new()),
        [only] => Ok(only.to_owned()),
        _ => {
            let what = "there is more than one site that leadership could go to";
            Err(Failure::usage(what, format!("name one with --to: {}", others.join(", "))))
        }
    }
}

/// 0, 5 with warnings, 6 when something blocks; `strict`: a warning blocks.
pub(super) fn exit(found: &[Finding], strict: bool) -> Exit {
    match found.iter().map(|finding| finding.level).max() {
        None => Exit::Done,
        Some(Level::Warns) if !strict => Exit::Degraded,
        Some(_) => Exit::Critical,
    }
}

fn word(found: &[Finding], strict: bool) -> &'static str {
    match exit(found, strict) {
        Exit::Done => "READY",
        Exit::Degraded => "READY, WITH WARNINGS",
        _ => "NOT READY",
    }
}

/// Prints what was found.
///
/// # Errors
/// Standard output is closed.
pub(super) fn print(
    name: &str,
    question: Question<'_>,
    found: &[Finding],
    strict: bool,
    format: Format,
) -> Result<(), Failure> {
    match format {
        Format::Table => print_line(screen(question, found, strict)),
        Format::Json => print_json("validate", document(name, question, found, strict)),
    }
}

fn screen(question: Question<'_>, found: &[Finding], strict: bool) -> String {
    let about = match question {
        Question::Switchover(to) => format!("for a switchover to {to}"),
        Question::Failover => "for the loss of any one site".to_owned(),
        Question::Drill(to) => format!("for a drill that goes to {to} and back"),
    };
    let mut lines = vec![format!("{} {about}", word(found, strict))];
    let level = |level| if level == Level::Blocks || strict { "blocks" } else { "warns " };
    for Finding { code, level: how, what, next } in found {
        lines.push(format!("{}  {code}: {what}\n        next: {next}", level(*how)));
    }
    lines.join("\n")
}

fn document(name: &str, question: Question<'_>, found: &[Finding], strict: bool) -> Value {
    let to = match question {
        Question::Switchover(to) | Question::Drill(to) => Some(to),
        Question::Failover => None,
    };
    let finding = |it: &Finding| {
        json!({
            "code": it.code, "blocks": it.level == Level::Blocks || strict, "what": it.what, "next": it.next,
        })
    };
    let found_all: Vec<Value> = found.iter().map(finding).collect();
    json!({ "for": name, "to": to, "verdict": word(found, strict), "findings": found_all })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(level: Level) -> Finding {
        Finding { code: "BEHIND", level, what: "node dr-1 lacks 5,000 entries".into(), next: "wait".into() }
    }

    #[test]
    fn a_warning_blocks_only_when_asked_to_be_strict() {
        assert_eq!(exit(&[], true), Exit::Done);
        let warned = [found(Level::Warns)];
        assert_eq!((exit(&warned, false), exit(&warned, true)), (Exit::Degraded, Exit::Critical));
        assert_eq!(exit(&[found(Level::Blocks), found(Level::Warns)], false), Exit::Critical);
    }

    #[test]
    fn the_verdict_comes_first_and_every_finding_with_its_next_step() {
        let screen = screen(Question::Switchover("dr"), &[found(Level::Warns)], false);
        assert_eq!(
            screen,
            "READY, WITH WARNINGS for a switchover to dr\nwarns   BEHIND: node dr-1 lacks 5,000 entries\n        next: wait"
        );
        let document = document("drill", Question::Drill("dr"), &[found(Level::Blocks)], false);
        assert_eq!(document["verdict"], "NOT READY");
        assert_eq!((&document["to"], &document["findings"][0]["blocks"]), (&"dr".into(), &true.into()));
    }
}

//! `saola switchover --to SITE`: leadership goes to another site on purpose, without losing or doubling a write.

use std::time::{Duration, Instant};

use saola_client::proto::{Member, ProtectionMode, StatusResponse};
use saola_client::{Client, TransferTo};
use serde_json::json;

use super::findings::{Finding, Level, Question, findings, fit_voters};
use super::validate::{copies, exit, print as print_verdict};
use super::view::cluster_view;
use crate::cli::SwitchoverArgs;
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, print_json, print_line};
use crate::time;

/// After the switchover the former leader's site should be waited for within so long.
const PROTECTED_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Checks, waits for its time, checks again, and hands over.
///
/// # Errors
/// Something stands against it, or it was not done; then leadership is where it was.
pub async fn switchover(client: &Client, args: SwitchoverArgs, format: Format) -> Result<Exit, Failure> {
    let (mut status, mut found) = look(client, &args.to).await?;
    if args.dry_run {
        print_verdict("switchover", Question::Switchover(&args.to), &found, false, format)?;
        return Ok(exit(&found, false));
    }
    if let Some(at_us) = args.at {
        let now_us = time::now_us();
        if at_us <= now_us {
            let next = "name a moment to come; without --at it begins at once";
            return Err(Failure::usage(format!("{} is over", time::iso(at_us)), next));
        }
        refuse(&args.to, &found)?;
        eprintln!("ready; waits until {} (Ctrl-C ends it)", time::iso(at_us));
        tokio::time::sleep(Duration::from_micros(at_us - now_us)).await;
        (status, found) = look(client, &args.to).await?;
    }
    if found.iter().any(|finding| finding.code == "LEADS_ALREADY") {
        return done(&status, &args.to, None, format);
    }
    refuse(&args.to, &found)?;
    let begun = Instant::now();
    hand_over(client, &status, &args.to).await?;
    let moved = begun.elapsed();
    match until_protected(client, &args.to, begun).await {
        Ok((status, protected)) => done(&status, &args.to, Some((moved, protected)), format),
        Err(said) => {
            let what = format!("leadership went to site {}, and that is not protected: {said}", args.to);
            Err(Failure::new(Exit::Degraded, what, "`saola why` tells what it waits for"))
        }
    }
}

/// To the voter there that has most. Another one is not tried by itself: what keeps writes from being settled keeps it
/// from all, and the answer would take as long again.
async fn hand_over(client: &Client, status: &StatusResponse, to: &str) -> Result<(), Failure> {
    let fit = fit_voters(status, to);
    let Some(voter) = fit.first().and_then(|node| node.member.as_ref()) else {
        let next = format!("`saola validate switchover --to {to}` tells why");
        return Err(Failure::new(Exit::Precondition, format!("no voter of site {to} can lead"), next));
    };
    let what = format!("switch over to {} at site {to}", voter.name);
    client.transfer(TransferTo::Node(voter.node_id)).await.map(drop).map_err(doing(what))
}

async fn look(client: &Client, to: &str) -> Result<(StatusResponse, Vec<Finding>), Failure> {
    let status = cluster_view(client).await?;
    let found = findings(&status, Question::Switchover(to), copies(client, &status).await, None);
    Ok((status, found))
}

fn refuse(to: &str, found: &[Finding]) -> Result<(), Failure> {
    let Some(first) = found.iter().find(|finding| finding.level == Level::Blocks) else { return Ok(()) };
    let what = format!("switch over to site {to}: {} ({}); nothing was changed", first.what, first.code);
    let next = format!("{}; `saola validate switchover --to {to}` shows all that stands against it", first.next);
    Err(Failure::new(Exit::Precondition, what, next))
}

/// Waits until the site leads and acknowledgements wait for another one; an error: what stood in the way to the end.
async fn until_protected(
    client: &Client,
    to: &str,
    begun: Instant,
) -> Result<(StatusResponse, Option<Duration>), String> {
    loop {
        // Just after a change of the leader a node may not answer, or tell of the one before.
        let said = match cluster_view(client).await {
            Ok(status) if leader(&status).site != to => format!("{} leads", leader(&status).name),
            Ok(status) => {
                let by_choice = status.rule.is_some_and(|rule| rule.mode() == ProtectionMode::MaximumPerformance);
                let in_force = status.protection_status.as_ref().is_some_and(|stand| stand.in_force);
                if in_force || by_choice {
                    return Ok((status, in_force.then(|| begun.elapsed())));
                }
                status.protection
            }
            Err(failure) => failure.to_string(),
        };
        if begun.elapsed() > PROTECTED_LIMIT {
            return Err(said);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn leader(status: &StatusResponse) -> Member {
    let known = status.nodes.iter().filter_map(|node| node.member.as_ref());
    known.clone().find(|it| it.node_id == status.leader).cloned().unwrap_or_default()
}

/// `moved`: how long it took, and how long until the site was protected; none: nothing was done.
fn done(
    status: &StatusResponse,
    to: &str,
    moved: Option<(Duration, Option<Duration>)>,
    format: Format,
) -> Result<Exit, Failure> {
    let leader = leader(status);
    let ms = |span: Duration| span.as_millis() as u64;
    match format {
        Format::Json => print_json(
            "switchover",
            json!({
                "to": to, "leader": leader.name, "site": leader.site, "changed": moved.is_some(),
                "moved_ms": moved.map(|(moved, _)| ms(moved)),
                "protected_after_ms": moved.and_then(|(_, protected)| protected).map(ms),
                "protection": status.protection,
            }),
        )?,
        Format::Table => {
            let moved = match moved {
                Some((moved, _)) => format!("{} at {} leads, after {} ms", leader.name, leader.site, ms(moved)),
                None => format!("{} at {} leads already: nothing was changed", leader.name, leader.site),
            };
            print_line(moved)?;
            print_line(&status.protection)?;
        }
    }
    Ok(Exit::Done)
}

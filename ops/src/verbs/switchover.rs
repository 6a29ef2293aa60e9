//! `saola switchover --to SITE`: leadership goes to another site on purpose, without losing or doubling a write.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use saola_client::proto::{ProtectionMode, StatusResponse};
use saola_client::{Client, TransferTo};
use serde_json::json;

use super::findings::{Finding, Level, Question, findings};
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
    let mut found = look(client, &args.to).await?;
    if args.dry_run {
        print_verdict("switchover", Question::Switchover(&args.to), &found, false, format)?;
        return Ok(exit(&found, false));
    }
    if let Some(at_us) = args.at {
        refuse(&args.to, &found)?;
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        eprintln!("ready; waits until {} (Ctrl-C ends it)", time::iso(at_us));
        tokio::time::sleep(Duration::from_micros(at_us.saturating_sub(now_us))).await;
        found = look(client, &args.to).await?;
    }
    if found.iter().any(|finding| finding.code == "LEADS_ALREADY") {
        return done(&cluster_view(client).await?, &args.to, None, None, format);
    }
    refuse(&args.to, &found)?;
    let begun = Instant::now();
    let what = format!("switch over to site {}", args.to);
    client.transfer(TransferTo::Site(args.to.clone())).await.map_err(doing(what))?;
    let moved = begun.elapsed();
    let (status, protected) = until_protected(client, begun).await?;
    done(&status, &args.to, Some(moved), protected, format)
}

async fn look(client: &Client, to: &str) -> Result<Vec<Finding>, Failure> {
    let status = cluster_view(client).await?;
    Ok(findings(&status, Question::Switchover(to), copies(client, &status).await))
}

fn refuse(to: &str, found: &[Finding]) -> Result<(), Failure> {
    let Some(first) = found.iter().find(|finding| finding.level == Level::Blocks) else { return Ok(()) };
    let what = format!("switch over to site {to}: {} ({}); nothing was changed", first.what, first.code);
    let next = format!("{}; `saola validate switchover --to {to}` shows all that stands against it", first.next);
    Err(Failure::new(Exit::Precondition, what, next))
}

/// Waits until acknowledgements wait for the former leader's site; none: they did not within the limit.
async fn until_protected(client: &Client, begun: Instant) -> Result<(StatusResponse, Option<Duration>), Failure> {
    loop {
        let status = cluster_view(client).await?;
        let by_choice = status.rule.is_some_and(|rule| rule.mode() == ProtectionMode::MaximumPerformance);
        let in_force = status.protection_status.as_ref().is_some_and(|stand| stand.in_force);
        let elapsed = begun.elapsed();
        if in_force || by_choice || elapsed > PROTECTED_LIMIT {
            return Ok((status, in_force.then_some(elapsed)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn done(
    status: &StatusResponse,
    to: &str,
    moved: Option<Duration>,
    protected: Option<Duration>,
    format: Format,
) -> Result<Exit, Failure> {
    let leader = status.nodes.iter().filter_map(|node| node.member.as_ref()).find(|it| it.node_id == status.leader);
    let leader = leader.cloned().unwrap_or_default();
    let is_there = leader.site == to;
    let ms = |span: Option<Duration>| span.map(|span| span.as_millis() as u64);
    match format {
        Format::Json => print_json(
            "switchover",
            json!({
                "to": to, "leader": leader.name, "site": leader.site, "done": is_there,
                "moved_ms": ms(moved), "protected_after_ms": ms(protected), "protection": status.protection,
            }),
        )?,
        Format::Table => {
            let moved = match ms(moved) {
                Some(ms) => format!("{} at {} leads, after {ms} ms", leader.name, leader.site),
                None => format!("{} at {} leads already: nothing was changed", leader.name, leader.site),
            };
            print_line(moved)?;
            print_line(&status.protection)?;
        }
    }
    if is_there {
        return Ok(Exit::Done);
    }
    let what = format!("leadership went to site {to} and on to {}", leader.site);
    Err(Failure::new(Exit::Degraded, what, "`saola why` and the nodes' logs tell why"))
}

//! A drill begins only on a cluster that fares well: a real failure comes first.

use saola_client::Client;
use saola_client::proto::StatusResponse;

use super::report::PROTECTED;
use super::scenario::{Scenario, Step};
use super::stage::Stage;
use crate::exit::{Exit, Failure};
use crate::verbs::findings::{Finding, Level, Question, amiss, findings};
use crate::verbs::validate::copies;

/// All that stands against holding it now.
pub async fn against(client: &Client, status: &StatusResponse, scenario: &Scenario, stage: &Stage) -> Vec<Finding> {
    let mut found = amiss(status);
    if found.is_empty() {
        let copies = copies(client, status).await;
        for step in &scenario.steps {
            let asked = match step {
                Step::Switchover { to } => stage.site(to).ok().map(Question::Switchover),
                Step::Isolate { .. } => Some(Question::Failover),
                _ => None,
            };
            // Where leadership goes back to, it is not yet away from.
            let blocks = |it: &Finding| it.level == Level::Blocks && it.code != "LEADS_ALREADY";
            let more = asked.map(|asked| findings(status, asked, copies, None)).unwrap_or_default();
            found.extend(more.into_iter().filter(blocks));
        }
        if scenario.forks() && status.protection_status.as_ref().is_none_or(|it| it.state != PROTECTED) {
            let what =
                "the sites do not protect each other, and this drill is to show that they do all along".to_owned();
            let next = "`saola why` tells what comes next".to_owned();
            found.push(Finding { code: "NOT_SYNCHRONIZED", level: Level::Blocks, what, next });
        }
        found.dedup();
    }
    found
}

/// The stage, and what its words mean there, if it can be held there now.
///
/// # Errors
/// What stands against it.
pub async fn check(client: &Client, status: &StatusResponse, scenario: Scenario) -> Result<(Stage, Scenario), Failure> {
    let name = scenario.name.clone();
    let what = |why: &str| format!("drill {name}: {why}; nothing was done");
    let refused = |why: String| Failure::new(Exit::Precondition, what(&why), "`saola drill list` names others");
    let stage = Stage::of(status).map_err(refused)?;
    stage.bears(&scenario).map_err(refused)?;
    let scenario = scenario.on(&stage).map_err(refused)?;
    match against(client, status, &scenario, &stage).await.first() {
        None => Ok((stage, scenario)),
        Some(first) => {
            let next = format!("{}; a drill begins only when nothing is amiss (`saola validate drill`)", first.next);
            Err(Failure::new(Exit::Precondition, what(&format!("{} ({})", first.what, first.code)), next))
        }
    }
}

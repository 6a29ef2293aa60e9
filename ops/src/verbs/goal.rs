//! `saola goal …`: what the cluster is declared to survive.

use saola_client::Client;
use saola_client::proto::{GoalStatus, StatusResponse, SurvivalGoal};
use serde_json::{Value, json};

use super::view::cluster_view;
use crate::cli::{GoalArg, GoalVerb};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, print_json, print_line};

/// Runs a verb.
///
/// # Errors
/// A failed call; a goal that the membership does not bear.
pub async fn goal(client: &Client, verb: GoalVerb, format: Format) -> Result<Exit, Failure> {
    if let GoalVerb::Set { goal } = verb {
        let survive = match goal {
            GoalArg::Node => SurvivalGoal::Node,
            GoalArg::Site => SurvivalGoal::Site,
            GoalArg::Nothing => SurvivalGoal::Unspecified,
        };
        client.set_goal(survive).await.map_err(doing("declare what the cluster survives"))?;
    }
    let known = known(&cluster_view(client).await?)?;
    match format {
        Format::Table => print_line(in_words(&known))?,
        Format::Json => print_json("goal", document(&known))?,
    }
    Ok(if known.broken.is_empty() { Exit::Done } else { Exit::Degraded })
}

fn known(status: &StatusResponse) -> Result<GoalStatus, Failure> {
    let what = "the node that answers does not know what the cluster is declared to survive";
    status.goal.clone().ok_or_else(|| Failure::new(Exit::Precondition, what, "name a data node with --endpoint"))
}

fn as_written(known: &GoalStatus) -> Option<&'static str> {
    match known.survive() {
        SurvivalGoal::Unspecified => None,
        SurvivalGoal::Node => Some("survive=node"),
        SurvivalGoal::Site => Some("survive=site"),
    }
}

fn in_words(known: &GoalStatus) -> String {
    match (as_written(known), known.broken.is_empty()) {
        (None, _) => "nothing is declared: changes of the membership are not held to a goal".to_owned(),
        (Some(goal), true) => format!("{goal} is declared, and the membership bears it"),
        (Some(_), false) => broken(known).unwrap_or_default(),
    }
}

/// What is wrong, if the membership does not bear what is declared.
pub fn broken(known: &GoalStatus) -> Option<String> {
    let goal = as_written(known).filter(|_| !known.broken.is_empty())?;
    Some(format!("{goal} is declared, and the membership does not bear it: {}", known.broken))
}

/// As JSON.
pub fn document(known: &GoalStatus) -> Value {
    json!({ "goal": as_written(known), "broken": (!known.broken.is_empty()).then_some(&known.broken) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_said_with_what_breaks_it() {
        let known = |survive: SurvivalGoal, broken: &str| GoalStatus { survive: survive.into(), broken: broken.into() };
        assert!(in_words(&known(SurvivalGoal::Unspecified, "")).starts_with("nothing is declared"));
        assert_eq!(in_words(&known(SurvivalGoal::Site, "")), "survive=site is declared, and the membership bears it");
        let bad = known(SurvivalGoal::Node, "without node main-1 1 of 2 voters would be left and 2 are needed");
        assert!(
            in_words(&bad)
                .ends_with("does not bear it: without node main-1 1 of 2 voters would be left and 2 are needed")
        );
        assert_eq!(broken(&known(SurvivalGoal::Site, "")), None);
    }
}

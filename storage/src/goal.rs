//! What a cluster is declared to survive: changes of the membership that would break it are refused.

use crate::command::SurvivalGoal;

/// What may be lost while everything goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Any one node.
    Node,
    /// Any one site.
    Site,
}

impl Goal {
    /// As operators write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Goal::Node => "survive=node",
            Goal::Site => "survive=site",
        }
    }
}

/// The goal that a command names.
///
/// # Errors
/// It is one of a newer release, which has this number.
pub fn of_command(survive: i32) -> Result<Option<Goal>, i32> {
    match SurvivalGoal::try_from(survive).map_err(|_| survive)? {
        SurvivalGoal::Nothing => Ok(None),
        SurvivalGoal::Node => Ok(Some(Goal::Node)),
        SurvivalGoal::Site => Ok(Some(Goal::Site)),
    }
}

/// What the command says for a goal; none: nothing is declared.
pub fn to_command(goal: Option<Goal>) -> SurvivalGoal {
    match goal {
        None => SurvivalGoal::Nothing,
        Some(Goal::Node) => SurvivalGoal::Node,
        Some(Goal::Site) => SurvivalGoal::Site,
    }
}

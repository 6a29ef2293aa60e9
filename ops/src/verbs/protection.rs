//! `saola protection …`: what an acknowledgement waits for.

use saola_client::Client;
use saola_client::proto::{Protection, ProtectionMode as Mode, StatusResponse};
use serde_json::json;

use super::cluster::confirmed;
use super::view::cluster_view;
use crate::cli::{ProtectionMode, ProtectionVerb};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, print_json, print_line};

/// Runs a verb on the protection.
///
/// # Errors
/// A refused confirmation, or a failed call.
pub async fn protection(client: &Client, verb: ProtectionVerb, format: Format) -> Result<Exit, Failure> {
    if let ProtectionVerb::Set { mode, acks, confirm } = verb {
        let status = cluster_view(client).await?;
        let mode = match mode {
            ProtectionMode::MaximumPerformance => Mode::MaximumPerformance,
            ProtectionMode::MaximumProtection => Mode::MaximumProtection,
        };
        let wanted = Protection { mode: mode.into(), acks };
        let what = format!("set the protection to {}", mode_name(wanted));
        if is_lower(wanted, status.rule) {
            confirmed(&status, &what, confirm).await?;
        }
        client.set_protection(wanted).await.map_err(|error| match error.reason() {
            "GATE_WAIT" => Failure::new(
                Exit::Unknown,
                format!("{what}: it waits, as all writes do, until {acks} data nodes of other sites have stored it"),
                "bring them back, `saola status` names them; or `saola protection set maximum-performance`",
            ),
            _ => doing(what)(error),
        })?;
    }
    show(&cluster_view(client).await?, format)
}

/// Whether fewer nodes vouch for an acknowledged write than before, as far as the node that answers knows.
fn is_lower(wanted: Protection, present: Option<Protection>) -> bool {
    let acks = |rule: Protection| if rule.mode() == Mode::MaximumProtection { rule.acks } else { 0 };
    present.is_none_or(|present| acks(wanted) < acks(present))
}

/// A rule as people say it.
fn in_words(rule: Protection) -> String {
    match rule.mode() {
        Mode::MaximumProtection => format!(
            "maximum protection: a quorum and {} data node{} of other sites have flushed each acknowledged write; without \
             them writes wait",
            rule.acks,
            if rule.acks == 1 { "" } else { "s" }
        ),
        _ => "maximum performance: a quorum has flushed each acknowledged write".to_owned(),
    }
}

fn show(status: &StatusResponse, format: Format) -> Result<Exit, Failure> {
    let Some(rule) = status.rule else {
        let next = "name a data node with --endpoint";
        return Err(Failure::new(Exit::Precondition, "a witness answers, which does not know the protection", next));
    };
    match format {
        Format::Table => {
            print_line(in_words(rule))?;
            print_line(format!("if the main site burned now: {}", status.protection))?;
        }
        Format::Json => {
            let body = json!({ "mode": mode_name(rule), "acks": rule.acks, "protection": status.protection });
            print_json("protection", body)?;
        }
    }
    Ok(Exit::Done)
}

/// The mode as the command line spells it.
fn mode_name(rule: Protection) -> &'static str {
    match rule.mode() {
        Mode::MaximumProtection => "maximum-protection",
        _ => "maximum-performance",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fewer_acknowledgements_are_a_lower_protection() {
        let rule = |mode: Mode, acks| Protection { mode: mode.into(), acks };
        let (off, on) = (Mode::MaximumPerformance, Mode::MaximumProtection);
        assert!(is_lower(rule(off, 1), Some(rule(on, 1))) && is_lower(rule(on, 1), Some(rule(on, 2))));
        assert!(!is_lower(rule(on, 1), Some(rule(off, 9))) && !is_lower(rule(off, 1), Some(rule(off, 2))));
        assert!(is_lower(rule(off, 1), None), "who does not know must be told that it may be");
    }
}

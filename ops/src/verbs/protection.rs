//! `saola protection …`: what an acknowledgement waits for.

use saola_client::Client;
use saola_client::proto::{Protection, ProtectionMode as Mode, StatusResponse};
use serde_json::{Value, json};

use super::cluster::confirmed;
use super::view::cluster_view;
use crate::cli::{ProtectionMode, ProtectionVerb};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, grouped, hex, print_json, print_line};
use crate::time;

/// Runs a verb on the protection.
///
/// # Errors
/// A refused confirmation, or a failed call.
pub async fn protection(client: &Client, verb: ProtectionVerb, format: Format) -> Result<Exit, Failure> {
    if let ProtectionVerb::Set { mode, acks, degrade_ms, return_ms, parity_ms, shrink_ms, confirm } = verb {
        let status = cluster_view(client).await?;
        let present = status.rule;
        let stays = |set: Option<u64>, of: fn(&Protection) -> u64| set.unwrap_or(present.as_ref().map_or(0, of));
        let wanted = Protection {
            mode: match mode {
                ProtectionMode::MaximumPerformance => Mode::MaximumPerformance,
                ProtectionMode::MaximumAvailability => Mode::MaximumAvailability,
                ProtectionMode::MaximumProtection => Mode::MaximumProtection,
            }
            .into(),
            acks: acks.unwrap_or(present.map_or(1, |rule| rule.acks)),
            degrade_ms: stays(degrade_ms, |rule| rule.degrade_ms),
            return_ms: stays(return_ms, |rule| rule.return_ms),
            parity_ms: stays(parity_ms, |rule| rule.parity_ms),
            shrink_ms: stays(shrink_ms, |rule| rule.shrink_ms),
        };
        let what = format!("set the protection to {}", mode_name(wanted));
        if is_lower(wanted, present) {
            confirmed(&status, &what, confirm).await?;
        }
        client.set_protection(wanted).await.map_err(|error| match error.reason() {
            "GATE_WAIT" => Failure::new(
                Exit::Unknown,
                format!(
                    "{what}: it waits, as all writes do, until {} data nodes of other sites have stored it",
                    wanted.acks
                ),
                "bring them back, `saola status` names them; or `saola protection set maximum-performance`",
            ),
            _ => doing(what)(error),
        })?;
    }
    show(&cluster_view(client).await?, format)
}

/// Whether fewer nodes vouch for an acknowledged write than before, or may, as far as the node that answers knows.
fn is_lower(wanted: Protection, present: Option<Protection>) -> bool {
    let acks = |rule: &Protection| if rule.mode() == Mode::MaximumPerformance { 0 } else { rule.acks };
    let rank = |rule: &Protection| (acks(rule), rule.mode() as i32);
    present.is_none_or(|present| {
        let (wanted, present) = (rank(&wanted), rank(&present));
        wanted.0 < present.0 || wanted.1 < present.1
    })
}

/// A rule as people say it.
fn in_words(rule: Protection) -> String {
    let nodes = format!("{} data node{} of other sites", rule.acks, if rule.acks == 1 { "" } else { "s" });
    match rule.mode() {
        Mode::MaximumProtection => {
            format!(
                "maximum protection: a quorum and {nodes} have flushed each acknowledged write; without them writes wait"
            )
        }
        Mode::MaximumAvailability => format!(
            "maximum availability: a quorum and {nodes} have flushed each acknowledged write; when they have not \
             acknowledged for {} ms a quorum is enough, until they have answered for {} ms and had everything for {} ms; where \
             a witness can stand in, a site that is silent for {} ms loses its votes until then",
            rule.degrade_ms, rule.return_ms, rule.parity_ms, rule.shrink_ms
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
            print_line(&status.protection)?;
            print_line(figures(status))?;
        }
        Format::Json => print_json("protection", document(status))?,
    }
    Ok(Exit::Done)
}

/// One line of figures: what a loss would cost, for how long nothing was protected, what waits.
pub(super) fn figures(status: &StatusResponse) -> String {
    let rpo = match &status.rpo {
        None => "rpo now unknown".to_owned(),
        Some(loss) if loss.entries == 0 => "rpo now 0".to_owned(),
        Some(loss) => format!("rpo now {} revisions, {} ms", grouped(loss.revisions), grouped(loss.ms)),
    };
    let Some(stand) = &status.protection_status else { return rpo };
    let gate = match (stand.gate_closed, stand.waits_for_witness) {
        (true, _) => "closed",
        (false, true) => "on the witness",
        (false, false) => "open",
    };
    let open = time::span(stand.open_in_quarter_ms / 1000);
    let mut figures =
        format!("{rpo}  gate {gate}  open this quarter {open}  losses in the last hour {}", stand.losses_last_hour);
    if !stand.state.is_empty() {
        figures.push_str(&format!(
            "  acknowledged {} ms ago  waiting {} revisions",
            grouped(stand.acknowledged_ago_ms),
            grouped(stand.waiting_revisions)
        ));
    }
    figures
}

/// The same as JSON.
pub(super) fn document(status: &StatusResponse) -> Value {
    let rule = status.rule.unwrap_or_default();
    let stand = status.protection_status.clone().unwrap_or_default();
    let leads = !stand.state.is_empty();
    json!({
        "mode": mode_name(rule), "acks": rule.acks,
        "degrade_ms": rule.degrade_ms, "return_ms": rule.return_ms, "parity_ms": rule.parity_ms,
        "shrink_ms": rule.shrink_ms,
        "protection": status.protection,
        "gate_closed": stand.gate_closed, "waits_for_witness": stand.waits_for_witness,
        "witness_has_all": leads.then_some(stand.witness_has_all),
        "state": leads.then_some(&stand.state),
        "state_for_ms": leads.then_some(stand.state_for_ms), "since_us": stand.since_us, "state_id": hex(&stand.state_id),
        "rpo_revisions": status.rpo.map(|loss| loss.revisions), "rpo_ms": status.rpo.map(|loss| loss.ms),
        "open_in_quarter_ms": stand.open_in_quarter_ms, "losses_last_hour": stand.losses_last_hour,
        "acknowledged_ago_ms": leads.then_some(stand.acknowledged_ago_ms),
        "frontier_lag_revisions": leads.then_some(stand.waiting_revisions),
        "missing_elsewhere_revisions": stand.missing_elsewhere.map(|missing| missing.revisions),
        "has_quorum": leads.then_some(stand.has_quorum), "in_force": stand.in_force,
        "witness_released": stand.witness_released,
    })
}

/// The mode as the command line spells it.
fn mode_name(rule: Protection) -> &'static str {
    match rule.mode() {
        Mode::MaximumProtection => "maximum-protection",
        Mode::MaximumAvailability => "maximum-availability",
        _ => "maximum-performance",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_acknowledgements_or_a_weaker_mode_are_a_lower_protection() {
        let rule = |mode: Mode, acks| Protection { mode: mode.into(), acks, ..Protection::default() };
        let (off, auto, on) = (Mode::MaximumPerformance, Mode::MaximumAvailability, Mode::MaximumProtection);
        let lowers = |wanted, present| is_lower(wanted, Some(present));
        assert!(lowers(rule(off, 1), rule(on, 1)) && lowers(rule(on, 1), rule(on, 2)));
        assert!(
            lowers(rule(off, 1), rule(auto, 1))
                && lowers(rule(auto, 1), rule(on, 1))
                && lowers(rule(auto, 3), rule(on, 1))
        );
        assert!(!lowers(rule(on, 1), rule(off, 9)) && !lowers(rule(off, 1), rule(off, 2)));
        assert!(!lowers(rule(on, 1), rule(auto, 1)) && !lowers(rule(auto, 1), rule(auto, 1)));
        assert!(is_lower(rule(off, 1), None), "who does not know must be told that it may be");
    }
}

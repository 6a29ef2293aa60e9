//! `saola auto-failover …`: what the cluster does by itself when the site that leads is lost, and where leadership belongs.

use saola_client::Client;
use saola_client::proto::{Failover, FailoverPolicy as Policy, FailoverStatus, StatusResponse};
use serde_json::{Value, json};

use super::view::cluster_view;
use crate::cli::{FailoverVerb, PolicyArg};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, print_json, print_line};

/// Runs a verb.
///
/// # Errors
/// A failed call.
pub async fn failover(client: &Client, verb: FailoverVerb, format: Format) -> Result<Exit, Failure> {
    if let FailoverVerb::Set { policy, limit, home, returns } = verb {
        let present = known(&cluster_view(client).await?)?.rule.unwrap_or_default();
        let wanted = Failover {
            policy: match policy {
                PolicyArg::On => Policy::Automatic,
                PolicyArg::ObserveOnly => Policy::ObserveOnly,
            }
            .into(),
            limit: limit.unwrap_or(present.limit),
            home: home.unwrap_or(present.home),
            returns: returns.unwrap_or(present.returns),
        };
        client.set_failover(wanted).await.map_err(doing("set what is done when a site is lost"))?;
    }
    let status = cluster_view(client).await?;
    let known = known(&status)?;
    match format {
        Format::Table => print_line(in_words(&known))?,
        Format::Json => print_json("auto-failover", document(&known))?,
    }
    Ok(Exit::Done)
}

fn known(status: &StatusResponse) -> Result<FailoverStatus, Failure> {
    let next = "name a data node with --endpoint";
    let what = "the node that answers does not know what is done when a site is lost";
    status.failover.clone().ok_or_else(|| Failure::new(Exit::Precondition, what, next))
}

/// As people say it.
pub fn in_words(known: &FailoverStatus) -> String {
    let rule = known.rule.clone().unwrap_or_default();
    let limit = match rule.limit {
        0 => String::new(),
        limit => format!(", {limit} times within six hours ({} so far)", known.done_us.len()),
    };
    let takes_over = match known.held.as_str() {
        "" => format!("another site takes over by itself when the one that leads is lost{limit}"),
        held => format!("no other site takes over by itself: {held}"),
    };
    let home = match (rule.home.as_str(), rule.returns) {
        ("", _) => "leadership belongs nowhere".to_owned(),
        (home, true) => format!("leadership belongs to {home} and goes back there by itself"),
        (home, false) => format!(
            "leadership belongs to {home}; after a loss of that site it goes back with `saola cluster transfer --site {home}`"
        ),
    };
    format!("{takes_over}\n{home}{}", if known.away { " (it is away since a loss)" } else { "" })
}

/// The same as JSON.
pub fn document(known: &FailoverStatus) -> Value {
    let rule = known.rule.clone().unwrap_or_default();
    json!({
        "policy": if rule.policy() == Policy::ObserveOnly { "observe-only" } else { "on" },
        "limit": rule.limit, "home": rule.home, "returns": rule.returns,
        "done_us": known.done_us, "away": known.away,
        "held": (!known.held.is_empty()).then_some(&known.held),
        "held_back": (!known.held_back.is_empty()).then_some(&known.held_back),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_and_what_keeps_it_are_said() {
        let rule = Failover { policy: Policy::Automatic.into(), limit: 2, home: "main".into(), returns: false };
        let mut known = FailoverStatus { rule: Some(rule), done_us: vec![5], away: true, ..FailoverStatus::default() };
        let words = in_words(&known);
        assert!(
            words.contains("takes over by itself when the one that leads is lost, 2 times within six hours (1 so far)")
        );
        assert!(
            words.contains("saola cluster transfer --site main") && words.ends_with("(it is away since a loss)"),
            "{words}"
        );
        known.held = "automatic failover is set to observe-only".into();
        assert!(in_words(&known).starts_with("no other site takes over by itself: automatic failover is set to"));
    }
}

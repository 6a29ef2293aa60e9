//! `saola auto-failover …`: what the cluster does by itself when the site that leads is lost, and where leadership belongs.

use saola_client::Client;
use saola_client::proto::{Failover, FailoverPolicy as Policy, FailoverStatus, Role, StatusResponse};
use serde_json::{Value, json};

use super::cluster::confirmed;
use super::view::cluster_view;
use crate::cli::{FailoverVerb, PolicyArg};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, print_json, print_line};

/// Runs a verb.
///
/// # Errors
/// A failed call.
pub async fn failover(client: &Client, verb: FailoverVerb, format: Format) -> Result<Exit, Failure> {
    match verb {
        FailoverVerb::Show => {}
        FailoverVerb::Override { site, confirm } => return override_for(client, &site, confirm).await,
        FailoverVerb::Set { policy, limit, home, returns } => {
            let present = known(&cluster_view(client).await?)?.rule.unwrap_or_default();
            let policy = match policy {
                PolicyArg::On => Policy::Automatic,
                PolicyArg::ObserveOnly => Policy::ObserveOnly,
            };
            let wanted = Failover {
                policy: policy.into(),
                limit: limit.unwrap_or(present.limit),
                home: home.unwrap_or(present.home),
                returns: returns.unwrap_or(present.returns),
            };
            client.set_failover(wanted).await.map_err(doing("set what is done when a site is lost"))?;
        }
    }
    let known = known(&cluster_view(client).await?)?;
    match format {
        Format::Table => print_line(in_words(&known))?,
        Format::Json => print_json("auto-failover", document(&known))?,
    }
    Ok(Exit::Done)
}

/// Tells each voter of a site that it may campaign; the first that leads ends it.
async fn override_for(client: &Client, site: &str, confirm: Option<String>) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    if status.leader != 0 {
        let next = "`saola switchover --to SITE` moves leadership";
        return Err(Failure::new(Exit::Precondition, "there is a leader: nothing is held back", next));
    }
    confirmed(&status, &format!("have site {site} take over"), confirm).await?;
    let voters = status.nodes.iter().filter_map(|node| node.member.as_ref());
    let mut told = 0;
    for voter in voters.filter(|it| it.site == site && it.role() == Role::Voter) {
        match client.at_endpoint(&voter.client_address)?.campaign().await {
            Ok(held_back) if held_back.is_empty() => print_line(format!("{} holds nothing back", voter.name))?,
            Ok(_) => {
                told += 1;
                print_line(format!("{} campaigns now", voter.name))?;
            }
            Err(error) => eprintln!("{}: {error}", voter.name),
        }
    }
    match told {
        0 => {
            let next = "`saola status` names those that do";
            Err(Failure::new(Exit::Other, format!("no voter of site {site} holds back"), next))
        }
        _ => Ok(Exit::Done),
    }
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
        limit => format!(", {limit} times within six hours ({} so far)", known.recent),
    };
    let takes_over = match known.held.as_str() {
        "" => format!("another site takes over by itself when the one that leads is lost{limit}"),
        held => format!("no other site takes over by itself: {held}"),
    };
    let home = match (rule.home.as_str(), rule.returns) {
        ("", _) => "leadership belongs nowhere".to_owned(),
        (home, true) => format!("leadership belongs to {home} and goes back there by itself"),
        (home, false) => format!(
            "leadership belongs to {home}; after a loss of that site it goes back with `saola switchover --to {home}`"
        ),
    };
    format!(
        "{takes_over}\n{home}{}",
        if known.away { "; it is away from there since a loss or a transfer" } else { "" }
    )
}

/// The same as JSON.
pub fn document(known: &FailoverStatus) -> Value {
    let rule = known.rule.clone().unwrap_or_default();
    json!({
        "policy": if rule.policy() == Policy::ObserveOnly { "observe-only" } else { "on" },
        "limit": rule.limit, "home": rule.home, "returns": rule.returns,
        "done_us": known.done_us, "recent": known.recent, "away": known.away, "led_from": known.led_from,
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
        let mut known = FailoverStatus { rule: Some(rule), recent: 1, away: true, ..FailoverStatus::default() };
        let words = in_words(&known);
        assert!(
            words.contains("takes over by itself when the one that leads is lost, 2 times within six hours (1 so far)")
        );
        assert!(
            words.contains("saola switchover --to main")
                && words.ends_with("; it is away from there since a loss or a transfer"),
            "{words}"
        );
        known.held = "automatic failover is set to observe-only".into();
        assert!(in_words(&known).starts_with("no other site takes over by itself: automatic failover is set to"));
    }
}

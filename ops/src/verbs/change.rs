//! A change of the cluster that the nodes carry out by themselves: what it waits for, and how it goes on without the
//! command.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use saola_client::proto::{NodeStatus, StatusResponse};
use saola_client::{Client, Error};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::exit::{Exit, Failure, doing};
use crate::output::grouped;

/// What a change waits for is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(3);
const GOES_ON: &str = "the change goes on without this command: `saola status` shows the members, and repeating the \
                       command is safe, it finishes what is left";

/// Said when the command is interrupted while the change is under way.
struct Unheard(bool);

impl Drop for Unheard {
    fn drop(&mut self) {
        if self.0 {
            eprintln!("{GOES_ON}");
        }
    }
}

/// Waits for the end of a change, and tells on standard error what it waits for meanwhile; `joining` is the node that it
/// adds.
///
/// # Errors
/// As the call's; where the outcome is unknown, the next step says how to learn it.
pub async fn end_of<T>(
    client: &Client,
    what: &str,
    joining: Option<u64>,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    let mut call = pin!(call);
    let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unheard = Unheard(true);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut call => break result,
            status = async {
                look.tick().await;
                client.with_deadline(LOOK_EVERY).cluster_status(false).await
            } => match status {
                Ok(status) => eprintln!("{what}: {}", waits_for(&status, joining)),
                Err(error) => eprintln!("{what}: waiting; no node tells how it stands: {error}"),
            }
        }
    };
    unheard.0 = false;
    result.map_err(doing(what)).map_err(|failure| match failure.exit() {
        Exit::Unknown => Failure::new(failure.exit(), failure.what(), GOES_ON),
        _ => failure,
    })
}

fn waits_for(status: &StatusResponse, joining: Option<u64>) -> String {
    let number = |node: &NodeStatus| node.member.as_ref().map_or(0, |member| member.node_id);
    let Some(joining) = joining else { return "waiting for the nodes to agree".to_owned() };
    let last = status.nodes.iter().map(|node| node.last_log_index).max().unwrap_or(0);
    match status.nodes.iter().find(|node| number(node) == joining) {
        None => format!("waiting for node {joining} to become a member"),
        Some(node) if !node.reachable => format!("waiting for node {joining}, which does not answer: {}", node.error),
        Some(node) if node.last_log_index < last => format!(
            "waiting for node {joining} to catch up: log index {} of {}",
            grouped(node.last_log_index),
            grouped(last)
        ),
        Some(_) => format!("waiting for node {joining} to get its part"),
    }
}

#[cfg(test)]
mod tests {
    use saola_client::proto::Member;

    use super::*;

    fn node(node_id: u64, last_log_index: u64) -> NodeStatus {
        let member = Some(Member { node_id, ..Member::default() });
        NodeStatus { member, reachable: true, last_log_index, ..NodeStatus::default() }
    }

    #[test]
    fn a_change_says_which_node_it_waits_for_and_how_far_that_is() {
        let mut status = StatusResponse { nodes: vec![node(1, 12_000)], ..StatusResponse::default() };
        assert_eq!(waits_for(&status, None), "waiting for the nodes to agree");
        assert_eq!(waits_for(&status, Some(4)), "waiting for node 4 to become a member");
        status.nodes.push(node(4, 3_000));
        assert_eq!(waits_for(&status, Some(4)), "waiting for node 4 to catch up: log index 3,000 of 12,000");
        status.nodes[1].last_log_index = 12_000;
        assert_eq!(waits_for(&status, Some(4)), "waiting for node 4 to get its part");
        status.nodes[1] = NodeStatus { reachable: false, error: "connection refused".into(), ..node(4, 0) };
        assert!(waits_for(&status, Some(4)).ends_with("does not answer: connection refused"));
    }
}

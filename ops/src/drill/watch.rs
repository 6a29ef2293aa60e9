//! How the cluster fares while a drill runs, as each node says of itself, and what of it is a real alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use futures::future::join_all;
use saola_client::Client;
use saola_client::proto::StatusResponse;
use tokio::sync::watch as cell;
use tokio::time::MissedTickBehavior;

use super::canary::Told;
use super::lock;
use super::play::Drill;
use super::report::What;
use super::scenario::Stage;
use crate::exit::Failure;
use crate::verbs::findings::node::faults;

/// A node has so long to say how it is.
const ANSWER_LIMIT: Duration = Duration::from_millis(800);
/// How often every node is asked how it is.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the lock is looked at: `saola drill abort` is heard within this time.
const LOCK_EVERY: Duration = Duration::from_secs(1);
/// A cluster that cannot be asked within this time has not taken it away.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// Something is an alarm once it has been seen for so long: a moment's silence is none.
pub const ALARM_AFTER: Duration = Duration::from_secs(3);

/// The node that leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// In which term.
    pub term: u64,
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Who leads; none: nobody says so of itself.
    pub leader: Option<Leader>,
    /// How the sites stand to each other, as the leader says.
    pub protection: String,
    /// What is wrong, by node: code and sentence.
    pub faults: BTreeMap<String, (&'static str, String)>,
    /// What drills do, by node.
    pub troubles: BTreeMap<String, String>,
}

/// Decides how the cluster fares from what each node said of itself; none: it said nothing.
pub fn view(stage: &Stage, answers: &[Option<StatusResponse>]) -> View {
    let mut view = View::default();
    for (place, answer) in stage.nodes.iter().zip(answers) {
        let own = answer.as_ref().and_then(|answer| {
            answer.nodes.iter().find(|node| node.member.as_ref().is_some_and(|it| it.name == place.name))
        });
        let (Some(answer), Some(own)) = (answer, own) else {
            view.faults.insert(place.name.clone(), ("NODE_SILENT", format!("node {} does not answer", place.name)));
            continue;
        };
        if !own.trouble.is_empty() {
            view.troubles.insert(place.name.clone(), own.trouble.clone());
        }
        // What ends in two weeks was known before, and votes come and go with a drill.
        let found = faults(own).into_iter().find(|it| !matches!(it.code, "CERTIFICATE_ENDS" | "NO_VOTE" | "LOG_KEPT"));
        if let Some(fault) = found {
            view.faults.insert(place.name.clone(), (fault.code, fault.what));
        }
        let later = view.leader.as_ref().is_none_or(|leader| leader.term < answer.term);
        if own.state == "leader" && later {
            view.leader = Some(Leader { name: place.name.clone(), site: place.site.clone(), term: answer.term });
            view.protection = own.protection.as_ref().map_or_else(String::new, |stand| stand.state.clone());
        }
    }
    view
}

/// A connection to each node.
pub struct Eyes {
    stage: Stage,
    nodes: Vec<Client>,
}

impl Eyes {
    /// Of all nodes of the stage.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(stage: &Stage, client: &Client) -> Result<Eyes, Failure> {
        let pinned = stage.nodes.iter().map(|it| Ok(client.at_endpoint(&it.address)?.with_deadline(ANSWER_LIMIT)));
        Ok(Eyes { stage: stage.clone(), nodes: pinned.collect::<Result<_, Failure>>()? })
    }

    /// Asks each node how it is, and no node about another.
    pub async fn look(&self) -> View {
        // One that cannot be asked is silent, and that is what is to be seen.
        let answers = join_all(self.nodes.iter().map(|node| async { node.cluster_status(true).await.ok() })).await;
        view(&self.stage, &answers)
    }
}

/// Since when something has been wrong that the drill does not do.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    since: BTreeMap<String, Duration>,
}

impl Alarms {
    /// With the next look: a sentence once something that is no part of the drill has lasted. `scope`: the nodes that the
    /// drill troubles.
    pub fn next(&mut self, view: &View, scope: &BTreeSet<String>, at: Duration) -> Option<String> {
        let wrong: BTreeMap<&String, &(&str, String)> =
            view.faults.iter().filter(|(name, _)| !scope.contains(*name)).collect();
        self.since.retain(|name, _| wrong.contains_key(name));
        for name in wrong.keys() {
            self.since.entry((*name).clone()).or_insert(at);
        }
        let lasting = wrong.iter().find(|(name, _)| at.saturating_sub(self.since[**name]) >= ALARM_AFTER);
        lasting.map(|(_, (code, what))| format!("{code}: {what}"))
    }
}

/// What has happened between two looks.
fn changes(before: &View, now: &View) -> Vec<What> {
    let mut all = Vec::new();
    if before.leader != now.leader {
        all.push(match &now.leader {
            Some(Leader { name, site, term }) => What::Leader { node: name.clone(), site: site.clone(), term: *term },
            None => What::NoLeader,
        });
    }
    if before.protection != now.protection && !now.protection.is_empty() {
        all.push(What::Protection { state: now.protection.clone() });
    }
    all
}

/// Looks at every node and at the lock all the time, and says once why the drill must be broken off, if it must.
pub async fn watch_over(
    drill: &Drill<'_>,
    eyes: &Eyes,
    view: &cell::Sender<View>,
    told: cell::Receiver<Told>,
    breaks: &cell::Sender<Option<String>>,
) -> Infallible {
    tokio::select! {
        never = watch_nodes(drill, eyes, view, told, breaks) => never,
        never = watch_lock(drill, breaks) => never,
    }
}

/// The first reason is the one that counts.
fn break_off(breaks: &cell::Sender<Option<String>>, why: String) {
    breaks.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(why);
        is_first
    });
}

async fn watch_lock(drill: &Drill<'_>, breaks: &cell::Sender<Option<String>>) -> Infallible {
    let client = drill.client.with_deadline(LOCK_LIMIT);
    loop {
        tokio::time::sleep(LOCK_EVERY).await;
        if !lock::is_held(&client, &drill.id).await {
            break_off(breaks, "its lock was taken away (`saola drill abort`)".to_owned());
        }
    }
}

async fn watch_nodes(
    drill: &Drill<'_>,
    eyes: &Eyes,
    view: &cell::Sender<View>,
    told: cell::Receiver<Told>,
    breaks: &cell::Sender<Option<String>>,
) -> Infallible {
    let mut again = tokio::time::interval(LOOK_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alarms = Alarms::default();
    loop {
        again.tick().await;
        let now = eyes.look().await;
        let at = drill.began.elapsed();
        let seen = changes(&view.borrow(), &now);
        seen.into_iter().for_each(|what| drill.note(what));
        let alarm = alarms.next(&now, &drill.scope(), at);
        view.send_replace(now);
        let last_ack = told.borrow().acks.iter().map(|ack| ack.at).max().unwrap_or_default();
        if let Some(alarm) = alarm {
            break_off(breaks, format!("a real alarm: {alarm}"));
        }
        if at.saturating_sub(last_ack) > drill.outage {
            let allowed = drill.outage.as_millis();
            break_off(
                breaks,
                format!("no write was acknowledged for {allowed} ms, the outage that the drill was allowed"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{Member, NodeStatus, ProtectionStatus, Role};

    use super::*;

    fn said(name: &str, node_id: u64, state: &str, term: u64) -> StatusResponse {
        let member = Member {
            node_id,
            name: name.into(),
            site: name.split('-').next().unwrap_or_default().into(),
            role: Role::Voter.into(),
            ..Member::default()
        };
        let own = NodeStatus {
            member: Some(member),
            reachable: true,
            state: state.into(),
            certificate_expires_in_s: 1_000_000_000,
            protection: Some(ProtectionStatus { state: format!("STATE {name}"), ..ProtectionStatus::default() }),
            ..NodeStatus::default()
        };
        StatusResponse { term, leader: 1, nodes: vec![own], ..StatusResponse::default() }
    }

    fn stage() -> Stage {
        let nodes = ["main-1", "dr-1"].into_iter().zip(1..).flat_map(|(name, id)| said(name, id, "leader", 1).nodes);
        Stage::of(&StatusResponse { leader: 1, nodes: nodes.collect(), ..StatusResponse::default() }).expect("it leads")
    }

    #[test]
    fn of_two_that_say_they_lead_the_later_one_does() {
        let seen = view(&stage(), &[Some(said("main-1", 1, "leader", 4)), Some(said("dr-1", 2, "leader", 5))]);
        assert_eq!(seen.leader, Some(Leader { name: "dr-1".into(), site: "dr".into(), term: 5 }));
        assert_eq!((seen.protection.as_str(), seen.faults.len()), ("STATE dr-1", 0));
    }

    #[test]
    fn a_fault_is_an_alarm_only_where_the_drill_does_not_make_it_and_once_it_lasts() {
        let seen = view(&stage(), &[Some(said("main-1", 1, "leader", 4)), None]);
        let (nobody, dr) = (BTreeSet::new(), BTreeSet::from(["dr-1".to_owned()]));
        let second = Duration::from_secs(1);
        let mut alarms = Alarms::default();
        assert_eq!(alarms.next(&seen, &nobody, second), None);
        assert_eq!(alarms.next(&View::default(), &nobody, 2 * second), None);
        assert_eq!(alarms.next(&seen, &nobody, 3 * second), None, "it was well in between");
        assert_eq!(alarms.next(&seen, &dr, 7 * second), None);
        assert_eq!(alarms.next(&seen, &nobody, 8 * second), None);
        assert_eq!(alarms.next(&seen, &nobody, 11 * second).as_deref(), Some("NODE_SILENT: node dr-1 does not answer"));
    }
}

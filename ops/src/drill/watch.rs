//! How the cluster fares while a drill runs, as each node says of itself, and what of it is a real alarm.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use saola_client::Client;
use saola_client::proto::StatusResponse;
use tokio::sync::watch as cell;
use tokio::time::MissedTickBehavior;

use super::canary::Told;
use super::lock;
use super::play::{Drill, ms};
use super::report::{What, Why};
use super::stage::Place;
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
/// Code of a node that does not answer.
const SILENT: &str = "NODE_SILENT";
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

/// Why the drill is to be broken off; the first reason is the one that counts. Clones are one.
#[derive(Clone, Default)]
pub struct Breaks(Arc<cell::Sender<Option<Why>>>);

impl Breaks {
    /// Breaks it off.
    pub fn off(&self, why: Why) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(why);
            is_first
        });
    }

    /// Resolves when it is to be broken off.
    pub async fn why(&self) -> Why {
        let mut seen = self.0.subscribe();
        loop {
            if let Some(why) = seen.borrow_and_update().clone() {
                return why;
            }
            // The sender lives as long as this does.
            let _changed = seen.changed().await;
        }
    }
}

/// What is wrong with a node: code and sentence.
pub type Fault = (&'static str, String);

/// The cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Who leads; none: nobody says so of itself.
    pub leader: Option<Leader>,
    /// How the sites stand to each other, as the leader says.
    pub protection: String,
    /// What is wrong, by node.
    pub faults: BTreeMap<String, Vec<Fault>>,
    /// What drills do, by node.
    pub troubles: BTreeMap<String, String>,
}

impl View {
    /// All that is wrong, in sentences.
    pub fn wrong(&self) -> Vec<String> {
        self.faults.values().flatten().map(|(_, what)| what.clone()).collect()
    }

    /// What stands against saying that no drill does anything to any node.
    pub fn not_clear(&self) -> Vec<String> {
        let troubled = self.troubles.iter().map(|(name, what)| format!("node {name}: {what}"));
        troubled.chain(self.silent().into_iter().map(|name| format!("node {name} could not be asked"))).collect()
    }

    /// Nodes that did not answer.
    pub fn silent(&self) -> Vec<&str> {
        let silent = |faults: &Vec<Fault>| faults.iter().any(|(code, _)| *code == SILENT);
        self.faults.iter().filter(|(_, faults)| silent(faults)).map(|(name, _)| name.as_str()).collect()
    }
}

/// Decides how the cluster fares from what each node said of itself; none: it said nothing.
pub fn view(nodes: &[Place], answers: &[Option<StatusResponse>]) -> View {
    let mut view = View::default();
    for (place, answer) in nodes.iter().zip(answers) {
        let own = answer.as_ref().and_then(|answer| {
            answer.nodes.iter().find(|node| node.member.as_ref().is_some_and(|it| it.name == place.name))
        });
        let (Some(answer), Some(own)) = (answer, own) else {
            let what = format!("node {} does not answer", place.name);
            view.faults.insert(place.name.clone(), vec![(SILENT, what)]);
            continue;
        };
        if !own.trouble.is_empty() {
            view.troubles.insert(place.name.clone(), own.trouble.clone());
        }
        // What ends in two weeks was known before, and votes come and go with a drill.
        let known = ["CERTIFICATE_ENDS", "NO_VOTE", "LOG_KEPT"];
        let found: Vec<Fault> =
            faults(own).into_iter().filter(|it| !known.contains(&it.code)).map(|it| (it.code, it.what)).collect();
        if !found.is_empty() {
            view.faults.insert(place.name.clone(), found);
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
    nodes: Vec<Place>,
    clients: Vec<Client>,
}

impl Eyes {
    /// On these.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(nodes: &[Place], client: &Client) -> Result<Eyes, Failure> {
        let pinned = nodes.iter().map(|it| Ok(client.at_endpoint(&it.address)?.with_deadline(ANSWER_LIMIT)));
        Ok(Eyes { nodes: nodes.to_vec(), clients: pinned.collect::<Result<_, Failure>>()? })
    }

    /// Asks each node how it is, and no node about another.
    pub async fn look(&self) -> View {
        // One that cannot be asked is silent, and that is what is to be seen.
        let answers = join_all(self.clients.iter().map(|node| async { node.cluster_status(true).await.ok() })).await;
        view(&self.nodes, &answers)
    }
}

/// What a node may say or not say while a drill crashes it or hangs its disk; anything else is an alarm there too.
const OF_DRILLS: [&str; 3] = [SILENT, "NODE_OUT", "DISK_HANGS"];

/// A node that a drill makes look sick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// It should be well by then; none: not before it is healed.
    pub well_by: Option<Duration>,
    /// It was seen to be sick.
    pub was_sick: bool,
}

/// The nodes that a drill makes look sick.
pub type Scope = BTreeMap<String, Touched>;

/// Since when something has been wrong that the drill does not do.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    since: BTreeMap<String, Duration>,
}

impl Alarms {
    /// With the next look: a sentence once something that is no part of the drill has lasted. A node that is well again
    /// leaves the scope: from then on all that happens to it is real.
    pub fn next(&mut self, view: &View, scope: &mut Scope, at: Duration) -> Option<Why> {
        scope.retain(|name, touched| {
            let is_sick = view.faults.contains_key(name);
            touched.was_sick |= is_sick;
            let Some(well_by) = touched.well_by else { return true };
            is_sick || (!touched.was_sick && at < well_by)
        });
        let real = |name: &str, code: &str| !(scope.contains_key(name) && OF_DRILLS.contains(&code));
        let wrong: BTreeMap<&String, &Fault> = view
            .faults
            .iter()
            .filter_map(|(name, faults)| Some((name, faults.iter().find(|(code, _)| real(name, code))?)))
            .collect();
        self.since.retain(|name, _| wrong.contains_key(name));
        for name in wrong.keys() {
            self.since.entry((*name).clone()).or_insert(at);
        }
        let lasting = wrong.iter().find(|(name, _)| at.saturating_sub(self.since[**name]) >= ALARM_AFTER);
        lasting.map(|(_, (code, what))| Why::Alarm { code: (*code).to_owned(), said: what.clone() })
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
    breaks: &Breaks,
) -> Infallible {
    tokio::select! {
        never = watch_nodes(drill, eyes, view, told, breaks) => never,
        never = watch_lock(drill, breaks) => never,
    }
}

async fn watch_lock(drill: &Drill<'_>, breaks: &Breaks) -> Infallible {
    let client = drill.client.with_deadline(LOCK_LIMIT);
    loop {
        tokio::time::sleep(LOCK_EVERY).await;
        if !lock::is_held(&client, &drill.id).await {
            breaks.off(Why::LockTaken);
        }
    }
}

async fn watch_nodes(
    drill: &Drill<'_>,
    eyes: &Eyes,
    view: &cell::Sender<View>,
    told: cell::Receiver<Told>,
    breaks: &Breaks,
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
        let alarm = drill.with_scope(|scope| alarms.next(&now, scope, at));
        view.send_replace(now);
        if let Some(alarm) = alarm {
            breaks.off(alarm);
        }
        if at.saturating_sub(told.borrow().last_ack) > drill.outage {
            breaks.off(Why::Outage { allowed_ms: ms(drill.outage) });
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

    fn nodes() -> Vec<Place> {
        let one = |name: &str, site: &str| Place {
            name: name.into(),
            site: site.into(),
            role: Role::Voter,
            address: String::new(),
        };
        vec![one("main-1", "main"), one("dr-1", "dr")]
    }

    #[test]
    fn of_two_that_say_they_lead_the_later_one_does() {
        let seen = view(&nodes(), &[Some(said("main-1", 1, "leader", 4)), Some(said("dr-1", 2, "leader", 5))]);
        assert_eq!(seen.leader, Some(Leader { name: "dr-1".into(), site: "dr".into(), term: 5 }));
        assert_eq!((seen.protection.as_str(), seen.faults.len()), ("STATE dr-1", 0));
    }

    #[test]
    fn a_fault_is_an_alarm_only_where_the_drill_does_not_make_it_and_once_it_lasts() {
        let seen = view(&nodes(), &[Some(said("main-1", 1, "leader", 4)), None]);
        let second = Duration::from_secs(1);
        let (mut alarms, mut nobody) = (Alarms::default(), Scope::new());
        assert_eq!(alarms.next(&seen, &mut nobody, second), None);
        assert_eq!(alarms.next(&View::default(), &mut nobody, 2 * second), None);
        assert_eq!(alarms.next(&seen, &mut nobody, 3 * second), None, "it was well in between");
        let mut dr = Scope::from([("dr-1".to_owned(), Touched::default())]);
        assert_eq!(alarms.next(&seen, &mut dr, 7 * second), None, "the drill has crashed it");
        let silent = Why::Alarm { code: SILENT.into(), said: "node dr-1 does not answer".into() };
        assert_eq!(alarms.next(&seen, &mut nobody, 8 * second), None);
        assert_eq!(alarms.next(&seen, &mut nobody, 11 * second), Some(silent.clone()));

        dr.insert("dr-1".into(), Touched { well_by: Some(30 * second), was_sick: false });
        assert_eq!(alarms.next(&View::default(), &mut dr, 12 * second), None, "it was not seen to be sick yet");
        assert_eq!(alarms.next(&seen, &mut dr, 15 * second), None, "it has not come back yet");
        assert_eq!(alarms.next(&View::default(), &mut dr, 16 * second), None);
        assert_eq!(alarms.next(&seen, &mut dr, 17 * second), None, "it was well: this is another failure");
        assert_eq!(alarms.next(&seen, &mut dr, 20 * second), Some(silent));
        let mut damaged = View::default();
        damaged.faults.insert("dr-1".into(), vec![("COPY_DAMAGED", "records of node dr-1".into())]);
        let (mut alarms, mut dr) = (Alarms::default(), Scope::from([("dr-1".to_owned(), Touched::default())]));
        assert_eq!(alarms.next(&damaged, &mut dr, second), None);
        assert!(alarms.next(&damaged, &mut dr, 4 * second).is_some(), "no drill does that");
    }
}

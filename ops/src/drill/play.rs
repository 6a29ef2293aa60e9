//! The steps of a drill, and its end: the cluster stands as before.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use saola_client::proto::Role;
use saola_client::proto::trouble_request::Kind;
use saola_client::{Client, TransferTo};
use tokio::sync::watch as cell;

use super::canary::Told;
use super::fork::Rehearsal;
use super::keeper::{Keeper, cut_off};
use super::report::{Event, Standing, StepRun, What};
use super::scenario::{Language, Scenario, Step, Until};
use super::stage::Stage;
use super::watch::{Leader, Scope, Touched, View};

/// The cluster has so long to stand as before.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
/// A node that was crashed or healed is well again within so long, or not at all.
const COMES_BACK: Duration = Duration::from_secs(10);
/// Whoever leads now is seen to within so long.
const SEEN_LIMIT: Duration = Duration::from_secs(10);
/// Leadership that did not go back is handed over again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Tells whoever holds the drill how it goes: when, and what.
pub type Say = dyn Fn(Duration, &str) + Send + Sync;

/// A drill that is being held.
pub struct Drill<'d> {
    /// Its id.
    pub id: String,
    /// Asks any node.
    pub client: &'d Client,
    /// On which cluster.
    pub stage: &'d Stage,
    /// When it began.
    pub began: Instant,
    /// It is broken off when no write is acknowledged for so long.
    pub outage: Duration,
    /// Told how it goes.
    pub say: &'d Say,
    scope: Mutex<Scope>,
    events: Mutex<Vec<Event>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whole milliseconds.
pub fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl<'d> Drill<'d> {
    /// Begins now.
    pub fn new(id: String, client: &'d Client, stage: &'d Stage, outage: Duration, say: &'d Say) -> Drill<'d> {
        let (scope, events) = (Mutex::default(), Mutex::default());
        Drill { id, client, stage, began: Instant::now(), outage, say, scope, events }
    }

    /// Nodes that may look sick because the drill makes them so.
    pub fn with_scope<T>(&self, work: impl FnOnce(&mut Scope) -> T) -> T {
        work(&mut locked(&self.scope))
    }

    /// This node looks sick from now on, until it is healed or for so long.
    fn touch(&self, name: &str, lasts: Option<Duration>) {
        let well_by = lasts.map(|lasts| self.began.elapsed() + lasts + COMES_BACK);
        self.with_scope(|scope| scope.insert(name.to_owned(), Touched { well_by, was_sick: false }));
    }

    /// Nodes that were touched should be well soon.
    fn healed(&self) {
        let by = self.began.elapsed() + COMES_BACK;
        self.with_scope(|scope| scope.values_mut().for_each(|it| it.well_by = Some(it.well_by.unwrap_or(by))));
    }

    /// Remembers what was seen, and says it.
    pub fn note(&self, what: What) {
        let at = self.began.elapsed();
        if let Some(sentence) = sentence(&what) {
            (self.say)(at, &sentence);
        }
        locked(&self.events).push(Event { at_ms: ms(at), what });
    }

    /// Says something that is not remembered.
    pub fn tell(&self, what: &str) {
        (self.say)(self.began.elapsed(), what);
    }

    /// All that was seen.
    pub fn events(&self) -> Vec<Event> {
        locked(&self.events).clone()
    }
}

/// For the screen; steps are told with what they do.
fn sentence(what: &What) -> Option<String> {
    match what {
        What::Step { .. } => None,
        What::Leader { node, site, term } => Some(format!("  {node} at {site} leads, in term {term}")),
        What::NoLeader => Some("  nobody leads".to_owned()),
        What::Protection { state } => Some(format!("  protection {state}")),
        What::BrokenOff { why } => Some(format!("BROKEN OFF: {}", why.describe(Language::En))),
    }
}

/// What the steps work with.
pub struct Play<'p> {
    drill: &'p Drill<'p>,
    keeper: &'p Keeper,
    rehearsal: Option<&'p Rehearsal>,
    view: cell::Receiver<View>,
    told: cell::Receiver<Told>,
    /// Who led when something was last done to the cluster, and when that was.
    before_trouble: (Option<Leader>, Duration),
}

impl<'p> Play<'p> {
    /// Nothing is done yet.
    pub fn new(
        drill: &'p Drill<'p>,
        keeper: &'p Keeper,
        rehearsal: Option<&'p Rehearsal>,
        view: cell::Receiver<View>,
        told: cell::Receiver<Told>,
    ) -> Play<'p> {
        Play { drill, keeper, rehearsal, view, told, before_trouble: (None, Duration::ZERO) }
    }

    /// Does the steps until one fails; `done` holds what was begun also when this is broken off.
    pub async fn steps(&mut self, scenario: &Scenario, done: &Mutex<Vec<StepRun>>) {
        let of = scenario.steps.len();
        for (step, doing) in scenario.steps.iter().enumerate() {
            let at = self.drill.began.elapsed();
            self.drill.note(What::Step { step });
            self.drill.tell(&format!("step {} of {of}: {}", step + 1, doing.describe(Language::En)));
            let failed = Some("broken off".to_owned());
            locked(done).push(StepRun { step, began_ms: ms(at), ended_ms: ms(at), failed });
            if doing.acts() && !matches!(doing, Step::Heal {}) {
                self.before_trouble = (self.view.borrow().leader.clone(), at);
            }
            let failed = self.step(doing).await.err();
            if let Some(why) = &failed {
                self.drill.tell(&format!("step {} FAILED: {why}", step + 1));
            }
            let ends = failed.is_some();
            if let Some(run) = locked(done).last_mut() {
                (run.ended_ms, run.failed) = (ms(self.drill.began.elapsed()), failed);
            }
            if ends {
                return;
            }
        }
    }

    async fn step(&self, step: &Step) -> Result<(), String> {
        let stage = self.drill.stage;
        match step {
            Step::Validate {} => Err("only a checklist validates".into()),
            Step::Observe { for_ms } => {
                tokio::time::sleep(Duration::from_millis(*for_ms)).await;
                Ok(())
            }
            Step::Crash { node, down_ms } => {
                let name = self.node(node)?;
                self.drill.touch(&name, Some(Duration::from_millis((*down_ms).into())));
                self.keeper.crash(&name, *down_ms).await
            }
            Step::HangDisk { node } => {
                let name = self.node(node)?;
                self.drill.touch(&name, None);
                self.trouble(&[&name], &Kind::HangDisk(true)).await
            }
            Step::CutLink { site, from } => {
                let (site, from) = (stage.site(site)?, stage.site(from)?);
                self.trouble(&data_nodes(stage, Some(site)), &cut_off(stage.nodes_of(from))).await
            }
            Step::LoseWitness {} => {
                let witnesses: Vec<_> = stage.nodes.iter().filter(|it| it.role == Role::Witness).collect();
                self.trouble(&data_nodes(stage, None), &cut_off(witnesses)).await
            }
            Step::Isolate { site } => {
                let site = stage.site(site)?;
                let others = stage.nodes.iter().filter(|it| it.site != site);
                self.trouble(&data_nodes(stage, Some(site)), &cut_off(others)).await
            }
            Step::Heal {} => {
                self.drill.healed();
                self.keeper.heal().await
            }
            Step::Switchover { to } => {
                let to = stage.site(to)?;
                let moved = self.drill.client.transfer(TransferTo::Site(to.to_owned())).await;
                moved.map_err(|error| error.to_string())?;
                let mut view = self.view.clone();
                let leads = |view: &View| view.leader.as_ref().is_some_and(|leader| leader.site == to);
                match tokio::time::timeout(SEEN_LIMIT, view.wait_for(leads)).await {
                    Ok(Ok(_)) => Ok(()),
                    _ => Err(format!("handed over to {to}, and {}", stands(&self.view.borrow()))),
                }
            }
            Step::Fork {} => self.rehearsal()?.copy(self.drill).await,
            Step::PromoteFork { approved_within_ms } => {
                self.rehearsal()?.promote(self.drill, Duration::from_millis(*approved_within_ms)).await
            }
            Step::CompareFork {} => self.rehearsal()?.compare(self.drill).await,
            Step::DiscardFork {} => self.rehearsal()?.discard().await,
            Step::Await { until, within_ms } => {
                let limit = Duration::from_millis(*within_ms);
                let came = tokio::time::timeout(limit, self.until(*until)).await;
                came.map_err(|_| format!("it did not come within {within_ms} ms: {}", stands(&self.view.borrow())))
            }
        }
    }

    fn rehearsal(&self) -> Result<&Rehearsal, String> {
        self.rehearsal.ok_or_else(|| "no copy was asked for".to_owned())
    }

    async fn trouble(&self, names: &[&str], kind: &Kind) -> Result<(), String> {
        let kinds: Vec<(&str, Kind)> = names.iter().map(|name| (*name, kind.clone())).collect();
        self.keeper.trouble(&kinds).await
    }

    fn node(&self, word: &str) -> Result<String, String> {
        match (word, &self.view.borrow().leader) {
            ("leader", Some(leader)) => Ok(leader.name.clone()),
            ("leader", None) => Err("nobody leads".into()),
            (name, _) => Ok(name.to_owned()),
        }
    }

    async fn until(&self, until: Until) {
        let (mut view, mut told) = (self.view.clone(), self.told.clone());
        fresh(&mut view).await;
        loop {
            let acked_at = Some(told.borrow_and_update().last_ack);
            if has_come(until, &view.borrow_and_update(), acked_at, &self.before_trouble, self.drill.stage) {
                return;
            }
            tokio::select! {
                // An error means that nobody looks any more; then nothing comes, and the step's limit ends it.
                Ok(()) = view.changed() => {}
                Ok(()) = told.changed() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Ends what was done to nodes, waits until the cluster stands as before, and moves leadership back if it is elsewhere.
    ///
    /// # Errors
    /// How it stands instead.
    pub async fn settle(&mut self, before: &Standing) -> Result<(), String> {
        // Where it is not heard, it ends by itself.
        let _healed = self.keeper.heal().await;
        self.drill.healed();
        fresh(&mut self.view).await;
        let limit = Instant::now() + SETTLE_LIMIT;
        let mut handed_over: Option<Instant> = None;
        loop {
            let now = self.view.borrow_and_update().clone();
            let well = now.protection == before.protection && now.faults.is_empty();
            match now.leader.as_ref() {
                Some(leader) if well && leader.site == before.site => return Ok(()),
                Some(_) if well && handed_over.is_none_or(|at| at.elapsed() > AGAIN_AFTER) => {
                    handed_over = Some(Instant::now());
                    self.drill.tell(&format!("leadership goes back to {}", before.site));
                    let back = self.drill.client.transfer(TransferTo::Site(before.site.clone())).await;
                    if let Err(error) = back {
                        self.drill.tell(&format!("not yet: {error}"));
                    }
                }
                _ => {}
            }
            // An error means that nobody looks any more.
            let looked = tokio::time::timeout_at(limit.into(), self.view.changed()).await;
            if !matches!(looked, Ok(Ok(()))) {
                return Err(format!("the cluster does not stand as before: {}", stands(&now)));
            }
        }
    }
}

/// Waits until the cluster is seen as it is now: the look that is under way may be from before.
async fn fresh(view: &mut cell::Receiver<View>) {
    // Errors mean that nobody looks any more, and whoever reads the view then finds out.
    let _stale = (view.changed().await, view.changed().await);
}

fn data_nodes<'s>(stage: &'s Stage, site: Option<&str>) -> Vec<&'s str> {
    let there = |it: &&super::stage::Place| it.role != Role::Witness && site.is_none_or(|site| it.site == site);
    stage.nodes.iter().filter(there).map(|it| it.name.as_str()).collect()
}

/// Whether what a step waits for is there. `acked_at`: the newest acknowledgement; `before`: who led when something was
/// last done to the cluster, and when that was.
fn has_come(
    until: Until,
    view: &View,
    acked_at: Option<Duration>,
    before: &(Option<Leader>, Duration),
    stage: &Stage,
) -> bool {
    let (led, since) = before;
    let acked = acked_at.is_some_and(|at| at > *since);
    let Some(leads) = &view.leader else { return false };
    match until {
        Until::AnotherLeader => acked && led.as_ref().is_none_or(|led| led.name != leads.name),
        Until::OtherSiteLeads => acked && stage.site("leading").is_ok_and(|site| site != leads.site),
        Until::Synchronized => {
            let one_site = stage.data_sites().len() < 2;
            view.faults.is_empty() && (one_site || view.protection == "SYNCHRONIZED")
        }
        Until::Unsynchronized => view.protection == "UNSYNCHRONIZED",
        Until::WitnessMissed => view.protection == "WITNESS_LOST",
    }
}

/// In a sentence.
pub fn stands(view: &View) -> String {
    let leads = view.leader.as_ref().map_or("nobody leads".to_owned(), |it| format!("{} leads", it.name));
    let parts: Vec<String> = [leads, view.protection.clone()].into_iter().chain(view.wrong()).collect();
    parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{Member, NodeStatus, StatusResponse};

    use super::*;

    fn leader(name: &str, site: &str) -> Option<Leader> {
        Some(Leader { name: name.into(), site: site.into(), term: 2 })
    }

    fn stage() -> Stage {
        let node = |node_id, name: &str, site: &str| NodeStatus {
            member: Some(Member { node_id, name: name.into(), site: site.into(), ..Member::default() }),
            ..NodeStatus::default()
        };
        let nodes = vec![node(1, "main-1", "main"), node(2, "main-2", "main"), node(3, "dr-1", "dr")];
        Stage::of(&StatusResponse { leader: 1, nodes, ..StatusResponse::default() }).expect("main-1 leads")
    }

    #[test]
    fn another_leader_counts_only_with_a_write_that_was_acknowledged_since() {
        let before = (leader("main-1", "main"), Duration::from_secs(3));
        let (early, late) = (Some(Duration::from_secs(2)), Some(Duration::from_secs(4)));
        let view = View { leader: leader("main-2", "main"), ..View::default() };
        let came = |until, acked_at| has_come(until, &view, acked_at, &before, &stage());
        assert!(!came(Until::AnotherLeader, early) && came(Until::AnotherLeader, late));
        assert!(!came(Until::OtherSiteLeads, late), "it is of the same site");
        let other = View { leader: leader("dr-1", "dr"), ..View::default() };
        assert!(has_come(Until::OtherSiteLeads, &other, late, &before, &stage()));
    }

    #[test]
    fn a_cluster_is_synchronized_when_it_says_so_and_nothing_is_wrong() {
        let none = (None, Duration::ZERO);
        let mut view = View { leader: leader("main-1", "main"), protection: "SYNCHRONIZED".into(), ..View::default() };
        assert!(has_come(Until::Synchronized, &view, None, &none, &stage()));
        view.faults.insert("dr-1".into(), vec![("NODE_SILENT", "node dr-1 does not answer".into())]);
        assert!(!has_come(Until::Synchronized, &view, None, &none, &stage()));
        assert_eq!(stands(&view), "main-1 leads, SYNCHRONIZED, node dr-1 does not answer");
    }
}

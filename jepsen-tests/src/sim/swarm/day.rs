//! Everything at any moment: a life before, a disaster, a forced promotion with crashes in it, the old side coming back when
//! it likes, and all of them together again. What the plan said of the loss is true (P8), whoever has met the new epoch takes no
//! part in the old one (P7), and what was lost to the epoch stands in an orphan bundle.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use saola_raft::protection::State;
use saola_raft::sim::{lose_power_at, random_u64, spawn_on, unpowered};
use saola_raft::{Member, Role};
use saola_storage::failpoint::Failpoint;
use saola_storage::promotion::{Attested, Plan, SignedPlan, Verdict};
use tokio::time::Instant;

use super::life::{Life, Topology};
use super::watch::count_states;
use super::world::Story;
use super::{Ended, Report};
use crate::sim::act::{leads, on, pick, replicas_are_equal, status};
use crate::sim::promote::{
    all_come_back, approved, are_fenced, name_approvers, plan, power_stays, tend, tend_until, vouched,
};
use crate::sim::records::record_id;
use crate::sim::sites::{Sites, maximum, set, until_state};
use crate::sim::{Clerk, PATIENCE};

/// Whoever promotes a site gives up when nothing has come of it for so long after the old side came back.
const GIVES_UP: Duration = Duration::from_secs(6);
/// Records of those who write at the promoted site.
const AFTER: u64 = 9;

/// What may be met on such a day, beside what befalls any cluster.
pub const MET: [&str; 8] = [
    "old-side-starts",
    "old-side-in-reach",
    "old-side-is-back",
    "promotion-abandoned",
    "crash-in-promotion",
    "old-side-fenced",
    "reinstated",
    "tail-of-the-witness",
];

/// What befalls the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disaster {
    /// Power is lost there.
    Lost,
    /// It is cut off, goes on alone for a while, and then loses power.
    AloneThenLost,
    /// It is cut off, and runs all along.
    CutOff,
}

/// One in so many.
fn one_in(count: u64) -> bool {
    random_u64().is_multiple_of(count)
}

fn up_to_ms(longest: u64) -> Duration {
    Duration::from_micros(random_u64() % (longest * 1_000))
}

/// Whoever does certain things next loses power between two steps of them.
fn have_power_lost() {
    for point in Failpoint::ALL {
        if one_in(6) {
            lose_power_at(*point, 1 + random_u64() % 2);
        }
    }
}

struct Day {
    sites: Sites,
    /// Writes at the main site alone.
    clerk: Clerk,
    /// Nodes of the site that goes on.
    dr: Vec<u64>,
    /// They, and a witness that outlives the disaster.
    stays: Vec<u64>,
    /// Everybody else, a node of the site among them that is lost for good: they are left behind.
    others: Vec<u64>,
    lost_for_good: Option<u64>,
    /// Writes were acknowledged that nobody of those who stay has but a witness.
    at_witness_alone: bool,
    /// Nobody of the others could take part in the former epoch any more once they were back.
    in_time: bool,
    turns: u64,
    began: Instant,
    story: Arc<Story>,
    report: Report,
}

/// Lives a worst day.
pub(super) async fn live_day(life: &Life, story: Arc<Story>) -> Report {
    let mut day = Day::begin(life, story).await;
    day.live().await;
    let kind = pick(&[Disaster::Lost, Disaster::AloneThenLost, Disaster::CutOff]);
    day.tell(format!("disaster: {kind:?}"));
    let attested = day.disaster(kind).await;
    let ended = match day.promote(attested, kind == Disaster::CutOff).await {
        None => {
            day.tell("the promotion has not begun".into());
            day.goes_on_as_before().await;
            Ended { how: "not begun", lost: 0, checked: false }
        }
        Some((planned, is_true)) => {
            let how = match planned.verdict() {
                Verdict::ProvenZero => "PROVEN ZERO",
                Verdict::Bounded => "BOUNDED",
                Verdict::Unknown => "UNKNOWN",
            };
            day.tell(format!("epoch {} begins, {how}", planned.epoch));
            let lost = day.goes_on_alone_and_together(&planned, is_true).await;
            Ended { how, lost, checked: is_true && planned.verdict() != Verdict::Unknown }
        }
    };
    day.report.ended = Some(ended);
    day.report.virtual_ms = day.began.elapsed().as_millis() as u64;
    day.report
}

impl Day {
    async fn begin(life: &Life, story: Arc<Story>) -> Day {
        let mut sites = match life.topology {
            Topology::TwoAndTwo => Sites::with_witness(),
            Topology::ThreeAndThree => Sites::large_with_witness(),
            Topology::TwoSites => Sites::with_learners(),
            Topology::OneSite => unreachable!("a day is drawn only where there are two sites"),
        };
        sites.cluster.clocks_count_from = Some(Instant::now());
        let clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        if one_in(4) {
            set(&sites.cluster, 1, maximum(1)).await.expect("a quiet cluster takes it");
        }
        let dr = sites.dr.clone();
        let is_witness = |member: &Member| member.role_value() == Role::Witness;
        let witness = sites.cluster.members().into_iter().find(is_witness).map(|it| it.node_id);
        let stays: Vec<u64> = dr.iter().copied().chain(witness.filter(|_| one_in(2))).collect();
        let others = sites.cluster.ids().into_iter().filter(|id| !stays.contains(id)).collect();
        let (began, turns, report) = (Instant::now(), life.turns, Report::default());
        let (lost_for_good, at_witness_alone, in_time) = (None, false, false);
        Day { sites, clerk, dr, stays, others, lost_for_good, at_witness_alone, in_time, turns, began, story, report }
    }

    fn tell(&self, what: String) {
        self.story.tell(format!("{:>9.3} {what}", self.began.elapsed().as_secs_f64()));
    }

    fn met(&mut self, what: &'static str) {
        *self.report.met.entry(what).or_default() += 1;
        self.tell(what.into());
    }

    /// Somebody writes at the main site, whatever comes of it; a node that was fenced before takes nothing.
    async fn write_at_main(&mut self) {
        let node = pick(&self.sites.main);
        let is_fenced = |day: &Day| day.sites.cluster.replica(node).is_some_and(|it| it.status().state == "fenced");
        let was_fenced = is_fenced(self);
        let record = random_u64() % 4;
        let written = self.clerk.put(&self.sites.cluster, node, record).await;
        let answer = written.as_ref().map_or_else(|error| error.certainly_not_applied().to_string(), u64::to_string);
        self.tell(format!("put of r{record} at {node}: {answer}"));
        assert!(!(was_fenced && written.is_ok()), "node {node} was fenced, and took {written:?}");
        count_states(&self.sites.cluster, &mut self.report.states);
        self.report.calls[match &written {
            Ok(_) => 0,
            Err(error) if error.certainly_not_applied() => 2,
            Err(_) => 3,
        }] += 1;
        if was_fenced && is_fenced(self) {
            assert!(!self.clerk.look(&self.sites.cluster, node).await, "node {node} is fenced, and serves reads");
        }
    }

    /// What clusters bear all the time.
    async fn live(&mut self) {
        for _ in 0..(random_u64() % 6).min(self.turns) {
            match random_u64() % 6 {
                0 => self.sites.part_from_main(),
                1 => self.sites.cluster.cut_one(),
                2 => self.sites.cluster.network.heal(),
                3 => {
                    let node = pick(&self.sites.cluster.ids());
                    self.sites.cluster.crash_if_it_runs(node).await;
                }
                _ => self.sites.cluster.start_all().await,
            }
            for _ in 0..random_u64() % 3 {
                self.write_at_main().await;
            }
            tokio::time::sleep(up_to_ms(1_500)).await;
        }
        if !one_in(4) {
            self.sites.cluster.network.heal();
            self.sites.cluster.start_all().await;
            until_state(&self.sites.cluster, State::Synchronized, 4 * PATIENCE).await;
            for _ in 0..random_u64() % 4 {
                self.write_at_main().await;
            }
        }
    }

    /// Nobody of the others is in reach of the site; answers what people can truly vouch for.
    async fn disaster(&mut self, kind: Disaster) -> Attested {
        let with_witness = self.stays.len() > self.dr.len();
        // A whole site and a witness go on without anybody's help.
        if with_witness || one_in(6) {
            let lost = pick(&self.dr);
            self.sites.cluster.crash_if_it_runs(lost).await;
            self.dr.retain(|node| *node != lost);
            self.stays.retain(|node| *node != lost);
            self.others.push(lost);
            self.lost_for_good = Some(lost);
        }
        let others = self.others.clone();
        self.sites.cluster.network.heal();
        if kind != Disaster::Lost {
            self.sites.cluster.part(&others, &self.dr);
            let acknowledged = self.clerk.acked();
            for _ in 0..random_u64() % 6 {
                self.write_at_main().await;
                tokio::time::sleep(up_to_ms(600)).await;
            }
            self.at_witness_alone = self.clerk.acked() > acknowledged && self.witness_has_all();
            self.sites.cluster.part(&others, &self.stays);
        }
        let running = |day: &Day, node: &u64| day.sites.cluster.replica(*node).is_some();
        let revisions = self.sites.main.iter().filter(|node| running(self, node));
        let newest = revisions.map(|node| status(&self.sites.cluster, *node).revision).max();
        let last_revision = newest.filter(|_| self.sites.main.iter().all(|node| running(self, node)));
        if kind != Disaster::CutOff {
            self.sites.lose(&others).await;
        }
        let now_us = self.sites.cluster.now_us();
        let has_stopped = kind != Disaster::CutOff;
        Attested {
            stopped_us: Some(now_us).filter(|_| has_stopped && !one_in(4)),
            last_revision: last_revision.filter(|_| has_stopped && !one_in(3)),
            // Nobody changes anything on this day.
            unchanged: !one_in(6),
            ..vouched()
        }
    }

    /// Others, until the epoch has begun.
    fn who_may_come_back(&self) -> Vec<u64> {
        self.others.iter().copied().filter(|node| Some(*node) != self.lost_for_good).collect()
    }

    /// A witness that stays has all that the main site knows to be committed.
    fn witness_has_all(&self) -> bool {
        let runs = |node: &&u64| self.sites.cluster.replica(**node).is_some();
        let stands = |node: &u64| status(&self.sites.cluster, *node);
        let committed = self.sites.main.iter().filter(runs).map(stands).map(|it| it.committed_index).max();
        let witness = self.stays.iter().find(|node| !self.dr.contains(node)).filter(runs).map(stands);
        witness.is_some_and(|it| committed.is_some_and(|committed| it.last_log_index >= committed))
    }

    /// The other side comes back, in one of the ways in which sites do.
    async fn come_back(&mut self) {
        let way = random_u64() % 3;
        self.met(["old-side-starts", "old-side-in-reach", "old-side-is-back"][way as usize]);
        if way != 0 {
            self.sites.cluster.network.heal();
        }
        if way != 1 {
            for node in self.who_may_come_back() {
                if self.sites.cluster.replica(node).is_none() && !one_in(4) {
                    self.sites.cluster.start(node).await;
                }
            }
        }
    }

    /// The node that leads an epoch that a promotion began.
    fn goes_on(&self) -> Option<u64> {
        let leads_on =
            |node: &&u64| leads(&self.sites.cluster, **node) && status(&self.sites.cluster, **node).epoch > 1;
        self.dr.iter().filter(|node| !unpowered().contains_key(node)).find(leads_on).copied()
    }

    /// The plan by which the epoch began that somebody leads: one that was made before may have been under way still.
    fn begun(&self) -> Option<Plan> {
        let store = self.sites.cluster.replica(self.goes_on()?)?.store().epochs();
        let (_, plan) = SignedPlan::from_bytes(&store.last()?.record).expect("it was carried out");
        Some(plan)
    }

    /// Makes a plan, if all nodes that outlived the disaster have a part in it: nobody truly vouches for those that will go on.
    async fn plan(&self, through: u64, attested: &Attested) -> Option<Plan> {
        let planned = plan(&self.sites, through, attested.clone()).await.ok()?;
        let survives = |node: &u64| planned.survivors.iter().any(|it| it.node_id == *node);
        self.stays.iter().all(survives).then_some(planned)
    }

    /// All survivors of a plan wait for its epoch, or one is in it: from then on nobody of theirs clears the old side.
    fn all_have_promised(&self, planned: &Plan) -> bool {
        let kept = planned.survivors.iter().map(|survivor| {
            let folder = self.sites.cluster.folder(survivor.node_id);
            let file = std::fs::read_to_string(folder.join("identity")).expect("the node has run");
            let epoch = format!("epoch = {}\n", planned.epoch);
            (file.contains(&format!("\npromised_{epoch}")), file.contains(&format!("\n{epoch}")))
        });
        let kept: Vec<(bool, bool)> = kept.collect();
        kept.iter().any(|(_, has_begun)| *has_begun) || kept.iter().all(|(promised, _)| *promised)
    }

    /// Promotes the site, while nodes crash and the other side comes back; answers the plan by which the epoch began, and
    /// whether what was vouched for was so when it counted. None: the epoch did not begin.
    async fn promote(&mut self, attested: Attested, alive: bool) -> Option<(Plan, bool)> {
        let (began, mut crashes) = (Instant::now(), random_u64() % 3);
        have_power_lost();
        let comes_back = (!one_in(3)).then(|| Instant::now() + up_to_ms(6_000));
        // What is vouched for is that the other side takes no part any more.
        let (mut returned, mut promised) = (None, None);
        let mut planned: Option<Plan> = None;
        loop {
            assert!(began.elapsed() < 4 * PATIENCE, "neither begun nor given up: {planned:?}");
            if returned.is_none() && comes_back.is_some_and(|at| at <= Instant::now()) {
                returned = Some(Instant::now());
                // Whoever waits for the epoch by then clears nobody for the former one, and a site does not clear itself.
                let one_site = self.who_may_come_back().iter().all(|node| self.sites.main.contains(node));
                promised = planned.clone().filter(|it| one_site && self.all_have_promised(it));
                self.come_back().await;
            } else if returned.is_some() && one_in(4) {
                match one_in(2) {
                    true => self.sites.cluster.part(&self.others, &self.stays),
                    false => self.sites.cluster.network.heal(),
                }
            }
            for node in self.stays.clone() {
                if self.sites.cluster.replica(node).is_none() {
                    self.sites.cluster.start(node).await;
                }
            }
            tend(&mut self.sites).await;
            count_states(&self.sites.cluster, &mut self.report.states);
            if let Some(begun) = self.begun() {
                self.in_time = returned.is_none() || promised.is_some_and(|it| it == begun);
                power_stays(&mut self.sites).await;
                // What proves zero holds beside a side that is alive, as long as nobody lets it in again.
                return Some((begun.clone(), self.in_time && (!alive || begun.verdict() == Verdict::ProvenZero)));
            }
            if one_in(3) {
                self.write_at_main().await;
            }
            let given_up = returned.is_some_and(|at: Instant| at.elapsed() > GIVES_UP);
            let through = pick(&self.dr);
            match &planned {
                None if given_up || began.elapsed() > PATIENCE => {
                    power_stays(&mut self.sites).await;
                    return None;
                }
                None => planned = self.plan(through, &attested).await,
                Some(it) if given_up => {
                    let record = approved(it);
                    let abandoned = on(&self.sites.cluster, through, move |replica| async move {
                        replica.abandon_promotion(record).await
                    });
                    if abandoned.await.is_ok() {
                        power_stays(&mut self.sites).await;
                        self.met("promotion-abandoned");
                        return None;
                    }
                }
                Some(it) => {
                    let (record, replica) =
                        (approved(it), self.sites.cluster.replica(through).expect("it was started"));
                    let applying = spawn_on(through, async move { replica.apply_promotion(record).await });
                    if crashes > 0 {
                        crashes -= 1;
                        self.met("crash-in-promotion");
                        tokio::time::sleep(up_to_ms(60)).await;
                        self.sites.cluster.crash_if_it_runs(pick(&self.stays)).await;
                    } else if let Ok(Ok(Err(error))) = tokio::time::timeout(Duration::from_secs(3), applying).await
                        && error.to_string().contains("make a new one")
                        // Whoever vouched before does so again only while it holds.
                        && returned.is_none()
                        && let Some(again) = self.plan(through, &attested).await
                    {
                        planned = Some(again);
                    }
                }
            }
            tokio::time::sleep(up_to_ms(40)).await;
        }
    }

    /// The epoch goes on alone, whoever was left behind is fenced, comes back, and has kept what it alone had.
    async fn goes_on_alone_and_together(&mut self, planned: &Plan, is_true: bool) -> u64 {
        let mut after = Clerk::new(2);
        let dr: Vec<u64> = self.dr.clone();
        after.put_surely(&self.sites.cluster, &dr, AFTER, PATIENCE).await;
        let at = self.goes_on().unwrap_or(dr[0]);
        let lost = self.clerk.lose(&self.sites.cluster, at).await;
        let count = lost.len() as u64;
        if self.in_time && self.at_witness_alone {
            self.met("tail-of-the-witness");
            assert!(lost.is_empty(), "the witness had all that was acknowledged, and its tail went along: {lost:?}");
        }
        if is_true {
            match planned.verdict() {
                Verdict::ProvenZero => assert!(lost.is_empty(), "proven zero: {lost:?}, {:?}", planned.because),
                Verdict::Bounded => {
                    let most = planned.lost_revisions;
                    assert!(count <= most, "{count} lost, at most {most} were said: {:?}", planned.because);
                }
                Verdict::Unknown => {}
            }
        }
        self.sites.cluster.network.heal();
        self.sites.cluster.start_all().await;
        let on: Vec<u64> = planned.members.iter().map(|it| it.node_id).collect();
        let left: Vec<u64> = self.sites.cluster.ids().into_iter().filter(|id| !on.contains(id)).collect();
        have_power_lost();
        are_fenced(&mut self.sites, &left).await;
        count_states(&self.sites.cluster, &mut self.report.states);
        self.met("old-side-fenced");
        let kept = all_come_back(&mut self.sites, &mut after, (&left, &on), random_u64() % 3).await;
        for (record, generation) in lost {
            let found = kept.contains(&(Bytes::from(record_id(record)), generation));
            assert!(found, "r{record} generation {generation} was lost, and nobody has kept it: {kept:?}");
        }
        for node in self.sites.cluster.running() {
            self.clerk.check(&self.sites.cluster, node).await;
        }
        replicas_are_equal(&self.sites.cluster).await;
        self.met("reinstated");
        count
    }

    /// Nobody went on in another epoch: all that was acknowledged is there.
    async fn goes_on_as_before(&mut self) {
        self.sites.cluster.network.heal();
        self.sites.cluster.start_all().await;
        let all = self.sites.cluster.ids();
        tend_until(&mut self.sites, "all take part again", |sites| {
            let states = ["leader", "follower", "learner", "witness"];
            all.iter().all(|node| states.contains(&status(&sites.cluster, *node).state))
        })
        .await;
        let main = self.sites.main.clone();
        self.clerk.put_surely(&self.sites.cluster, &main, 0, PATIENCE).await;
        for node in self.sites.cluster.running() {
            assert_eq!(status(&self.sites.cluster, node).epoch, 1, "node {node}");
            self.clerk.check(&self.sites.cluster, node).await;
        }
    }
}

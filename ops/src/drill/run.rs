//! Holds a drill: guards, lock, writers, steps, clean-up, measurement.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use saola_client::Client;
use saola_client::proto::{Role, StatusResponse};
use tokio::sync::watch as cell;

use super::canary::{Audit, Told, Writers};
use super::checks::Verdict;
use super::fork::{ForkOf, Rehearsal};
use super::keeper::{Keeper, LASTS};
use super::play::{Drill, Play, Say, ms, stands};
use super::report::{
    Cluster, Event, Fork, Node, Noted, Outage, Report, SCHEMA, Standing, StepRun, Timeline, What, Why, Writes,
};
use super::scenario::{Language, Scenario};
use super::stage::Stage;
use super::watch::{Breaks, Eyes, LOOK_EVERY, View, watch_over};
use super::{canary, guard, lock};
use crate::exit::{Exit, Failure};
use crate::gap::longest_gap;
use crate::output::hex;
use crate::time::now_us;
use crate::verbs::cluster::{Digests, compare};
use crate::verbs::findings::{Question, findings};
use crate::verbs::status::role;
use crate::verbs::validate::{approvers, copies, other_site};
use crate::verbs::view::cluster_view;

/// After the lock is taken the cluster must be seen to fare well within so long.
const WELL_LIMIT: Duration = Duration::from_secs(10);
/// The writers have so long to be acknowledged something before anything is done.
const WARM_UP: Duration = Duration::from_secs(30);
/// So many acknowledgements are enough to begin.
const WARM: usize = 20;
/// Reading back, comparing and giving the lock up may take so long each.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// The chart has at most so many spans, none shorter than this.
const SPANS: u64 = 400;
const SHORTEST_SPAN_MS: u64 = 100;

/// Who holds a drill, and what they say about it.
#[derive(Debug)]
pub struct Held {
    /// Who.
    pub by: String,
    /// What.
    pub notes: Vec<String>,
    /// Of which node a copy is made, for a drill on a copy.
    pub fork: Option<ForkOf>,
}

/// Holds it, and gives the report without its place in the chain. `client_at` makes a client that begins at some nodes.
///
/// # Errors
/// It was not begun; once it is, whatever happens stands in the report.
pub async fn hold(
    client: &Client,
    scenario: Scenario,
    held: Held,
    client_at: impl Fn(Vec<String>) -> Result<Client, Failure>,
    asked_to_end: impl Future<Output = ()>,
    say: &Say,
) -> Result<Report, Failure> {
    let mut asked_to_end = pin!(asked_to_end);
    let status = cluster_view(client).await?;
    let interrupted = || Failure::new(Exit::Interrupted, "interrupted before it began", "run it again");
    if !scenario.acts() {
        let (began_us, began) = (now_us(), Instant::now());
        let found = tokio::select! {
            found = checklist(client, &status) => found?,
            () = &mut asked_to_end => return Err(interrupted()),
        };
        let looked = |step| StepRun { step, began_ms: 0, ended_ms: ms(began.elapsed()), failed: None };
        let steps = (0..scenario.steps.len()).map(looked).collect();
        let report = Report { findings: found, steps, ..empty(&status, scenario, new_id(), (held.by, held.notes)) };
        return Ok(Report { began_us, took_ms: ms(began.elapsed()), ..report }.judged());
    }
    let ready = async {
        let ready = guard::check(client, &status, scenario).await?;
        lock::make_collections(client).await.map(|()| ready)
    };
    let (stage, scenario) = tokio::select! {
        ready = ready => ready?,
        () = &mut asked_to_end => return Err(interrupted()),
    };
    let outage = Duration::from_millis(scenario.limits.as_ref().map_or(0, |limits| limits.outage_ms));
    let drill = Drill::new(new_id(), client, &stage, outage, say);
    let began_us = now_us();
    let Held { by, notes, fork } = held;
    let rehearsal = fork.map(|fork| Rehearsal::new(fork, &drill.id, &status, client)).transpose()?;
    let copy = rehearsal.as_ref().map(|it| format!(" and to remove {}", it.folder().display())).unwrap_or_default();
    lock::take(client, &drill.id, &by, &scenario.name).await?;
    let breaks = Breaks::default();
    let asked = async {
        asked_to_end.await;
        drill
            .tell(&format!("clearing up; Ctrl-C twice more ends at once, and then `saola drill cleanup` is due{copy}"));
        breaks.off(Why::Asked);
        std::future::pending::<Infallible>().await
    };
    let ran = tokio::select! {
        ran = run(&drill, &scenario, rehearsal, client_at, &breaks) => ran,
        never = asked => match never {},
    };
    let ran = match ran {
        Ok(ran) => ran,
        Err(failure) => {
            if let Err(kept) = lock::give_up(client, &drill.id).await {
                drill.tell(&format!("attention: {}; `saola drill cleanup` gives the lock up", kept.what()));
            }
            return Err(failure);
        }
    };
    let report = empty(&status, scenario, drill.id.clone(), (by, notes));
    Ok(Report { began_us, took_ms: ms(drill.began.elapsed()), ..ran.into_report(report) }.judged())
}

/// Names a drill, and the files of a report that has no number yet.
fn new_id() -> String {
    hex(&rand::random::<[u8; 6]>())
}

/// All that `saola validate drill --strict` finds.
async fn checklist(client: &Client, status: &StatusResponse) -> Result<Vec<Noted>, Failure> {
    let to = other_site(status)?;
    let (copies, approvers) = (copies(client, status).await, approvers(client).await);
    let noted = findings(status, Question::Drill(&to), copies, approvers).into_iter().map(|it| Noted {
        code: it.code.to_owned(),
        what: it.what,
        next: it.next,
    });
    Ok(noted.collect())
}

/// What comes of it, unless the drill is to be broken off before anything was done.
async fn unless_broken<T>(breaks: &Breaks, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        why = breaks.why() => {
            let what = format!("not begun: {}", why.describe(Language::En));
            Err(Failure::new(Exit::Precondition, what, "`saola status`, then run the drill again"))
        }
    }
}

/// How the cluster stands when the drill begins: as it did when it was found to fare well.
async fn begins_well(eyes: &Eyes, stage: &Stage) -> Result<View, Failure> {
    let limit = Instant::now() + WELL_LIMIT;
    loop {
        let view = eyes.look().await;
        let leads = view.leader.as_ref().map(|leader| leader.site.as_str());
        if view.faults.is_empty() && leads.is_some() && leads == stage.site("leading").ok() {
            return Ok(view);
        }
        if Instant::now() > limit {
            let what = format!("the cluster does not stand any more as when it was checked: {}", stands(&view));
            return Err(Failure::new(Exit::Precondition, what, "`saola status`, then run the drill again"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// All that came of the steps and of clearing up behind them.
struct Ran {
    steps: Vec<StepRun>,
    broken_off: Option<Why>,
    events: Vec<Event>,
    told: Told,
    /// Where each writer began.
    sites: Vec<String>,
    /// When the writers ended.
    ended: Duration,
    before: Standing,
    after: Standing,
    audit: Result<Audit, Failure>,
    fork: Option<Fork>,
    left: Vec<String>,
}

async fn run(
    drill: &Drill<'_>,
    scenario: &Scenario,
    rehearsal: Option<Rehearsal>,
    client_at: impl Fn(Vec<String>) -> Result<Client, Failure>,
    breaks: &Breaks,
) -> Result<Ran, Failure> {
    let (client, stage) = (drill.client, drill.stage);
    let eyes = Eyes::new(&stage.nodes, client)?;
    let first = unless_broken(breaks, begins_well(&eyes, stage)).await?;
    let before = standing(&first);
    let keeper = unless_broken(breaks, Keeper::start(&drill.id, &stage.nodes, client, breaks.clone())).await?;
    let at_site = |site: &str| {
        let data = stage.nodes_of(site).into_iter().filter(|it| it.role != Role::Witness);
        client_at(data.map(|place| place.address.clone()).collect())
    };
    let pace = if scenario.forks() { canary::SLOW_PACE } else { canary::PACE };
    let writers = (scenario.writers_per_site, pace);
    let started = Writers::start(&drill.id, &stage.data_sites(), writers, drill.began, at_site);
    let mut writers = match started {
        Ok(writers) => writers,
        Err(failure) => {
            keeper.end().await;
            return Err(failure);
        }
    };
    let mut told = writers.told();
    let warm = async {
        match tokio::time::timeout(WARM_UP, told.wait_for(|told| told.acks.len() >= WARM)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::new(Exit::Unreachable, "the writers of the drill get nowhere", "`saola status`")),
        }
    };
    if let Err(failure) = unless_broken(breaks, warm).await {
        let trouble = writers.stop().await.last_trouble;
        keeper.end().await;
        return Err(match trouble {
            Some(trouble) => failure.while_doing(trouble),
            None => failure,
        });
    }
    let (view, seen) = cell::channel(first);
    let steps = Mutex::new(Vec::new());
    let mut play = Play::new(drill, &keeper, rehearsal.as_ref(), seen, writers.told());
    let playing = async {
        let mut broken_off = tokio::select! {
            () = play.steps(scenario, &steps) => None,
            why = breaks.why() => Some(why),
        };
        let broken = |why: &Why| drill.note(What::BrokenOff { why: why.clone() });
        broken_off.iter().for_each(broken);
        let discarded = match &rehearsal {
            Some(rehearsal) => rehearsal.discard().await,
            None => Ok(()),
        };
        let mut settling = pin!(play.settle(&before));
        let settled = loop {
            tokio::select! {
                settled = &mut settling => break settled,
                // An alarm while it settles is one of the drill, too; there is nothing more to stop.
                why = breaks.why(), if broken_off.is_none() => {
                    broken(&why);
                    broken_off = Some(why);
                }
            }
        };
        (broken_off, discarded, settled)
    };
    let (broken_off, discarded, settled) = tokio::select! {
        played = playing => played,
        never = watch_over(drill, &eyes, &view, told, breaks) => match never {},
    };
    // Writers that are at a write finish it, while others have stopped: what comes then is no interruption.
    let ended = drill.began.elapsed();
    let told = writers.stop().await;
    drill.tell("reading back what was acknowledged, comparing the copies");
    let patient = client.with_deadline(AFTERWARDS);
    let audit = writers.audit(&pinned(stage, &patient)?, &told).await;
    let equal = match patient.digest().await.map(|reply| compare(&reply)) {
        Ok(Digests::Equal) => Some(true),
        Ok(Digests::Different) => Some(false),
        Ok(Digests::Incomplete) | Err(_) => None,
    };
    let (last, not_clear) = clear_up(drill, &eyes, keeper).await;
    Ok(Ran {
        steps: steps.into_inner().unwrap_or_else(PoisonError::into_inner),
        broken_off,
        events: drill.events(),
        told,
        sites: writers.sites(),
        ended,
        before,
        after: Standing { equal, ..standing(&last) },
        audit,
        fork: match rehearsal {
            Some(rehearsal) => rehearsal.into_run().await,
            None => None,
        },
        left: settled.err().into_iter().chain(discarded.err()).chain(not_clear).collect(),
    })
}

/// A client pinned to each data node.
fn pinned(stage: &Stage, client: &Client) -> Result<Vec<Client>, Failure> {
    let data = stage.nodes.iter().filter(|it| it.role != Role::Witness);
    data.map(|it| Ok(client.at_endpoint(&it.address)?)).collect()
}

/// Ends what is done to nodes, gives the lock up, and looks whether both is so; gives the last look, and what is left.
async fn clear_up(drill: &Drill<'_>, eyes: &Eyes, keeper: Keeper) -> (View, Vec<String>) {
    // Where it is not heard, it ends by itself, and that is looked at.
    let _silent = keeper.end().await;
    let given_up = lock::give_up(&drill.client.with_deadline(AFTERWARDS), &drill.id).await;
    let lock = given_up.err().map(|failure| failure.what().to_owned());
    let limit = Instant::now() + 2 * LASTS;
    loop {
        let view = eyes.look().await;
        let left = view.not_clear();
        if left.is_empty() || Instant::now() > limit {
            return (view, left.into_iter().chain(lock).collect());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn standing(view: &View) -> Standing {
    let leader = view.leader.clone().unwrap_or_default();
    Standing {
        leader: leader.name,
        site: leader.site,
        protection: view.protection.clone(),
        term: leader.term,
        faults: view.wrong(),
        equal: None,
    }
}

/// A report that says only what was planned, by whom, and on what.
fn empty(status: &StatusResponse, scenario: Scenario, drill: String, (by, notes): (String, Vec<String>)) -> Report {
    let node = |it: &saola_client::proto::NodeStatus| {
        let member = it.member.clone().unwrap_or_default();
        let role = role(&member).to_owned();
        Node { role, name: member.name, site: member.site, release: it.release.clone() }
    };
    Report {
        schema: SCHEMA.to_owned(),
        number: 0,
        previous_sha256: None,
        drill,
        scenario,
        by,
        notes,
        cluster: Cluster {
            name: status.cluster_name.clone(),
            id: hex(&status.cluster_id),
            epoch: status.header.map_or(0, |header| header.epoch),
            nodes: status.nodes.iter().map(node).collect(),
        },
        began_us: 0,
        took_ms: 0,
        before: Standing::default(),
        after: Standing::default(),
        steps: Vec::new(),
        broken_off: None,
        outages: Vec::new(),
        writes: None,
        fork: None,
        timeline: Timeline::default(),
        findings: Vec::new(),
        left: Vec::new(),
        checks: Vec::new(),
        verdict: Verdict::Failed,
        earlier: Vec::new(),
    }
}

impl Ran {
    fn into_report(self, planned: Report) -> Report {
        let outages = outages(&planned.scenario, &self);
        let (span_ms, acked) = chart(&self);
        let mut left = self.left;
        let audit = self.audit.map_err(|failure| left.push(failure.what().to_owned())).ok();
        let last_act = outages.last().and_then(|outage| self.steps.iter().find(|run| run.step == outage.step));
        let last_act = last_act.map_or(Duration::ZERO, |run| Duration::from_millis(run.began_ms));
        let since = |ack: &&super::canary::Ack| ack.at > last_act;
        let by_site = |site: &String| {
            let of = |ack: &&super::canary::Ack| self.sites[ack.writer] == *site;
            (site.clone(), self.told.acks.iter().filter(of).filter(since).count() as u64)
        };
        let writes = Writes {
            acked: self.told.acks.len() as u64,
            refused: self.told.refused,
            unknown: self.told.unknown,
            audit,
            acked_since_by_site: self.sites.iter().map(by_site).collect(),
            last_trouble: self.told.last_trouble.clone(),
        };
        Report {
            before: self.before,
            after: self.after,
            steps: self.steps,
            broken_off: self.broken_off,
            outages,
            writes: Some(writes),
            fork: self.fork,
            timeline: Timeline { span_ms, acked, events: self.events },
            left,
            ..planned
        }
    }
}

/// What each step that does something cost, until the next one that does.
fn outages(scenario: &Scenario, ran: &Ran) -> Vec<Outage> {
    let acting: Vec<&StepRun> = ran.steps.iter().filter(|run| scenario.steps[run.step].acts()).collect();
    let ends = acting.iter().skip(1).map(|run| Duration::from_millis(run.began_ms)).chain([ran.ended]);
    let one = |(run, to): (&&StepRun, Duration)| {
        let from = Duration::from_millis(run.began_ms);
        let of_site = |site: &String| {
            let acks = ran.told.acks.iter().filter(|ack| ran.sites[ack.writer] == *site).map(|ack| ack.at);
            (site.clone(), longest_gap(acks, from, to))
        };
        let gaps: BTreeMap<String, (Duration, Duration)> = ran.sites.iter().map(of_site).collect();
        let (gap_from, longest) = gaps.values().copied().max_by_key(|(_, length)| *length).unwrap_or_default();
        let leads =
            |event: &&Event| matches!(event.what, What::Leader { .. }) && (run.began_ms..ms(to)).contains(&event.at_ms);
        Outage {
            step: run.step,
            from_ms: ms(gap_from),
            rto_ms: ms(longest),
            sites: gaps.into_iter().map(|(site, (_, length))| (site, ms(length))).collect(),
            next_leader_ms: ran.events.iter().find(leads).map(|event| event.at_ms - run.began_ms),
        }
    };
    acting.iter().zip(ends).map(one).collect()
}

/// Acknowledgements per span, by site, and the length of a span.
fn chart(ran: &Ran) -> (u64, BTreeMap<String, Vec<u32>>) {
    let span_ms = ms(ran.ended).div_ceil(SPANS).next_multiple_of(SHORTEST_SPAN_MS).max(SHORTEST_SPAN_MS);
    let spans = usize::try_from(ms(ran.ended).div_ceil(span_ms)).unwrap_or(0).max(1);
    let mut acked: BTreeMap<String, Vec<u32>> = ran.sites.iter().map(|site| (site.clone(), vec![0; spans])).collect();
    for ack in &ran.told.acks {
        let span = usize::try_from(ms(ack.at) / span_ms).unwrap_or(usize::MAX).min(spans - 1);
        if let Some(count) = acked.get_mut(&ran.sites[ack.writer]).and_then(|spans| spans.get_mut(span)) {
            *count += 1;
        }
    }
    (span_ms, acked)
}

#[cfg(test)]
mod tests {
    use super::super::canary::Ack;
    use super::*;

    fn ran() -> Ran {
        let ack = |writer, at_ms| Ack { writer, number: at_ms, at: Duration::from_millis(at_ms) };
        let run = |step, began_ms| StepRun { step, began_ms, ended_ms: began_ms + 10, failed: None };
        let told = Told {
            acks: vec![ack(0, 100), ack(1, 150), ack(0, 900), ack(1, 1_400), ack(0, 1_500), ack(1, 2_900)],
            ..Told::default()
        };
        Ran {
            steps: vec![run(0, 0), run(1, 200), run(2, 210), run(3, 1_450), run(4, 1_600)],
            broken_off: None,
            events: vec![Event { at_ms: 700, what: What::Leader { node: "dr-1".into(), site: "dr".into(), term: 2 } }],
            told,
            sites: vec!["main".into(), "dr".into()],
            ended: Duration::from_millis(3_000),
            before: Standing::default(),
            after: Standing::default(),
            audit: Ok(Audit::default()),
            fork: None,
            left: Vec::new(),
        }
    }

    #[test]
    fn each_thing_that_is_done_has_its_outage_up_to_the_next_one() {
        let scenario = Scenario::find("main-site-lost").expect("it is ours");
        let found = outages(&scenario, &ran());
        let figures: Vec<(usize, u64, u64)> = found.iter().map(|it| (it.step, it.from_ms, it.rto_ms)).collect();
        assert_eq!(figures, [(1, 150, 1_250), (4, 1_500, 1_500)]);
        assert_eq!((found[0].sites["main"], found[0].sites["dr"]), (800, 1_250));
        assert_eq!((found[0].next_leader_ms, found[1].next_leader_ms), (Some(500), None));
    }

    #[test]
    fn every_acknowledgement_stands_in_the_chart() {
        let (span_ms, acked) = chart(&ran());
        assert_eq!((span_ms, acked["main"].len()), (100, 30));
        assert_eq!(acked.values().flatten().sum::<u32>(), 6);
        assert_eq!((acked["main"][1], acked["dr"][29]), (1, 1));
    }
}

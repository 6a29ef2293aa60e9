//! A site that stays away loses its votes, so that the rest bears the loss of a node, and gets them back when it is back.

use std::collections::BTreeSet;
use std::time::Duration;

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE};
use saola_raft::protection::State;
use saola_raft::sim::random_u64;
use saola_raft::{AdminError, Member, Role, Timing};
use saola_storage::goal::Goal;
use saola_storage::protection::{Protection, Timers, WaitsFor};
use tokio::time::Instant;

use super::goal::declare;
use super::sites::{Sites, set, until_state};
use super::{leader, leads, of_seeds, on, pick, replicas_are_equal, status, until};

/// After so long a site loses its votes here: with the preset, ten minutes, each run would take that much longer.
const SHRINK: Duration = Duration::from_secs(60);
/// Seeds of a run: each takes minutes of virtual time.
const RUNS: u64 = 5;
const DEGRADE: Duration = Duration::from_millis(Timing::LAN.degrade_ms);
/// What a site that comes back needs at least, answering and then having everything, and then some.
const RETURN: Duration = Duration::from_secs(80);

/// With either topology that has a witness.
fn either(seed: u64) -> Sites {
    if seed.is_multiple_of(2) { Sites::with_witness() } else { Sites::large_with_witness() }
}

fn witness(cluster: &Cluster) -> u64 {
    let members = cluster.members();
    members.iter().find(|it| it.role_value() == Role::Witness).expect("these topologies have one").node_id
}

/// Who votes, as a node knows; two sets while that changes.
fn voters(cluster: &Cluster, node: u64) -> Vec<BTreeSet<u64>> {
    status(cluster, node).voter_sets
}

fn waits_for(cluster: &Cluster, node: u64) -> WaitsFor {
    status(cluster, node).protection.expect("a data node knows").replicated.waits_for
}

/// Changes the times, and nothing else of the rule.
async fn set_timers(sites: &Sites, timers: Timers) {
    let before = status(&sites.cluster, 1).protection.expect("a data node knows").replicated.rule;
    let rule = Protection { timers, ..before };
    set(&sites.cluster, 1, rule).await.expect("a quiet cluster takes it");
}

async fn until_voters(cluster: &Cluster, node: u64, wanted: &[u64], limit: Duration) -> Duration {
    let wanted: BTreeSet<u64> = wanted.iter().copied().collect();
    until(&format!("{wanted:?} vote"), limit, || voters(cluster, node) == [wanted.clone()]).await
}

/// A leader may say that the witness stands in for the other site and has all that is acknowledged: then whatever any
/// node shows is there. Answers whether one says so.
fn what_leaders_say_of_the_witness_is_true(cluster: &Cluster) -> bool {
    let mut said = false;
    let shown = cluster.running().into_iter().map(|id| status(cluster, id).frontier_index).max().unwrap_or(0);
    for id in cluster.running().into_iter().filter(|id| leads(cluster, *id)) {
        let seen = status(cluster, id).protection.and_then(|protection| protection.seen);
        if seen.is_some_and(|seen| seen.witness_stands_in) {
            let stored = cluster.stored(witness(cluster));
            assert!(stored >= shown, "{stored} at the witness, {shown} shown by some node: {seen:?}");
            said = true;
        }
    }
    said
}

/// What was to be seen in some runs was, if there were many.
fn some_run_saw<T>(what: &str, runs: &[T], saw: impl Fn(&T) -> bool) {
    assert!(runs.len() < 5 || runs.iter().any(saw), "in no run: {what}");
}

async fn replace(cluster: &Cluster, through: u64, old: u64, member: Member) -> Result<Vec<Member>, AdminError> {
    on(cluster, through, move |replica| async move { replica.replace_member(old, member).await }).await
}

/// A site is lost for so long that it has no votes any more. Answers the one that goes on, and the one that is lost.
async fn shrunk(sites: &mut Sites, clerk: &mut Clerk) -> (Vec<u64>, Vec<u64>) {
    until_state(&sites.cluster, State::Synchronized, Duration::from_secs(5)).await;
    set_timers(sites, Timers { shrink_ms: SHRINK.as_millis() as u64, ..Timers::default() }).await;
    let (stays, lost) = pick(&[(0, 1), (1, 0)]);
    let both = [sites.main.clone(), sites.dr.clone()];
    let (stays, lost) = (both[stays].clone(), both[lost].clone());
    let all = voters(&sites.cluster, stays[0]);
    sites.lose(&lost).await;
    clerk.put_surely(&sites.cluster, &stays, 0, Duration::from_secs(10)).await;
    tokio::time::sleep(SHRINK - Duration::from_secs(10)).await;
    assert_eq!(voters(&sites.cluster, stays[0]), all, "it may be back in a moment");
    let rest: Vec<u64> = stays.iter().copied().chain([witness(&sites.cluster)]).collect();
    until_voters(&sites.cluster, stays[0], &rest, PATIENCE).await;
    let lead = leader(&sites.cluster).await;
    assert_eq!(waits_for(&sites.cluster, lead), WaitsFor::Witness, "before the votes are taken");
    (stays, lost)
}

#[test]
fn a_site_that_stays_away_loses_its_votes_so_that_the_rest_bears_a_loss_and_gets_them_back() {
    let name = "shrink::a_site_that_stays_away_loses_its_votes_so_that_the_rest_bears_a_loss_and_gets_them_back";
    of_seeds(name, RUNS, async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        let all: Vec<u64> = sites.cluster.members().iter().map(|it| it.node_id).collect();
        let (stays, _) = shrunk(&mut sites, &mut clerk).await;
        clerk.put_surely(&sites.cluster, &stays, 1, PATIENCE).await;
        until("the witness stands in", PATIENCE, || what_leaders_say_of_the_witness_is_true(&sites.cluster)).await;
        // Any one of them may be lost now.
        let witness = witness(&sites.cluster);
        let candidates: Vec<u64> = stays.iter().copied().chain([witness]).collect();
        let gone = pick(&candidates);
        sites.cluster.crash(gone).await;
        let rest: Vec<u64> = stays.iter().copied().filter(|id| *id != gone).collect();
        clerk.put_surely(&sites.cluster, &rest, 2, Duration::from_secs(10)).await;
        for node in &rest {
            clerk.check(&sites.cluster, *node).await;
        }
        sites.cluster.start_all().await;
        let lead = leader(&sites.cluster).await;
        until_voters(&sites.cluster, lead, &all, PATIENCE + RETURN).await;
        let members = status(&sites.cluster, lead).members;
        assert!(members.len() == all.len() && members.iter().all(|it| !it.demoted), "{members:?}");
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        clerk.put_surely(&sites.cluster, &stays, 3, PATIENCE).await;
        // As before, any one site may be lost.
        sites.one_is_lost_and_the_other_goes_on(&mut clerk).await;
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
        replicas_are_equal(&sites.cluster).await;
    });
}

#[test]
fn the_site_that_leads_alone_acknowledges_nothing_before_it_has_given_the_witness_up_for_all_to_see() {
    let name =
        "shrink::the_site_that_leads_alone_acknowledges_nothing_before_it_has_given_the_witness_up_for_all_to_see";
    of_seeds(name, RUNS, async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        let (stays, lost) = shrunk(&mut sites, &mut clerk).await;
        let cluster = &mut sites.cluster;
        let witness = witness(cluster);
        for _ in 0..2 {
            let lead = leader(cluster).await;
            clerk.put_surely(cluster, &stays, 0, PATIENCE).await;
            until("the witness stands in", PATIENCE, || what_leaders_say_of_the_witness_is_true(cluster)).await;
            tokio::time::sleep(Duration::from_millis(random_u64() % 200)).await;
            let losses = status(cluster, lead).protection.expect("a data node knows").replicated.losses_us;
            let (cut, stored) = (Instant::now(), cluster.stored(witness));
            cluster.part(&stays, &[witness]);
            clerk.put_surely(cluster, &stays, 1, PATIENCE).await;
            let waited = cut.elapsed();
            // An acknowledgement that was under way counts from its sending.
            let early = Duration::from_millis(2 * Timing::LAN.heartbeat_ms);
            assert!(waited + early >= DEGRADE && waited < DEGRADE + Duration::from_secs(1), "{waited:?}");
            assert_eq!(waits_for(cluster, lead), WaitsFor::Nobody, "the entry that says so comes first");
            assert_eq!(cluster.stored(witness), stored, "the plot needs a witness that gets nothing");
            let since = status(cluster, lead).protection.expect("a data node knows").replicated;
            assert_eq!(since.losses_us, losses, "the other site is no more lost than before");
            let quick = clerk.put_surely(cluster, &stays, 2, PATIENCE).await;
            assert!(quick < DEGRADE / 2, "{quick:?}");
            cluster.network.heal();
            until("the witness is waited for again", RETURN, || waits_for(cluster, lead) == WaitsFor::Witness).await;
        }
        // The other site comes back, and is lost once more before it can have its votes: it is farther away now, so that
        // whoever leads knows that it waits before that one has stored the entry which says so.
        sites.be_apart(Duration::from_millis(40));
        let cluster = &mut sites.cluster;
        for node in &lost {
            cluster.start(*node).await;
        }
        until("the other site is waited for", PATIENCE + RETURN, || {
            cluster.running().into_iter().any(|id| leads(cluster, id) && waits_for(cluster, id) == WaitsFor::OtherSite)
        })
        .await;
        sites.lose(&lost).await;
        clerk.put_surely(&sites.cluster, &stays, 3, PATIENCE).await;
        let lead = leader(&sites.cluster).await;
        assert_eq!(waits_for(&sites.cluster, lead), WaitsFor::Witness, "at once");
        sites.cluster.start_all().await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE + RETURN).await;
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
        replicas_are_equal(&sites.cluster).await;
    });
}

#[test]
fn a_witness_that_has_nothing_to_stand_in_for_any_more_is_not_waited_for() {
    let name = "shrink::a_witness_that_has_nothing_to_stand_in_for_any_more_is_not_waited_for";
    let runs = of_seeds(name, RUNS, async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        set_timers(&sites, Timers { shrink_ms: SHRINK.as_millis() as u64, ..Timers::default() }).await;
        let (all, dr) = (voters(&sites.cluster, 1), sites.dr.clone());
        sites.lose(&dr).await;
        clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
        until("the witness stands in", 2 * SHRINK, || waits_for(&sites.cluster, 1) == WaitsFor::Witness).await;
        // Just now somebody decides that votes stay.
        if declare(&sites.cluster, Some(Goal::Site)).await.is_err() {
            return false;
        }
        until("nobody is waited for", RETURN, || waits_for(&sites.cluster, 1) == WaitsFor::Nobody).await;
        assert_eq!(voters(&sites.cluster, 1), all);
        clerk.put_surely(&sites.cluster, &sites.main, 1, PATIENCE).await;
        true
    });
    some_run_saw("the goal comes before the votes are taken", &runs, |declared| *declared);
}

#[test]
fn nodes_that_are_gone_for_good_are_replaced_while_votes_are_taken() {
    of_seeds("shrink::nodes_that_are_gone_for_good_are_replaced_while_votes_are_taken", RUNS, async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        let (stays, lost) = shrunk(&mut sites, &mut clerk).await;
        let site = sites.cluster.members().iter().find(|it| it.node_id == lost[0]).expect("it is one").site.clone();
        let lead = leader(&sites.cluster).await;
        let old = witness(&sites.cluster);
        sites.cluster.crash(old).await;
        let new = sites.cluster.add(11, "third", Role::Witness);
        sites.cluster.start(11).await;
        clerk.put_surely(&sites.cluster, &stays, 0, PATIENCE).await;
        let early = replace(&sites.cluster, lead, old, new.clone()).await.expect_err("it may be back in a moment");
        assert!(early.to_string().contains("may be the only one outside this site"), "{early}");
        tokio::time::sleep(Duration::from_secs(30)).await;
        replace(&sites.cluster, lead, old, new).await.expect("it was given up, and lacks what is acknowledged");
        until("the new one stands in", RETURN, || waits_for(&sites.cluster, lead) == WaitsFor::Witness).await;
        clerk.put_surely(&sites.cluster, &stays, 1, PATIENCE).await;
        // Of the lost site all are back but one, which another takes the place of.
        for node in &lost[1..] {
            sites.cluster.start(*node).await;
        }
        let back: Vec<u64> = stays.iter().chain(&lost[1..]).copied().chain([11]).collect();
        until_voters(&sites.cluster, lead, &back, PATIENCE + RETURN).await;
        let new = sites.cluster.add(12, &site, Role::Voter);
        sites.cluster.start(12).await;
        replace(&sites.cluster, lead, lost[0], new).await.expect("it is gone for good");
        let all: Vec<u64> = back.iter().copied().chain([12]).collect();
        until_voters(&sites.cluster, lead, &all, PATIENCE).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE + RETURN).await;
        sites.lose(&stays).await;
        let rest: Vec<u64> = lost[1..].iter().copied().chain([12]).collect();
        clerk.put_surely(&sites.cluster, &rest, 2, Duration::from_secs(10)).await;
        for node in &rest {
            clerk.check(&sites.cluster, *node).await;
        }
    });
}

#[test]
fn votes_stay_where_the_survival_of_a_site_is_declared() {
    of_seeds("shrink::votes_stay_where_the_survival_of_a_site_is_declared", RUNS, async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        declare(&sites.cluster, Some(Goal::Site)).await.expect("these topologies bear it");
        set_timers(&sites, Timers { shrink_ms: SHRINK.as_millis() as u64, ..Timers::default() }).await;
        let all = voters(&sites.cluster, 1);
        let dr = sites.dr.clone();
        sites.lose(&dr).await;
        clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
        for _ in 0..10 {
            tokio::time::sleep(SHRINK / 5).await;
            assert_eq!(voters(&sites.cluster, 1), all);
            assert_eq!(waits_for(&sites.cluster, 1), WaitsFor::Nobody, "nobody has to stand in");
        }
        // Somebody decides otherwise.
        declare(&sites.cluster, Some(Goal::Node)).await.expect("less than before");
        let rest: Vec<u64> = sites.main.iter().copied().chain([witness(&sites.cluster)]).collect();
        until_voters(&sites.cluster, 1, &rest, PATIENCE).await;
    });
}

#[test]
fn whatever_happens_while_votes_go_and_come_nothing_acknowledged_is_lost_and_all_vote_again() {
    let name = "shrink::whatever_happens_while_votes_go_and_come_nothing_acknowledged_is_lost_and_all_vote_again";
    let runs = of_seeds(name, RUNS, async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        let all: Vec<u64> = sites.cluster.members().iter().map(|it| it.node_id).collect();
        let data: Vec<u64> = sites.main.iter().chain(&sites.dr).copied().collect();
        // Short times, so that a run sees many changes.
        let timers = Timers { return_ms: 1_000, parity_ms: 300, shrink_ms: 2_500, ..Timers::default() };
        set_timers(&sites, timers).await;
        let (mut down, mut shrinks, mut said) = (Vec::new(), 0, 0);
        for _ in 0..30 {
            if random_u64().is_multiple_of(3) {
                sites.mend_all(&mut down).await;
                let site = pick(&[&sites.main, &sites.dr]).clone();
                match random_u64() % 2 {
                    0 => {
                        sites.lose(&site).await;
                        down.extend(&site);
                    }
                    _ => {
                        let others: Vec<u64> = all.iter().copied().filter(|id| !site.contains(id)).collect();
                        sites.cluster.part(&site, &others);
                    }
                }
            } else {
                sites.trouble(&mut down).await;
            }
            let until = Instant::now() + Duration::from_millis(random_u64() % 8_000);
            while Instant::now() < until {
                let to = pick(&data);
                if sites.cluster.replica(to).is_some() {
                    let _unknown_or_refused = clerk.put(&sites.cluster, to, random_u64() % 5).await;
                }
                said += usize::from(what_leaders_say_of_the_witness_is_true(&sites.cluster));
                tokio::time::sleep(Duration::from_millis(random_u64() % 300)).await;
            }
            let running = sites.cluster.running();
            shrinks +=
                usize::from(running.iter().any(|id| status(&sites.cluster, *id).members.iter().any(|it| it.demoted)));
        }
        sites.mend_all(&mut down).await;
        let lead = leader(&sites.cluster).await;
        clerk.again_surely(&sites.cluster, &data, PATIENCE).await;
        until("all vote again", PATIENCE + RETURN, || {
            let leads = sites.cluster.running().into_iter().find(|id| leads(&sites.cluster, *id)).unwrap_or(lead);
            voters(&sites.cluster, leads) == [all.iter().copied().collect::<BTreeSet<_>>()]
        })
        .await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE + Duration::from_secs(600)).await;
        let members = status(&sites.cluster, data[0]).members;
        assert!(members.len() == all.len() && members.iter().all(|it| !it.demoted), "{members:?}");
        sites.settle().await;
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
        sites.one_is_lost_and_the_other_goes_on(&mut clerk).await;
        replicas_are_equal(&sites.cluster).await;
        println!("seed {seed}: votes were taken in {shrinks} of 30 rounds, {} acknowledged", clerk.acked());
        (shrinks, said)
    });
    some_run_saw("votes are taken and the witness stands in", &runs, |(shrinks, said)| *shrinks > 0 && *said > 0);
}

//! A site goes on without the other by force: what the verdict says is true, and the old side never counts again.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use saola_jepsen::sim::{CALL, Clerk, PATIENCE};
use saola_raft::AdminError;
use saola_raft::protection::State;
use saola_raft::sim::{random_u64, spawn_on};
use saola_storage::promotion::{Attested, SignedPlan, Verdict};
use tokio::time::Instant;

use super::promote::{all_come_back, approved, are_fenced, carry_out, key, name_approvers, plan, tend_until, vouched};
use super::sites::{Sites, until_state};
use super::{SEEDS, leads, of_seeds, on, pick, status, under_seeds, until};

/// From approval to the first write.
const LONGEST: Duration = Duration::from_secs(30);

async fn apply(sites: &Sites, through: u64, record: &Bytes) -> Result<(), AdminError> {
    let record = record.clone();
    on(&sites.cluster, through, move |replica| async move { replica.apply_promotion(record).await.map(drop) }).await
}

async fn old_side_is_fenced(sites: &mut Sites) {
    let main = sites.main.clone();
    are_fenced(sites, &main).await;
}

/// All nodes of the site vote, have the same records, and go on through a restart of any of them.
async fn site_goes_on(sites: &mut Sites, clerk: &mut Clerk, epoch: u64) {
    let dr = sites.dr.clone();
    tend_until(sites, "all nodes of the site vote in the new epoch", |sites| {
        let Some(lead) = dr.iter().find(|node| leads(&sites.cluster, **node)) else { return false };
        let it = status(&sites.cluster, *lead);
        let voters: Vec<BTreeSet<u64>> = it.voter_sets;
        it.epoch == epoch && voters.len() == 1 && dr.iter().all(|node| voters[0].contains(node))
    })
    .await;
    clerk.put_surely(&sites.cluster, &dr, 1, PATIENCE).await;
    let restarted = pick(&dr);
    sites.cluster.kill(restarted).await;
    sites.cluster.start(restarted).await;
    clerk.put_surely(&sites.cluster, &dr, 2, PATIENCE).await;
    for node in &dr {
        clerk.check(&sites.cluster, *node).await;
        let epochs = sites.cluster.replica(*node).expect("it runs").store().epochs();
        assert_eq!(epochs.last().map(|it| it.number), Some(epoch), "node {node}");
    }
}

#[test]
fn a_site_that_has_everything_goes_on_without_the_other_and_loses_nothing() {
    under_seeds("promotion::a_site_that_has_everything_goes_on_without_the_other_and_loses_nothing", async |seed| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        for record in 0..20 {
            clerk.put_surely(&sites.cluster, &sites.main, record % 5, PATIENCE).await;
        }
        let healthy = plan(&sites, 4, vouched()).await.expect_err("a quorum answers").to_string();
        assert!(healthy.contains("a quorum of voters answers"), "{healthy}");
        let main = sites.main.clone();
        sites.lose(&main).await;
        let unproven = plan(&sites, 4, vouched()).await.expect("nobody else answers");
        assert_eq!(unproven.verdict(), Verdict::Unknown, "{:?}", unproven.because);
        let stopped_us = Some(unproven.made_us);
        tokio::time::sleep(Duration::from_millis(random_u64() % 3_000)).await;
        let planned = plan(&sites, pick(&sites.dr), Attested { stopped_us, unchanged: true, ..vouched() })
            .await
            .expect("as before");
        assert_eq!(planned.verdict(), Verdict::ProvenZero, "{:?}", planned.because);
        let mut half = SignedPlan { plan: planned.encode_to_vec().into(), approvals: Vec::new() };
        half.approve("approver-1", &key(1));
        let refused = apply(&sites, 4, &half.to_bytes()).await.expect_err("one of two").to_string();
        assert!(refused.contains("1 of 2 approvals"), "{refused}");
        let approved_at = Instant::now();
        let done = carry_out(&mut sites, planned, seed % 3).await;
        clerk.put_surely(&sites.cluster, &[4, 5], 0, PATIENCE).await;
        assert!(approved_at.elapsed() < LONGEST, "{:?}", approved_at.elapsed());
        site_goes_on(&mut sites, &mut clerk, done.epoch).await;
        sites.cluster.start_all().await;
        old_side_is_fenced(&mut sites).await;
    });
}

/// Main is cut off from the other site and goes on without it, opens its gate, and acknowledges.
async fn main_goes_on_alone(sites: &Sites, clerk: &mut Clerk) {
    sites.part_from_main();
    for record in 0..4 {
        clerk.put_surely(&sites.cluster, &sites.main, record, PATIENCE).await;
    }
}

#[test]
fn what_main_acknowledged_alone_is_never_called_proven_zero() {
    under_seeds("promotion::what_main_acknowledged_alone_is_never_called_proven_zero", async |seed| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        main_goes_on_alone(&sites, &mut clerk).await;
        let main = sites.main.clone();
        let last_revision = main.iter().map(|node| status(&sites.cluster, *node).revision).max();
        sites.lose(&main).await;
        let clock = plan(&sites, 4, vouched()).await.expect("main does not answer").made_us;
        let attested = match seed % 2 {
            0 => Attested { stopped_us: Some(clock), unchanged: true, ..vouched() },
            _ => Attested { stopped_us: Some(clock), unchanged: true, last_revision, ..vouched() },
        };
        let planned = plan(&sites, pick(&sites.dr), attested).await.expect("as before");
        let expected = if seed % 2 == 0 { Verdict::Unknown } else { Verdict::Bounded };
        assert_eq!(planned.verdict(), expected, "{:?}", planned.because);
        assert!(planned.because.iter().any(|it| it.contains("after it could open the gate")), "{:?}", planned.because);
        let done = carry_out(&mut sites, planned, seed % 2).await;
        let mut after = Clerk::new(2);
        after.put_surely(&sites.cluster, &[4, 5], 9, PATIENCE).await;
        let lost = clerk.lose(&sites.cluster, 4).await.len() as u64;
        assert!(lost >= 4, "what main acknowledged alone is lost: {lost}");
        if done.verdict() == Verdict::Bounded {
            assert!(lost <= done.lost_revisions, "{lost} are lost, at most {} were said to be", done.lost_revisions);
        }
        site_goes_on(&mut sites, &mut after, done.epoch).await;
        sites.cluster.network.heal();
        sites.cluster.start_all().await;
        old_side_is_fenced(&mut sites).await;
    });
}

#[test]
fn an_old_side_that_was_alive_all_along_is_fenced_at_first_contact() {
    under_seeds("promotion::an_old_side_that_was_alive_all_along_is_fenced_at_first_contact", async |seed| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        main_goes_on_alone(&sites, &mut clerk).await;
        let planned = plan(&sites, 4, vouched()).await.expect("main is out of reach");
        assert_eq!(planned.verdict(), Verdict::Unknown);
        let done = carry_out(&mut sites, planned, seed % 2).await;
        let mut after = Clerk::new(2);
        after.put_surely(&sites.cluster, &[4, 5], 9, PATIENCE).await;
        // What was vouched for was not true: main goes on for as long as it meets nobody.
        clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
        sites.cluster.network.heal();
        let main = sites.main.clone();
        let began = Instant::now();
        while !main.iter().all(|node| status(&sites.cluster, *node).state == "fenced") {
            assert!(began.elapsed() < PATIENCE, "the old side is not fenced");
            let node = pick(&main);
            let was_fenced = status(&sites.cluster, node).state == "fenced";
            let written = clerk.put(&sites.cluster, node, 1).await;
            assert!(!(was_fenced && written.is_ok()), "node {node} was fenced, and took {written:?}");
        }
        site_goes_on(&mut sites, &mut after, done.epoch).await;
        // A restart of the whole old side, out of everybody's reach, does not make it forget.
        for node in &main {
            sites.cluster.crash(*node).await;
        }
        sites.part_from_main();
        for node in &main {
            sites.cluster.start(*node).await;
        }
        old_side_is_fenced(&mut sites).await;
    });
}

#[test]
fn with_the_witness_lost_too_the_rest_of_a_site_goes_on_and_both_are_fenced_when_they_return() {
    let name = "promotion::with_the_witness_lost_too_the_rest_of_a_site_goes_on_and_both_are_fenced_when_they_return";
    under_seeds(name, async |seed| {
        let mut sites = if seed % 2 == 0 { Sites::with_witness() } else { Sites::large_with_witness() };
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        let (main, witness) = (sites.main.clone(), *sites.cluster.ids().last().expect("there are nodes"));
        let through = pick(&sites.dr);
        let refused = plan(&sites, through, vouched()).await.expect_err("all answer").to_string();
        assert!(refused.contains("a quorum of voters answers"), "{refused}");
        sites.lose(&main).await;
        sites.cluster.crash(witness).await;
        let planned = plan(&sites, through, vouched()).await.expect("two of five, or three of seven");
        assert_eq!(planned.verdict(), Verdict::Unknown, "{:?}", planned.because);
        let done = carry_out(&mut sites, planned, seed % 3).await;
        clerk.put_surely(&sites.cluster, &sites.dr.clone(), 0, PATIENCE).await;
        site_goes_on(&mut sites, &mut clerk, done.epoch).await;
        sites.cluster.start_all().await;
        old_side_is_fenced(&mut sites).await;
        tend_until(&mut sites, "the witness is fenced", |sites| status(&sites.cluster, witness).state == "fenced")
            .await;
    });
}

#[test]
fn a_fenced_node_of_the_old_side_gives_its_log_and_with_it_zero_is_proven() {
    under_seeds("promotion::a_fenced_node_of_the_old_side_gives_its_log_and_with_it_zero_is_proven", async |seed| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        main_goes_on_alone(&sites, &mut clerk).await;
        // Two of three are enough for every quorum to have one.
        sites.lose(&[pick(&[1, 2, 3])]).await;
        let left: Vec<u64> = sites.main.iter().copied().filter(|id| sites.cluster.replica(*id).is_some()).collect();
        sites.lose(&left).await;
        sites.cluster.network.heal();
        for node in &left {
            sites.cluster.start(*node).await;
        }
        sites.cluster.part(&left, &left);
        let refused = plan(&sites, 4, vouched()).await;
        if let Err(refused) = refused {
            let said = refused.to_string();
            assert!(said.contains("fence them with `saola site fence main`") || said.contains("a quorum"), "{said}");
        }
        let fenced = on(&sites.cluster, 4, |replica| async move { replica.fence_site("main", "drill").await }).await;
        assert_eq!(fenced.expect("some answer").done.len(), 2);
        let planned = plan(&sites, pick(&sites.dr), vouched()).await.expect("they are fenced");
        assert_eq!(planned.verdict(), Verdict::ProvenZero, "{:?}", planned.because);
        assert!(left.contains(&planned.holder), "main has more");
        let done = carry_out(&mut sites, planned, seed % 3).await;
        clerk.put_surely(&sites.cluster, &[4, 5], 0, PATIENCE).await;
        site_goes_on(&mut sites, &mut clerk, done.epoch).await;
    });
}

#[test]
fn a_witness_that_is_left_goes_along_and_fences_whoever_comes_back() {
    under_seeds("promotion::a_witness_that_is_left_goes_along_and_fences_whoever_comes_back", async |seed| {
        let mut sites = Sites::large_with_witness();
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        let (main, lost) = (sites.main.clone(), pick(&sites.dr));
        sites.lose(&main).await;
        sites.cluster.crash(lost).await;
        sites.dr.retain(|node| *node != lost);
        let planned = plan(&sites, pick(&sites.dr), vouched()).await.expect("three of seven");
        assert_eq!(planned.members.len(), 3, "the witness is one of them");
        let done = carry_out(&mut sites, planned, seed % 3).await;
        clerk.put_surely(&sites.cluster, &sites.dr.clone(), 0, PATIENCE).await;
        site_goes_on(&mut sites, &mut clerk, done.epoch).await;
        // The witness is a quorum with either of them.
        let (down, left) = (sites.dr[0], sites.dr[1]);
        let witness = *sites.cluster.ids().last().expect("there are nodes");
        tend_until(&mut sites, "all three know that all three vote", |sites| {
            let uniform = |node: &u64| {
                let sets = status(&sites.cluster, *node).voter_sets;
                sets.len() == 1 && sets[0].len() == 3
            };
            [down, left, witness].iter().all(uniform)
        })
        .await;
        sites.cluster.crash(down).await;
        clerk.put_surely(&sites.cluster, &[left], 3, PATIENCE).await;
        sites.cluster.start_all().await;
        old_side_is_fenced(&mut sites).await;
        tend_until(&mut sites, "the lost one is, too", |sites| status(&sites.cluster, lost).state == "fenced").await;
    });
}

/// Everybody of the old side comes back: under new numbers, with the same records as the others, and with votes; what it alone
/// had is kept. Nodes of either side crash meanwhile. Answers which writes were kept, by record and generation.
async fn reinstate(sites: &mut Sites, clerk: &mut Clerk, crashes: u64) -> BTreeSet<(Bytes, u64)> {
    let (main, dr) = (sites.main.clone(), sites.dr.clone());
    all_come_back(sites, clerk, (&main, &dr), crashes).await
}

#[test]
fn the_side_that_was_left_behind_comes_back_and_what_it_alone_had_is_kept() {
    under_seeds("promotion::the_side_that_was_left_behind_comes_back_and_what_it_alone_had_is_kept", async |seed| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        main_goes_on_alone(&sites, &mut clerk).await;
        let planned = plan(&sites, 4, vouched()).await.expect("main is out of reach");
        let mut after = Clerk::new(2);
        let done = carry_out(&mut sites, planned, seed % 2).await;
        for record in 0..4 {
            after.put_surely(&sites.cluster, &[4, 5], 5 + record, PATIENCE).await;
        }
        clerk.put_surely(&sites.cluster, &sites.main.clone(), 0, PATIENCE).await;
        sites.cluster.network.heal();
        old_side_is_fenced(&mut sites).await;
        let kept = reinstate(&mut sites, &mut after, seed % 3).await;
        // Main wrote records 0 to 3 alone, and 0 again; one that a crash kept from the newest writes has fewer.
        let records: BTreeSet<&Bytes> = kept.iter().map(|(id, _)| id).collect();
        assert_eq!((kept.len(), records.len()), (5, 4), "{kept:?}");
        until_state(&sites.cluster, State::Synchronized, Duration::from_secs(90)).await;
        // Those that came back have everything: they are enough, alone.
        let (main, dr) = (sites.main.clone(), sites.dr.clone());
        sites.lose(&dr).await;
        after.put_surely(&sites.cluster, &main, 4, PATIENCE).await;
        for node in &main {
            after.check(&sites.cluster, *node).await;
            assert_eq!(status(&sites.cluster, *node).epoch, done.epoch);
        }
    });
}

/// A survivor waits for the epoch of a plan.
fn has_promised(sites: &Sites) -> bool {
    let waits = |node: &u64| {
        let reason = sites.cluster.replica(*node)?.status().refused_by_peers?;
        Some(reason.contains("waits for epoch"))
    };
    sites.dr.iter().any(|node| waits(node) == Some(true))
}

#[test]
fn a_plan_that_is_given_up_leaves_everything_as_it_was() {
    let name = "promotion::a_plan_that_is_given_up_leaves_everything_as_it_was";
    let given_up = of_seeds(name, SEEDS, async |seed| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        sites.part_from_main();
        let planned = plan(&sites, 4, vouched()).await.expect("main is out of reach");
        let record = approved(&planned);
        let (replica, asked) = (sites.cluster.replica(4).expect("it runs"), record.clone());
        let applying = spawn_on(4, async move { replica.apply_promotion(asked).await });
        until("somebody has promised", PATIENCE, || has_promised(&sites)).await;
        tokio::time::sleep(Duration::from_micros(random_u64() % 6_000)).await;
        let crashed = if seed % 2 == 0 { 5 } else { 4 };
        sites.cluster.crash(crashed).await;
        let _it_may_have_ended = tokio::time::timeout(CALL, applying).await;
        sites.cluster.start(crashed).await;
        let given_up = {
            let record = record.clone();
            on(&sites.cluster, 4, move |replica| async move { replica.abandon_promotion(record).await }).await
        };
        let begun = sites.dr.iter().any(|node| status(&sites.cluster, *node).epoch == 2);
        if let Err(error) = given_up {
            assert!(error.to_string().contains("has begun"), "{error}");
            return false;
        }
        assert!(!begun, "what has begun cannot be given up");
        sites.cluster.network.heal();
        tend_until(&mut sites, "both take part again", |sites| {
            sites.dr.iter().all(|node| status(&sites.cluster, *node).state == "learner")
        })
        .await;
        let again = apply(&sites, 4, &record).await.expect_err("the plan is of no use any more").to_string();
        assert!(again.contains("a quorum of voters answers"), "{again}");
        clerk.put_surely(&sites.cluster, &sites.main.clone(), 0, PATIENCE).await;
        until_state(&sites.cluster, State::Synchronized, Duration::from_secs(90)).await;
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
        true
    });
    let times = given_up.iter().filter(|it| **it).count();
    println!("{times} of {} plans were given up after somebody had promised, the others had begun", given_up.len());
    assert!(given_up.len() < SEEDS as usize || times > 0, "no plan was given up");
}

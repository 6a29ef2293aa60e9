//! What the cluster does by itself when the site that leads is lost, and where leadership belongs.

use std::time::Duration;

use saola_jepsen::sim::{CALL, Clerk, Cluster, PATIENCE};
use saola_raft::FailoverStatus;
use saola_raft::protection::State;
use saola_raft::sim::spawn_on;
use saola_storage::failover::{Failover, Held, Policy};
use saola_storage::types::LogId;

use super::sites::{Sites, until_state};
use super::{have_lead, leader, leads, pick, status, under_seeds, until};

const WITNESS: u64 = 5;
/// A witness wins, gives others what they lack and stands down within so long.
const TURN: Duration = Duration::from_secs(3);
/// Nobody leads for so long: many election timeouts.
const LONG: Duration = Duration::from_secs(10);

fn at_home(policy: Policy, limit: u32, returns: bool) -> Failover {
    Failover { policy, limit, home: "main".into(), returns }
}

async fn set(cluster: &Cluster, node: u64, rule: Failover) {
    let replica = cluster.replica(node).expect("callers name nodes that run");
    let set = spawn_on(node, async move { replica.set_failover(rule, CALL).await });
    set.await.expect("the node does not crash").expect("a leader is there");
}

fn known(cluster: &Cluster, node: u64) -> FailoverStatus {
    status(cluster, node).failover.expect("a data node knows")
}

/// Two sites that protect each other, led from main.
async fn begin() -> (Sites, Clerk) {
    let mut sites = Sites::with_witness();
    let clerk = sites.begin().await;
    until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
    (sites, clerk)
}

fn end(cluster: &Cluster, id: u64) -> Option<LogId> {
    cluster.log(id)?.last
}

async fn lose_main(sites: &mut Sites) {
    let main = sites.main.clone();
    sites.lose(&main).await;
}

/// Both voters of the other site say that they hold back, and no data node leads for long.
async fn holds_back(sites: &Sites) {
    let cluster = &sites.cluster;
    until("they say so", PATIENCE, || sites.dr.iter().all(|id| known(cluster, *id).held_back.is_some())).await;
    // A witness that was ahead has had its turn by then, and has no other.
    tokio::time::sleep(TURN).await;
    let term = status(cluster, sites.dr[0]).term;
    let until_then = tokio::time::Instant::now() + LONG;
    while tokio::time::Instant::now() < until_then {
        assert!(sites.main.iter().chain(&sites.dr).all(|id| !leads(cluster, *id)), "nobody takes over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!leads(cluster, WITNESS) && status(cluster, sites.dr[0]).term == term, "nobody was elected");
    let said = known(cluster, sites.dr[0]).held_back.expect("it was just seen");
    assert!(said.contains("site main is lost"), "{said}");
}

#[test]
fn with_observe_only_a_lost_node_is_replaced_and_a_lost_site_is_not() {
    under_seeds("failover::with_observe_only_a_lost_node_is_replaced_and_a_lost_site_is_not", async |_| {
        let (mut sites, mut clerk) = begin().await;
        set(&sites.cluster, pick(&[1, 3]), at_home(Policy::ObserveOnly, 0, false)).await;
        until("all know it", PATIENCE, || {
            sites.cluster.running().iter().all(|id| known(&sites.cluster, *id).held == Some(Held::ObserveOnly))
        })
        .await;
        sites.cluster.crash(1).await;
        clerk.put_surely(&sites.cluster, &[2, 3, 4], 0, PATIENCE).await;
        sites.cluster.start(1).await;
        until_state(&sites.cluster, State::Synchronized, Duration::from_secs(60)).await;
        until("it takes part again", PATIENCE, || status(&sites.cluster, 1).state == "follower").await;
        have_lead(&sites.cluster, 1).await;
        clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;

        lose_main(&mut sites).await;
        holds_back(&sites).await;
        // A restart does not make them forget.
        for node in sites.dr.clone() {
            sites.cluster.kill(node).await;
            sites.cluster.start(node).await;
        }
        holds_back(&sites).await;
        // One node of the site is enough for it not to be lost.
        sites.cluster.start(pick(&[1, 2])).await;
        clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
        until("nothing is held back", PATIENCE, || {
            sites.dr.iter().all(|id| known(&sites.cluster, *id).held_back.is_none())
        })
        .await;
        sites.cluster.start_all().await;
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
    });
}

#[test]
fn a_witness_that_alone_has_the_newest_entry_hands_it_to_no_site_that_must_not_take_over() {
    under_seeds(
        "failover::a_witness_that_alone_has_the_newest_entry_hands_it_to_no_site_that_must_not_take_over",
        async |_| {
            let (mut sites, mut clerk) = begin().await;
            set(&sites.cluster, 1, at_home(Policy::ObserveOnly, 0, false)).await;
            until("all know it", PATIENCE, || {
                sites.cluster.running().iter().all(|id| known(&sites.cluster, *id).held.is_some())
            })
            .await;
            sites.part_from_main();
            let _in_the_log_of_main_and_the_witness = clerk.put(&sites.cluster, 1, 0).await;
            lose_main(&mut sites).await;
            sites.cluster.network.heal();
            holds_back(&sites).await;
            assert!(
                sites.dr.iter().all(|id| end(&sites.cluster, *id) == end(&sites.cluster, WITNESS)),
                "it is safe there"
            );
            sites.cluster.start_all().await;
            clerk.again_surely(&sites.cluster, &sites.main, PATIENCE).await;
            for node in sites.cluster.running() {
                clerk.check(&sites.cluster, node).await;
            }
        },
    );
}

#[test]
fn a_site_goes_by_a_rule_that_it_had_not_heard_of_when_the_other_one_was_lost() {
    under_seeds("failover::a_site_goes_by_a_rule_that_it_had_not_heard_of_when_the_other_one_was_lost", async |seed| {
        let (mut sites, mut clerk) = begin().await;
        let held = |sites: &Sites, id: &u64| known(&sites.cluster, *id).held.is_some();
        let (before, after) = match seed % 2 {
            0 => (Policy::Automatic, Policy::ObserveOnly),
            _ => (Policy::ObserveOnly, Policy::Automatic),
        };
        set(&sites.cluster, 1, at_home(before, 0, false)).await;
        let was_held = before == Policy::ObserveOnly;
        until("all know it", PATIENCE, || sites.dr.iter().all(|id| held(&sites, id) == was_held)).await;
        sites.part_from_main();
        until_state(&sites.cluster, State::Unsynchronized, PATIENCE).await;
        set(&sites.cluster, pick(&[1, 2]), at_home(after, 0, false)).await;
        lose_main(&mut sites).await;
        assert!(sites.dr.iter().all(|id| held(&sites, id) == was_held), "they have not heard of it");
        sites.cluster.network.heal();
        if after == Policy::Automatic {
            clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
        } else {
            holds_back(&sites).await;
            // One node of the site is enough for it not to be lost; and somebody may decide.
            if seed % 4 == 0 {
                sites.cluster.start(pick(&[1, 2])).await;
            } else {
                sites.dr.iter().for_each(|id| drop(sites.cluster.replica(*id).and_then(|it| it.campaign_now())));
            }
            let data = [&sites.main[..], &sites.dr[..]].concat();
            clerk.put_surely(&sites.cluster, &data, 0, PATIENCE).await;
        }
        sites.cluster.start_all().await;
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
    });
}

#[test]
fn after_as_many_failovers_as_the_limit_says_nobody_takes_over_until_it_is_set_again() {
    under_seeds(
        "failover::after_as_many_failovers_as_the_limit_says_nobody_takes_over_until_it_is_set_again",
        async |_| {
            let (mut sites, mut clerk) = begin().await;
            let limited = at_home(Policy::Automatic, 1, false);
            set(&sites.cluster, 1, limited.clone()).await;
            lose_main(&mut sites).await;
            clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
            let lead = leader(&sites.cluster).await;
            until("it is counted", PATIENCE, || known(&sites.cluster, lead).replicated.done_us.len() == 1).await;
            assert_eq!(known(&sites.cluster, lead).held, Some(Held::LimitReached(1)));
            sites.cluster.start_all().await;
            until_state(&sites.cluster, State::Synchronized, Duration::from_secs(90)).await;
            have_lead(&sites.cluster, 1).await;
            clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
            lose_main(&mut sites).await;
            holds_back(&sites).await;
            sites.cluster.start_all().await;
            clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
            until_state(&sites.cluster, State::Synchronized, Duration::from_secs(90)).await;
            have_lead(&sites.cluster, 1).await;
            set(&sites.cluster, 1, limited).await;
            clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
            until("all know it", PATIENCE, || {
                sites.cluster.running().iter().all(|id| known(&sites.cluster, *id).held.is_none())
            })
            .await;
            lose_main(&mut sites).await;
            clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
            for node in &sites.dr {
                clerk.check(&sites.cluster, *node).await;
            }
        },
    );
}

#[test]
fn leadership_goes_home_after_the_loss_of_a_node_and_after_that_of_a_site_only_where_asked_for() {
    under_seeds(
        "failover::leadership_goes_home_after_the_loss_of_a_node_and_after_that_of_a_site_only_where_asked_for",
        async |seed| {
            let (mut sites, mut clerk) = begin().await;
            assert_eq!(known(&sites.cluster, 1).replicated.rule.home, "main", "where the first voter is");
            let led_from = |sites: &Sites, site: &[u64]| site.iter().any(|id| leads(&sites.cluster, *id));
            // Somebody has moved it: it stays.
            have_lead(&sites.cluster, 3).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(led_from(&sites, &sites.dr));
            // A node is lost, and the other one of its site cannot lead: DR takes over, and gives it back.
            have_lead(&sites.cluster, 1).await;
            sites.cluster.kill(2).await;
            clerk.put_surely(&sites.cluster, &[1], 0, PATIENCE).await;
            sites.cluster.kill(1).await;
            sites.cluster.start(2).await;
            clerk.put_surely(&sites.cluster, &[2, 3, 4], 0, PATIENCE).await;
            sites.cluster.start(1).await;
            until("main leads again", Duration::from_secs(120), || led_from(&sites, &sites.main)).await;
            until("it says so", PATIENCE, || known(&sites.cluster, 1).replicated.led_from == "main").await;
            // The site is lost: it stays away, until somebody says that it comes back by itself.
            until_state(&sites.cluster, State::Synchronized, Duration::from_secs(90)).await;
            lose_main(&mut sites).await;
            clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
            until("it is known that the site was lost", PATIENCE, || known(&sites.cluster, 3).replicated.away).await;
            sites.cluster.start_all().await;
            until_state(&sites.cluster, State::Synchronized, Duration::from_secs(90)).await;
            // The quiet minutes take long to simulate.
            let minutes = if seed == 0 { 12 } else { 1 };
            tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
            assert!(led_from(&sites, &sites.dr) && known(&sites.cluster, 3).replicated.away);
            if seed != 0 {
                return;
            }
            set(&sites.cluster, 3, at_home(Policy::Automatic, 0, true)).await;
            until("main leads again", Duration::from_secs(30), || led_from(&sites, &sites.main)).await;
            until("it is at home", PATIENCE, || !known(&sites.cluster, 1).replicated.away).await;
            clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
            for node in sites.cluster.running() {
                clerk.check(&sites.cluster, node).await;
            }
        },
    );
}

#[test]
fn a_site_that_holds_back_takes_over_when_it_is_told_to() {
    under_seeds("failover::a_site_that_holds_back_takes_over_when_it_is_told_to", async |_| {
        let (mut sites, mut clerk) = begin().await;
        set(&sites.cluster, 1, at_home(Policy::ObserveOnly, 0, false)).await;
        until("all know it", PATIENCE, || {
            sites.cluster.running().iter().all(|id| known(&sites.cluster, *id).held.is_some())
        })
        .await;
        lose_main(&mut sites).await;
        holds_back(&sites).await;
        for node in &sites.dr {
            assert!(sites.cluster.replica(*node).and_then(|it| it.campaign_now()).is_some());
        }
        clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
        let lead = leader(&sites.cluster).await;
        until("it is counted", PATIENCE, || known(&sites.cluster, lead).replicated.done_us.len() == 1).await;
        let told_again = sites.cluster.replica(lead).and_then(|it| it.campaign_now());
        assert_eq!(told_again, None, "nothing is held back");
        sites.cluster.start_all().await;
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
    });
}

#[test]
fn a_failover_counts_and_keeps_leadership_away_whatever_the_gate_does() {
    under_seeds("failover::a_failover_counts_and_keeps_leadership_away_whatever_the_gate_does", async |seed| {
        let (mut sites, mut clerk) = begin().await;
        if seed % 2 == 0 {
            let performance = super::sites::performance();
            super::sites::set(&sites.cluster, 1, performance).await.expect("it needs nobody else");
        } else {
            // The gate is open already.
            sites.part_from_main();
            until_state(&sites.cluster, State::Unsynchronized, PATIENCE).await;
            sites.cluster.network.heal();
        }
        clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
        lose_main(&mut sites).await;
        clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
        let lead = leader(&sites.cluster).await;
        let counted = || known(&sites.cluster, lead).replicated;
        until("it is counted", PATIENCE, || counted().done_us.len() == 1 && counted().away).await;
        sites.cluster.start_all().await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(sites.dr.iter().any(|id| leads(&sites.cluster, *id)), "it goes back only where asked for");
    });
}

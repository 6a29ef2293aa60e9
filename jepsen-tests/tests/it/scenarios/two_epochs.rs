//! People have a site promoted at two of its nodes, and vouch each time that the other one takes no part. Two epochs begin with
//! one number, and both acknowledge. Nothing can undo that; but whoever meets the other says so, neither takes the other for its
//! own, and once people have one of them fenced, nothing that it had acknowledged is lost without a trace.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use saola_jepsen::sim::records::record_id;
use saola_jepsen::sim::{Clerk, PATIENCE};
use saola_raft::protection::State;
use saola_raft::sim::random_u64;

use super::promote::{all_come_back, approved, carry_out, name_approvers, plan, tend, tend_until, vouched};
use super::sites::{Sites, until_state};
use super::{SEEDS, leads, of_seeds, on, pick, replicas_are_equal, status};

/// Promotes the site at this node, which reaches no other.
async fn promote_alone(sites: &mut Sites, node: u64, crashes: u64) -> u64 {
    sites.dr = vec![node];
    let planned = plan(sites, node, vouched()).await.expect("nobody else answers");
    carry_out(sites, planned, crashes).await.epoch
}

/// Both say that there are two, and go on; the one that is to give way is fenced by people.
async fn people_decide(sites: &mut Sites, other: &mut Clerk, (stays, goes): (u64, u64)) {
    let tells = |sites: &Sites, node: u64| status(&sites.cluster, node).twin_epoch.is_some();
    tend_until(sites, "both say that there are two", |sites| tells(sites, stays) && tells(sites, goes)).await;
    assert!(leads(&sites.cluster, stays) && leads(&sites.cluster, goes), "neither gives way by itself");
    let refused = on(&sites.cluster, stays, move |replica| async move {
        let former = replica.former_member(&format!("n{goes}")).await?;
        replica.reinstate(former).await.map(drop)
    });
    let refused = refused.await.expect_err("it goes on").to_string();
    assert!(refused.contains("which another plan began") && refused.contains("site fence dr"), "{refused}");
    other.put_surely(&sites.cluster, &[goes], 30, PATIENCE).await;
    let fenced = on(&sites.cluster, goes, |replica| async move { replica.fence_site("dr", "it gives way").await });
    assert_eq!(fenced.await.expect("it answers").done.len(), 1);
}

#[test]
fn two_epochs_of_one_number_find_each_other_and_nothing_of_the_one_that_gives_way_is_lost() {
    let name = "two_epochs::two_epochs_of_one_number_find_each_other_and_nothing_of_the_one_that_gives_way_is_lost";
    let twins = of_seeds(name, SEEDS, async |seed| {
        let mut sites = Sites::with_learners();
        let mut before = sites.begin().await;
        name_approvers(&sites.cluster, 1).await;
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        // One of them has more than the other by then, and so begins at a later entry.
        let behind = pick(&[4, 5]);
        sites.cluster.part(&[behind], &[1, 2, 3, 9 - behind]);
        for record in 0..random_u64() % 6 {
            before.put_surely(&sites.cluster, &sites.main, record, PATIENCE).await;
        }
        let main = sites.main.clone();
        sites.lose(&main).await;
        sites.cluster.part(&[4], &[5]);
        let first = promote_alone(&mut sites, 4, seed % 2).await;
        if seed % 4 == 3 {
            // Whoever gave a plan up gives its number to no other: the second epoch outweighs the first one.
            let given_up = approved(&plan(&sites, 5, vouched()).await.expect("nobody else answers"));
            let gave_up = on(&sites.cluster, 5, |replica| async move { replica.abandon_promotion(given_up).await });
            gave_up.await.expect("it has not begun");
        }
        let second = promote_alone(&mut sites, 5, (seed / 2) % 2).await;
        let are_twins = first == second;
        let (mut at_4, mut at_5) = (Clerk::new(2), Clerk::new(3));
        for record in 0..4 {
            at_4.put_surely(&sites.cluster, &[4], 20 + record, PATIENCE).await;
            at_5.put_surely(&sites.cluster, &[5], 22 + record, PATIENCE).await;
        }
        sites.cluster.network.heal();
        let tells = |sites: &Sites, node: u64| status(&sites.cluster, node).twin_epoch;
        let stays = match () {
            () if !are_twins => {
                if first > second {
                    4
                } else {
                    5
                }
            }
            () if seed % 3 == 0 => behind,
            () => 9 - behind,
        };
        let goes = 9 - stays;
        let (mut clerk, mut other) = if stays == 4 { (at_4, at_5) } else { (at_5, at_4) };
        if are_twins {
            people_decide(&mut sites, &mut other, (stays, goes)).await;
        }
        tend_until(&mut sites, "it is fenced", |sites| status(&sites.cluster, goes).state == "fenced").await;
        let kept: BTreeSet<(Bytes, u64)> =
            all_come_back(&mut sites, &mut clerk, (&[goes, 1, 2, 3], &[stays]), seed % 3).await;
        for (record, generation) in other.lose(&sites.cluster, stays).await {
            let found = kept.contains(&(Bytes::from(record_id(record)), generation));
            assert!(found, "r{record} generation {generation} was lost, and nobody has kept it: {kept:?}");
        }
        replicas_are_equal(&sites.cluster).await;
        // Nothing is left of it to tell.
        tokio::time::sleep(Duration::from_secs(70)).await;
        tend(&mut sites).await;
        assert_eq!(sites.cluster.running().into_iter().find_map(|node| tells(&sites, node)), None);
        are_twins
    });
    let times = twins.iter().filter(|it| **it).count();
    println!("{times} of {} times the two epochs had one number", twins.len());
    assert!(twins.len() < SEEDS as usize || times > 0, "no two epochs of one number began");
}

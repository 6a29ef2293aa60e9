//! A site goes on without the other by force, as people would have it do so, and the other side comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use saola_raft::sim::{lose_power_no_more, random_u64, spawn_on, unpowered};
use saola_raft::{AdminError, ORPHANS};
use saola_storage::command::Approver;
use saola_storage::orphan::OrphanBundle;
use saola_storage::promotion::{ApproverKey, Attested, Plan, SignedPlan};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::act::{leads, on, pick, status};
use super::sites::Sites;
use super::{CALL, Clerk, Cluster, PATIENCE};

/// The key of an approver.
pub fn key(number: u8) -> ApproverKey {
    ApproverKey::from_random(&Zeroizing::new([number; 32]))
}

/// What people say of a side that is out of reach.
pub fn vouched() -> Attested {
    Attested { fenced: "its racks are without power".into(), ..Attested::default() }
}

/// Two of three may approve.
pub async fn name_approvers(cluster: &Cluster, through: u64) {
    let approver = |number: u8| Approver {
        name: format!("approver-{number}"),
        public_key: Bytes::copy_from_slice(&key(number).public()),
    };
    let list = (1..=3).map(approver).collect();
    let replica = cluster.replica(through).expect("it runs");
    let named = spawn_on(through, async move { replica.set_approvers(list, 2, PATIENCE).await });
    named.await.expect("the node does not crash").expect("a quiet cluster takes them");
}

/// A plan as two of three approvers have signed it.
pub fn approved(plan: &Plan) -> Bytes {
    let mut signed = SignedPlan { plan: plan.encode_to_vec().into(), approvals: Vec::new() };
    let first = 1 + (random_u64() % 2) as u8;
    for number in [first, 3] {
        signed.approve(&format!("approver-{number}"), &key(number));
    }
    signed.to_bytes()
}

/// Has a node make a plan to promote the other site.
pub async fn plan(sites: &Sites, through: u64, attested: Attested) -> Result<Plan, AdminError> {
    on(&sites.cluster, through, move |replica| async move { replica.plan_promotion("dr", &attested).await }).await
}

/// Starts the processes anew that want to be, and machines that have lost power at a failpoint.
pub async fn tend(sites: &mut Sites) {
    let off: Vec<u64> = unpowered().into_keys().collect();
    for node in &off {
        sites.cluster.crash(*node).await;
    }
    for node in off {
        sites.cluster.start(node).await;
    }
    for node in sites.cluster.ids() {
        if sites.cluster.replica(node).is_some_and(|replica| replica.should_start_anew()) {
            sites.cluster.kill(node).await;
            sites.cluster.start(node).await;
        }
    }
}

/// Nobody loses power at a failpoint any more, and whoever has is back.
pub async fn power_stays(sites: &mut Sites) {
    lose_power_no_more();
    while !unpowered().is_empty() {
        tend(sites).await;
    }
}

/// Carries a plan out, repeating it until the epoch has begun and somebody leads in it; nodes of the site crash meanwhile.
/// A crash may take what was not on a disk yet: then the plan is made anew. Answers the epoch, and what was carried out.
pub async fn carry_out(sites: &mut Sites, first: Plan, crashes: u64) -> Plan {
    let (dr, began, mut left) = (sites.dr.clone(), Instant::now(), crashes);
    let attested = first.attested.clone().unwrap_or_default();
    let (mut planned, mut record) = (first.clone(), approved(&first));
    loop {
        assert!(began.elapsed() < PATIENCE, "epoch {} has not begun", planned.epoch);
        for node in sites.cluster.ids() {
            if dr.contains(&node) && sites.cluster.replica(node).is_none() {
                sites.cluster.start(node).await;
            }
        }
        tend(sites).await;
        if dr.iter().any(|node| leads(&sites.cluster, *node) && status(&sites.cluster, *node).epoch == planned.epoch) {
            return planned;
        }
        let through = pick(&dr);
        let (asked, replica) = (record.clone(), sites.cluster.replica(through).expect("it was started"));
        let applying = spawn_on(through, async move { replica.apply_promotion(asked).await });
        if left > 0 {
            left -= 1;
            tokio::time::sleep(Duration::from_micros(random_u64() % 60_000)).await;
            sites.cluster.crash(pick(&dr)).await;
        } else if let Ok(Ok(Err(error))) = tokio::time::timeout(Duration::from_secs(3), applying).await
            && error.to_string().contains("make a new one")
            && let Ok(again) = plan(sites, through, attested.clone()).await
        {
            (record, planned) = (approved(&again), again);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn how_all_stand(sites: &Sites) -> String {
    let stands = |node: u64| match sites.cluster.replica(node) {
        None => format!("{node} does not run"),
        Some(replica) => {
            let it = replica.status();
            format!("{node} is {} in epoch {} ({:?})", it.state, it.epoch, it.refused_by_peers)
        }
    };
    sites.cluster.ids().into_iter().map(stands).collect::<Vec<_>>().join("; ")
}

/// Waits until something holds, while processes that want to start anew do.
pub async fn tend_until(sites: &mut Sites, what: &str, mut holds: impl FnMut(&Sites) -> bool) {
    let began = Instant::now();
    while !holds(sites) {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {}", how_all_stand(sites));
        tend(sites).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// None of these takes part: no write of theirs counts, no linearizable read is served there.
pub async fn are_fenced(sites: &mut Sites, old: &[u64]) {
    tend_until(sites, "the old side is fenced", |sites| {
        old.iter().all(|node| status(&sites.cluster, *node).state == "fenced")
    })
    .await;
    let mut stranger = Clerk::new(7);
    for node in old {
        let written = stranger.put(&sites.cluster, *node, 50).await;
        assert!(written.is_err(), "node {node} took {written:?}");
        let replica = sites.cluster.replica(*node).expect("it runs");
        let read = spawn_on(*node, async move { replica.read_point(CALL).await }).await;
        assert!(!matches!(read, Ok(Ok(_))), "node {node} serves {read:?}");
    }
}

/// Machines that were `left` behind by those that went `on` come back: under new numbers, with the same records as the others,
/// and with votes; what they alone had is kept. Nodes of either side crash meanwhile. Answers which writes were kept, by record
/// and generation.
pub async fn all_come_back(
    sites: &mut Sites,
    clerk: &mut Clerk,
    (left, on): (&[u64], &[u64]),
    crashes: u64,
) -> BTreeSet<(Bytes, u64)> {
    let all = [left, on].concat();
    let highest = sites.cluster.ids().into_iter().max().unwrap_or(0);
    let data: Vec<u64> = on.iter().copied().filter(|node| sites.keeps_records(*node)).collect();
    let (began, mut crashes_left) = (Instant::now(), crashes);
    loop {
        assert!(began.elapsed() < 4 * PATIENCE, "the old side is not back: {}", how_all_stand(sites));
        sites.cluster.start_all().await;
        tend(sites).await;
        let through = pick(&data);
        let replica = sites.cluster.replica(through).expect("it was started");
        let back = spawn_on(through, async move {
            let Ok(former) = replica.former_members().await else { return usize::MAX };
            for node in former.iter().filter(|it| it.standing.is_ok()) {
                // A crash cuts it short; it is asked for again.
                let _cut_short = replica.reinstate(node.member.clone()).await;
            }
            former.len()
        });
        if crashes_left > 0 {
            crashes_left -= 1;
            tokio::time::sleep(Duration::from_micros(random_u64() % 3_000_000)).await;
            tend(sites).await;
            sites.cluster.crash(pick(&all)).await;
        }
        let mut back = std::pin::pin!(back);
        let left_behind = loop {
            tokio::select! {
                ended = &mut back => break ended.unwrap_or(usize::MAX),
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    sites.cluster.start_all().await;
                    tend(sites).await;
                }
            }
        };
        let are_back = left.iter().all(|node| number(sites, *node) > highest);
        if crashes_left == 0 && left_behind == 0 && are_back {
            break;
        }
    }
    power_stays(sites).await;
    sites.cluster.start_all().await;
    tend_until(sites, "all take part", |sites| {
        all.iter().all(|node| match status(&sites.cluster, *node).state {
            "leader" | "follower" | "witness" => true,
            // One whose settings say so votes only since a promotion that had it go along.
            "learner" => left.contains(node) && sites.is_set_up_as_learner(*node),
            _ => false,
        })
    })
    .await;
    let data: Vec<u64> = all.iter().copied().filter(|node| sites.keeps_records(*node)).collect();
    clerk.put_surely(&sites.cluster, &data, 3, PATIENCE).await;
    for node in &data {
        clerk.check(&sites.cluster, *node).await;
    }
    let numbers: BTreeSet<u64> = left.iter().map(|node| number(sites, *node)).collect();
    assert!(numbers.len() == left.len() && numbers.is_disjoint(&all.into_iter().collect()), "{numbers:?}");
    left.iter().flat_map(|node| kept_at(sites, *node)).collect()
}

/// The number that a machine's node goes by.
fn number(sites: &Sites, machine: u64) -> u64 {
    sites.cluster.replica(machine).map_or(0, |replica| replica.claim().node_id)
}

/// Writes in the orphan bundles of a node.
fn kept_at(sites: &Sites, machine: u64) -> Vec<(Bytes, u64)> {
    let bundles = saola_storage::orphan::list(&sites.cluster.folder(machine).join(ORPHANS)).expect("the folder lists");
    let mut kept = Vec::new();
    for path in bundles {
        let mut bundle = OrphanBundle::open(&path).expect("a whole bundle");
        while let Some(orphan) = bundle.next_orphan().expect("a whole bundle") {
            kept.push((orphan.id, orphan.generation));
        }
    }
    kept
}

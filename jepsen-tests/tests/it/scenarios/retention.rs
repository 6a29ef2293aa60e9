//! Old versions are removed by policy, under load and through changes of the leader, and no promise goes with them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use saola_jepsen::sim::{Clerk, Cluster, PATIENCE, records};
use saola_raft::sim::{SimRuntime, random_u64};
use saola_raft::{CollectorSettings, PinError, Replica};
use saola_storage::command::{Command, Decision, Release, RetentionChange, RetentionLimits};
use saola_storage::error::StoreError;
use tokio::time::{Instant, sleep};

use super::{have_lead, leader, pick, replicas_are_equal, under_seeds, until};

const DATA_NODES: [u64; 4] = [1, 2, 3, 4];
/// So many records are written to.
const RECORDS: u64 = 5;
/// How long a node confirms nothing after its start, and a promise holds.
const MINUTE: Duration = Duration::from_secs(60);
/// From the last promise in the way to the end of a pass.
const COLLECTED: Duration = Duration::from_secs(90);

/// Passes every second or so, few records at a time.
const EAGER: CollectorSettings = CollectorSettings {
    pass_every: Duration::from_secs(1),
    pause: Duration::from_millis(100),
    records: 2,
    change_window: 10,
};

async fn eager_cluster() -> Cluster {
    let mut cluster = Cluster::two_sites();
    cluster.collector = EAGER;
    cluster.init().await;
    cluster
}

fn keep_generations(max_generations: u64) -> RetentionChange {
    RetentionChange::Limits(RetentionLimits { max_generations, max_age_ms: 0 })
}

async fn decide(cluster: &Cluster, command: Command) {
    let through = cluster.replica(1).expect("node 1 runs");
    let outcome = through.propose(command, PATIENCE).await.expect("a quiet cluster takes a policy");
    assert!(matches!(outcome.decision, Some(Decision::Done(_))), "{outcome:?}");
}

fn node(cluster: &Cluster, id: u64) -> Replica<SimRuntime> {
    cluster.replica(id).expect("callers name nodes that run")
}

fn removed(cluster: &Cluster, id: u64) -> u64 {
    cluster.replica(id).map_or(0, |replica| replica.store().view().counts().removed)
}

/// The live records at a revision, with their generations.
type Listed = BTreeMap<Bytes, u64>;

/// A listing whose page token moves from node to node.
struct Listing {
    revision: u64,
    shows: Listed,
    last_page: Instant,
}

impl Listing {
    async fn begin(cluster: &Cluster, at: u64) -> Option<Listing> {
        let replica = node(cluster, at);
        let revision = replica.read_point(PATIENCE).await.ok()?.revision;
        let shows = records::listed_at(&replica, revision).ok()?;
        // Refused is a page that is not given out: the client begins again.
        replica.pin(&records::collection(&replica), revision).ok()?;
        Some(Listing { revision, shows, last_page: Instant::now() })
    }

    /// One more page, from any node that answers. Within a minute of the last one it is never gone.
    async fn page(&mut self, cluster: &Cluster) {
        loop {
            let replica = node(cluster, pick(&cluster.running()));
            assert!(self.last_page.elapsed() < MINUTE, "no node gave a page in time");
            sleep(Duration::from_millis(10)).await;
            if replica.read_point(Duration::from_secs(1)).await.is_err() {
                continue;
            }
            let shows = records::listed_at(&replica, self.revision);
            assert_eq!(shows.expect("it was promised"), self.shows, "revision {} shows something else", self.revision);
            match replica.pin(&records::collection(&replica), self.revision) {
                Ok(()) => break,
                Err(PinError::Gone { oldest }) => panic!("revision {} is gone below {oldest}", self.revision),
                Err(_) => {}
            }
        }
        self.last_page = Instant::now();
    }
}

#[test]
fn a_page_token_outlives_collections_leaders_and_crashes() {
    under_seeds("retention::a_page_token_outlives_collections_leaders_and_crashes", async |_| {
        let mut cluster = eager_cluster().await;
        let mut clerk = Clerk::new(1);
        decide(&cluster, records::set_retention(1, keep_generations(2))).await;
        sleep(MINUTE).await;
        let (mut listings, mut moments): (Vec<Listing>, BTreeMap<u64, Listed>) = Default::default();
        let mut crashed = None;
        for round in 0..30 {
            for _ in 0..3 {
                clerk.put_surely(&cluster, &cluster.running(), random_u64() % RECORDS, PATIENCE).await;
            }
            match random_u64() % 6 {
                0 => listings.extend(Listing::begin(&cluster, pick(&cluster.running())).await),
                1 if crashed.is_none() => {
                    let to = pick(&DATA_NODES);
                    if leader(&cluster).await != to {
                        have_lead(&cluster, to).await;
                    }
                }
                2 if crashed.is_none() => {
                    let victim = pick(&DATA_NODES);
                    cluster.crash(victim).await;
                    crashed = Some(victim);
                }
                3 => {
                    if let Some(victim) = crashed.take() {
                        cluster.start(victim).await;
                    }
                }
                _ => sleep(Duration::from_millis(random_u64() % 8_000)).await,
            }
            leader(&cluster).await;
            for listing in &mut listings {
                listing.page(&cluster).await;
            }
            // Some end, so that collections get on.
            if round % 7 == 6 {
                listings.clear();
            }
            let replica = node(&cluster, pick(&cluster.running()));
            if let Ok(point) = replica.read_point(PATIENCE).await {
                let floor = records::collection(&replica).collected_below;
                let revision = point.revision.max(floor);
                moments.insert(revision, records::listed_at(&replica, revision).expect("it is not collected"));
            }
        }
        if let Some(victim) = crashed {
            cluster.start(victim).await;
        }
        listings.clear();
        // Each record keeps its two newest versions, and what is newer than the last pass.
        let kept = || DATA_NODES.iter().all(|id| node(&cluster, *id).store().view().counts().versions <= 2 * RECORDS);
        until("policy is carried out everywhere", MINUTE + COLLECTED, kept).await;
        for id in DATA_NODES {
            let replica = node(&cluster, id);
            replica.read_point(PATIENCE).await.expect("a healed cluster serves");
            let floor = records::collection(&replica).collected_below;
            for (revision, shows) in &moments {
                match records::listed_at(&replica, *revision) {
                    Ok(found) => assert!(*revision >= floor && found == *shows, "node {id} at {revision}"),
                    Err(StoreError::RevisionGone { oldest, .. }) => assert!(*revision < oldest && oldest == floor),
                    Err(error) => panic!("node {id}: {error}"),
                }
            }
        }
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn nothing_goes_under_a_hold_and_all_that_may_goes_after_it() {
    under_seeds("retention::nothing_goes_under_a_hold_and_all_that_may_goes_after_it", async |_| {
        let cluster = eager_cluster().await;
        let mut clerk = Clerk::new(1);
        for round in 0..20 {
            clerk.put_surely(&cluster, &DATA_NODES, round % RECORDS, PATIENCE).await;
        }
        decide(&cluster, records::set_retention(1, keep_generations(1))).await;
        // Before or after the leader has announced it, but before anybody has run for a minute.
        sleep(Duration::from_millis(random_u64() % 10_000)).await;
        decide(&cluster, records::set_retention(2, RetentionChange::Hold("case 7".into()))).await;
        sleep(MINUTE + COLLECTED).await;
        for id in DATA_NODES {
            assert_eq!(removed(&cluster, id), 0, "node {id} removed what is on hold");
            clerk.check(&cluster, id).await;
        }
        decide(&cluster, records::set_retention(3, RetentionChange::Release(Release {}))).await;
        let collected = || DATA_NODES.iter().all(|id| removed(&cluster, *id) == 20 - RECORDS);
        until("what the hold kept is removed", COLLECTED, collected).await;
        let feed = || DATA_NODES.iter().all(|id| node(&cluster, *id).store().view().oldest_change() == 12);
        until("the change feed keeps its window", COLLECTED, feed).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn a_dead_member_does_not_keep_old_versions_for_ever() {
    under_seeds("retention::a_dead_member_does_not_keep_old_versions_for_ever", async |_| {
        let mut cluster = eager_cluster().await;
        let mut clerk = Clerk::new(1);
        for round in 0..20 {
            clerk.put_surely(&cluster, &DATA_NODES, round % RECORDS, PATIENCE).await;
        }
        sleep(MINUTE).await;
        let lead = leader(&cluster).await;
        let dead = pick(&DATA_NODES.map(|id| if id == lead { lead % 4 + 1 } else { id }));
        cluster.crash(dead).await;
        let asked = pick(&DATA_NODES.map(|id| if id == dead { lead } else { id }));
        let policy = records::set_retention(1, keep_generations(1));
        node(&cluster, asked).propose(policy, PATIENCE).await.expect("a quorum is left");
        // It may have promised something, so for a while it is waited for.
        sleep(MINUTE).await;
        assert_eq!(removed(&cluster, lead), 0);
        until("it counts as dead", 2 * MINUTE, || removed(&cluster, lead) == 20 - RECORDS).await;
        cluster.start(dead).await;
        until("it hears of it", PATIENCE, || removed(&cluster, dead) == 20 - RECORDS).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn versions_grow_old_while_nobody_writes() {
    under_seeds("retention::versions_grow_old_while_nobody_writes", async |_| {
        let cluster = eager_cluster().await;
        let mut clerk = Clerk::new(1);
        for round in 0..20 {
            clerk.put_surely(&cluster, &DATA_NODES, round % RECORDS, PATIENCE).await;
        }
        let max_age_ms = 3 * MINUTE.as_millis() as u64;
        let limits = RetentionLimits { max_generations: 0, max_age_ms };
        decide(&cluster, records::set_retention(1, RetentionChange::Limits(limits))).await;
        sleep(2 * MINUTE).await;
        assert!(DATA_NODES.iter().all(|id| removed(&cluster, *id) == 0), "none is so old");
        let all_went = || DATA_NODES.iter().all(|id| removed(&cluster, *id) == 20 - RECORDS);
        until("all but the newest have gone", MINUTE + COLLECTED, all_went).await;
        replicas_are_equal(&cluster).await;
    });
}

//! Clusters that are made although the making was cut short.

use std::cell::Cell;
use std::time::Duration;

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE, records};
use saola_raft::sim::{random_u64, spawn_on};
use saola_raft::{AdminError, Role};

use super::{ids, replicas_are_equal, status, under_seeds, until};

/// Makes a cluster of what `cluster` has, through node 1.
fn init(cluster: &Cluster, entropy: u8) -> impl Future<Output = Result<[u8; 16], AdminError>> + 'static {
    let (members, replica) = (cluster.members(), cluster.replica(1).expect("it runs"));
    let call = spawn_on(1, async move { replica.init("sim", vec![], members, [entropy; 32]).await });
    async move { call.await.unwrap_or_else(|_| Err(AdminError::Unknown("node 1 crashed".into()))) }
}

#[test]
fn init_that_was_cut_short_at_any_step_is_finished_by_repeating_it() {
    let unfinished = Cell::new(0);
    under_seeds("init::init_that_was_cut_short_at_any_step_is_finished_by_repeating_it", async |seed| {
        let mut cluster = Cluster::new(3, seed % 2 == 0);
        cluster.add(4, "main", Role::Learner);
        cluster.start_all().await;
        if seed % 5 == 0 {
            // A node that does not answer stops it after some are part of the cluster.
            cluster.kill(3).await;
            let error = init(&cluster, 9).await.unwrap_err();
            assert!(error.to_string().contains("node 3 at sim:3 does not answer"), "{error}");
            cluster.start(3).await;
        }
        let first = init(&cluster, 1);
        tokio::time::sleep(Duration::from_micros(random_u64() % 40_000)).await;
        if seed.is_multiple_of(3) {
            cluster.kill(1).await
        } else {
            cluster.crash(1).await
        }
        unfinished.set(unfinished.get() + u32::from(first.await.is_err()));
        cluster.start(1).await;
        // What the first call began may go on by itself for a moment.
        let mut entropy = 2;
        let made = loop {
            match init(&cluster, entropy).await {
                Ok(_) | Err(AdminError::AlreadyMade(_)) => break entropy,
                Err(error) => assert!(entropy < 20, "{error}"),
            }
            entropy += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let again = init(&cluster, made + 1).await;
        assert!(matches!(again, Err(AdminError::AlreadyMade(_))), "{again:?}");
        let maker = cluster.replica(1).expect("it runs");
        spawn_on(1, async move { records::create_collection(&maker).await }).await.expect("nothing aborts it");
        let mut clerk = Clerk::new(1);
        let data = cluster.running();
        clerk.put_surely(&cluster, &data, 0, PATIENCE).await;
        for node in &data {
            clerk.check(&cluster, *node).await;
            assert_eq!(ids(&status(&cluster, *node).members), [1, 2, 3, 4]);
        }
        replicas_are_equal(&cluster).await;
        let other = cluster.replica(1).expect("it runs");
        let members = cluster.members();
        let other = spawn_on(1, async move { other.init("other", vec![], members, [7; 32]).await });
        let other = other.await.expect("nothing aborts it");
        assert!(matches!(other, Err(AdminError::AlreadyMade(_))), "{other:?}");
    });
    println!("{} runs left a cluster that was not made", unfinished.get());
}

#[test]
fn init_goes_on_without_its_caller() {
    under_seeds("init::init_goes_on_without_its_caller", async |_| {
        let mut cluster = Cluster::new(3, true);
        cluster.add(4, "dr", Role::Learner);
        cluster.start_all().await;
        let (members, replica) = (cluster.members(), cluster.replica(1).expect("it runs"));
        let moment = Duration::from_millis(1) + Duration::from_micros(random_u64() % 30_000);
        let call = spawn_on(1, async move {
            tokio::time::timeout(moment, replica.init("sim", vec![], members, [5; 32])).await.is_ok()
        });
        call.await.expect("nothing aborts the caller");
        until("the cluster is made, its learner too", PATIENCE, || {
            let status = status(&cluster, 1);
            ids(&status.members) == [1, 2, 3, 4]
                && cluster.replica(1).is_some_and(|it| it.store().view().info().is_some())
        })
        .await;
    });
}

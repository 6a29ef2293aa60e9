//! A node whose log is damaged and whose peers are away: it says what it waits for, and goes on by itself.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use saola_storage::disk::RealDisk;
use saola_storage::log::{Item, Record, examine};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::harness::cluster::{own, value_at};
use super::harness::wait::until;
use super::harness::{COLLECTION, Cluster, http};
use super::observe::{becomes, channel};

/// An entry of a log: its segment, where it stands in there, its index.
#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
    index: u64,
}

/// The last entry that a later record proves to have been synced.
fn last_proven(log: &Path) -> Option<Place> {
    let disk = RealDisk::open_to_read(log).ok()?;
    let (mut last, mut proven) = (None, None);
    let examined = examine(&disk, None, |item| {
        let Item::Record { segment, offset, synced, record } = item else { return };
        if last.is_some_and(|last: Place| last.segment < segment || last.offset < synced) {
            proven = last;
        }
        if let Record::Entry(id, _) = record {
            last = Some(Place { segment, offset, index: id.index });
        }
    });
    examined.ok().and(proven)
}

/// Turns a bit in the entry's payload.
fn damage(log: &Path, at: Place) {
    let file = OpenOptions::new().read(true).write(true).open(log.join(format!("{:016x}.seg", at.segment))).unwrap();
    let (mut byte, place) = ([0], at.offset + 40);
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place).unwrap();
}

#[tokio::test]
async fn a_node_that_waits_for_the_repair_of_its_log_says_so_wherever_it_is_asked() {
    let mut cluster = Cluster::running(3).await;
    // A stop flushes the records, and with them who the members are.
    cluster.nodes[1].terminate().await;
    cluster.start(1).await;
    // One that will be there and cannot help: it lacks what is damaged.
    cluster.nodes[0].kill();
    let written = cluster.put("a", "v").await;
    let applied = |status: &saola_client::proto::StatusResponse| own(status, 2).revision >= written.revision;
    let index = own(&cluster.wait_for(1, "the write", applied).await, 2).applied_index;
    let log = cluster.nodes[1].data().join("log");
    let place = until("the entry is proven synced", async || {
        last_proven(&log).filter(|place| place.index >= index).ok_or("no later record says so".to_owned())
    })
    .await;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    damage(&log, place);

    // From which entry on it waits depends on how much of the log says that it is committed.
    let damaged = format!("(index {})", place.index);
    let waits = |text: &str| text.contains("waits for entries") && text.contains(&damaged);
    let status = cluster.start(1).await;
    assert_eq!(status.state, "repairing", "{status:?}");
    // Before it knows what it lacks it says that it reads what is left.
    let says = |status: &saola_client::proto::StatusResponse| {
        let seen = own(status, 2);
        seen.state == "repairing" && waits(&seen.error)
    };
    cluster.wait_for(1, "what it waits for", says).await;
    let mut health = HealthClient::new(channel(&cluster, 1).await);
    becomes(&mut health, "saola.v1.Records", ServingStatus::NotServing).await;
    becomes(&mut health, "", ServingStatus::Serving).await;
    let (code, text) = http::get(&cluster.nodes[1].metrics, "/readyz").await;
    assert!(code == 503 && waits(&text), "{code} {text}");
    let hasty = cluster.at(1).with_deadline(Duration::from_secs(1));
    let refused = hasty.get(COLLECTION, "a").send().await.expect_err("it has not started");
    assert_eq!(refused.reason(), "REPAIRING", "{refused}");

    cluster.start(0).await;
    let repairing = |status: &saola_client::proto::StatusResponse| {
        let seen = own(status, 2);
        seen.state == "repairing" && waits(&seen.error)
    };
    cluster.wait_for(0, "what the other waits for", repairing).await;

    cluster.start(2).await;
    cluster.wait_for(1, "itself back", |status| matches!(&own(status, 2).state[..], "follower" | "leader")).await;
    becomes(&mut HealthClient::new(channel(&cluster, 1).await), "saola.v1.Records", ServingStatus::Serving).await;
    assert_eq!(value_at(&cluster.at(1), "a").await.unwrap().as_deref(), Some("v"));
}

//! A node id with a folder that is not its own, or an old copy of it, or on two nodes: it must not vote.

use std::fs;

use super::harness::cluster::{copy_folder, own, value_at};
use super::harness::wait::until;
use super::harness::{Cluster, http};

#[tokio::test]
async fn a_known_node_with_an_empty_folder_or_an_older_copy_is_refused_with_the_next_step() {
    // What a leader has counted as flushed it knows for as long as it leads.
    let mut cluster = Cluster::running_without_elections().await;
    let leader = cluster.leader().await;
    let absent = if leader == 2 { 1 } else { 2 };
    let (id, data, copy) = (cluster.nodes[absent].id, cluster.nodes[absent].data(), cluster.path("copy"));
    let caught_up = |revision: u64| {
        move |status: &saola_client::proto::StatusResponse| {
            let own = own(status, id);
            own.reachable && own.revision >= revision && own.state == "follower"
        }
    };
    let refused = |part: &'static str| {
        move |status: &saola_client::proto::StatusResponse| {
            let own = own(status, id);
            own.state == "refused" && own.error.contains(part) && own.error.contains("`saola cluster replace")
        }
    };
    let first = cluster.put("a", "1").await;
    cluster.wait_for(0, "the first write everywhere", caught_up(first.revision)).await;
    cluster.nodes[absent].kill();
    copy_folder(&data, &copy);
    cluster.start(absent).await;
    let second = cluster.put("a", "2").await;
    cluster.wait_for(0, "the second write everywhere", caught_up(second.revision)).await;
    // A follower may apply a little before its log is flushed; only what it has flushed can be missed in the copy.
    let metrics = cluster.nodes[leader].metrics.clone();
    let flushed = format!("saola_peer_matched_lag{{node=\"{id}\"}} 0\n");
    until("the leader counts the second write as flushed", async || {
        let (_, scrape) = http::get(&metrics, "/metrics").await;
        if scrape.contains(&flushed) { Ok(()) } else { Err(scrape) }
    })
    .await;

    cluster.nodes[absent].kill();
    let own_folder = cluster.path("own");
    fs::rename(&data, &own_folder).unwrap();
    cluster.start(absent).await;
    cluster.wait_for(absent, "its empty folder refused", refused("put its own folder back")).await;
    cluster.nodes[absent].kill();
    fs::remove_dir_all(&data).unwrap();

    fs::rename(&copy, &data).unwrap();
    cluster.start(absent).await;
    cluster.wait_for(absent, "the old copy refused", refused("an older copy of its data folder")).await;
    cluster.nodes[absent].kill();
    fs::remove_dir_all(&data).unwrap();

    fs::rename(&own_folder, &data).unwrap();
    let third = cluster.put("a", "3").await;
    cluster.start(absent).await;
    cluster.wait_for(0, "the node back", caught_up(third.revision)).await;
    assert_eq!(value_at(&cluster.at(absent), "a").await.unwrap().as_deref(), Some("3"));
}

#[tokio::test]
async fn a_node_on_a_folder_of_another_cluster_takes_no_part_and_status_says_so() {
    let mut elsewhere = Cluster::running(1).await;
    elsewhere.put("a", "elsewhere").await;
    elsewhere.nodes[0].kill();

    let mut cluster = Cluster::prepare(3);
    copy_folder(&elsewhere.nodes[0].data(), &cluster.nodes[0].data());
    for index in 0..3 {
        cluster.start(index).await;
    }
    let error = cluster.at(1).cluster_init(cluster.topology()).await.expect_err("refused");
    for part in ["node 1 (main-1)", "belongs to a cluster already", "give it an empty data folder"] {
        assert!(error.to_string().contains(part), "{part:?} in: {error}");
    }

    cluster.nodes[0].kill();
    fs::rename(cluster.nodes[0].data(), cluster.path("others")).unwrap();
    cluster.start(0).await;
    cluster.init().await;
    let written = cluster.put("a", "here").await;
    cluster.nodes[0].kill();
    fs::rename(cluster.nodes[0].data(), cluster.path("own")).unwrap();
    fs::rename(cluster.path("others"), cluster.nodes[0].data()).unwrap();
    cluster.start(0).await;
    cluster
        .wait_for(1, "the folder of the other cluster refused", |status| {
            let own = own(status, 1);
            own.state == "refused" && own.error.contains("data folder of another cluster")
        })
        .await;
    assert_eq!(cluster.value("a").await.as_deref(), Some("here"));
    let status = cluster.wait_for(1, "the write", |status| own(status, 2).revision == written.revision).await;
    assert_eq!(status.sites[0].data_nodes_current, 2, "the refused node does not count: {status:?}");
}

#[tokio::test]
async fn two_nodes_cannot_have_one_id() {
    let mut fresh = Cluster::prepare(2);
    fresh.start(0).await;
    let mut topology = fresh.topology();
    topology.members[1].node_id = 1;
    let twin = topology.members[1].clone();
    let error = fresh.at(0).cluster_init(topology).await.expect_err("refused");
    assert_eq!(error.reason(), "INVALID_ARGUMENT", "{error}");
    assert!(error.to_string().contains("node_id 1 stands in it twice"), "{error}");

    let cluster = Cluster::running(1).await;
    let error = cluster.client().add_member(twin, None).await.expect_err("refused");
    assert_eq!(error.reason(), "MEMBERSHIP_REFUSED", "{error}");
    assert!(error.to_string().contains("node 1 is a member already"), "{error}");
    assert_eq!(error.next_step(), "repeat the command with these, or take another id");
}

#[tokio::test]
async fn a_copy_of_a_node_at_another_address_is_told_to_stop_and_the_node_goes_on() {
    let mut cluster = Cluster::running(3).await;
    let first = cluster.put("a", "1").await;
    let at = if cluster.leader().await == 2 { 1 } else { 2 };
    let id = cluster.nodes[at].id;
    let current = |status: &saola_client::proto::StatusResponse| {
        let own = own(status, id);
        own.state == "follower" && own.revision >= first.revision
    };
    cluster.wait_for(0, "the write on the node", current).await;
    cluster.nodes[at].kill();
    let twin = cluster.twin(at);
    cluster.start(at).await;
    cluster.start(twin).await;
    let expected = format!(
        "two processes run as node {id}: the one at the recorded address {} counts; stop this one",
        cluster.nodes[at].peer
    );
    until("the copy is told to stop", async || {
        let own = own(&cluster.status(twin).await, id);
        if own.state == "refused" && own.error == expected { Ok(()) } else { Err(format!("{own:?}")) }
    })
    .await;
    let second = cluster.put("a", "2").await;
    cluster
        .wait_for(0, "the node itself", |status| {
            let own = own(status, id);
            own.reachable && own.state == "follower" && own.revision >= second.revision
        })
        .await;
    assert_eq!(value_at(&cluster.at(at), "a").await.unwrap().as_deref(), Some("2"));
    let error = value_at(&cluster.at(twin), "a").await.expect_err("a copy answers no reads");
    assert!(error.to_string().contains("two processes run as node"), "{error}");
}

#[tokio::test]
async fn a_removed_node_says_that_it_was_removed_and_what_to_do() {
    let mut cluster = Cluster::running(3).await;
    cluster.put("a", "1").await;
    let at = if cluster.leader().await == 2 { 1 } else { 2 };
    let id = cluster.nodes[at].id;
    let told = |own: saola_client::proto::NodeStatus| {
        let why = format!("node {id} was removed from the cluster: stop it and delete its data folder");
        if own.state == "refused" && own.error.starts_with(&why) { Ok(()) } else { Err(format!("{own:?}")) }
    };
    cluster.client().remove_member(id).await.expect("a member can be removed");
    until("it learns it while it runs", async || told(own(&cluster.status(at).await, id))).await;
    let error = value_at(&cluster.at(at), "a").await.expect_err("it has missed writes");
    assert!(error.to_string().contains("was removed from the cluster"), "{error}");
    cluster.nodes[at].kill();
    cluster.start(at).await;
    until("it learns it when it runs again", async || told(own(&cluster.status(at).await, id))).await;
}

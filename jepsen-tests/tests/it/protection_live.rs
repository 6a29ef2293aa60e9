//! What an acknowledgement waits for, over real processes, set and shown by the command `saola`.

use std::process::{Command, Output};
use std::time::Duration;

use saola_client::Error;
use saola_client::proto::StatusResponse;
use saola_ops::launch::{LocalCluster, Plan, node_binary};

use super::membership_live::{COLLECTION, must, reads_back, start, takes_part, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_maximum_protection_writes_wait_for_the_other_site_and_the_command_says_so() {
    let mut cluster = start(&Plan::two_sites_and_witness()).await;
    write(cluster.client(), 0..10).await;
    let shown = said(saola(&cluster, &["protection", "set", "maximum-protection", "--acks", "1"]).await);
    assert!(shown.contains("a quorum and 1 data node of other sites have flushed each acknowledged write"), "{shown}");
    assert!(shown.contains("SYNCHRONIZED: every acknowledged write is stored at 1 data node outside main"), "{shown}");
    cluster.kill(&["dr-1"]).await.expect("it runs");
    write(cluster.client(), 10..20).await;

    cluster.kill(&["dr-2"]).await.expect("it runs");
    // Pinned to the leader, so that its own answer is the one that comes.
    let hasty = must(cluster.client_at("main-1")).with_deadline(Duration::from_secs(2));
    let waits = hasty.put(COLLECTION, "r20", "20").send().await.expect_err("the other site is gone");
    let Error::UnknownOutcome { details, .. } = &waits else { panic!("{waits}") };
    assert!(details.to_string().contains("not stored at the other site"), "{details}");
    reads_back(cluster.client(), 0..20).await;
    let hidden = cluster.client().get(COLLECTION, "r20").send().await.expect("what was shown is still shown");
    assert!(hidden.value.is_none(), "nobody sees what the other site lacks");
    let status = said(saola(&cluster, &["protection", "show"]).await);
    assert!(status.contains("STALLED: WRITES WAIT: no acknowledgement from outside main"), "{status}");
    assert!(status.contains("bring back dr-1, dr-2, or lower the protection"), "{status}");

    must(cluster.start("dr-1"));
    must(cluster.wait_for_answer("dr-1").await);
    takes_part(&cluster, "dr-1").await;
    write(cluster.client(), 21..30).await;
    reads_back(cluster.client(), 0..30).await;

    cluster.kill(&["dr-1"]).await.expect("it runs");
    let lower = ["protection", "set", "maximum-performance"];
    let refused = saola(&cluster, &lower).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("--confirm"), "{why}");
    let name = cluster.client().cluster_status(true).await.expect("it answers").cluster_name;
    said(saola(&cluster, &[&lower[..], &["--confirm", &name]].concat()).await);
    write(cluster.client(), 30..35).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_is_lost_is_given_up_by_itself_and_waited_for_again_once_it_has_everything() {
    let mut cluster = start(&Plan::two_sites_and_witness()).await;
    let shown = said(saola(&cluster, &["status"]).await);
    assert!(shown.contains("protection  SYNCHRONIZED: every acknowledged write is stored"), "{shown}");
    assert!(shown.contains("rpo now 0  gate closed"), "{shown}");
    let shown = said(saola(&cluster, &["goal", "set", "survive=site"]).await);
    assert_eq!(shown.trim(), "survive=site is declared, and the membership bears it");
    let set = ["protection", "set", "maximum-availability", "--return-ms", "300", "--parity-ms", "200"];
    let shown = said(saola(&cluster, &set).await);
    assert!(shown.contains("when they have not acknowledged for 800 ms a quorum is enough"), "{shown}");
    write(cluster.client(), 0..10).await;

    cluster.kill(&["dr-1", "dr-2"]).await.expect("both run");
    write(cluster.client(), 10..20).await;
    let why = saola(&cluster, &["why"]).await;
    let shown = String::from_utf8_lossy(&why.stdout).into_owned();
    assert_eq!(why.status.code(), Some(5), "{shown}");
    assert!(
        shown.starts_with("state      UNSYNCHRONIZED") && shown.contains("you can    bring back dr-1 at dr"),
        "{shown}"
    );
    let shown = said(saola(&cluster, &["topology", "explain"]).await);
    let row = shown.lines().find(|line| line.starts_with(" site main ")).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.contains("NO") && row.contains("STOPS: no data node is left"), "{shown}");

    for name in ["dr-1", "dr-2"] {
        must(cluster.start(name));
        must(cluster.wait_for_answer(name).await);
    }
    let synchronized =
        |status: &StatusResponse| match status.protection_status.as_ref().map(|stand| stand.state.as_str()) {
            Some("SYNCHRONIZED") => Ok(()),
            _ => Err(status.protection.clone()),
        };
    must(cluster.wait_for_status("the sites protect each other again", synchronized).await);
    let shown = said(saola(&cluster, &["why"]).await);
    assert!(shown.starts_with("state      SYNCHRONIZED") && shown.contains("losses in the last hour 1"), "{shown}");
    cluster.kill(&["main-1", "main-2"]).await.expect("both run");
    write(cluster.client(), 20..30).await;
    reads_back(cluster.client(), 0..30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_stays_away_loses_its_votes_and_the_command_says_so_until_they_are_back() {
    let mut cluster = start(&Plan::two_sites_and_witness()).await;
    let times = ["--return-ms", "300", "--parity-ms", "200", "--shrink-ms", "1500"];
    let shown = said(saola(&cluster, &[&["protection", "set", "maximum-availability"], &times[..]].concat()).await);
    assert!(shown.contains("a site that is silent for 1500 ms loses its votes until then"), "{shown}");
    write(cluster.client(), 0..10).await;
    cluster.kill(&["dr-1", "dr-2"]).await.expect("both run");
    write(cluster.client(), 10..20).await;
    let has_votes = |wanted: bool| {
        move |status: &StatusResponse| {
            let dr = status.nodes.iter().filter(|node| node.member.as_ref().is_some_and(|it| it.site == "dr"));
            let all = dr.clone().count() == 2 && dr.clone().all(|node| node.without_vote.is_empty() == wanted);
            if all { Ok(()) } else { Err(status.protection.clone()) }
        }
    };
    must(cluster.wait_for_status("the lost site has no votes", has_votes(false)).await);
    let status = saola(&cluster, &["status"]).await;
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(5), "{shown}");
    for part in
        ["SINGLE-SITE DATA: dr-1, dr-2 stayed away", "wait for the witness", "gate on the witness", "voter, no vote"]
    {
        assert!(shown.contains(part), "{part:?} in: {shown}");
    }
    let shown = said(saola(&cluster, &["topology", "explain"]).await);
    let row = shown.lines().find(|line| line.starts_with(" node main-2 ")).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.contains("yes") && row.contains("writes go on and wait for the witness alone"), "{shown}");

    cluster.kill(&["main-2"]).await.expect("it runs");
    write(cluster.client(), 20..30).await;
    for name in ["main-2", "dr-1", "dr-2"] {
        must(cluster.start(name));
        must(cluster.wait_for_answer(name).await);
    }
    must(cluster.wait_for_status("all votes are back", has_votes(true)).await);
    // What is acknowledged after that is at the other site with all before it.
    write(cluster.client(), 30..31).await;
    cluster.kill(&["main-1", "main-2"]).await.expect("both run");
    write(cluster.client(), 31..40).await;
    reads_back(cluster.client(), 0..40).await;
}

pub async fn saola(cluster: &LocalCluster, args: &[&str]) -> Output {
    let mut command = Command::new(must(node_binary()).with_file_name("saola"));
    command.arg("--profile").arg(cluster.folder().join("profile.toml")).args(args);
    let run = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    run.expect("saola is built: `make build`")
}

pub fn said(output: Output) -> String {
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    told
}

//! What an acknowledgement waits for, over real processes, set and shown by the command `saola`.

use std::process::{Command, Output};
use std::time::Duration;

use saola_client::Error;
use saola_client::proto::StatusResponse;
use saola_ops::launch::{LocalCluster, Plan, node_binary, wait_until};

use super::membership_live::{COLLECTION, LIMIT, must, reads_back, start, takes_part, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_maximum_protection_writes_wait_for_the_other_site_and_the_command_says_so() {
    let mut cluster = start(&Plan::two_sites_and_witness()).await;
    write(cluster.client(), 0..10).await;
    let shown = said(saola(&cluster, &["protection", "set", "maximum-protection", "--acks", "1"]).await);
    assert!(shown.contains("a quorum and 1 data node of other sites have flushed each acknowledged write"), "{shown}");
    shows(&cluster, &["protection", "show"], 0, |shown| {
        shown.contains("SYNCHRONIZED: every acknowledged write is stored at 1 data node outside main")
    })
    .await;
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
    shows(&cluster, &["protection", "show"], 0, |shown| {
        shown.contains("STALLED: WRITES WAIT: no acknowledgement from outside main")
            && shown.contains("bring back dr-1, dr-2, or lower the protection")
    })
    .await;

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
    shows(&cluster, &["status"], 0, |shown| {
        shown.contains("protection  SYNCHRONIZED: every acknowledged write is stored")
            && shown.contains("rpo now 0  gate closed")
    })
    .await;
    let shown = said(saola(&cluster, &["goal", "set", "survive=site"]).await);
    assert_eq!(shown.trim(), "survive=site is declared, and the membership bears it");
    let set = ["protection", "set", "maximum-availability", "--return-ms", "300", "--parity-ms", "200"];
    let shown = said(saola(&cluster, &set).await);
    assert!(shown.contains("when they have not acknowledged for 800 ms a quorum is enough"), "{shown}");
    write(cluster.client(), 0..10).await;

    cluster.kill(&["dr-1", "dr-2"]).await.expect("both run");
    write(cluster.client(), 10..20).await;
    shows(&cluster, &["why"], 5, |shown| {
        shown.starts_with("state      UNSYNCHRONIZED") && shown.contains("you can    bring back dr-1 at dr")
    })
    .await;
    let shown = said(saola(&cluster, &["topology", "explain"]).await);
    let row = shown.lines().find(|line| line.starts_with(" site main ")).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.contains("NO") && row.contains("STOPS: no data node is left"), "{shown}");

    for name in ["dr-1", "dr-2"] {
        must(cluster.start(name));
        must(cluster.wait_for_answer(name).await);
    }
    // A machine that stands still for a second makes more losses of one.
    shows(&cluster, &["why"], 0, |shown| {
        shown.starts_with("state      SYNCHRONIZED") && !shown.contains("losses in the last hour 0")
    })
    .await;
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
    shows(&cluster, &["status"], 5, |shown| {
        let parts = [
            "SINGLE-SITE DATA: dr-1, dr-2 stayed away",
            "wait for the witness",
            "gate on the witness",
            "voter, no vote",
        ];
        parts.iter().all(|part| shown.contains(part))
    })
    .await;
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

/// Runs the command until it ends so and prints what is wanted: a machine that stands still for a moment shows other states.
async fn shows(cluster: &LocalCluster, args: &[&str], code: i32, wanted: impl Fn(&str) -> bool) {
    let seen = wait_until("what the command is to show", LIMIT, || async {
        let output = saola(cluster, args).await;
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_it = output.status.code() == Some(code) && wanted(&shown);
        is_it.then_some(()).ok_or_else(|| format!("exit {:?}\n{shown}", output.status.code()))
    });
    must(seen.await);
}

pub fn said(output: Output) -> String {
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    told
}

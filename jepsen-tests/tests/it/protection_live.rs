//! Maximum protection over real processes, set and shown by the command `saola`.

use std::process::{Command, Output};
use std::time::Duration;

use saola_client::Error;
use saola_ops::launch::{LocalCluster, Plan, node_binary};

use super::membership_live::{COLLECTION, must, reads_back, start, takes_part, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_maximum_protection_writes_wait_for_the_other_site_and_the_command_says_so() {
    let mut cluster = start(&Plan::two_sites_and_witness()).await;
    write(cluster.client(), 0..10).await;
    let shown = said(saola(&cluster, &["protection", "set", "maximum-protection", "--acks", "1"]).await);
    assert!(shown.contains("a quorum and 1 data node of other sites have flushed each acknowledged write"), "{shown}");
    assert!(shown.contains("protected: every acknowledged write is stored outside main (gate on: 1)"), "{shown}");
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
    assert!(status.contains("WRITES WAIT: 0 of the 1 data nodes outside main"), "{status}");

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

async fn saola(cluster: &LocalCluster, args: &[&str]) -> Output {
    let mut command = Command::new(must(node_binary()).with_file_name("saola"));
    command.arg("--profile").arg(cluster.folder().join("profile.toml")).args(args);
    let run = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    run.expect("saola is built: `make build`")
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

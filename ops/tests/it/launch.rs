//! Local clusters: what stands in their folders, and that their processes end with them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use saola_ops::connect::Profile;
use saola_ops::launch::{LocalCluster, Place, Plan, PlannedNode};
use saola_ops::topology::{Role, Topology};

/// A program that takes the node's arguments and then waits, or ends at once if the node is called `dies`.
fn fake_node() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test")).join("tests/fake/saola-node")
}

fn prepare(plan: &Plan) -> LocalCluster {
    LocalCluster::prepare(plan, Place::Temporary, &fake_node()).unwrap()
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn every_node_has_all_that_it_needs_and_the_witness_no_key() {
    let cluster = prepare(&Plan::two_sites_and_witness());
    let nodes = cluster.folder().join("nodes");
    for (name, kek) in [("main-1", "main.kek"), ("main-2", "main.kek"), ("dr-1", "dr.kek"), ("dr-2", "dr.kek")] {
        let folder = nodes.join(name);
        for file in ["node.toml", "ca.pem", "node.pem", "node.key", kek] {
            assert!(folder.join(file).is_file(), "{name}/{file}");
        }
        let mode = fs::metadata(folder.join(kek)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}/{kek}");
    }
    let witness = fs::read_dir(nodes.join("witness")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut witness: Vec<String> = witness.map(|name| name.to_string_lossy().into_owned()).collect();
    witness.sort_unstable();
    assert_eq!(witness, ["ca.pem", "node.key", "node.pem", "node.toml"]);
}

#[tokio::test]
async fn the_written_topology_and_profile_can_be_used_as_they_are() {
    let cluster = prepare(&Plan::two_sites_and_witness());
    let topology = Topology::read(&cluster.folder().join("topology.toml")).unwrap();
    assert_eq!(&topology, cluster.topology());
    assert_eq!(topology.site[2].kek_public, "");
    let profile = Profile::read(&cluster.folder().join("profile.toml")).unwrap();
    assert_eq!(profile.endpoints.len(), 4);
    for file in [profile.ca, profile.cert, profile.key] {
        assert!(file.unwrap().is_file());
    }
}

#[tokio::test]
async fn another_node_gets_a_folder_of_its_own_and_can_be_started() {
    let mut cluster = prepare(&Plan::two_sites_and_witness());
    let planned = PlannedNode { name: "dr-3".into(), site: "dr".into(), role: Role::Voter };
    let node = cluster.prepare_another(&planned, 6).unwrap();
    assert_eq!((node.node_id, node.name.as_str()), (6, "dr-3"));
    let used: Vec<&String> = cluster.topology().node.iter().map(|node| &node.client_address).collect();
    assert!(!used.contains(&&node.client_address));
    let folder = cluster.files("dr-3").unwrap().folder.clone();
    assert_eq!(fs::read(folder.join("dr.kek")).unwrap(), fs::read(cluster.folder().join("keys/dr.kek")).unwrap());
    cluster.start("dr-3").unwrap();
    assert_eq!(cluster.pids().len(), 1);
    assert!(cluster.prepare_another(&planned, 7).is_err(), "a second node of one name");
}

#[tokio::test]
async fn dropping_a_cluster_ends_its_nodes_and_removes_its_temporary_folder() {
    let mut cluster = prepare(&Plan::new("test", &[("a", "s", Role::Voter), ("b", "s", Role::Voter)]));
    cluster.start("a").unwrap();
    cluster.start("b").unwrap();
    let (pids, folder) = (cluster.pids(), cluster.folder().to_owned());
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_running(*pid)));
    drop(cluster);
    assert!(!pids.iter().any(|pid| is_running(*pid)));
    assert!(!folder.exists());
}

#[tokio::test]
async fn killed_and_terminated_nodes_are_gone_when_the_call_returns_and_can_be_started_again() {
    let mut cluster = prepare(&Plan::new("test", &[("a", "s", Role::Voter), ("b", "s", Role::Voter)]));
    cluster.start("a").unwrap();
    cluster.start("b").unwrap();
    assert!(cluster.start("a").unwrap_err().what().contains("runs already"));
    let pids = cluster.pids();
    cluster.kill(&["a"]).await.unwrap();
    cluster.terminate("b").await.unwrap();
    assert!(!pids.iter().any(|pid| is_running(*pid)));
    assert!(cluster.kill(&["a"]).await.unwrap_err().what().contains("does not run"));
    cluster.start("a").unwrap();
    assert_eq!(cluster.pids().len(), 1);
}

#[tokio::test]
async fn a_node_that_ends_at_once_is_reported_with_the_end_of_its_log() {
    let mut cluster = prepare(&Plan::new("test", &[("dies", "s", Role::Voter)]));
    let failure = cluster.start_all().await.unwrap_err();
    assert!(failure.what().contains("node dies: it ended with exit status: 3"), "{failure}");
    assert!(failure.what().contains("port 7101 is taken"), "{failure}");
    assert!(failure.next().contains("node.log"), "{failure}");
}

/// Processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let listed = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    listed.flat_map(|ids| ids.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// It is gone, or nobody has taken note of its end yet.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|state| state.is_empty() || state.starts_with('Z'))
}

#[test]
fn nodes_end_in_order_when_the_program_that_started_them_is_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let mut parent = Command::new(env!("CARGO_BIN_EXE_saola"))
        .arg("dev")
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = String::new();
    // The first line is printed once the node serves.
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut told).unwrap();
    let nodes = children(parent.id());
    assert_eq!(nodes.len(), 1, "said {told:?}");
    parent.kill().unwrap();
    parent.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while !has_ended(nodes[0]) {
        if Instant::now() >= until {
            let pid = rustix::process::Pid::from_raw(nodes[0].try_into().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            panic!("node {} went on", nodes[0]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let cluster = fs::read_dir(temporary.path()).unwrap().next().unwrap().unwrap().path();
    let node = fs::read_dir(cluster.join("nodes")).unwrap().next().unwrap().unwrap().path();
    let log = fs::read_to_string(node.join("node.log")).unwrap();
    assert!(log.contains("node stops"), "it was not in order: {log}");
}

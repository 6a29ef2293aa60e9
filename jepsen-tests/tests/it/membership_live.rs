//! Members of a running cluster change over real processes, and a data folder that is not the node's own is refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use saola_client::proto::{Member, NodeStatus, StatusResponse};
use saola_client::{Client, CreateCollection, Error, TransferTo};
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, Place, Plan, PlannedNode, node_binary, wait_until};
use saola_ops::topology::{Node, Role};
use saola_ops::verbs::cluster::{Digests, compare};
use saola_ops::verbs::verdict::verdict;
use saola_ops::verbs::view::cluster_view;

pub(super) const COLLECTION: &str = "agency";
/// How long a change may take to show.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sixth_node_joins_as_a_voter_and_leaves_and_its_id_is_not_given_again() {
    let mut cluster = start(&Plan::two_sites_and_witness()).await;
    write(cluster.client(), 0..50).await;
    let node = fresh(&mut cluster, "dr-3", 6).await;
    let members = cluster.client().add_member(node.to_proto(), None).await.expect("a fresh node is taken");
    assert_eq!(names(&members), ["main-1", "main-2", "dr-1", "dr-2", "witness", "dr-3"]);
    takes_part(&cluster, "dr-3").await;
    write(cluster.client(), 50..60).await;
    equal_on(cluster.client(), 5).await;
    // Six voters need four: these are four only if the sixth votes.
    cluster.kill(&["main-1", "main-2"]).await.expect("both run");
    write(cluster.client(), 60..70).await;
    must(cluster.start("main-1"));
    must(cluster.start("main-2"));
    for name in ["main-1", "main-2"] {
        must(cluster.wait_for_answer(name).await);
        takes_part(&cluster, name).await;
    }

    lead(cluster.client(), 6).await;
    refused(cluster.client().remove_member(6).await, "hand leadership over first");
    lead(cluster.client(), 1).await;
    let members = cluster.client().remove_member(6).await.expect("a member can be removed");
    assert_eq!(names(&members), ["main-1", "main-2", "dr-1", "dr-2", "witness"]);
    must(cluster.terminate("dr-3").await);
    write(cluster.client(), 70..80).await;
    equal_on(cluster.client(), 4).await;
    let again = fresh(&mut cluster, "dr-4", 6).await;
    refused(cluster.client().add_member(again.to_proto(), None).await, "node id 6 has been used");
    reads_back(cluster.client(), 0..80).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_replaced_by_a_fresh_one_under_a_new_id() {
    let mut cluster = start(&Plan::two_sites_and_witness()).await;
    write(cluster.client(), 0..50).await;
    cluster.kill(&["dr-2"]).await.expect("it runs");
    write(cluster.client(), 50..60).await;
    let same = fresh(&mut cluster, "dr-3", 4).await;
    refused(cluster.client().replace_member(4, same.to_proto()).await, "node id 4 has been used");
    must(cluster.terminate("dr-3").await);

    let node = fresh(&mut cluster, "dr-4", 6).await;
    let members = cluster.client().replace_member(4, node.to_proto()).await.expect("a lost node can be replaced");
    assert_eq!(names(&members), ["main-1", "main-2", "dr-1", "witness", "dr-4"]);
    takes_part(&cluster, "dr-4").await;
    equal_on(cluster.client(), 4).await;

    must(cluster.start("dr-2"));
    must(cluster.wait_for_answer("dr-2").await);
    let (replaced, dr_2) = (["main-1", "main-2", "dr-1", "witness", "dr-4"], must(cluster.client_at("dr-2")));
    let seen = wait_until("members as the replaced node's operator sees them", LIMIT, || async {
        let status = cluster_view(&dr_2).await.map_err(|failure| failure.to_string())?;
        let members: Vec<Member> = status.nodes.into_iter().filter_map(|node| node.member).collect();
        (names(&members) == replaced).then_some(()).ok_or_else(|| format!("{:?}", names(&members)))
    });
    must(seen.await);
    must(cluster.terminate("dr-2").await);
    // The site lost its other node: what was written before now comes from the one that never saw it happen.
    cluster.kill(&["dr-1"]).await.expect("it runs");
    reads_back(&must(cluster.client_at("dr-4")), 0..60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_that_the_operator_interrupts_is_finished_by_the_same_command() {
    let mut cluster = start(&three()).await;
    write(cluster.client(), 0..20).await;
    // Enough to catch up with that the command has to wait for it.
    for number in 0..100 {
        let put = cluster.client().put(COLLECTION, format!("large{number}"), vec![b'v'; 1 << 20]).send().await;
        put.unwrap_or_else(|error| panic!("put large{number}: {error}"));
    }
    let node = fresh(&mut cluster, "dr-3", 4).await;
    let profile = cluster.folder().join("profile.toml");
    let add = move || {
        let mut add = Command::new(must(node_binary()).with_file_name("saola"));
        add.arg("--profile").arg(&profile).args(["cluster", "add", "--node-id", "4", "--name", "dr-3", "--site", "dr"]);
        add.args(["--peer-address", &node.peer_address, "--client-address", &node.client_address]);
        add.stdout(Stdio::piped()).stderr(Stdio::piped());
        add
    };
    let interrupted = add().spawn().expect("saola is built: `make build`");
    let seen = wait_until("dr-3 joins", LIMIT, || async {
        let status = cluster.client().cluster_status(true).await.map_err(|error| error.to_string())?;
        node_named(&status, "dr-3").map(|_| ())
    });
    must(seen.await);
    let ctrl_c = Command::new("kill").args(["-INT", &interrupted.id().to_string()]).status();
    assert!(ctrl_c.expect("kill is there").success());
    let ended = tokio::task::spawn_blocking(move || interrupted.wait_with_output()).await.expect("it ends");
    let ended = ended.expect("its output can be read");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("repeating the command is safe"), "{said}");

    let again = tokio::task::spawn_blocking(move || add().output()).await.expect("it ends");
    let again = again.expect("saola is built: `make build`");
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("dr-3"));
    takes_part(&cluster, "dr-3").await;
    // Four voters need three: these are three only if the new one votes.
    cluster.kill(&["main-2"]).await.expect("it runs");
    write(cluster.client(), 20..40).await;
    reads_back(&must(cluster.client_at("dr-3")), 0..40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_folder_of_a_known_node_is_refused_and_status_says_what_to_do() {
    let mut cluster = start(&three()).await;
    write(cluster.client(), 0..20).await;
    let data = must(cluster.files("main-2")).data.clone();
    let away = data.with_extension("away");
    must(cluster.terminate("main-2").await);
    fs::rename(&data, &away).expect("the folder can be moved");
    must(cluster.start("main-2"));
    is_refused(&cluster, &["another data folder", "saola cluster replace 2"]).await;
    write(&must(cluster.client_at("main-1")), 20..30).await;

    must(cluster.terminate("main-2").await);
    fs::remove_dir_all(&data).expect("the fresh folder can be removed");
    fs::rename(&away, &data).expect("the folder can be moved back");
    must(cluster.start("main-2"));
    takes_part(&cluster, "main-2").await;
    equal_on(cluster.client(), 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_folder_is_refused_and_the_newest_is_taken() {
    let mut cluster = start(&three()).await;
    write(cluster.client(), 0..20).await;
    let data = must(cluster.files("main-2")).data.clone();
    let (older, newest) = (data.with_extension("older"), data.with_extension("newest"));
    must(cluster.terminate("main-2").await);
    copy_folder(&data, &older);
    must(cluster.start("main-2"));
    takes_part(&cluster, "main-2").await;
    write(cluster.client(), 20..40).await;
    equal_on(cluster.client(), 3).await;
    must(cluster.terminate("main-2").await);
    fs::rename(&data, &newest).expect("the folder can be moved");
    fs::rename(&older, &data).expect("the copy can be put in its place");
    must(cluster.start("main-2"));
    is_refused(&cluster, &["an older copy of its data folder", "saola cluster replace 2"]).await;
    reads_back(&must(cluster.client_at("main-1")), 0..40).await;

    must(cluster.terminate("main-2").await);
    fs::remove_dir_all(&data).expect("the copy can be removed");
    fs::rename(&newest, &data).expect("the folder can be moved back");
    must(cluster.start("main-2"));
    takes_part(&cluster, "main-2").await;
    equal_on(cluster.client(), 3).await;
    reads_back(&must(cluster.client_at("main-2")), 0..40).await;
}

fn three() -> Plan {
    let nodes = [("main-1", "main", Role::Voter), ("main-2", "main", Role::Voter), ("dr-1", "dr", Role::Voter)];
    Plan::new("folders", &nodes)
}

/// A cluster led by main-1, with its collection.
pub(super) async fn start(plan: &Plan) -> LocalCluster {
    let mut cluster = must(LocalCluster::prepare(plan, Place::Temporary, &must(node_binary())));
    must(cluster.start_all().await);
    must(cluster.init().await);
    let made = cluster.client().create_collection(CreateCollection::new(COLLECTION)).await;
    made.expect("a fresh cluster takes a collection");
    lead(cluster.client(), 1).await;
    cluster
}

/// A node that does not answer for a moment, as on a busy machine, is refused leadership: it is asked for again.
async fn lead(client: &Client, node: u64) {
    let led = wait_until("a voter that has caught up leads", LIMIT, || async {
        client.transfer(TransferTo::Node(node)).await.map_err(|error| error.to_string())
    });
    must(led.await);
}

/// A started node at dr that no cluster knows.
async fn fresh(cluster: &mut LocalCluster, name: &str, node_id: u64) -> Node {
    let planned = PlannedNode { name: name.to_owned(), site: "dr".to_owned(), role: Role::Voter };
    let node = must(cluster.prepare_another(&planned, node_id));
    must(cluster.start(name));
    must(cluster.wait_for_answer(name).await);
    node
}

pub(super) async fn write(client: &Client, numbers: std::ops::Range<u32>) {
    let client = client.with_deadline(LIMIT);
    for number in numbers {
        let put = client.put(COLLECTION, format!("r{number}"), number.to_string()).send().await;
        put.unwrap_or_else(|error| panic!("put r{number}: {error}"));
    }
}

pub(super) async fn reads_back(client: &Client, numbers: std::ops::Range<u32>) {
    let client = client.with_deadline(LIMIT);
    for number in numbers {
        let reply = client.get(COLLECTION, format!("r{number}")).send().await;
        let version = reply.unwrap_or_else(|error| panic!("get r{number}: {error}")).value;
        let version = version.unwrap_or_else(|| panic!("r{number} is missing"));
        assert_eq!((version.value.as_ref(), version.generation), (number.to_string().as_bytes(), 1));
    }
}

/// Waits until main-1 sees the node follow, with nothing left to apply.
pub(super) async fn takes_part(cluster: &LocalCluster, name: &str) {
    seen_by_main_1(cluster, &format!("{name} takes part"), |status| {
        let node = node_named(status, name)?;
        let committed = status.nodes.iter().map(|node| node.committed_index).max().unwrap_or(0);
        match node.state == "follower" && node.applied_index >= committed {
            true => Ok(()),
            false => Err(format!("it is {} at {} of {committed}: {}", node.state, node.applied_index, node.error)),
        }
    })
    .await;
}

/// Waits until the status shows main-2 as refused, with `said` in what wants attention.
async fn is_refused(cluster: &LocalCluster, said: &[&str]) {
    seen_by_main_1(cluster, "main-2 is refused", |status| {
        let node = node_named(status, "main-2")?;
        let notes = verdict(status).notes;
        let note = notes.iter().find(|note| note.starts_with("node main-2 is refused"));
        match note {
            Some(note) if said.iter().all(|words| note.contains(words)) => Ok(()),
            _ => Err(format!("it is {}; notes {notes:?}", node.state)),
        }
    })
    .await;
}

async fn seen_by_main_1(cluster: &LocalCluster, what: &str, good: impl Fn(&StatusResponse) -> Result<(), String>) {
    let client = must(cluster.client_at("main-1"));
    let good = &good;
    let seen = wait_until(what, LIMIT, || async {
        let status = client.cluster_status(false).await.map_err(|error| error.to_string())?;
        good(&status)
    });
    must(seen.await);
}

fn node_named<'a>(status: &'a StatusResponse, name: &str) -> Result<&'a NodeStatus, String> {
    let mut nodes = status.nodes.iter();
    let node = nodes.find(|node| node.member.as_ref().is_some_and(|member| member.name == name));
    node.ok_or_else(|| format!("{name} is no member"))
}

/// Waits until so many data nodes show the same digest, and no data node another one or none.
async fn equal_on(client: &Client, nodes: usize) {
    let client = client.with_deadline(Duration::from_secs(5));
    let equal = wait_until("equal digests", LIMIT, || async {
        let reply = client.digest().await.map_err(|error| error.to_string())?;
        match compare(&reply) {
            Digests::Equal if reply.digests.len() == nodes => Ok(()),
            other => Err(format!("{other:?} on {} nodes", reply.digests.len())),
        }
    });
    must(equal.await);
}

fn refused<T>(result: Result<T, Error>, why: &str) {
    let error = result.err().unwrap_or_else(|| panic!("it was taken although {why}"));
    assert_eq!(error.reason(), "MEMBERSHIP_REFUSED", "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

fn names(members: &[Member]) -> Vec<&str> {
    members.iter().map(|member| member.name.as_str()).collect()
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the copy's place is free");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("an entry has a type").is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => {
                fs::copy(entry.path(), target).expect("a file can be copied");
            }
        }
    }
}

pub(super) fn must<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{failure}"))
}

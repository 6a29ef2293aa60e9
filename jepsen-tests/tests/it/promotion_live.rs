//! A site goes on without the other by force, over real processes and by the command `saola`, as an operator does it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use saola_client::proto::StatusResponse;
use saola_ops::launch::{LocalCluster, Plan, wait_until};
use saola_ops::topology::Role;

use super::membership_live::{COLLECTION, must, reads_back, start, write};
use super::protection_live::{said, saola};

const LIMIT: Duration = Duration::from_secs(60);
/// From approval to the first write.
const LONGEST: Duration = Duration::from_secs(30);
/// Rounds with crashes, unless `SAOLA_ROUNDS` asks for more.
const ROUNDS: u64 = 2;

pub(super) fn two_sites() -> Plan {
    let nodes = [
        ("main-1", "main", Role::Voter),
        ("main-2", "main", Role::Voter),
        ("main-3", "main", Role::Voter),
        ("dr-1", "dr", Role::Learner),
        ("dr-2", "dr", Role::Learner),
    ];
    Plan::new("demo", &nodes)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are plain")
}

/// Two of three may approve; answers their keys.
pub(super) async fn name_approvers(cluster: &LocalCluster) -> Vec<PathBuf> {
    let names = ["director", "security", "operations"];
    let keys: Vec<PathBuf> = names.iter().map(|name| cluster.folder().join(format!("{name}.key"))).collect();
    let mut args =
        vec!["approver".to_owned(), "set".into(), "--needed".into(), "2".into(), "--confirm".into(), "demo".into()];
    for (name, key) in names.iter().zip(&keys) {
        said(saola(cluster, &["approver", "keygen", "--out", text(key)]).await);
        args.extend(["--approver".into(), format!("{name}={}.pub", text(key))]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let shown = said(saola(cluster, &args).await);
    assert!(shown.contains("2 of 3 must approve a forced promotion"), "{shown}");
    keys
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until a node says of itself that it is in this state.
async fn until_state(cluster: &LocalCluster, name: &str, state: &str) {
    let client = must(cluster.client_at(name));
    let what = format!("{name} is {state}");
    let seen = wait_until(&what, LIMIT, || async {
        let status = client.cluster_status(true).await.map_err(|error| error.to_string())?;
        let own = status.nodes.iter().find(|node| node.member.as_ref().is_some_and(|it| it.name == name));
        let found = own.map(|node| node.state.clone()).unwrap_or_default();
        if found == state { Ok(()) } else { Err(format!("it is {found}")) }
    });
    must(seen.await);
}

fn is_synchronized(status: &StatusResponse) -> Result<(), String> {
    match status.protection_status.as_ref().map(|stand| stand.state.as_str()) {
        Some("SYNCHRONIZED") => Ok(()),
        _ => Err(status.protection.clone()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_goes_on_alone_by_the_command_and_the_old_one_is_fenced_when_it_comes_back() {
    let mut cluster = start(&two_sites()).await;
    let keys = name_approvers(&cluster).await;
    must(cluster.wait_for_status("both sites have everything", is_synchronized).await);
    write(cluster.client(), 0..50).await;
    let main = ["main-1", "main-2", "main-3"];

    let plan = cluster.folder().join("promote.plan");
    let promote = |extra: &[&str]| {
        let fixed =
            ["dr", "plan", "promote", "--site", "dr", "--out", text(&plan), "--attest", "no power, seen by two"];
        [&fixed[..], extra].concat().iter().map(|it| (*it).to_owned()).collect::<Vec<String>>()
    };
    let run = async |args: Vec<String>| saola(&cluster, &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let healthy = run(promote(&[])).await;
    assert!(stderr(&healthy).contains("a quorum of voters answers"), "{}", stderr(&healthy));
    cluster.kill(&main).await.expect("they run");
    let stopped = saola_ops::time::iso(now_us());
    let list = run_at(&cluster, "dr-1", strings(&["approver", "list"])).await;
    assert!(stderr(&list).contains("which may be outdated: no leader"), "{}", stderr(&list));
    assert!(said(list).contains("2 of 3 must approve"));

    let shown = said(run_at(&cluster, "dr-1", promote(&["--unchanged", "--stopped-at", &stopped])).await);
    assert!(shown.contains("loss: PROVEN ZERO: no acknowledged write is lost"), "{shown}");
    let early = run_at(
        &cluster,
        "dr-1",
        vec!["dr".into(), "apply".into(), text(&plan).into(), "--confirm".into(), "demo".into()],
    )
    .await;
    assert!(stderr(&early).contains("0 of 2 approvals that are needed are valid"), "{}", stderr(&early));
    let hash = shown.split_whitespace().nth(1).expect("it begins with the hash").to_owned();
    for key in &keys[1..] {
        said(saola(&cluster, &["dr", "approve", text(&plan), "--key", text(key), "--confirm", &hash]).await);
    }
    let approved = Instant::now();
    let apply = vec!["dr".into(), "apply".into(), text(&plan).into(), "--confirm".into(), "demo".into()];
    let shown = said(run_at(&cluster, "dr-2", apply).await);
    assert!(shown.contains("site dr goes on in epoch 2"), "{shown}");
    let client = must(cluster.client_at("dr-1"));
    let first = client.put(COLLECTION, "first", "1").send().await;
    assert!(approved.elapsed() < LONGEST, "{:?}", approved.elapsed());
    println!("from approval to the first write: {} ms", approved.elapsed().as_millis());
    first.expect("the site takes writes");
    reads_back(&client, 0..50).await;

    for name in main {
        must(cluster.start(name));
        must(cluster.wait_for_answer(name).await);
    }
    for name in main {
        until_state(&cluster, name, "fenced").await;
        let old = must(cluster.client_at(name)).with_deadline(Duration::from_secs(2));
        old.get(COLLECTION, "r1").send().await.expect_err("a fenced node serves no linearizable read");
        old.put(COLLECTION, "r1", "x").send().await.expect_err("and takes no write");
    }
    let history = said(run_at(&cluster, "dr-1", vec!["epoch".into(), "history".into()]).await);
    assert!(history.contains("PROVEN ZERO") && history.contains("security, operations"), "{history}");
    let status = run_at(&cluster, "dr-1", vec!["status".into()]).await;
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(shown.contains("PROMOTED_UNPROTECTED"), "{shown}");
}

fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("the clock is past 1970").as_micros() as u64
}

/// The command, at one node's endpoint.
async fn run_at(cluster: &LocalCluster, name: &str, mut args: Vec<String>) -> std::process::Output {
    let endpoint = must(cluster.client_at(name)).endpoints().remove(0);
    args.extend(["--endpoint".into(), endpoint]);
    saola(cluster, &args.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|it| (*it).to_owned()).collect()
}

/// Makes a plan at one of the nodes that is left, and has two approve it; answers what it says.
async fn plan_and_approve(cluster: &LocalCluster, keys: &[PathBuf], plan: &Path, stopped: &str) -> Option<String> {
    let fixed = ["dr", "plan", "promote", "--site", "dr", "--out", text(plan), "--attest", "no power", "--unchanged"];
    let planned = run_at(cluster, "dr-1", strings(&[&fixed[..], &["--stopped-at", stopped]].concat())).await;
    if !planned.status.success() {
        return None;
    }
    let shown = said(planned);
    let hash = shown.split_whitespace().nth(1).expect("it begins with the hash").to_owned();
    for key in &keys[..2] {
        said(saola(cluster, &["dr", "approve", text(plan), "--key", text(key), "--confirm", &hash]).await);
    }
    Some(shown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_between_the_steps_the_plan_is_finished_and_nothing_acknowledged_is_lost() {
    let rounds = std::env::var("SAOLA_ROUNDS").ok().map_or(ROUNDS, |it| it.parse().expect("SAOLA_ROUNDS is a number"));
    let (mut took_ms, mut plans) = (Vec::new(), 0);
    for round in 0..rounds {
        let mut cluster = start(&two_sites()).await;
        let keys = name_approvers(&cluster).await;
        must(cluster.wait_for_status("both sites have everything", is_synchronized).await);
        write(cluster.client(), 0..30).await;
        cluster.kill(&["main-1", "main-2", "main-3"]).await.expect("they run");
        let stopped = saola_ops::time::iso(now_us());
        let (mut plan, mut began, mut crashes) = (None::<PathBuf>, Instant::now(), round % 4);
        loop {
            assert!(began.elapsed() < LIMIT, "round {round}: the epoch has not begun");
            let file = match &plan {
                Some(file) => file.clone(),
                None => {
                    let file = cluster.folder().join(format!("{plans}.plan"));
                    let Some(shown) = plan_and_approve(&cluster, &keys, &file, &stopped).await else { continue };
                    // A node that was killed does not remember when main last counted an acknowledgement.
                    let proven = shown.contains("loss: PROVEN ZERO");
                    assert!(proven || crashes < round % 4, "round {round}: {shown}");
                    (plans, began) = (plans + 1, if plan.is_none() { Instant::now() } else { began });
                    file
                }
            };
            plan = Some(file.clone());
            let args = strings(&["dr", "apply", text(&file), "--confirm", "demo", "--timeout", "5s"]);
            let through = if rand::random() { "dr-1" } else { "dr-2" };
            let applied = if crashes == 0 {
                run_at(&cluster, through, args).await
            } else {
                crashes -= 1;
                let endpoint = must(cluster.client_at(through)).endpoints().remove(0);
                let args = [args, strings(&["--endpoint", &endpoint])].concat();
                let folder = cluster.folder().to_owned();
                let applying = tokio::task::spawn_blocking(move || command(&folder, &args).output());
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..400))).await;
                let victim = if rand::random() { "dr-1" } else { "dr-2" };
                cluster.kill(&[victim]).await.expect("it runs");
                must(cluster.start(victim));
                must(cluster.wait_for_answer(victim).await);
                applying.await.expect("it ends").expect("saola is built")
            };
            match applied.status.success() {
                true => break,
                false if stderr(&applied).contains("make a new one") => plan = None,
                false => {}
            }
        }
        // Of the two nodes one may be starting anew at that moment.
        cluster.client().put(COLLECTION, "first", "1").send().await.expect("the site takes writes");
        took_ms.push(began.elapsed().as_millis() as u64);
        reads_back(cluster.client(), 0..30).await;
    }
    took_ms.sort_unstable();
    let longest = took_ms.last().copied().unwrap_or(0);
    println!(
        "{rounds} forced promotions, {plans} plans: from approval to the first write p50 {} ms, longest {longest} ms",
        took_ms[took_ms.len() / 2]
    );
    assert!(longest < LONGEST.as_millis() as u64, "{longest} ms");
}

/// Site dr goes on without main: plan, two approvals, apply; answers what the plan says.
async fn promote_dr(cluster: &LocalCluster, keys: &[PathBuf], name: &str) -> String {
    let file = cluster.folder().join(name);
    let stopped = saola_ops::time::iso(now_us());
    let shown = plan_and_approve(cluster, keys, &file, &stopped).await.expect("main does not answer");
    said(run_at(cluster, "dr-2", strings(&["dr", "apply", text(&file), "--confirm", "demo"])).await);
    shown
}

async fn until_fenced(cluster: &mut LocalCluster, names: &[&str]) {
    for name in names {
        must(cluster.start(name));
        must(cluster.wait_for_answer(name).await);
    }
    for name in names {
        until_state(cluster, name, "fenced").await;
    }
}

/// Main is started again, is fenced, and comes back by the command; answers what that says.
async fn bring_main_back(cluster: &mut LocalCluster, main: &[&str]) -> String {
    until_fenced(cluster, main).await;
    let dry = said(run_at(cluster, "dr-1", strings(&["dr", "reinstate", "main", "--dry-run"])).await);
    assert!(dry.lines().filter(|line| line.ends_with("fenced")).count() == main.len(), "{dry}");
    said(run_at(cluster, "dr-1", strings(&["dr", "reinstate", "main", "--confirm", "demo"])).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_side_that_was_left_behind_comes_back_twice_and_people_decide_about_what_it_alone_had() {
    let mut cluster = start(&two_sites()).await;
    let keys = name_approvers(&cluster).await;
    must(cluster.wait_for_status("both sites have everything", is_synchronized).await);
    write(cluster.client(), 0..50).await;
    let (main, dr) = (["main-1", "main-2", "main-3"], ["dr-1", "dr-2"]);

    // Main goes on alone, and is lost.
    cluster.kill(&dr).await.expect("they run");
    write(cluster.client(), 100..120).await;
    for id in ["r1", "r2"] {
        cluster.client().put(COLLECTION, id, "\"main alone\"").send().await.expect("main goes on");
    }
    // Writes to one record, of which each can go only onto the one before it.
    let chain = ["\"one\"", "\"two\"", "\"three\""];
    for value in chain {
        cluster.client().put(COLLECTION, "chain", value).send().await.expect("main goes on");
    }
    cluster.kill(&main).await.expect("they run");
    for name in dr {
        must(cluster.start(name));
        must(cluster.wait_for_answer(name).await);
    }
    let verdict = promote_dr(&cluster, &keys, "first.plan").await;
    assert!(verdict.contains("loss: UNKNOWN"), "{verdict}");
    let client = must(cluster.client_at("dr-1"));
    client.put(COLLECTION, "r1", "\"dr goes on\"").send().await.expect("the site takes writes");
    write(&client, 50..60).await;

    let back = bring_main_back(&mut cluster, &main).await;
    println!("{back}");
    assert!(back.contains("main-1 is back as node 6") && back.contains("all replicas have the same digest"), "{back}");
    // All were acknowledged, so a quorum has each: the third voter may lack the last one when it is killed.
    assert!(back.matches("25 writes that it alone had are kept").count() >= 2, "{back}");
    reads_back(&client, 0..1).await;
    let again = said(run_at(&cluster, "dr-1", strings(&["dr", "reinstate", "main", "--confirm", "demo"])).await);
    assert!(again.contains("no node of site main is left behind"), "{again}");

    let listed = said(run_at(&cluster, "dr-1", strings(&["orphan", "list"])).await);
    println!("{listed}");
    let complete = listed.lines().find(|line| line.contains("epoch-1-main-") && line.contains(" 25 "));
    let bundle = complete.and_then(|line| line.split_whitespace().next()).expect("a bundle has all of them");
    let diff = said(run_at(&cluster, "dr-1", strings(&["orphan", "diff", bundle])).await);
    println!("{diff}");
    assert!(diff.contains("22 would be written") && diff.contains("1 CONFLICT"), "{diff}");
    assert_eq!(diff.matches("once those before it are written").count(), 2, "{diff}");
    let args = strings(&["orphan", "replay", bundle, "--confirm", "demo"]);
    for counted in ["24 written", "24 is there"] {
        let replayed = run_at(&cluster, "dr-1", args.clone()).await;
        let shown = String::from_utf8_lossy(&replayed.stdout).into_owned();
        assert!(replayed.status.code() == Some(5) && shown.contains(counted), "{shown}{}", stderr(&replayed));
    }
    reads_back(&client, 100..120).await;
    let one = |id: &'static str| {
        let client = client.clone();
        async move { client.get(COLLECTION, id).send().await.expect("a read").value.expect("it is live").value }
    };
    assert_eq!((&one("r1").await[..], &one("r2").await[..]), (&b"\"dr goes on\""[..], &b"\"main alone\""[..]));
    let history = client.history(COLLECTION, "chain").send().await.expect("it is read").value;
    let values: Vec<&[u8]> = history.iter().map(|version| &version.value[..]).collect();
    assert_eq!(values, chain.map(str::as_bytes), "each once, and in their order");
    said(run_at(&cluster, "dr-1", strings(&["orphan", "discard", bundle, "--confirm", "demo"])).await);

    let shown = said(run_at(&cluster, "dr-1", strings(&["dr", "re-protect", "--confirm", "demo"])).await);
    assert!(shown.contains("the sites protect each other: SYNCHRONIZED"), "{shown}");
    // Once more, the other way about: main leads, is lost, and comes back again.
    said(run_at(&cluster, "dr-1", strings(&["switchover", "--to", "main"])).await);
    cluster.kill(&main).await.expect("they run");
    promote_dr(&cluster, &keys, "second.plan").await;
    write(&client, 200..210).await;
    until_fenced(&mut cluster, &main).await;
    let back = said(run_at(&cluster, "dr-1", strings(&["dr", "re-protect", "--confirm", "demo"])).await);
    println!("{back}");
    assert!(back.contains("the sites protect each other: SYNCHRONIZED"), "{back}");
    assert!(back.contains("main-1 is back as node 9") && back.contains("all replicas have the same digest"), "{back}");
    let history = said(run_at(&cluster, "main-1", strings(&["epoch", "history"])).await);
    assert_eq!(history.lines().count(), 3, "{history}");
    for name in main.iter().chain(&dr) {
        let client = must(cluster.client_at(name));
        for range in [50..60, 100..120, 200..210] {
            reads_back(&client, range).await;
        }
    }
}

/// The command, as a process that can be waited for elsewhere.
fn command(folder: &Path, args: &[String]) -> std::process::Command {
    let binary = must(saola_ops::launch::node_binary()).with_file_name("saola");
    let mut command = std::process::Command::new(binary);
    command.arg("--profile").arg(folder.join("profile.toml")).args(args);
    command
}

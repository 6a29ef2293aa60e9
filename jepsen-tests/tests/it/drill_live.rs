//! Drills over real processes and by the command `saola`, as whoever is on duty holds them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use saola_client::Error;
use saola_client::proto::trouble_request::Kind;
use saola_ops::drill::checks::{Code, Verdict};
use saola_ops::drill::report::{Report, Why};
use saola_ops::drill::scenario::{Limits, Scenario, Step, Targets};
use saola_ops::drill::signed::{SignedReport, verify_file};
use saola_ops::launch::{LocalCluster, Plan, node_binary, wait_until};
use saola_ops::topology::Role;
use saola_storage::promotion::{ApproverKey, SignedPlan, short_hash};

use super::membership_live::{COLLECTION, must, start, write};
use super::protection_live::{said, saola};

/// A drill has so long to get somewhere.
const LIMIT: Duration = Duration::from_secs(120);
/// Whatever else runs on this machine: figures belong to benches.
const ANY_MS: u64 = 60_000;

/// A cluster that protects itself again soon after a loss, and the key that its reports are signed with.
async fn on_duty() -> (LocalCluster, PathBuf) {
    on_duty_with(&Plan::two_sites_and_witness()).await
}

async fn on_duty_with(plan: &Plan) -> (LocalCluster, PathBuf) {
    let cluster = start(plan).await;
    write(cluster.client(), 0..10).await;
    let quick = ["protection", "set", "maximum-availability", "--return-ms", "300", "--parity-ms", "200"];
    said(saola(&cluster, &quick).await);
    let key = cluster.folder().join("officer.key");
    said(saola(&cluster, &["approver", "keygen", "--out", text(&key)]).await);
    (cluster, key)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are plain")
}

/// A scenario as a file.
fn file(cluster: &LocalCluster, scenario: &Scenario) -> PathBuf {
    let path = cluster.folder().join(format!("{}.toml", scenario.name));
    fs::write(&path, toml::to_string(scenario).expect("it can be written")).expect("the folder is there");
    path
}

/// One of those that come with the command under another name: what lasts lasts as long as this, and the targets are those
/// of a machine that does other things too.
fn like(name: &str, pause_ms: u64) -> Scenario {
    let mut scenario = must(Scenario::find(name));
    scenario.name = format!("like-{name}");
    scenario.targets =
        scenario.targets.map(|it| Targets { rto_ms: ANY_MS, promotion_ms: it.promotion_ms.map(|_| ANY_MS) });
    scenario.limits = scenario.limits.map(|_| Limits { outage_ms: ANY_MS });
    for step in &mut scenario.steps {
        if let Step::Observe { for_ms } = step {
            *for_ms = pause_ms;
        }
    }
    scenario
}

fn arguments(cluster: &LocalCluster, key: &Path, scenario: &Path) -> Vec<String> {
    let out = text(cluster.folder());
    let all = ["drill", "run", text(scenario), "--by", "on duty", "--sign-with", text(key), "--out", out];
    all.iter().chain(&["--confirm", "demo"]).map(|it| (*it).to_owned()).collect()
}

/// Begins a drill; what it says goes to a file.
fn begin(cluster: &LocalCluster, key: &Path, scenario: &Path) -> (Child, PathBuf) {
    begin_with(cluster, key, scenario, &[])
}

fn begin_with(cluster: &LocalCluster, key: &Path, scenario: &Path, more: &[&str]) -> (Child, PathBuf) {
    let said = cluster.folder().join("drill.log");
    let out = fs::File::create(&said).expect("the folder is there");
    let mut command = Command::new(must(node_binary()).with_file_name("saola"));
    command
        .arg("--profile")
        .arg(cluster.folder().join("profile.toml"))
        .args(arguments(cluster, key, scenario))
        .args(more);
    command.stdin(Stdio::null()).stdout(out.try_clone().expect("it is open")).stderr(out);
    (command.spawn().expect("saola is built: `make build`"), said)
}

async fn until_said(log: &Path, words: &str) {
    let what = format!("the drill says {words:?}");
    let seen = wait_until(&what, LIMIT, || async {
        let text = fs::read_to_string(log).map_err(|error| error.to_string())?;
        if text.contains(words) { Ok(()) } else { Err(text) }
    });
    must(seen.await);
}

/// Its exit code.
async fn ended(mut drill: Child) -> Option<i32> {
    tokio::task::spawn_blocking(move || drill.wait()).await.expect("it ends").expect("it can be waited for").code()
}

fn report(cluster: &LocalCluster, number: u64) -> Report {
    must(verify_file(&cluster.folder().join(format!("drill-{number:06}.html")))).report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_drill_is_held_on_real_processes_loses_nothing_and_leaves_nothing_behind() {
    let (cluster, key) = on_duty().await;
    let names = ["leader-crash", "disk-hangs", "link-cut", "switchover-and-back", "main-site-lost", "witness-lost"];
    for (name, number) in names.into_iter().zip(1..) {
        let scenario = file(&cluster, &like(name, 1_500));
        let arguments = arguments(&cluster, &key, &scenario);
        let shown = said(saola(&cluster, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await);
        assert!(shown.contains(&format!("drill {number} like-{name}: PASSED")), "{shown}");
        let report = report(&cluster, number);
        let writes = report.writes.as_ref().expect("writers wrote");
        assert!(writes.acked_since_by_site.len() == 2 && writes.acked > 100, "{writes:?}");
        let held: Vec<Code> = report.checks.iter().map(|it| it.code).collect();
        assert!([Code::NothingLost, Code::CopiesEqual, Code::NothingLeft].iter().all(|it| held.contains(it)));
        println!("{name}: interrupted for {} ms, {} writes", report.rto_ms().unwrap_or(0), writes.acked);
    }
    // The chain of all, as files and as the cluster keeps them.
    let public = format!("{}.pub", text(&key));
    let files: Vec<String> =
        (1..=6).map(|number| text(&cluster.folder().join(format!("drill-{number:06}.json"))).to_owned()).collect();
    let verify: Vec<&str> =
        ["drill", "verify", "--signer", &public].into_iter().chain(files.iter().map(String::as_str)).collect();
    assert_eq!(said(saola(&cluster, &verify).await).lines().count(), 6);
    let kept = cluster.folder().join("kept");
    fs::create_dir(&kept).expect("it is new");
    said(saola(&cluster, &["drill", "report", "3", "--out", text(&kept)]).await);
    let (one, other) = (fs::read(&files[2]), fs::read(kept.join("drill-000003.json")));
    assert_eq!(one.expect("it was written"), other.expect("it was written"));
    let worse = fs::read_to_string(&files[1]).expect("it was written").replace("\"lost\": 0", "\"lost\": 1");
    fs::write(&files[1], worse).expect("it was there");
    let refused = saola(&cluster, &verify).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(8) && why.contains("its hash is another one"), "{why}");

    said_or_due(saola(&cluster, &["drill", "schedule", "main-site-lost", "--every", "180d"]).await);
    let due = saola(&cluster, &["drill", "schedule", "checklist", "--every", "30d"]).await;
    assert_eq!(due.status.code(), Some(5), "one is due");
    let history = saola(&cluster, &["drill", "history"]).await;
    let (shown, told) = (String::from_utf8_lossy(&history.stdout), String::from_utf8_lossy(&history.stderr));
    assert!(history.status.code() == Some(5) && shown.matches("PASSED").count() == 6, "{shown}");
    assert!(told.contains("OVERDUE: checklist every 30 days, never passed, due today"), "{told}");
    let status = saola(&cluster, &["status"]).await;
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(shown.contains("drills      last like-witness-lost PASSED") && shown.contains("OVERDUE: 2"), "{shown}");
}

/// A schedule of which something is due.
fn said_or_due(output: std::process::Output) {
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_fails_when_it_takes_too_long_and_is_broken_off_when_the_outage_is_longer_than_allowed() {
    let (cluster, key) = on_duty().await;
    let strict = Scenario {
        name: "strict".into(),
        targets: Some(Targets { rto_ms: 1, promotion_ms: None }),
        ..like("leader-crash", 1_500)
    };
    let run = arguments(&cluster, &key, &file(&cluster, &strict));
    let failed = saola(&cluster, &run.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(failed.status.code(), Some(5), "{}", String::from_utf8_lossy(&failed.stderr));
    let first = report(&cluster, 1);
    let missed: Vec<Code> = first.checks.iter().filter(|it| !it.held).map(|it| it.code).collect();
    assert_eq!((first.verdict, missed), (Verdict::Failed, vec![Code::Rto]));

    let impatient =
        Scenario { name: "impatient".into(), limits: Some(Limits { outage_ms: 100 }), ..like("main-site-lost", 0) };
    let run = arguments(&cluster, &key, &file(&cluster, &impatient));
    let broken_off = saola(&cluster, &run.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let told = String::from_utf8_lossy(&broken_off.stderr).into_owned();
    assert!(told.contains("BROKEN OFF: no write was acknowledged for 100 ms"), "{told}");
    let second = report(&cluster, 2);
    assert_eq!((second.verdict, second.left), (Verdict::BrokenOff, Vec::<String>::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_failure_breaks_a_drill_off_and_so_does_an_operator() {
    let (mut cluster, key) = on_duty().await;
    let endless = file(&cluster, &like("leader-crash", 600_000));
    let (drill, log) = begin(&cluster, &key, &endless);
    until_said(&log, "step 1 of 5").await;
    let second = arguments(&cluster, &key, &endless);
    let second = saola(&cluster, &second.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let refused = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(4) && refused.contains("of on duty runs since"), "{refused}");
    cluster.kill(&["dr-2"]).await.expect("it runs");
    until_said(&log, "BROKEN OFF: a real alarm: NODE_SILENT: node dr-2 does not answer").await;
    must(cluster.start("dr-2"));
    assert_eq!(ended(drill).await, Some(5));
    let first = report(&cluster, 1);
    assert_eq!((first.verdict, first.left), (Verdict::BrokenOff, Vec::<String>::new()));

    let (drill, log) = begin(&cluster, &key, &endless);
    until_said(&log, "step 1 of 5").await;
    let shown = said(saola(&cluster, &["drill", "abort", "--confirm", "demo"]).await);
    assert!(shown.contains("no drill does anything to any of 4 data nodes"), "{shown}");
    assert_eq!(ended(drill).await, Some(5));
    let second = report(&cluster, 2);
    assert_eq!(second.broken_off, Some(Why::LockTaken));
    let writes = second.writes.expect("writers wrote");
    assert_eq!(writes.audit.map(|audit| (audit.lost, audit.doubled)), Some((0, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_whose_machine_is_lost_ends_by_itself_and_nodes_obey_only_the_drill_that_holds_the_lock() {
    let (cluster, key) = on_duty().await;
    let endless = file(&cluster, &like("main-site-lost", 2_000));
    let (mut drill, log) = begin(&cluster, &key, &endless);
    let main_1 = must(cluster.client_at("main-1"));
    let crash = Kind::Crash(saola_client::proto::Crash { down_ms: 1 });
    let other = main_1.trouble("another", crash, Duration::from_secs(1)).await.expect_err("it does not hold the lock");
    assert!(matches!(&other, Error::Invalid(details) if details.message.contains("does not run")), "{other}");
    until_said(&log, "step 3 of 8").await;
    until_said(&log, "at dr leads").await;
    drill.kill().expect("it runs");
    assert_eq!(ended(drill).await, None, "it was killed");
    // Nobody heals anything from here on.
    must(
        cluster
            .wait_for_status("the cluster is whole again", |status| {
                let state = status.protection_status.as_ref().map_or("", |stand| stand.state.as_str());
                let troubled = status.nodes.iter().find(|node| !node.trouble.is_empty() || !node.reachable);
                match troubled {
                    Some(node) => Err(format!("{:?}: {} {}", node.member, node.trouble, node.error)),
                    None if state != "SYNCHRONIZED" => Err(status.protection.clone()),
                    None => Ok(()),
                }
            })
            .await,
    );
    let again = arguments(&cluster, &key, &endless);
    let again = saola(&cluster, &again.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(again.status.code(), Some(4), "its lock is still there");
    let shown = said(saola(&cluster, &["drill", "cleanup", "--confirm", "demo"]).await);
    assert!(shown.contains("no drill does anything to any of 4 data nodes"), "{shown}");
    let crash = Kind::Crash(saola_client::proto::Crash { down_ms: 1 });
    let none = main_1.trouble("another", crash, Duration::from_secs(1)).await.expect_err("no drill holds the lock");
    assert!(matches!(&none, Error::Invalid(details) if details.message.contains("does not run")), "{none}");
}

/// Names two approvers, both of whom are needed; gives their keys.
async fn name_approvers(cluster: &LocalCluster) -> [PathBuf; 2] {
    let keys = ["ann", "binh"].map(|name| cluster.folder().join(format!("{name}.key")));
    for key in &keys {
        said(saola(cluster, &["approver", "keygen", "--out", text(key)]).await);
    }
    let named: Vec<String> =
        ["ann", "binh"].iter().zip(&keys).map(|(name, key)| format!("{name}={}.pub", text(key))).collect();
    let set =
        ["approver", "set", "--approver", &named[0], "--approver", &named[1], "--needed", "2", "--confirm", "demo"];
    said(saola(cluster, &set).await);
    keys
}

/// Begins a drill on a copy of dr-1, below this folder.
fn begin_on_copy(cluster: &LocalCluster, key: &Path, scenario: &Path, copies: &Path) -> (Child, PathBuf) {
    let settings = must(cluster.files("dr-1")).settings.clone();
    begin_with(cluster, key, scenario, &["--fork-of", text(&settings), "--fork-folder", text(copies)])
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("the drill has made it").next().is_none()
}

async fn approve(cluster: &LocalCluster, plan: &Path, key: &Path) {
    let (signed, _) = SignedPlan::from_text(&fs::read_to_string(plan).expect("it is there")).expect("it is a plan");
    let hash = short_hash(&signed.plan);
    said(saola(cluster, &["dr", "approve", text(plan), "--key", text(key), "--confirm", &hash]).await);
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be listed").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_rehearsed_on_a_copy_while_the_sites_go_on_protecting_each_other() {
    let (cluster, key) = on_duty().await;
    let keys = name_approvers(&cluster).await;
    let secret = "canary-of-the-copy-0123456789";
    cluster.client().put(COLLECTION, "secret", secret).send().await.expect("the cluster runs");
    let scenario = file(&cluster, &like("promote-copy", 1_500));
    let copies = cluster.folder().join("copies");
    let (drill, log) = begin_on_copy(&cluster, &key, &scenario, &copies);
    until_said(&log, "waiting for 2 of ann, binh to approve").await;
    let copy = fs::read_dir(&copies).expect("it was made").next().expect("one copy").expect("it can be listed").path();
    let plan = copy.join("promote.plan");
    // Whoever takes the rehearsal's plan for a real one does no harm.
    let elsewhere = cluster.folder().join("taken-elsewhere.plan");
    fs::copy(&plan, &elsewhere).expect("it was written");
    for key in &keys {
        approve(&cluster, &elsewhere, key).await;
    }
    let applied = saola(&cluster, &["dr", "apply", text(&elsewhere), "--confirm", "demo-drill"]).await;
    let why = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert!(!applied.status.success() && why.contains("is of another cluster (demo-drill)"), "{why}");
    // It comes back in two halves.
    let whole = fs::read(&elsewhere).expect("it was approved");
    fs::write(&plan, &whole[..whole.len() / 2]).expect("the folder is there");
    until_said(&log, "not a promotion plan").await;
    let has_secret = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(secret.len()).any(|part| part == secret.as_bytes())
    };
    let files = files_below(&copy);
    assert!(files.len() > 5 && !files.iter().any(has_secret), "the copy holds plaintext");
    fs::write(&plan, whole).expect("the folder is there");
    assert_eq!(ended(drill).await, Some(0), "{}", fs::read_to_string(&log).unwrap_or_default());
    let first = report(&cluster, 1);
    let fork = first.fork.expect("a copy was made");
    let promotion = fork.promotion.expect("it was promoted");
    assert_eq!((fork.site.as_str(), promotion.approved_by), ("dr", vec!["ann".to_owned(), "binh".to_owned()]));
    assert_eq!((promotion.loss.as_str(), promotion.lost_revisions, promotion.epoch), ("BOUNDED", 0, 2));
    let compared = fork.compared.expect("records were read");
    assert!(compared.records >= 11 && compared.different == 0, "{compared:?}");
    println!("promotion of the copy: {} ms, copied in {} ms", promotion.took_ms, fork.copied_ms);
    assert!(is_empty(&copies), "the copy is left");
    let status = must(cluster.client().cluster_status(false).await.map_err(saola_ops::exit::Failure::from));
    assert_eq!(status.header.map(|header| header.epoch), Some(1), "the cluster went on in its own epoch");

    let (drill, log) = begin_on_copy(&cluster, &key, &scenario, &copies);
    until_said(&log, "waiting for 2 of ann, binh to approve").await;
    said(saola(&cluster, &["drill", "abort", "--confirm", "demo"]).await);
    assert_eq!(ended(drill).await, Some(5));
    let second = report(&cluster, 2);
    assert_eq!((second.broken_off, second.left, is_empty(&copies)), (Some(Why::LockTaken), Vec::<String>::new(), true));

    let lonely = saola(&cluster, &["drill", "run", text(&scenario), "--by", "x", "--sign-with", text(&key)]).await;
    let told = String::from_utf8_lossy(&lonely.stderr).into_owned();
    assert!(lonely.status.code() == Some(2) && told.contains("--fork-of"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_learner_is_promoted_where_nobody_is_named_and_one_that_is_sealed_is_found_before_the_ceremony() {
    let nodes = [
        ("main-1", "main", Role::Voter),
        ("main-2", "main", Role::Voter),
        ("main-3", "main", Role::Voter),
        ("dr-1", "dr", Role::Learner),
        ("dr-2", "dr", Role::Learner),
    ];
    let (cluster, key) = on_duty_with(&Plan::new("demo", &nodes)).await;
    must(
        cluster
            .wait_for_status("the sites protect each other", |status| {
                let state = status.protection_status.as_ref().map_or("", |stand| stand.state.as_str());
                if state == "SYNCHRONIZED" { Ok(()) } else { Err(status.protection.clone()) }
            })
            .await,
    );
    let scenario = file(&cluster, &like("promote-copy", 500));
    let copies = cluster.folder().join("copies");
    let (drill, log) = begin_on_copy(&cluster, &key, &scenario, &copies);
    assert_eq!(ended(drill).await, Some(0), "{}", fs::read_to_string(&log).unwrap_or_default());
    let promotion = report(&cluster, 1).fork.and_then(|fork| fork.promotion).expect("it was promoted");
    assert_eq!((promotion.needed, promotion.approved_by), (0, Vec::new()));

    let files = must(cluster.files("dr-1"));
    let settings = files.folder.join("elsewhere.toml");
    let other_key = fs::read_to_string(&files.settings).expect("it is there").replace("dr.kek", "missing.kek");
    fs::write(&settings, other_key).expect("the folder is there");
    let more = ["--fork-of", text(&settings), "--fork-folder", text(&copies)];
    let (drill, log) = begin_with(&cluster, &key, &scenario, &more);
    assert_eq!(ended(drill).await, Some(5));
    let told = fs::read_to_string(&log).expect("it was written");
    assert!(told.contains("step 2 FAILED: the copy is sealed: ") && told.contains("missing.kek"), "{told}");
    assert!(is_empty(&copies) && !told.contains("plan BOUNDED"), "{told}");

    // A report whose cluster could not take it when the drill ended.
    let other = cluster.folder().join("other.key");
    said(saola(&cluster, &["approver", "keygen", "--out", text(&other)]).await);
    let late = Report { number: 0, previous_sha256: None, drill: "late".into(), ..report(&cluster, 1) };
    let signed = must(SignedReport::sign(&late, &ApproverKey::read_file(&key).expect("it was made")));
    let path = cluster.folder().join("drill-late.json");
    fs::write(&path, must(signed.to_text())).expect("the folder is there");
    let out = text(cluster.folder());
    let store = |key: &Path| ["drill", "store", text(&path), "--sign-with", text(key), "--out", out].map(str::to_owned);
    let stored = async |key: &Path| saola(&cluster, &store(key).iter().map(String::as_str).collect::<Vec<_>>()).await;
    let refused = stored(&other).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(4) && why.contains("this is another key"), "{why}");
    assert!(said(stored(&key).await).contains("drill 3 like-promote-copy: PASSED"));
    assert_eq!(report(&cluster, 3).drill, "late");
    let again = stored(&key).await;
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(4) && why.contains("is kept as report 3"), "{why}");
    let files = [1, 2, 3].map(|number| text(&cluster.folder().join(format!("drill-{number:06}.json"))).to_owned());
    let verify: Vec<&str> = ["drill", "verify"].into_iter().chain(files.iter().map(String::as_str)).collect();
    assert_eq!(said(saola(&cluster, &verify).await).lines().count(), 3, "one chain");
    let signers =
        |key: &Path| ["drill".to_owned(), "history".to_owned(), "--signer".to_owned(), format!("{}.pub", text(key))];
    let history =
        async |key: &Path| saola(&cluster, &signers(key).iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(said(history(&key).await).matches("like-promote-copy").count(), 3);
    let doubted = history(&other).await;
    let why = String::from_utf8_lossy(&doubted.stderr).into_owned();
    assert!(doubted.status.code() == Some(8) && why.matches("none of those named").count() == 3, "{why}");
}

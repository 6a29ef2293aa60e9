//! The runbooks in `ops/runbooks`, each on a cluster in the state that it is about: its commands are run as they stand there,
//! and what it shows of their output must come.
//!
//! A line `<!-- test: … -->` does to the cluster what the text tells people to do with machines (see [`Stage::act`]). In a block
//! `console` a line `$ saola …` is run, with the exit code 0 or that of `# exit N` behind it; the lines below it must come in
//! that order, other lines may lie between, `…` stands for anything. `NAME:7001` is the client address of node NAME,
//! `new:7001` and `new:7101` are those of the node that was prepared last, `HASH` and `BUNDLE` come from what was printed.
//! With `SAOLA_RECORD` set all output is printed and nothing is compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use saola_client::Expect;
use saola_client::drill::{LOCK, WORK};
use saola_client::proto::trouble_request::Kind;
use saola_client::proto::{CutOff, NodeStatus, StatusResponse};
use saola_ops::certificates::{Authority, Holder, Issued};
use saola_ops::launch::{LocalCluster, Plan, PlannedNode, node_binary, wait_until};
use saola_ops::topology::Role;
use saola_ops::verbs::findings::amiss;
use tokio::task::JoinHandle;

use super::membership_live::{COLLECTION, copy_folder, must, reads_back, start, write};
use super::promotion_live::{name_approvers, two_sites};
use super::protection_live::{said, saola};

const LIMIT: Duration = Duration::from_secs(90);
/// Commands that only look.
const LOOKS: [&str; 7] =
    ["status", "why", "validate", "topology explain", "witness status", "protection show", "cluster digest"];
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A cluster and what a runbook has said so far.
struct Stage {
    cluster: LocalCluster,
    written: u32,
    /// Words of commands, and what they stand for here.
    words: BTreeMap<String, String>,
    link: Option<JoinHandle<()>>,
    record: bool,
}

async fn play(name: &str) {
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test"))
        .join("../ops/runbooks")
        .join(format!("{name}.md"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut stage, mut commands, mut in_block) = (None::<Stage>, 0, false);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(verb) = line.strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->")) {
            let words: Vec<&str> = verb.split_whitespace().collect();
            match (&words[..], &mut stage) {
                (["cluster", topology], _) => {
                    // The one before ends first: both together are more than a small machine bears.
                    drop(stage.take());
                    stage = Some(Stage::new(topology).await);
                }
                (words, Some(stage)) => stage.act(words).await,
                (words, None) => panic!("{name}: {words:?} before there is a cluster"),
            }
        } else if line.starts_with("```") {
            in_block = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| in_block) {
            let mut expected = Vec::new();
            while let Some(next) = lines.next_if(|next| !next.starts_with("$ ") && !next.starts_with("```")) {
                expected.push(next);
            }
            let stage = stage.as_mut().unwrap_or_else(|| panic!("{name}: {command} before there is a cluster"));
            stage.run(name, command, &expected).await;
            commands += 1;
        } else {
            assert!(!line.contains("<!-- test") && !line.contains("$ saola"), "{name}: nobody runs {line:?}");
        }
    }
    assert!(commands > 2, "{name} has {commands} commands");
    assert!(std::env::var_os("SAOLA_RECORD").is_none(), "{name}: nothing was compared");
}

impl Stage {
    async fn new(topology: &str) -> Stage {
        let mut plan = match topology {
            "2+2+w" => Plan::two_sites_and_witness(),
            "3+2l" => two_sites(),
            other => panic!("no plan for {other}"),
        };
        // A machine that does other things too must not look like one whose links are too slow.
        plan.timing = "wan".into();
        let cluster = start(&plan).await;
        let quick = ["protection", "set", "maximum-availability", "--return-ms", "300", "--parity-ms", "200"];
        said(saola(&cluster, &quick).await);
        let record = std::env::var_os("SAOLA_RECORD").is_some();
        let mut stage = Stage { cluster, written: 0, words: BTreeMap::new(), link: None, record };
        stage.act(&["until", "SYNCHRONIZED"]).await;
        stage.act(&["write", "50"]).await;
        stage
    }

    /// Does what people do with machines, or waits.
    async fn act(&mut self, words: &[&str]) {
        match words {
            ["kill", names @ ..] => must(self.cluster.kill(names).await),
            ["start", names @ ..] => self.start(names).await,
            ["fails", name, word] => {
                must(self.cluster.start(name));
                let ended = self.cluster.wait_for_answer(name).await.expect_err("it cannot start");
                assert!(ended.what().contains(word), "{ended}");
                // It is gone already; this only takes note of it.
                self.cluster.kill(&[name]).await.unwrap_or_else(|error| println!("{error}"));
            }
            ["stop", name] => must(self.cluster.terminate(name).await),
            ["write", count] => {
                let count: u32 = count.parse().expect("a number");
                write(self.cluster.client(), self.written..self.written + count).await;
                self.written += count;
            }
            ["reads"] => reads_back(self.cluster.client(), 0..self.written).await,
            ["until", state] => {
                // Nothing is amiss any more where the sites protect each other.
                let is = |status: &StatusResponse| {
                    status.protection_status.as_ref().is_some_and(|stand| stand.state == *state)
                        && (*state != "SYNCHRONIZED" || amiss(status).is_empty())
                };
                self.until(state, is).await;
            }
            ["until", name, "refusing"] => {
                let refuses = |status: &StatusResponse| {
                    let of = |node: &&NodeStatus| node.member.as_ref().is_some_and(|it| it.name == *name);
                    status.nodes.iter().find(of).is_some_and(|node| node.writes_refused)
                };
                self.until("the node takes no writes", refuses).await;
            }
            ["until", name, state] => self.until_node(name, state).await,
            ["settled"] => {
                let alike = |status: &StatusResponse| {
                    let mut applied = status.nodes.iter().filter(|node| node.reachable).map(|node| node.applied_index);
                    let first = applied.next();
                    applied.all(|applied| Some(applied) == first)
                };
                self.until("all that answer have applied the same", alike).await;
            }
            ["approvers"] => {
                name_approvers(&self.cluster).await;
            }
            ["cut", one, other] => self.cut(one, other).await,
            ["mend"] => {
                let link = self.link.take().expect("it was cut");
                assert!(!link.is_finished(), "it was mended before: {:?}", link.await);
                link.abort();
            }
            ["full", name] => self.min_free_bytes(name, u64::MAX / 4).await,
            ["roomy", name] => self.min_free_bytes(name, 0).await,
            ["expire", name] => self.certificate(name, -1).await,
            ["authority", folder] => {
                let folder = self.cluster.folder().join(folder);
                fs::create_dir(&folder).expect("it is new");
                for file in ["ca.pem", "ca.key"] {
                    fs::copy(self.cluster.folder().join("certs").join(file), folder.join(file)).expect("it is there");
                }
            }
            ["install", folder, name] => {
                let (from, to) = (self.cluster.folder().join(folder), self.files(name).folder);
                for (made, used) in [("pem", "node.pem"), ("key", "node.key")] {
                    fs::copy(from.join(format!("{name}.{made}")), to.join(used)).expect("the page has it made");
                }
            }
            ["put", id, value] => {
                let put = self.cluster.client().put(COLLECTION, (*id).to_owned(), (*value).to_owned());
                put.send().await.expect("somebody takes writes");
            }
            ["move", from, to] => {
                let at = |it: &str| self.cluster.folder().join(it);
                fs::rename(at(from), at(to)).unwrap_or_else(|error| panic!("move {from}: {error}"));
            }
            ["copy", name] => copy_folder(&self.files(name).data, &self.copy_of(name)),
            ["restore", name] => {
                let (data, copy) = (self.files(name).data, self.copy_of(name));
                fs::remove_dir_all(&data).expect("the node is stopped");
                fs::rename(copy, data).expect("it was copied before");
            }
            ["prepare", name, site, node_id, role] => {
                let role = if *role == "witness" { Role::Witness } else { Role::Voter };
                let planned = PlannedNode { name: (*name).into(), site: (*site).into(), role };
                let node = must(self.cluster.prepare_another(&planned, node_id.parse().expect("a number")));
                self.words.insert("new:7001".into(), node.client_address);
                self.words.insert("new:7101".into(), node.peer_address);
                self.start(&[name]).await;
            }
            other => panic!("no such thing to do: {other:?}"),
        }
    }

    async fn start(&mut self, names: &[&str]) {
        for name in names {
            must(self.cluster.start(name));
        }
        for name in names {
            must(self.cluster.wait_for_answer(name).await);
        }
    }

    fn files(&self, name: &str) -> saola_ops::launch::files::NodeFiles {
        must(self.cluster.files(name)).clone()
    }

    fn copy_of(&self, name: &str) -> PathBuf {
        self.cluster.folder().join(format!("copy-of-{name}"))
    }

    async fn until(&self, what: &str, is: impl Fn(&StatusResponse) -> bool) {
        let seen = wait_until(what, LIMIT, || async {
            let status = self.cluster.client().cluster_status(false).await.map_err(|error| error.to_string())?;
            if is(&status) { Ok(()) } else { Err(status.protection) }
        });
        must(seen.await);
    }

    /// Waits until a node says of itself that it is in this state.
    async fn until_node(&self, name: &str, state: &str) {
        let client = must(self.cluster.client_at(name));
        let what = format!("{name} is {state}");
        let seen = wait_until(&what, LIMIT, || async {
            let status = client.cluster_status(true).await.map_err(|error| error.to_string())?;
            let own = status.nodes.iter().find(|node| node.member.as_ref().is_some_and(|it| it.name == name));
            match own {
                Some(own) if own.state == state || (state == "sealed" && own.sealed) => Ok(()),
                own => Err(format!("it is {:?}", own.map(|own| &own.state))),
            }
        });
        must(seen.await);
    }

    /// Nodes do this to each other as in a drill, until it is ended: on one machine there is no link to be cut.
    async fn cut(&mut self, one: &str, other: &str) {
        said(saola(&self.cluster, &["collection", "create", WORK]).await);
        let lock = self.cluster.client().put(WORK, LOCK, "link").expect(Expect::Absent);
        lock.send().await.expect("no drill runs");
        let at = |site: &str| {
            let there = self.cluster.topology().node.iter().filter(|node| node.site == site);
            there.map(|node| node.name.clone()).collect::<Vec<_>>()
        };
        let (here, there) = (at(one), at(other));
        let clients: Vec<_> = here.iter().map(|name| must(self.cluster.client_at(name))).collect();
        let ready = Kind::CutOff(CutOff::default());
        for client in &clients {
            client.trouble("link", ready.clone(), Duration::from_secs(4)).await.expect("it holds the lock");
        }
        let kind = Kind::CutOff(CutOff { nodes: there });
        self.link = Some(tokio::spawn(async move {
            let mut again = tokio::time::interval(Duration::from_millis(500));
            loop {
                again.tick().await;
                for client in &clients {
                    client.trouble("link", kind.clone(), Duration::from_secs(2)).await.expect("the node runs");
                }
            }
        }));
    }

    async fn min_free_bytes(&mut self, name: &str, bytes: u64) {
        let path = self.files(name).settings;
        let text = fs::read_to_string(&path).expect("it has settings");
        let set = |line: &str| match line.starts_with("min_free_bytes") {
            true => format!("min_free_bytes = {bytes}"),
            false => line.to_owned(),
        };
        assert!(text.contains("min_free_bytes"), "{text}");
        fs::write(&path, text.lines().map(set).collect::<Vec<_>>().join("\n")).expect("it can be written");
        must(self.cluster.terminate(name).await);
        self.start(&[name]).await;
    }

    async fn certificate(&mut self, name: &str, days: i32) {
        let authority = must(Authority::open(&self.cluster.folder().join("certs")));
        let folder = self.files(name).folder;
        for file in ["node.pem", "node.key"] {
            fs::remove_file(folder.join(file)).expect("it has one");
        }
        let place = Issued { cert: folder.join("node.pem"), key: folder.join("node.key") };
        must(authority.issue_to(Holder::Node, name, days, &place));
    }

    async fn run(&mut self, runbook: &str, line: &str, expected: &[&str]) {
        let (command, exit) = match line.split_once("# exit ") {
            Some((command, exit)) => (command.trim(), exit.trim().parse::<i32>().expect("an exit code")),
            None => (line.trim(), 0),
        };
        let mut words = shell_words(command);
        assert_eq!(words.remove(0), "saola", "{runbook}: {line}");
        for word in &mut words {
            for (short, long) in &self.words {
                *word = word.replace(short, long);
            }
            if let Some(node) = word.strip_suffix(":7001") {
                *word = must(self.cluster.client_at(node)).endpoints().remove(0);
            }
        }
        let looks = LOOKS.iter().any(|verb| command.starts_with(&format!("saola {verb}")));
        let given_up = Instant::now() + if looks { LIMIT } else { Duration::ZERO };
        let shown = loop {
            let output = self.saola(words.clone()).await;
            let shown = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
            if self.record {
                println!("--- {runbook}\n$ {line}   # exit {:?}\n{shown}", output.status.code());
                break shown;
            }
            match compare(&shown, output.status.code(), exit, expected) {
                Ok(()) => break shown,
                Err(why) if Instant::now() > given_up => panic!("{runbook}: $ {line}\n{why}\nin:\n{shown}"),
                // Somebody who looks looks again: what a page shows may take a moment, on a machine that does other things too.
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        };
        if command.contains(" dr plan promote") {
            self.words.insert("HASH".into(), shown.split_whitespace().nth(1).unwrap_or_default().into());
        }
        if command.contains(" orphan list") {
            let bundle = shown.split_whitespace().find(|word| word.starts_with("epoch-"));
            self.words.insert("BUNDLE".into(), bundle.unwrap_or_default().into());
        }
    }

    /// The command in the cluster's folder, so that files have short names.
    async fn saola(&self, words: Vec<String>) -> Output {
        let mut command = Command::new(must(node_binary()).with_file_name("saola"));
        command.env("SAOLA_PROFILE", self.cluster.folder().join("profile.toml"));
        for variable in ["SAOLA_ENDPOINT", "SAOLA_CA", "SAOLA_CERT", "SAOLA_KEY"] {
            command.env_remove(variable);
        }
        command.args(words).current_dir(self.cluster.folder());
        let run = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
        run.expect("saola is built: `make build`")
    }
}

/// What of the output of a command is not as its page says.
fn compare(shown: &str, code: Option<i32>, exit: i32, expected: &[&str]) -> Result<(), String> {
    if code != Some(exit) {
        return Err(format!("its exit code is {code:?}, not {exit}"));
    }
    let mut real = shown.lines();
    let mut wanted = expected.iter().filter(|line| !line.trim().is_empty() && line.trim() != "…");
    match wanted.find(|wanted| !real.any(|line| is_like(line, wanted))) {
        None => Ok(()),
        Some(missing) => Err(format!("lacks: {missing}")),
    }
}

/// Words of a command line; those with spaces stand in double quotes.
fn shell_words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate().flat_map(|(nth, part)| match nth % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
        _ => vec![part.to_owned()],
    });
    parts.collect()
}

/// Whether a line is like one in which `…` stands for anything; how many spaces lie between words is no matter.
fn is_like(line: &str, wanted: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, wanted) = (plain(line), plain(wanted));
    let mut rest = line.as_str();
    let mut parts = wanted.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn output_is_compared_in_its_order_and_with_its_exit_code() {
    let shown = "one\ntwo\nthree";
    assert_eq!(compare(shown, Some(0), 0, &["one", "", "three"]), Ok(()));
    assert_eq!(compare(shown, Some(0), 0, &["two", "one"]), Err("lacks: one".into()));
    assert_eq!(compare(shown, Some(5), 0, &["one"]), Err("its exit code is Some(5), not 0".into()));
}

#[test]
fn a_line_is_like_one_with_gaps_only_if_all_that_is_said_is_there() {
    assert!(is_like("cluster   demo (ab12)  epoch 1  HEALTHY", "cluster demo (…) epoch 1 HEALTHY"));
    assert!(is_like("attention   NO QUORUM: 2 of 5", "attention NO QUORUM…"));
    assert!(is_like("leads, after 5 ms, of 9 ms", "leads, after … ms"));
    for wrong in ["cluster demo (…) epoch 2 …", "cluster demo (…) epoch 1", "demo (…) epoch 1 HEALTHY"] {
        assert!(!is_like("cluster   demo (ab12)  epoch 1  HEALTHY", wrong), "{wrong}");
    }
}

macro_rules! runbooks {
    ($($test:ident: $file:literal),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            play($file).await;
        })*

        #[test]
        fn every_runbook_is_played() {
            let folder = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test")).join("../ops/runbooks");
            let names = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it is there").file_name());
            let mut there: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
            there.retain(|name| name.ends_with(".md") && name != "README.md");
            there.sort();
            let mut played = vec![$(concat!($file, ".md")),*];
            played.sort_unstable();
            assert_eq!(there, played);
        }
    };
}

runbooks! {
    main_site_lost: "main-site-lost",
    dr_site_lost: "dr-site-lost",
    witness_lost: "witness-lost",
    link_cut: "link-cut",
    both_sites_lost_and_back: "both-sites-lost-and-back",
    wrong_promotion: "wrong-promotion",
    disk_full: "disk-full",
    key_missing: "key-missing",
    certificate_expired: "certificate-expired",
    old_image_restored: "old-image-restored",
}

//! The command line as users type it.

use std::process::{Command, Output};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use saola_client::{At, Expect};
use saola_ops::certificates::{Authority, Holder};
use saola_ops::cli::{CertVerb, Cli, ClusterVerb, CollectionVerb, Verb};
use saola_ops::output::Format;
use saola_ops::topology::Role;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str) -> String {
    match Cli::try_parse_from(line.split_whitespace()) {
        Ok(cli) => panic!("{line} was accepted as {cli:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn help_keeps_the_options_of_a_verb_apart_from_those_of_every_verb() {
    let help = refused("saola get --help");
    let (own, common) = help.split_once("Options of every verb:").unwrap();
    assert!(own.contains("--generation") && own.contains("--stale") && !own.contains("--endpoint"), "{help}");
    assert!(common.contains("--endpoint") && common.contains("--timeout") && !common.contains("--raw"), "{help}");
}

#[test]
fn every_verb_parses() {
    let kek = "ab".repeat(32);
    let node = "--node-id 6 --name dr-3 --site dr --peer-address h:1 --client-address h:2";
    for line in [
        "saola status",
        "saola status --watch",
        "saola cluster init --topology t.toml",
        &format!("saola cluster add {node}"),
        &format!("saola cluster add {node} --role learner --kek-public {kek}"),
        "saola cluster remove dr-2 --confirm demo",
        &format!("saola cluster replace 4 {node}"),
        "saola cluster transfer --node main-1",
        "saola cluster transfer --site dr",
        "saola validate switchover --to dr --strict",
        "saola validate failover",
        "saola validate drill --strict",
        "saola switchover --to dr --dry-run",
        "saola switchover --to dr --at 2026-07-01T02:00:00Z",
        "saola drill run main-site-lost --by duty --sign-with officer.key --note agreed --out reports --confirm demo",
        "saola drill run promote-copy --by duty --sign-with officer.key --fork-of node.toml --fork-folder copy",
        "saola drill store drill-ab12.json --sign-with officer.key --out reports",
        "saola drill history --signer officer.key.pub",
        "saola drill schedule main-site-lost --every 180d",
        "saola drill verify drill-000001.json drill-000002.html --signer officer.key.pub",
        "saola cluster digest",
        "saola cluster members",
        "saola collection create agency --max-value-bytes 4096 --key-style bytes --owner o --label l",
        "saola collection list",
        "saola put agency ward/1 {}",
        "saola put agency ward/1 -",
        "saola put agency ward/1 --file f --expect gen:3 --content-type text/plain --source s --actor a --reason r",
        "saola get agency ward/1 --raw",
        "saola list agency --prefix ward/ --limit 5 --keys-only --revision 9",
        "saola history agency ward/1 --newest-first --keys-only",
        "saola delete agency ward/1 --expect gen:2 --reason r",
        "saola import f.ndjson --resume --collection agency --concurrency 8",
        "saola import -",
        "saola export agency --as-of 2025-07-01T00:00:00Z",
        "saola cert dev --out d --node main-1 --node main-2 --client app --valid-days -1",
        "saola dev",
        "saola demo --keep --dir d",
        "saola completions bash",
    ] {
        parse(line);
    }
}

#[test]
fn flags_of_every_verb_may_stand_anywhere() {
    let cli = parse("saola -o json get --endpoint a:1,b:2 agency x --timeout 500ms --ca c --cert d --key e");
    assert_eq!(cli.global.output, Format::Json);
    assert_eq!(cli.global.endpoint, ["a:1", "b:2"]);
    assert_eq!(cli.global.timeout, Some(Duration::from_millis(500)));
}

#[test]
fn the_point_of_a_read_is_one_of_generation_revision_and_time() {
    let at = |line: &str| match parse(line).verb {
        Verb::Get(args) => (args.to_at(), args.stale.bound),
        other => panic!("{other:?}"),
    };
    assert_eq!(at("saola get agency x"), (None, None));
    assert_eq!(at("saola get agency x --generation 2"), (Some(At::Generation(2)), None));
    assert_eq!(at("saola get agency x --revision 7"), (Some(At::Revision(7)), None));
    let time = "saola get agency x --as-of 2025-07-01T00:00:00Z";
    assert_eq!(at(time), (Some(At::TimeUs(1_751_328_000_000_000)), None));
    assert_eq!(at("saola get agency x --stale"), (None, Some(Duration::ZERO)));
    assert_eq!(at("saola get agency x --stale=1500"), (None, Some(Duration::from_millis(1500))));
    for verb in ["list agency", "history agency x", "export agency"] {
        parse(&format!("saola {verb} --stale=1500"));
    }
    assert!(refused("saola get agency x --stale=0").contains("--stale alone"), "0 is no way to say any age");
    assert!(refused("saola get agency x --generation 2 --revision 7").contains("cannot be used with"));
    assert!(refused("saola get agency x --revision 7 --as-of 2025-07-01T00:00:00Z").contains("cannot be used with"));
    assert!(refused("saola get agency x --as-of yesterday").contains("2025-07-01T00:00:00Z"));
}

#[test]
fn conditions_are_any_absent_or_a_generation() {
    let expect = |text: &str| match parse(&format!("saola put agency x v --expect {text}")).verb {
        Verb::Put(args) => args.expect,
        other => panic!("{other:?}"),
    };
    assert_eq!(expect("any"), Expect::Any);
    assert_eq!(expect("absent"), Expect::Absent);
    assert_eq!(expect("gen:12"), Expect::Generation(12));
    for wrong in ["gen:0", "gen:x", "12", "present"] {
        assert!(refused(&format!("saola put agency x v --expect {wrong}")).contains("gen:N"));
    }
}

#[test]
fn what_belongs_together_is_asked_for_together() {
    assert!(refused("saola put agency x").contains("required"));
    assert!(refused("saola put agency x v --file f").contains("cannot be used with"));
    assert!(refused("saola cluster transfer").contains("required"));
    assert!(refused("saola cluster transfer --node a --site b").contains("cannot be used with"));
    assert!(refused("saola import f --concurrency 0").contains("1..=1024"));
    assert!(refused("saola list agency --limit 0").contains("--limit"));
    assert!(refused("saola get agency x --generation 0").contains("--generation"));
    assert!(refused("saola status --timeout 5").contains("a number and its unit, as in 500ms or 5s"));
    let short =
        "saola cluster add --node-id 6 --name n --site s --peer-address h:1 --client-address h:2 --kek-public ab";
    assert!(refused(short).contains("64 hexadecimal digits"));
}

#[test]
fn a_new_node_is_a_voter_unless_said_otherwise() {
    let line = "saola cluster add --node-id 6 --name n --site s --peer-address h:1 --client-address h:2";
    let Verb::Cluster(ClusterVerb::Add { node, .. }) = parse(line).verb else { panic!("cluster add") };
    assert_eq!(node.to_node().role, Role::Voter);
    let Verb::Cert(CertVerb::Dev(args)) = parse("saola cert dev --out d").verb else { panic!("cert dev") };
    assert_eq!(args.valid_days, 365);
    let Verb::Collection(CollectionVerb::Create(args)) = parse("saola collection create a").verb else {
        panic!("collection create")
    };
    assert_eq!(args.max_value_bytes, 0);
}

fn saola_with(variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saola"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SAOLA_")) {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).args(args).output().expect("saola runs")
}

fn saola(args: &[&str]) -> Output {
    saola_with(&[], args)
}

/// Runs `saola` with certificates of an authority of its own.
fn saola_as_client(args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let issued = Authority::open(folder.path()).unwrap().issue(Holder::Client, "app", 1).unwrap();
    let files = [folder.path().join("ca.pem"), issued.cert, issued.key].map(|path| path.to_str().unwrap().to_owned());
    let variables = [("SAOLA_CA", &*files[0]), ("SAOLA_CERT", &*files[1]), ("SAOLA_KEY", &*files[2])];
    saola_with(&variables, args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = saola(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("import"), "{shell}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2_and_a_next_step() {
    for args in [["fly"].as_slice(), &[], &["get", "agency"], &["get", "agency", "x", "--generation", "no"]] {
        let output = saola(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let message = text(&output.stderr);
        assert!(message.lines().last().is_some_and(|line| line.starts_with("next: ")), "{args:?}: {message}");
    }
    assert_eq!(saola(&["get", "--help"]).status.code(), Some(0));
    let output = saola(&["get", "agency", "x"]);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(message.starts_with("error: no node to talk to\nnext: give --endpoint"), "{message}");
    assert!(output.stdout.is_empty());
    let output = saola(&["get", "agency", "x", "--endpoint", "127.0.0.1:1"]);
    assert!(text(&output.stderr).contains("--ca, --cert and --key"));
}

#[test]
fn a_failure_is_an_object_for_programs_that_ask_for_json() {
    let nobody = ["get", "agency", "x", "--timeout", "300ms", "--endpoint", "127.0.0.1:1", "-o", "json"];
    for (output, code, exit) in [
        (saola(&["get", "agency", "x", "-o", "json"]), "USAGE", 2),
        (saola(&["fly", "--output=json"]), "USAGE", 2),
        (saola(&["get", "agency", "-o", "json"]), "USAGE", 2),
        (saola_as_client(&nobody), "UNREACHABLE", 3),
    ] {
        assert_eq!(output.status.code(), Some(exit));
        let object: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!((&object["schema"], &object["code"]), (&"saola/error/v1".into(), &code.into()), "{object}");
        assert_eq!(object["exit"], exit);
        for field in ["message", "next"] {
            assert!(object[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {object}");
        }
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_variable_that_is_set_and_empty_counts_as_not_set() {
    let names = ["SAOLA_ENDPOINT", "SAOLA_CA", "SAOLA_CERT", "SAOLA_KEY", "SAOLA_PROFILE"];
    let output = saola_with(&names.map(|name| (name, "")), &["list", "agency"]);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(message.starts_with("error: no node to talk to\nnext: give --endpoint"), "{message}");
}

#[test]
fn a_file_on_the_command_line_that_cannot_be_read_ends_with_2_and_its_name() {
    let endpoint = ["--endpoint", "127.0.0.1:1"];
    for args in [
        ["list", "agency", "--profile", "/nope/profile"].as_slice(),
        &["list", "agency", "--ca", "/nope/ca", "--cert", "/nope/cert", "--key", "/nope/key"],
    ] {
        let output = saola(&[args, &endpoint].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("/nope/") && message.contains("\nnext: check the path"), "{message}");
    }
    for args in [
        ["cluster", "init", "--topology", "/nope/t.toml"].as_slice(),
        &["put", "agency", "x", "--file", "/nope/value"],
        &["import", "/nope/lines"],
    ] {
        let output = saola_as_client(&[args, &endpoint].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("/nope/") && message.contains("\nnext: check the path"), "{message}");
    }
}

#[test]
fn a_cluster_that_cannot_be_reached_ends_with_3() {
    // The port is free again when the listener is dropped, and nobody else is given it at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("127.0.0.1:{port}");
    let output = saola_as_client(&["get", "agency", "x", "--timeout", "300ms", "--endpoint", &endpoint]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert_eq!(message.matches("\nnext: ").count(), 1, "{message}");
}

#[test]
fn a_wrong_topology_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let topology = folder.path().join("t.toml");
    std::fs::write(&topology, "cluster_name = \"x\"\nsite = []\nnode = []\n").unwrap();
    let topology = topology.to_str().unwrap();
    let output = saola_as_client(&["cluster", "init", "--topology", topology, "--endpoint", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no node is a voter"), "{}", text(&output.stderr));
}

#[test]
fn cert_dev_tells_what_it_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("certs");
    let output =
        saola(&["cert", "dev", "--out", out.to_str().unwrap(), "--node", "main-1", "--client", "app", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "saola/cert/v1");
    assert_eq!(document["certificates"][1]["for"], "client");
    assert!(out.join("main-1.pem").exists() && out.join("app.key").exists());
}

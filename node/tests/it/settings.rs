//! The settings file: what is refused, with the next step, and what `--print-settings` prints.

use std::fs;

use super::harness::Cluster;
use super::harness::process::{refused_start, run};

#[tokio::test]
async fn settings_that_cannot_be_used_are_named_with_the_next_step() {
    let cluster = Cluster::prepare(1);
    let good = toml::to_string(&cluster.nodes[0].settings).unwrap();
    let peer = format!("peer = \"{}\"", cluster.nodes[0].peer);
    let cases: [(&str, &str, &[&str]); 8] = [
        ("role = \"voter\"", "role = \"voter\"\ncolour = \"red\"", &["colour", "unknown field", "table \"Settings\""]),
        ("name = \"main-1\"\n", "", &["missing field `name`", "table \"Settings\""]),
        ("[timing]", "[timing", &["Correct that line"]),
        (&peer, "peer = \"everywhere\"", &["listen.peer", "\"everywhere\" is no address", "as in \"127.0.0.1:7001\""]),
        (&peer, "peer = \"127.0.0.1:70000\"", &["listen.peer", "a port below 65536"]),
        ("role = \"voter\"", "role = \"witness\"", &["kek.file", "a witness holds no key", "remove the section [kek]"]),
        ("[kek]\nfile = \"main.kek\"", "", &["kek.file", "missing", "`saola-node keygen kek --out FILE`"]),
        ("preset = \"lan\"", "preset = \"moon\"", &["timing.preset", "write \"lan\" or \"wan\""]),
    ];
    let path = cluster.path("refused.toml");
    for (from, to, expected) in cases {
        assert!(good.contains(from), "{from} in {good}");
        fs::write(&path, good.replace(from, to)).unwrap();
        let said = refused_start(&path).await;
        assert!(said.starts_with("error: settings file "), "{said}");
        for part in expected {
            assert!(said.contains(part), "{part:?} in: {said}");
        }
    }
}

#[tokio::test]
async fn files_that_are_missing_are_named_with_the_setting_that_names_them() {
    let mut cluster = Cluster::prepare(1);
    let said = refused_start(&cluster.path("nowhere.toml")).await;
    assert!(said.contains("nowhere.toml") && said.contains("`saola-node --config FILE`"), "{said}");

    for (key, file) in [("ca", "no-ca.pem"), ("cert", "no-node.pem"), ("key", "no-node.key")] {
        let node = &mut cluster.nodes[0];
        let before = node.settings.clone();
        node.set("tls", key, file);
        let said = refused_start(&node.settings_file()).await;
        for part in [&format!("tls.{key}"), file, "check the path under [tls]"] {
            assert!(said.contains(part), "{part:?} in: {said}");
        }
        node.settings = before;
    }
}

#[tokio::test]
async fn printed_settings_hold_every_default_and_print_the_same_again() {
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].settings.remove("limits");
    let file = cluster.nodes[0].settings_file();
    let print = |path: &std::path::Path| {
        let (done, printed, errors) = run(&["--config", path.to_str().unwrap(), "--print-settings"]);
        assert!(done, "{errors}");
        printed
    };
    let printed = print(&file);
    for part in [
        "heartbeat_ms = 50",
        "election_max_ms = 300",
        "min_free_bytes = 536870912",
        "log_keep_hours = 72",
        "name = \"main-1\"",
    ] {
        assert!(printed.contains(part), "{part:?} in: {printed}");
    }
    let again = cluster.path("printed.toml");
    fs::write(&again, &printed).unwrap();
    assert_eq!(print(&again), printed);
    assert!(!cluster.nodes[0].data().exists(), "printing settings touches no data folder");
}

#[test]
fn without_arguments_the_program_says_how_to_run_it() {
    let (done, _, errors) = run(&[]);
    assert!(!done && errors.contains("--config <FILE>") && errors.contains("keygen"), "{errors}");
}

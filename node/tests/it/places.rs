//! Data folders and ports that a node must not use.

use std::fs;

use super::harness::process::refused_start;
use super::harness::{Cluster, ports};

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} in: {said}");
    }
}

#[tokio::test]
async fn a_folder_that_is_in_use_or_another_nodes_is_refused_by_name() {
    let mut cluster = Cluster::prepare(2);
    cluster.start(0).await;
    let folder = cluster.nodes[0].data();
    let folder = folder.to_str().unwrap();

    // The same node a second time, on ports of its own.
    let twin = cluster.path("main-1/twin.toml");
    let mut settings = cluster.nodes[0].settings.clone();
    for key in ["peer", "client", "metrics"] {
        settings["listen"].as_table_mut().unwrap().insert(key.into(), ports::free().into());
    }
    fs::write(&twin, toml::to_string(&settings).unwrap()).unwrap();
    let said = refused_start(&twin).await;
    assert_says(&said, &[folder, "in use by another process", "stop that one first"]);

    cluster.nodes[0].kill();
    cluster.nodes[1].set("node", "data_dir", folder);
    let said = refused_start(&cluster.nodes[1].settings_file()).await;
    assert_says(&said, &[folder, "(main-1, site main)", "(main-2, site main)", "this node's own folder"]);

    let mine = cluster.path("photos");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("photo.txt"), "x").unwrap();
    cluster.nodes[1].set("node", "data_dir", mine.to_str().unwrap());
    let said = refused_start(&cluster.nodes[1].settings_file()).await;
    assert_says(&said, &["photos", "not a node's folder", "point data_dir at an empty or missing folder"]);
    assert_eq!(fs::read_to_string(mine.join("photo.txt")).unwrap(), "x");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_setting() {
    let mut cluster = Cluster::prepare(2);
    cluster.start(0).await;
    let taken = cluster.nodes[0].client.clone();
    for key in ["peer", "client", "metrics"] {
        let node = &mut cluster.nodes[1];
        let before = node.settings.clone();
        node.set("listen", key, taken.clone());
        let said = refused_start(&node.settings_file()).await;
        assert_says(&said, &[&taken, &format!("listen.{key}"), "the port is taken", "choose another port"]);
        node.settings = before;
    }
    let node = &mut cluster.nodes[1];
    node.set("listen", "client", "192.0.2.1:7001");
    let said = refused_start(&node.settings_file()).await;
    assert_says(&said, &["192.0.2.1:7001", "this machine has no such address"]);
}

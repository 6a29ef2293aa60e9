//! House rules that a machine can check, so that a reader may rely on them.
//!
//! - `graph`: which crate may know which, where RocksDB and openraft may be reached from, pins, sources, duplicates;
//! - `licences`: every dependency's licence is on the allow list of `deny.toml`;
//! - `files`: what stands in the tree: top level, length, maps, words, links.

mod files;
mod graph;
mod licences;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

/// The part of `cargo metadata`'s answer that the rules need.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// Missing for the crates of this workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    /// Missing for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
    optional: bool,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    features: Vec<String>,
}

/// Asks cargo for the whole resolved graph of this machine's platform, with every feature of ours on.
fn metadata() -> Metadata {
    let platform = env_platform();
    let json = cargo(&["metadata", "--format-version=1", "--locked", "--all-features", "--filter-platform", &platform]);
    serde_json::from_str(&json).expect("cargo metadata prints the format that was asked for")
}

/// Names of all crates that `package` would be built with, `features` being cargo's feature flags.
fn built_with(package: &str, features: &[&str]) -> Vec<String> {
    let mut arguments =
        vec!["tree", "--locked", "--package", package, "--edges=normal,build", "--prefix=none", "--format={p}"];
    arguments.extend_from_slice(features);
    cargo(&arguments).lines().filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo that built this test can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn env_platform() -> String {
    let output = Command::new(env!("CARGO"))
        .args(["--version", "--verbose"])
        .output()
        .expect("cargo that built this test can be run");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(String::from))
        .expect("cargo --version --verbose names its host")
}

fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test")).join("..")
}

/// `deny.toml`: one list for these tests and for those who have `cargo deny`.
#[derive(Deserialize)]
struct Deny {
    licenses: DenyLicences,
    bans: DenyBans,
}

#[derive(Deserialize)]
struct DenyLicences {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct DenyBans {
    skip: Vec<Skip>,
}

#[derive(Deserialize)]
struct Skip {
    /// `name@version`, the version as far as it matters: `sha2@0.10`.
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

impl Skip {
    fn names(&self, name: &str, version: &str) -> bool {
        let Some(rest) = self.name.strip_prefix(name).and_then(|rest| rest.strip_prefix('@')) else {
            return false;
        };
        version.strip_prefix(rest).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

fn deny() -> Deny {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there");
    toml::from_str(&text).expect("deny.toml has the tables that these tests read")
}

/// Versions of each crate in the resolved graph.
fn versions(metadata: &Metadata) -> BTreeMap<&str, Vec<&str>> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in resolved(metadata) {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    versions
}

/// The packages that this platform builds.
fn resolved(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    let ids: std::collections::BTreeSet<&str> = metadata.resolve.nodes.iter().map(|node| node.id.as_str()).collect();
    metadata.packages.iter().filter(move |package| ids.contains(package.id.as_str()))
}

//! The dependency graph: arrows between our crates, seams, pins, sources and duplicates.

use std::collections::{BTreeMap, BTreeSet};

use super::{built_with, deny, metadata, resolved, versions};

/// The arrows of the code map. A crate that is not a key here may not exist; a new arrow arrives in a change of its own.
fn allowed_arrows() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    BTreeMap::from([
        ("saola-storage", BTreeSet::from([])),
        ("saola-client", BTreeSet::from([])),
        ("saola-raft", BTreeSet::from(["saola-storage"])),
        ("saola-node", BTreeSet::from(["saola-raft", "saola-storage", "saola-client"])),
        // The storage for offline verbs alone: see `only_the_offline_verbs_know_the_storage`.
        ("saola-ops", BTreeSet::from(["saola-client", "saola-storage"])),
        (
            "saola-jepsen",
            // The launcher of local clusters, which the live test needs, lives in ops.
            BTreeSet::from(["saola-client", "saola-node", "saola-raft", "saola-storage", "saola-ops"]),
        ),
        (
            "saola-fuzz",
            BTreeSet::from(["saola-client", "saola-jepsen", "saola-node", "saola-raft", "saola-storage", "saola-ops"]),
        ),
        ("saola-live", BTreeSet::from(["saola-client", "saola-jepsen", "saola-ops"])),
        // The test that takes power away reaches below RocksDB.
        ("saola-power", BTreeSet::from(["saola-storage"])),
        (
            "saola-benches",
            // Whose switch lies between the sites.
            BTreeSet::from(["saola-client", "saola-live", "saola-node", "saola-raft", "saola-storage", "saola-ops"]),
        ),
    ])
}

#[test]
fn crates_know_only_those_that_the_design_lets_them_know() {
    let allowed = allowed_arrows();
    let metadata = metadata();
    let ours: BTreeSet<&str> = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_none())
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(ours, allowed.keys().copied().collect(), "the crates of the workspace");
    for package in metadata.packages.iter().filter(|p| p.source.is_none()) {
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            // A crate's tests may ask for its own optional features.
            let own_tests = to == package.name && dependency.kind.as_deref() == Some("dev");
            assert!(
                !ours.contains(to) || own_tests || allowed[package.name.as_str()].contains(to),
                "{} must not depend on {to}: the code map in the README has no such arrow",
                package.name
            );
        }
    }
}

#[test]
fn only_storage_names_rocksdb_and_only_behind_a_feature() {
    // The test that takes power away gives RocksDB a file system that forgets.
    let may = ["rocksdb", "saola-power"];
    for package in metadata().packages.iter().filter(|p| !may.contains(&p.name.as_str())) {
        for dependency in &package.dependencies {
            if dependency.name == "rocksdb" {
                assert_eq!(package.name, "saola-storage", "RocksDB is storage's own affair");
                assert!(dependency.optional, "the simulation builds storage without RocksDB");
            }
            assert_ne!(dependency.name, "librocksdb-sys", "{} must go through storage", package.name);
        }
    }
}

#[test]
fn storage_raft_and_node_build_without_rocksdb() {
    for package in ["saola-storage", "saola-raft", "saola-node"] {
        let with = built_with(package, &["--no-default-features"]);
        assert!(
            !with.iter().any(|name| name == "librocksdb-sys"),
            "{package} --no-default-features still links RocksDB"
        );
        let with = built_with(package, &[]);
        assert!(
            with.iter().any(|name| name == "librocksdb-sys"),
            "{package} with its default features runs on RocksDB"
        );
    }
}

#[test]
fn client_and_command_build_without_openraft_and_without_rocksdb() {
    for (package, features) in [("saola-client", "--all-features"), ("saola-ops", "--no-default-features")] {
        for name in built_with(package, &[features]) {
            assert!(!name.contains("rocksdb") && !name.starts_with("openraft"), "{package} must build without {name}");
        }
    }
    for name in built_with("saola-ops", &["--all-features"]) {
        assert!(!name.starts_with("openraft"), "saola-ops must build without {name}");
    }
}

#[test]
fn only_the_verbs_on_files_know_the_storage() {
    let mut seen = 0;
    for (path, text) in super::files::texts() {
        if !path.starts_with("ops/src/") || !text.contains("saola_storage") {
            continue;
        }
        let on_files =
            ["ops/src/offline/", "ops/src/dr/", "ops/src/drill/"].iter().any(|folder| path.starts_with(folder));
        assert!(
            on_files,
            "{path}: only ops/src/offline, ops/src/dr and ops/src/drill, which sign plans and reports, may know the storage"
        );
        seen += 1;
    }
    assert!(seen > 0, "they stand in ops/src/offline and ops/src/dr");
}

#[test]
fn only_raft_names_openraft_and_at_one_exact_release() {
    let metadata = metadata();
    for package in metadata.packages.iter().filter(|p| p.source.is_none()) {
        for dependency in &package.dependencies {
            if dependency.name.starts_with("openraft") {
                assert_eq!(package.name, "saola-raft", "openraft's types do not leave raft");
                assert!(
                    dependency.req.starts_with('='),
                    "{} is a pre-release whose safety fixes matter: pin it with `=`, not `{}`",
                    dependency.name,
                    dependency.req
                );
            }
        }
    }
    for node in &metadata.resolve.nodes {
        assert!(
            !(node.id.contains("openraft") && node.features.iter().any(|f| f == "single-threaded")),
            "{} has `single-threaded` on: it would change the bounds that production is built with",
            node.id
        );
    }
}

#[test]
fn test_tools_stay_out_of_product_crates() {
    let products = ["saola-storage", "saola-raft", "saola-client", "saola-node", "saola-ops"];
    for package in products {
        for name in built_with(package, &[]) {
            assert!(
                !["proptest", "criterion", "porcupine-rs"].contains(&name.as_str()),
                "{package} is a product crate: {name} belongs under [dev-dependencies]"
            );
        }
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    for package in &metadata().packages {
        if let Some(source) = &package.source {
            assert!(
                source.starts_with("registry+"),
                "{} comes from {source}: only published releases can be rebuilt by others",
                package.name
            );
        }
    }
}

#[test]
fn second_versions_of_a_crate_are_named_with_a_reason() {
    let metadata = metadata();
    let versions = versions(&metadata);
    let skips = deny().bans.skip;
    let mut used = BTreeSet::new();
    for (name, versions) in &versions {
        let unexplained: Vec<&&str> = versions
            .iter()
            .filter(|version| {
                let skip = skips.iter().find(|skip| skip.names(name, version));
                skip.is_none_or(|skip| !used.insert(&skip.name))
            })
            .collect();
        assert!(
            unexplained.len() <= 1,
            "{name} stands twice in the graph ({unexplained:?}). Drop one, or add the older one to \
             [bans] skip in deny.toml with the reason (`cargo tree -i {name}@VERSION` says who asks for it)"
        );
    }
    for skip in &skips {
        let name = &skip.name;
        assert!(used.contains(name), "{name} is no longer in the graph: drop it from deny.toml");
        assert!(!skip.reason.is_empty(), "{name} needs a reason");
    }
}

#[test]
fn our_crates_carry_the_licence_of_the_project() {
    for package in resolved(&metadata()).filter(|package| package.source.is_none()) {
        assert_eq!(package.license.as_deref(), Some("Apache-2.0"), "{}", package.name);
    }
}

//! The tree itself: what stands at the top, how long files are, and which words and links they hold.

use std::fs;
use std::path::Path;

use super::root;

/// Everything that may stand at the top level. The root is a map, not a store-room.
const TOP_LEVEL: [&str; 18] = [
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "client",
    "deny.toml",
    "jepsen-tests",
    "node",
    "ops",
    "raft",
    "storage",
];

/// A file about one thing has fewer lines than this.
const LINES_MAX: usize = 600;

/// Longer files, each with its length at the time: a number here may only fall.
const RATCHET: [(&str, usize); 0] = [];

/// Left-overs that mean unfinished or switched-off work; written in pieces so that this file does not hold them.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("#[ig", "nore"),
];

/// Places of one machine or one network; a clone elsewhere has none of them.
const PLACES: [&str; 7] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("index.cra", "tes.io"),
    concat!("static.cra", "tes.io"),
    concat!("registry+", "http"),
    concat!("sparse+", "http"),
    concat!("replace-", "with"),
];

#[test]
fn top_level_holds_only_what_belongs_there() {
    for entry in fs::read_dir(root()).expect("the workspace's root can be listed") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        assert!(
            name == ".git" || name == "target" || TOP_LEVEL.contains(&name.as_ref()),
            "{name} does not belong at the top level: put it into the crate that it serves"
        );
    }
}

#[test]
fn files_stay_short() {
    for (path, text) in texts() {
        if !path.ends_with(".rs") {
            continue;
        }
        let lines = text.lines().count();
        let limit = RATCHET.iter().find(|(ratcheted, _)| *ratcheted == path).map_or(LINES_MAX, |(_, lines)| *lines);
        assert!(lines <= limit, "{path} has {lines} lines, more than {limit}: split it by topic");
    }
}

#[test]
fn crates_and_folders_of_modules_open_with_a_map() {
    for (path, text) in texts() {
        let opens =
            ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| Path::new(&path).file_name() == Some(name.as_ref()));
        assert!(
            !opens || text.starts_with("//!"),
            "{path} must open with `//!`: what it is for, and its modules in reading order"
        );
    }
}

#[test]
fn nothing_unfinished_and_no_place_of_one_machine_stands_in_the_tree() {
    for (path, text) in texts() {
        if path == "Cargo.lock" || path == "LICENSE" || path.starts_with("ops/data/") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in UNFINISHED.iter().chain(&PLACES) {
                assert!(!line.contains(word), "{path}:{}: `{word}` must not be committed", number + 1);
            }
        }
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    for (path, text) in texts() {
        if !path.ends_with(".md") {
            continue;
        }
        let folder = root().join(&path);
        let folder = folder.parent().expect("a file has a folder");
        for rest in text.split("](").skip(1) {
            let Some(target) = rest.split([')', '#', ' ']).next() else {
                continue;
            };
            let elsewhere = target.is_empty() || target.contains("://");
            assert!(elsewhere || folder.join(target).exists(), "{path} links to {target}, which is not there");
        }
    }
}

/// Every text file of the tree with its path from the root.
pub(super) fn texts() -> Vec<(String, String)> {
    let mut texts = Vec::new();
    collect(&root(), "", &mut texts);
    assert!(texts.len() > 50, "the walk found the tree");
    texts
}

fn collect(folder: &Path, prefix: &str, texts: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder of the tree can be listed") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("an entry's kind");
        if kind.is_dir() {
            if name != ".git" && name != "target" {
                collect(&entry.path(), &format!("{path}/"), texts);
            }
        } else if kind.is_file()
            // What is not UTF-8 is data, not text.
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            texts.push((path, text));
        }
    }
}

//! `saola offline …` on the data folder of a stopped node, as format version 1 wrote it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use saola_storage::folder::{DataFolder, FolderClaim};
use saola_storage::member::Role;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const VALUE: &str = r#"{"name":"Phường Ba Đình"}"#;

/// A copy of the fixture's folder and key.
fn stopped() -> (TempDir, PathBuf, PathBuf) {
    let fixtures = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test"))
        .join("../storage/tests/fixtures/v1");
    let folder = tempfile::tempdir().unwrap();
    let (node, kek) = (folder.path().join("node"), folder.path().join("main.kek"));
    copy(&fixtures.join("node"), &node);
    fs::copy(fixtures.join("main.kek"), &kek).unwrap();
    fs::set_permissions(&kek, Permissions::from_mode(0o600)).unwrap();
    (folder, node, kek)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}

/// Everything that could change: names, kinds, modes, sizes, times of change, contents.
fn listing(folder: &Path) -> Vec<String> {
    let mut lines = vec![line(folder, &[])];
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            lines.extend(listing(&path));
        } else {
            lines.push(line(&path, &fs::read(&path).unwrap()));
        }
    }
    lines
}

fn line(path: &Path, content: &[u8]) -> String {
    let meta = fs::metadata(path).unwrap();
    let hash = Sha256::digest(content);
    let changed = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    format!("{} {:o} {} {changed:?} {hash:x?}", path.display(), meta.mode(), meta.len())
}

fn saola(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saola"));
    for variable in ["ENDPOINT", "CA", "CERT", "KEY", "PROFILE"] {
        command.env_remove(format!("SAOLA_{variable}"));
    }
    command.arg("offline").args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a verb that must succeed.
fn ok(arguments: &[&str]) -> String {
    let output = saola(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{}", out(&output), said(&output));
    out(&output)
}

#[test]
fn every_verb_reads_and_changes_nothing() {
    let (_keep, node, kek) = stopped();
    let (dir, kek) = (node.to_str().unwrap(), kek.to_str().unwrap());
    let before = listing(&node);

    let verified = ok(&["records", "verify", "--data-dir", dir]);
    assert!(verified.lines().last().unwrap().starts_with("records verify: OK"), "{verified}");
    assert!(verified.contains("live=1 versions=4 damaged=0 differing_buckets=0"), "{verified}");

    let listed = saola(&["records", "list", "--data-dir", dir, "agency"]);
    assert!(out(&listed).starts_with("ward/00004  generation 2  revision 4  2025-07-01T00:00:05.000000Z  put"));
    assert!(said(&listed).contains("state as flushed at log index 6; the log goes to 7"), "{}", said(&listed));
    assert_eq!(ok(&["records", "list", "--data-dir", dir]), "agency\n");

    let log = ok(&["log", "verify", "--data-dir", dir]);
    assert!(log.starts_with("log verify: OK segments=3"), "{log}");
    assert!(
        log.contains("first=2 last=T2-N1@7 purged=T2-N1@1 committed=T2-N1@7 vote=T2-N1 committed damaged=0"),
        "{log}"
    );
    let dump = ok(&["log", "dump", "--data-dir", dir]);
    for part in ["membership voters 1 of nodes 1", "blank", "bootstrap cluster registry", "purge up to T2-N1@1"] {
        assert!(dump.contains(part), "{part}: {dump}");
    }
    let one = ok(&["log", "dump", "--data-dir", dir, "--from", "7", "--to", "7"]);
    assert_eq!(one.lines().count(), 1, "{one}");
    assert!(one.contains("put agency/ward/00008 (33 bytes, sealed 95) by c1c1"), "{one}");

    let formats = ok(&["formats", "--data-dir", dir]);
    assert!(formats.contains("1, made by Saola 0.1.0, last opened by Saola 0.1.0"), "{formats}");
    assert!(formats.contains("1, voter 1 (main-1, site main) by Saola 0.1.0"), "{formats}");

    ok(&["records", "get", "--data-dir", dir, "agency", "ward/00004", "--kek", kek]);
    ok(&["records", "history", "--data-dir", dir, "agency", "ward/00004", "--kek", kek]);
    assert_eq!(listing(&node), before, "an offline verb changed the folder");
}

#[test]
fn values_show_with_a_sites_key_and_never_without() {
    let (_keep, node, kek) = stopped();
    let (dir, kek) = (node.to_str().unwrap(), kek.to_str().unwrap());
    let get = ["records", "get", "--data-dir", dir, "agency", "ward/00004"];
    let history = ["records", "history", "--data-dir", dir, "agency", "ward/00004"];
    let all = [ok(&get), ok(&history), ok(&["log", "dump", "--data-dir", dir, "--raw"])];
    assert!(all.iter().all(|text| !text.contains("Phường")), "{all:?}");
    assert!(all[0].contains("dek d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1  envelope "), "{}", all[0]);

    assert_eq!(ok(&[&get[..], &["--kek", kek, "--raw"]].concat()), VALUE);
    let json: Value = serde_json::from_str(&ok(&[&history[..], &["--kek", kek, "-o", "json"]].concat())).unwrap();
    assert_eq!(json["schema"], "saola/offline-history/v1");
    assert_eq!(json["flushed_index"], 6);
    assert_eq!(json["log_last_index"], 7);
    assert_eq!(json["versions"][0]["value"]["name"], "Phường Trúc Bạch");
    assert_eq!(json["versions"][1]["generation"], 2);
    let old = ok(&[&get[..], &["--as-of", "2025-07-01T00:00:04Z", "--kek", kek, "--raw"]].concat());
    assert_eq!(old, r#"{"name":"Phường Trúc Bạch"}"#);

    fs::set_permissions(kek, Permissions::from_mode(0o644)).unwrap();
    let open = saola(&[&get[..], &["--kek", kek]].concat());
    assert_eq!(open.status.code(), Some(7));
    assert!(said(&open).contains("chmod 600") && out(&open).is_empty(), "{}", said(&open));
}

#[test]
fn what_is_not_there_is_said_with_the_next_step() {
    let (_keep, node, _) = stopped();
    let dir = node.to_str().unwrap();
    for (arguments, code, part) in [
        (&["get", "--data-dir", dir, "agency", "ward/00007"][..], 4, "generation 2 deleted it"),
        (&["get", "--data-dir", dir, "agency", "nobody"], 4, "no such version"),
        (&["get", "--data-dir", dir, "person", "x"], 4, "no collection \"person\""),
        (&["verify", "--data-dir", "/nowhere"], 2, "there is no data folder /nowhere"),
        (&["verify", "--data-dir", dir, "--endpoint", "a:1"], 2, "--endpoint is about a running cluster"),
    ] {
        let output = saola(&[&["records"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(part) && said(&output).contains("\nnext: "), "{}", said(&output));
    }
}

#[test]
fn a_folder_that_a_node_has_is_refused() {
    let (_keep, node, _) = stopped();
    let claim = FolderClaim { node_id: 1, name: "main-1".into(), site: "main".into(), role: Role::Voter };
    let running = DataFolder::open(&node, claim, [0; 16]).unwrap();
    let verify = ["records", "verify", "--data-dir", node.to_str().unwrap()];
    let refused = saola(&verify);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(said(&refused).contains("in use by another process"), "{}", said(&refused));
    drop(running);
    ok(&verify);
}

#[test]
fn damage_is_named_with_its_place() {
    let (_keep, node, _) = stopped();
    let dir = node.to_str().unwrap();
    let mut segments: Vec<PathBuf> =
        fs::read_dir(node.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    flip(&segments[0], 4096 + 60);
    let log = saola(&["log", "verify", "--data-dir", dir]);
    assert_eq!(log.status.code(), Some(8), "{}{}", out(&log), said(&log));
    assert!(out(&log).starts_with("segment 0000000000000001 bytes "), "{}", out(&log));
    assert!(out(&log).contains("log verify: DAMAGED segments=3"), "{}", out(&log));

    // Every table of rows in turn, so that the versions are among them.
    for entry in fs::read_dir(node.join("db/db-1")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            flip(&path, 20);
            let verify = saola(&["records", "verify", "--data-dir", dir]);
            assert_eq!(verify.status.code(), Some(8), "{}: {}{}", path.display(), out(&verify), said(&verify));
            flip(&path, 20);
        }
    }
    ok(&["records", "verify", "--data-dir", dir]);
}

fn flip(path: &Path, at: usize) {
    let mut content = fs::read(path).unwrap();
    content[at] ^= 1;
    fs::write(path, content).unwrap();
}

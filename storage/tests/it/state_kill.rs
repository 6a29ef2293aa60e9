//! Promises about a process that is killed while it receives a state.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use saola_storage::engine::rocks::{RocksHome, RocksSettings};
use saola_storage::store::{Applied, Keeps, Store, StoreSettings};

use crate::state_support::*;

fn open_folder(folder: &Path) -> Store {
    let settings = RocksSettings { write_buffer_bytes: 1 << 20, block_cache_bytes: 1 << 20 };
    let home = Arc::new(RocksHome::new(folder, settings));
    Store::open(home, Keeps::Records, StoreSettings::default()).expect("a store opens in its home")
}

/// A state with `records` versions, as chunks.
fn stream(records: u64) -> (Applied, Vec<Bytes>) {
    let home = memory_home();
    let store = started(&home);
    for record in 0..records {
        let value = vec![record as u8; 60_000];
        apply(&store, vec![put("agency", 1, &record.to_be_bytes(), &value, None)]);
    }
    let mut export = store.export().expect("an export begins");
    (store.applied(), std::iter::from_fn(|| export.next_chunk().expect("a chunk")).collect())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder lists");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect();
    names.sort();
    names
}

/// Opens what a process left behind: one whole state, and nothing beside it.
fn found(folder: &Path) -> Applied {
    let store = open_folder(folder);
    let view = store.view();
    assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"), "half a state");
    let databases = names(folder).iter().filter(|name| name.starts_with("db-")).count();
    assert_eq!(databases, 1, "{:?}", names(folder));
    store.applied()
}

/// The files as they are, which is what is left when the process is killed now.
fn image(folder: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder can be made");
        for name in names(from) {
            let (from, to) = (from.join(&name), to.join(&name));
            match from.is_dir() {
                true => copy(&from, &to),
                false => drop(std::fs::copy(&from, &to).expect("a file can be copied")),
            }
        }
    }
    let to = tempfile::tempdir().expect("a temporary folder");
    copy(folder, to.path());
    to
}

#[test]
fn a_process_killed_after_any_step_of_an_import_finds_the_old_or_the_new_state() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open_folder(folder.path());
    apply(&store, vec![bootstrap(), create("agency", 1), create("person", 2)]);
    store.flush().expect("a flush");
    let old = store.applied();
    let (new, chunks) = stream(20);
    let mut import = store.import().expect("an import begins");
    for chunk in &chunks {
        assert_eq!(found(image(folder.path()).path()), old);
        import.write(chunk).expect("a good chunk");
    }
    let received = image(folder.path());
    assert!(names(received.path()).contains(&"db-2".to_owned()));
    std::fs::write(received.path().join("current.new"), "db-2\n").expect("a write");
    assert_eq!(found(received.path()), old, "the pointer is not in place yet");
    let again = open_folder(received.path());
    let mut import_again = again.import().expect("what is left of the first one is in nobody's way");
    chunks.iter().for_each(|chunk| import_again.write(chunk).expect("a good chunk"));
    import_again.finish().expect("a whole state");
    drop(again);
    assert_eq!(found(received.path()), new);

    import.finish().expect("a whole state");
    assert_eq!(found(image(folder.path()).path()), new);
}

const FOLDER: &str = "SAOLA_TEST_KILLED_IN";

/// The process that the next test kills: it receives one state after the other, and tells each step.
#[test]
fn receives_states_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = open_folder(Path::new(&folder));
    for records in 1.. {
        let (_, chunks) = stream(store.applied().revision + records % 7);
        let mut import = store.import().expect("an import begins");
        for chunk in chunks {
            import.write(&chunk).expect("a good chunk");
            println!("step");
        }
        import.finish().expect("a whole state");
        println!("step");
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_whole_state() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut before = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test has a binary"))
            .args(["--exact", "state_kill::receives_states_until_it_is_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test starts again");
        let steps = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let told = steps.map_while(Result::ok).filter(|line| line.contains("step")).take(1 + 5 * round as usize % 23);
        let told = told.count();
        child.kill().expect("it runs until it is killed");
        child.wait().expect("it ends");
        assert!(told > 0, "the process tells its steps");
        let applied = found(folder.path());
        assert!(applied.revision >= before, "{} after {before}", applied.revision);
        before = applied.revision;
    }
    assert!(before > 1, "no state was ever installed");
}

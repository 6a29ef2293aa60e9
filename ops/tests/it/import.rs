//! What an import has applied when a line is wrong, a write fails, or a run is cut short.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use saola_ops::exit::{Exit, Failure};
use saola_ops::import::apply::{Outcome, Plan, Report, apply_lines};
use saola_ops::import::checkpoint::{Checkpoint, CheckpointFile};
use saola_ops::import::line::{Change, Line};
use saola_ops::import::source::Source;
use saola_ops::progress::Progress;
use tempfile::TempDir;

/// Records written by the lines, as a cluster would keep them.
#[derive(Default)]
struct Store {
    records: Mutex<HashMap<String, Vec<Vec<u8>>>>,
    /// Lines that were said to be maybe applied already.
    asked_again: Mutex<Vec<String>>,
    /// Set when the operator interrupts the import, which the record "interrupt" does.
    interrupted: Arc<AtomicBool>,
}

impl Store {
    async fn apply(&self, line: Line, maybe_applied: bool) -> Result<Outcome, Failure> {
        // Later lines may overtake this one.
        if line.id.len().is_multiple_of(2) {
            tokio::task::yield_now().await;
        }
        if maybe_applied {
            self.asked_again.lock().unwrap().push(line.id.clone());
        }
        if line.id == "interrupt" {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        match &line.change {
            _ if line.id == "refused" => Err(Failure::usage("the id is refused", "correct the id")),
            Change::Delete => Ok(Outcome::NotLive),
            Change::Put { value, .. } => {
                let mut records = self.records.lock().unwrap();
                let versions = records.entry(line.id).or_default();
                versions.push(value.to_vec());
                let revision = records.values().map(Vec::len).sum::<usize>() as u64;
                Ok(Outcome::Put { revision, recorded_at_us: revision })
            }
        }
    }

    fn records(&self) -> usize {
        self.records.lock().unwrap().len()
    }
}

struct File {
    folder: TempDir,
}

impl File {
    fn new(lines: &[String]) -> File {
        let file = File { folder: tempfile::tempdir().unwrap() };
        fs::write(file.path(), lines.join("\n")).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.ndjson")
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        CheckpointFile::of(&self.path()).read().unwrap()
    }

    async fn import(&self, store: &Store, resumed: Option<Checkpoint>) -> Result<Report, Failure> {
        let mut source = Source::open(&self.path()).await?;
        for _ in 0..resumed.as_ref().map_or(0, |earlier| earlier.lines_done) {
            source.next().await?;
        }
        let plan = Plan {
            concurrency: 16,
            default_collection: Some("agency".into()),
            cluster_id: "ab".into(),
            checkpoint: source.file().map(|file: &Path| CheckpointFile::of(file)),
            resumed,
            interrupted: store.interrupted.clone(),
        };
        let mut progress = Progress::start("test", None);
        apply_lines(&mut source, plan, &mut progress, |line, maybe| store.apply(line, maybe)).await
    }
}

fn put(id: &str) -> String {
    format!(r#"{{"op":"put","id":"{id}","value":{{"of":"{id}"}}}}"#)
}

fn puts(count: usize) -> Vec<String> {
    (1..=count).map(|number| put(&format!("r{number}"))).collect()
}

#[tokio::test]
async fn a_whole_file_is_applied_and_leaves_no_checkpoint() {
    let mut lines = puts(5_000);
    lines.push(String::new());
    lines.push(r#"{"op":"delete","id":"nobody"}"#.into());
    let file = File::new(&lines);
    let store = Store::default();
    let report = file.import(&store, None).await.unwrap();
    assert_eq!((report.lines, report.puts, report.not_live, report.revision), (5_002, 5_000, 1, Some(5_000)));
    assert_eq!(store.records(), 5_000);
    assert_eq!(file.checkpoint(), None);
}

#[tokio::test]
async fn lines_of_one_record_are_applied_in_their_order() {
    let lines: Vec<String> =
        (0..500).map(|number| format!(r#"{{"op":"put","id":"x{}","value":{number}}}"#, number % 7)).collect();
    let store = Store::default();
    File::new(&lines).import(&store, None).await.unwrap();
    for versions in store.records.lock().unwrap().values() {
        let numbers: Vec<u32> = versions.iter().map(|value| serde_json::from_slice(value).unwrap()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}

#[tokio::test]
async fn a_malformed_line_is_named_and_nothing_after_it_is_applied() {
    let mut lines = puts(300);
    lines[199] = r#"{"op":"put","id":"#.into();
    let file = File::new(&lines);
    let store = Store::default();
    let failure = file.import(&store, None).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Usage);
    let what = failure.what();
    assert!(what.contains("a.ndjson:200: column 17: EOF"), "{what}");
    assert!(what.ends_with("lines 1 to 199 are applied, nothing after"), "{what}");
    let expected = format!(
        "correct line 200 of {0}; then run: saola import --resume --collection agency {0}",
        file.path().display()
    );
    assert_eq!(failure.next(), expected);
    assert_eq!(store.records(), 199);
}

#[tokio::test]
async fn a_resumed_import_applies_the_rest_once() {
    let mut lines = puts(300);
    lines[199] = "broken".into();
    let file = File::new(&lines);
    let store = Store::default();
    file.import(&store, None).await.unwrap_err();
    let checkpoint = file.checkpoint().unwrap();
    assert_eq!((checkpoint.lines_done, checkpoint.maybe_to), (199, 199));
    fs::write(file.path(), puts(300).join("\n")).unwrap();
    let report = file.import(&store, Some(checkpoint)).await.unwrap();
    assert_eq!((report.lines, report.puts), (300, 101));
    assert!(store.records.lock().unwrap().values().all(|versions| versions.len() == 1));
    assert!(store.asked_again.lock().unwrap().is_empty());
    assert_eq!(file.checkpoint(), None);
}

#[tokio::test]
async fn a_refused_write_says_how_much_of_what_follows_is_applied_too() {
    let mut lines = puts(100);
    lines[49] = put("refused");
    let file = File::new(&lines);
    let store = Store::default();
    let failure = file.import(&store, None).await.unwrap_err();
    assert!(failure.what().contains("a.ndjson:50: agency/refused: the id is refused"), "{failure}");
    assert!(failure.what().contains("lines 1 to 49 are applied"), "{failure}");
    let beyond = store.records() - 49;
    let after = match beyond {
        0 => "nothing after".to_owned(),
        _ => format!("and {beyond} of the lines after that"),
    };
    assert!(failure.what().contains(&after), "{beyond}: {failure}");
    let checkpoint = file.checkpoint().unwrap();
    assert_eq!(checkpoint.lines_done, 49);
    assert!(checkpoint.maybe_to >= 49 + beyond as u64);
}

#[tokio::test]
async fn lines_that_a_cut_run_may_have_applied_are_looked_up_first() {
    let file = File::new(&puts(20));
    let store = Store::default();
    let cut = Checkpoint::new("ab".into(), 5, String::new(), 12);
    file.import(&store, Some(cut)).await.unwrap();
    let mut asked = store.asked_again.lock().unwrap().clone();
    asked.sort_by_key(|id| id[1..].parse::<u32>().unwrap());
    assert_eq!(asked, (6..=12).map(|number| format!("r{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_first_line_being_wrong_applies_nothing() {
    let file = File::new(&["[]".to_owned()]);
    let failure = file.import(&Store::default(), None).await.unwrap_err();
    assert!(failure.what().ends_with("; no line is applied"), "{failure}");
    assert!(failure.next().ends_with(&format!("run: saola import --collection agency {}", file.path().display())));
    assert_eq!(file.checkpoint(), None, "there is nothing to go on from");
}

#[tokio::test]
async fn an_interrupted_import_says_what_is_applied_and_goes_on_from_there() {
    let mut lines = puts(3_000);
    lines[1_000] = put("interrupt");
    let (file, store) = (File::new(&lines), Store::default());
    let failure = file.import(&store, None).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Interrupted);
    let checkpoint = file.checkpoint().unwrap();
    let done = checkpoint.lines_done;
    assert!((1_001..1_100).contains(&done) && store.records() as u64 == done, "{done} of {}", store.records());
    assert!(
        failure.what().ends_with(&format!("interrupted; lines 1 to {done} are applied, nothing after")),
        "{failure}"
    );
    assert!(failure.next().contains("saola import --resume"), "{failure}");
    store.interrupted.store(false, Ordering::Relaxed);
    let report = file.import(&store, Some(checkpoint)).await.unwrap();
    assert_eq!((report.puts, store.records()), (3_000 - done, 3_000));
}

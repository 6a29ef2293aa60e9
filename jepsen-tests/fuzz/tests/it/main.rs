//! Replays the corpus: every input that libFuzzer found worth keeping, and every one that once made a decoder fail.
//!
//! In a process of its own: it looks for panics of any thread, and the limit of the heap is the process's.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use saola_fuzz::{TARGETS, Target};

/// All of the corpus together, in bytes: a clone carries it.
const CORPUS_MAX: u64 = 500 << 10;

#[test]
fn no_input_of_the_corpus_makes_a_decoder_panic_or_take_much_memory() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A panic in a task of a simulated node ends the task only.
        PANICS.fetch_add(1, Ordering::Relaxed);
        shown(panic);
    }));
    let corpus = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test")).join("corpus");
    let mut bytes = 0;
    for target in &TARGETS {
        let inputs = inputs(&corpus.join(target.name));
        assert!(inputs.len() >= target.seeds().len(), "{}: the corpus has {} inputs", target.name, inputs.len());
        bytes += inputs.iter().map(|(_, input)| input.len() as u64).sum::<u64>();
        let seeds = target.seeds().into_iter().map(|(name, input)| (format!("seed {name}"), input));
        for (name, input) in inputs.into_iter().chain(seeds) {
            let ended = std::panic::catch_unwind(|| target.run(&input));
            assert!(ended.is_ok() && PANICS.load(Ordering::Relaxed) == 0, "{}: {name} makes it panic", target.name);
        }
    }
    assert!(bytes <= CORPUS_MAX, "the corpus has {bytes} bytes: minimise it with `make fuzz-merge`");
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target() {
    let corpus = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test")).join("corpus");
    for entry in fs::read_dir(corpus).expect("the corpus is there") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(Target::named(&name).is_some(), "corpus/{name} is never replayed: rename or remove it");
    }
}

/// The inputs of a folder, in the order of their names.
fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut inputs: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}; run `make fuzz-seeds`", folder.display()))
        .map(|entry| {
            let path = entry.expect("an entry").path();
            (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&path).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

//! Built with `--cfg saola_fuzz` by `make fuzz`: libFuzzer on the target named by `SAOLA_FUZZ_TARGET`.
//! Built without: writes the seeds of every target into the corpus.
#![cfg_attr(saola_fuzz, no_main)]

use saola_fuzz::Target;

#[cfg(saola_fuzz)]
static TARGET: std::sync::LazyLock<&'static Target> = std::sync::LazyLock::new(|| {
    let name = std::env::var("SAOLA_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("SAOLA_FUZZ_TARGET={name:?}: name a folder of the corpus"))
});

#[cfg(saola_fuzz)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET.run(input));

#[cfg(not(saola_fuzz))]
fn main() -> std::io::Result<()> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &Target| {
        let folder = corpus.join(target.name);
        std::fs::create_dir_all(&folder)?;
        target.seeds().into_iter().try_for_each(|(name, input)| std::fs::write(folder.join(name), input))
    };
    saola_fuzz::TARGETS.iter().try_for_each(write)
}

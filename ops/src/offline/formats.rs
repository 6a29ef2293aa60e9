//! `saola offline formats`: what this release reads and writes, and what a folder holds.

use std::path::Path;

use saola_storage::engine::rocks;
use saola_storage::folder::{self, StoppedFolder};
use saola_storage::keyspace::{self, format as row_format};
use saola_storage::log::LOG_FORMAT;
use saola_storage::release::RELEASE;
use saola_storage::{export, seal};
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::output::{Format, print_json, print_line, table};

/// One format of the register.
struct Row {
    name: &'static str,
    /// Version that this release writes, which is the only one that it reads.
    version: u64,
    place: &'static str,
    /// What the folder holds, if one was given.
    found: String,
}

/// Shows the register.
pub(super) fn formats(data_dir: Option<&Path>, format: Format) -> Result<Exit, Failure> {
    let folder = data_dir.map(super::open).transpose()?;
    let found = |look: &dyn Fn(&StoppedFolder) -> String| folder.as_ref().map(look).unwrap_or_default();
    let row = |name, version, place, found| Row { name, version, place, found };
    let elsewhere = String::new;
    let register = [
        row("folder identity", folder::FORMAT, "identity", found(&identity)),
        row("log", LOG_FORMAT.into(), "log/", found(&super::log::releases)),
        row("rows", keyspace::FORMAT.into(), "db/", found(&rows)),
        row("envelope", seal::ENVELOPE_VERSION.into(), "in rows and log", elsewhere()),
        row("KEK file", 1, "where the settings say", elsewhere()),
        row("promotion plan", saola_storage::promotion::FORMAT.into(), "identity, in rows and plan files", elsewhere()),
        row("orphan bundle", saola_storage::orphan::FORMAT.into(), "orphans/", elsewhere()),
        row("export stream", export::FORMAT.into(), "peer snapshots", elsewhere()),
        row("import checkpoint", 1, "FILE.saola-import", elsewhere()),
    ];
    match format {
        Format::Json => {
            let formats: Vec<_> = (register.iter())
                .map(|row| json!({"format": row.name, "version": row.version, "place": row.place, "found": row.found}))
                .collect();
            print_json("offline-formats", json!({"release": RELEASE, "formats": formats}))?;
        }
        Format::Table => {
            let mut heading = vec!["FORMAT", "READS AND WRITES", "WHERE"];
            heading.extend(folder.as_ref().map(|_| "FOUND"));
            let cells = |row: Row| {
                let mut cells = vec![row.name.to_owned(), row.version.to_string(), row.place.to_owned()];
                cells.extend(folder.as_ref().map(|_| row.found));
                cells
            };
            print_line(table(&heading, &[1], register.into_iter().map(cells).collect()))?;
            eprintln!("release {RELEASE}; storage/README.md is the register with every field");
        }
    }
    Ok(Exit::Done)
}

/// A format that cannot be read is what the reader wants to hear of here.
fn identity(folder: &StoppedFolder) -> String {
    match folder.identity() {
        Ok(Some(file)) => format!("{}, {} by {}", file.format(), file.claim, writer(&file.release)),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn rows(folder: &StoppedFolder) -> String {
    let view = match rocks::read_only(&folder.databases()) {
        Ok(view) => view,
        Err(error) => return super::split(Exit::Other, &error, "").what().to_owned(),
    };
    match row_format::read(&*view) {
        Ok(Some(row)) => {
            let (first, last) = (writer(&row.first_release), writer(&row.last_release));
            format!("{}, made by {first}, last opened by {last}", row.format)
        }
        Ok(None) => "written before rows named their release".to_owned(),
        Err(error) => error.to_string(),
    }
}

pub(super) fn writer(release: &str) -> String {
    if release.is_empty() { "an unnamed release".to_owned() } else { format!("Saola {release}") }
}

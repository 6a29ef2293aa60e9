//! `saola offline …`: what the data folder of a stopped node holds, read and never changed.
//!
//! [`records`] reads the state machine's database, [`log`] the Raft log, [`formats`] which releases wrote them, and
//! [`values`] opens sealed values with a site's private key. This is the only part of the command that knows the storage.

mod formats;
mod log;
mod records;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use saola_storage::engine::EngineError;
use saola_storage::error::StoreError;
use saola_storage::folder::{FolderError, StoppedFolder};
use saola_storage::log::LogError;

use crate::cli::{Global, LogVerb, OfflineVerb, RecordsVerb};
use crate::exit::{Exit, Failure};

/// Runs a verb beside the runtime, for it reads for as long as it takes and must hear of Ctrl-C.
///
/// # Errors
/// The folder is in use or cannot be read, or what was asked for is not there.
pub async fn offline(global: &Global, verb: OfflineVerb) -> Result<Exit, Failure> {
    refuse_live_flags(global)?;
    let format = global.output;
    let work = move || match verb {
        OfflineVerb::Records(RecordsVerb::Verify(args)) => records::verify(&args, format),
        OfflineVerb::Records(RecordsVerb::Get(args)) => records::get(&args, format),
        OfflineVerb::Records(RecordsVerb::History(args)) => records::history(&args, format),
        OfflineVerb::Records(RecordsVerb::List(args)) => records::list(&args, format),
        OfflineVerb::Log(LogVerb::Verify(args)) => log::verify(&args, format),
        OfflineVerb::Log(LogVerb::Dump(args)) => log::dump(&args, format),
        OfflineVerb::Formats { data_dir } => formats::formats(data_dir.as_deref(), format),
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Exit::Other, format!("read the data folder: {error}"), "run the command again"))?
}

/// A flag about a running cluster is a mistake here; the variables may be set for other verbs.
fn refuse_live_flags(global: &Global) -> Result<(), Failure> {
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.clone().into_os_string());
    let endpoint = Some(OsString::from(global.endpoint.join(","))).filter(|joined| !joined.is_empty());
    let flags = [
        ("--endpoint", endpoint, Some("SAOLA_ENDPOINT")),
        ("--ca", path(&global.ca), Some("SAOLA_CA")),
        ("--cert", path(&global.cert), Some("SAOLA_CERT")),
        ("--key", path(&global.key), Some("SAOLA_KEY")),
        ("--profile", path(&global.profile), Some("SAOLA_PROFILE")),
        ("--timeout", global.timeout.map(|_| OsString::new()), None),
    ];
    for (flag, value, variable) in flags {
        if given(value.as_deref(), variable.and_then(std::env::var_os).as_deref()) {
            return Err(Failure::usage(
                format!("{flag} is about a running cluster, and offline verbs ask none"),
                format!("leave {flag} out, or use `saola get`, `saola history`, `saola list`"),
            ));
        }
    }
    Ok(())
}

/// True for a value that does not come from the environment.
fn given(value: Option<&OsStr>, environment: Option<&OsStr>) -> bool {
    value.is_some() && value != environment
}

fn open(folder: &Path) -> Result<StoppedFolder, Failure> {
    Ok(StoppedFolder::open(folder)?)
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Failure {
        let exit = match &error {
            FolderError::InUse(_) => Exit::Precondition,
            FolderError::Missing(_) => Exit::Usage,
            FolderError::Damaged { .. } => Exit::Verification,
            _ => Exit::Other,
        };
        split(exit, &error, "see `saola offline --help`")
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let exit = match error {
            StoreError::Engine(error) => return error.into(),
            StoreError::Corrupt { .. } => Exit::Verification,
            StoreError::NoRecords => Exit::Precondition,
            _ => Exit::Other,
        };
        let damaged = "see all damage with `saola offline records verify`";
        split(exit, &error, damaged)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let source = error.source.to_string();
        // RocksDB's word for bytes that are not those it wrote.
        let exit = if source.starts_with("Corruption") { Exit::Verification } else { Exit::Other };
        // What failed on what, and then what to do next.
        let (what, next) = error.what.split_once(": ").unwrap_or((&error.what, "check that you may read the folder"));
        Failure::new(exit, format!("{what}: {source}"), next)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        let exit = match &error {
            LogError::Rot { .. } | LogError::Missing { .. } | LogError::Foreign { .. } => Exit::Verification,
            _ => Exit::Other,
        };
        split(exit, &error, "see all damage with `saola offline log verify`")
    }
}

/// Errors of the storage end with the next step, behind the last `; `, or have `next` as theirs.
fn split(exit: Exit, error: &dyn std::error::Error, next: &str) -> Failure {
    let text = error.to_string();
    match text.rsplit_once("; ") {
        Some((what, next)) => Failure::new(exit, what, next),
        None => Failure::new(exit, text, next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_flag_is_refused_and_a_variable_is_not() {
        let value = |text: &'static str| Some(OsStr::new(text));
        assert!(given(value("a:1"), None));
        assert!(given(value("a:1"), value("b:1")));
        assert!(!given(value("a:1"), value("a:1")));
        assert!(!given(None, value("a:1")));
        let global = Global { endpoint: vec!["a:1".into()], ..Global::default() };
        assert!(refuse_live_flags(&global).unwrap_err().what().starts_with("--endpoint"));
    }
}

//! How far an import of a file has come, kept in `FILE.saola-import` beside it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

const SCHEMA: &str = "saola/import-checkpoint/v1";
/// This release; stands in the file for those that cannot read it.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// What the checkpoints of all releases hold.
#[derive(Deserialize)]
struct Writer {
    schema: String,
    #[serde(default)]
    release: String,
}

/// What the file holds, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    schema: String,
    /// Release that wrote it.
    #[serde(default)]
    release: String,
    /// Cluster that the lines went to, hexadecimal.
    pub cluster_id: String,
    /// Lines 1 to this one are applied.
    pub lines_done: u64,
    /// SHA-256 of these lines, hexadecimal: what is done must not have changed when the rest is applied.
    pub prefix_sha256: String,
    /// Lines after `lines_done` up to this one may have been applied.
    pub maybe_to: u64,
}

impl Checkpoint {
    /// The state after `lines_done` lines.
    pub fn new(cluster_id: String, lines_done: u64, prefix_sha256: String, maybe_to: u64) -> Checkpoint {
        Checkpoint {
            schema: SCHEMA.to_owned(),
            release: RELEASE.to_owned(),
            cluster_id,
            lines_done,
            prefix_sha256,
            maybe_to,
        }
    }
}

/// The checkpoint's place beside the imported file.
#[derive(Clone, Debug)]
pub struct CheckpointFile(PathBuf);

impl CheckpointFile {
    /// The checkpoint of `imported`.
    pub fn of(imported: &Path) -> CheckpointFile {
        let mut name = OsString::from(imported);
        name.push(".saola-import");
        CheckpointFile(name.into())
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads it; none if there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is not a checkpoint of this release.
    pub fn read(&self) -> Result<Option<Checkpoint>, Failure> {
        let doing = format!("read checkpoint {}", self.0.display());
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Failure::file(doing, &source)),
        };
        let unusable = |reason: String| {
            Failure::new(
                Exit::Other,
                format!("{doing}: {reason}"),
                "remove the file to import from the first line again, which writes every record anew",
            )
        };
        // Its schema first: a newer one may have fields that this release does not know.
        let writer: Writer = serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
        if writer.schema != SCHEMA {
            return Err(Failure::new(
                Exit::Other,
                format!(
                    "{doing}: its schema is {}, written by Saola {}; this release {RELEASE} reads {SCHEMA}",
                    writer.schema, writer.release
                ),
                "go on with the release that wrote it, or remove the file to import from the first line again, which \
                 writes every record anew",
            ));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| unusable(error.to_string()))
    }

    /// Replaces it in one step.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let mut beside = self.0.clone().into_os_string();
        beside.push(".new");
        let replace = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            serde_json::to_writer(&mut file, checkpoint)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, &self.0)
        };
        replace().map_err(|source| Failure::file(format!("write checkpoint {}", self.0.display()), &source))
    }

    /// Removes it: the import is complete.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove(&self) -> Result<(), Failure> {
        fs::remove_file(&self.0)
            .map_err(|source| Failure::file(format!("remove checkpoint {}", self.0.display()), &source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_a_foreign_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = CheckpointFile::of(&folder.path().join("a.ndjson"));
        assert!(file.path().ends_with("a.ndjson.saola-import"));
        assert_eq!(file.read().unwrap(), None);
        let checkpoint = Checkpoint::new("ab".into(), 7, "cd".into(), 70);
        file.write(&checkpoint).unwrap();
        assert_eq!(file.read().unwrap(), Some(checkpoint));
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\"schema\":\"saola/import-checkpoint/v1\",\"release\":\"{RELEASE}\",\"cluster_id\":\"ab\",\
                 \"lines_done\":7,\"prefix_sha256\":\"cd\",\"maybe_to\":70}}\n"
            )
        );
        let newer = r#"{"schema":"saola/import-checkpoint/v2","release":"0.3.0","parts":[]}"#;
        fs::write(file.path(), newer).unwrap();
        let refused = file.read().unwrap_err();
        assert!(refused.what().contains("v2, written by Saola 0.3.0; this release"), "{refused}");
        fs::write(file.path(), "{}").unwrap();
        assert!(file.read().unwrap_err().next().contains("remove the file"));
        file.remove().unwrap();
        assert_eq!(file.read().unwrap(), None);
    }
}

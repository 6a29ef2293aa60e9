//! Step 3: the administrative units of Viet Nam, then the reform of 1 July 2025.

use std::fs;

use saola_client::CreateCollection;

use super::screen::Screen;
use crate::cli::{ImportArgs, ProvenanceArgs};
use crate::exit::{Exit, Failure};
use crate::import;
use crate::launch::LocalCluster;

const BEFORE: (&str, &[u8]) =
    ("units-before-2025-07-01.ndjson", include_bytes!("../../data/units-before-2025-07-01.ndjson"));
const REFORM: (&str, &[u8]) = ("reform-2025-07-01.ndjson", include_bytes!("../../data/reform-2025-07-01.ndjson"));

/// The collection.
pub const AGENCY: &str = "agency";

/// The moment at which an import ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Revision of its last write.
    pub revision: u64,
    /// Recorded time of its last write.
    pub time_us: u64,
}

/// Both moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// All units are there as before the reform.
    pub before: Moment,
    /// The reform is applied.
    pub after: Moment,
}

/// Creates the collection and imports both files.
///
/// # Errors
/// A failed write, or other numbers of puts and deletes than the files have.
pub async fn load(screen: &Screen, cluster: &LocalCluster) -> Result<Loaded, Failure> {
    screen.step(3, "Import: the units of Viet Nam, then the reform of 1 July 2025")?;
    cluster.client().create_collection(CreateCollection::new(AGENCY)).await?;
    let before = import_file(screen, cluster, BEFORE, (10_794, 0)).await?;
    let after = import_file(screen, cluster, REFORM, (3_355, 7_444)).await?;
    Ok(Loaded { before, after })
}

async fn import_file(
    screen: &Screen,
    cluster: &LocalCluster,
    (name, content): (&str, &[u8]),
    expected: (u64, u64),
) -> Result<Moment, Failure> {
    let file = cluster.folder().join(name);
    fs::write(&file, content).map_err(|source| Failure::file(format!("write {}", file.display()), &source))?;
    let args = ImportArgs {
        file,
        resume: false,
        collection: None,
        concurrency: 64,
        provenance: ProvenanceArgs { source: name.to_owned(), ..ProvenanceArgs::default() },
    };
    let report = import::import(cluster.client(), &args).await?;
    screen.line(format!("{name}: {}", import::summary(&report)))?;
    let done = (report.puts, report.deletes);
    match report.revision {
        Some(revision) if done == expected => Ok(Moment { revision, time_us: report.recorded_at_us }),
        _ => Err(Failure::new(
            Exit::Verification,
            format!("import {name}: (puts, deletes) are {done:?} and should be {expected:?}"),
            "see the nodes' logs",
        )),
    }
}

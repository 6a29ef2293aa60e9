//! Step 8: no file of any node holds a record's value in the clear, and the witness holds no key.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

use super::drill::{Drill, canary};
use super::screen::Screen;
use crate::exit::{Exit, Failure};
use crate::launch::LocalCluster;
use crate::output::{grouped, size};

const WITNESS: &str = "witness";
/// Read at a time.
const CHUNK: usize = 1 << 20;

/// What a search saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files and what they hold, each pair once.
    pub hits: Vec<(PathBuf, String)>,
}

/// Runs the step; returns the number of hits.
///
/// # Errors
/// Files that cannot be read, a search that does not find what was planted, or a key at the witness.
pub async fn search(screen: &Screen, cluster: &LocalCluster, drill: &Drill) -> Result<u64, Failure> {
    screen.step(8, "Search every file of every node for plaintext")?;
    let needles = ["Thành phố Hà Nội".to_owned(), drill.token_prefix.clone(), canary(&drill.token_prefix)];
    // A search that finds nothing proves nothing, unless it finds what was planted.
    let planted = cluster.folder().join("planted");
    let control = plant(&planted, &needles).and_then(|()| search_folder(&planted, &needles));
    let control = control.map_err(|source| Failure::file("search the planted file", &source))?;
    if control.hits.len() != needles.len() {
        let what = format!("the search finds only {} of {} planted values", control.hits.len(), needles.len());
        return Err(Failure::new(Exit::Verification, what, "the search is broken: its result means nothing"));
    }
    let nodes = cluster.folder().join("nodes");
    let searched = needles.clone();
    let found = tokio::task::spawn_blocking(move || search_folder(&nodes, &searched)).await;
    let found = found.map_err(io::Error::other).and_then(|found| found);
    let found = found.map_err(|source| Failure::file("search the nodes' folders", &source))?;
    screen.line(format!(
        "{} files, {}: {} hits for {} planted values (a control file outside has all {})",
        grouped(found.files),
        size(found.bytes),
        found.hits.len(),
        needles.len(),
        control.hits.len()
    ))?;
    for (path, needle) in &found.hits {
        screen.line(format!("    {} holds {needle:?}", path.display()))?;
    }
    witness_holds_no_key(screen, cluster).await?;
    Ok(found.hits.len() as u64)
}

fn plant(folder: &Path, needles: &[String]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // The values stand across the border of two reads.
    let mut content = vec![b'.'; CHUNK - 3];
    content.extend(needles.join("\0").bytes());
    fs::write(folder.join("control"), content)
}

/// Reads every file below `folder` and looks for each needle.
///
/// # Errors
/// A file or folder that cannot be read; one that vanished meanwhile is passed over.
pub fn search_folder(folder: &Path, needles: &[String]) -> io::Result<Found> {
    let finders: Vec<Finder<'_>> = needles.iter().map(|needle| Finder::new(needle.as_bytes())).collect();
    let overlap = needles.iter().map(String::len).max().unwrap_or(1).saturating_sub(1);
    let mut found = Found::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                // RocksDB removes files while the node runs.
                match search_file(&entry.path(), &finders, overlap) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => {
                        let (bytes, held) = result?;
                        found.files += 1;
                        found.bytes += bytes;
                        let held = held.iter().zip(needles).filter(|(held, _)| **held);
                        found.hits.extend(held.map(|(_, needle)| (entry.path(), needle.clone())));
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Bytes read, and for each needle whether the file holds it.
fn search_file(path: &Path, finders: &[Finder<'_>], overlap: usize) -> io::Result<(u64, Vec<bool>)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; overlap + CHUNK];
    let mut held = vec![false; finders.len()];
    let (mut kept, mut bytes) = (0, 0);
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok((bytes, held));
        }
        bytes += read as u64;
        let end = kept + read;
        for (held, finder) in held.iter_mut().zip(finders) {
            *held |= finder.find(&buffer[..end]).is_some();
        }
        // What may be the beginning of a needle is searched again with the next bytes.
        let keep = overlap.min(end);
        buffer.copy_within(end - keep..end, 0);
        kept = keep;
    }
}

async fn witness_holds_no_key(screen: &Screen, cluster: &LocalCluster) -> Result<(), Failure> {
    let status = cluster.client_at(WITNESS)?.cluster_status(true).await?;
    let open: u64 = status.nodes.iter().map(|node| node.keys_open).sum();
    let total: u64 = status.nodes.iter().map(|node| node.keys_total).sum();
    let files = cluster.files(WITNESS)?;
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| Failure::file(format!("read {}", path.display()), &source))
    };
    let configured = read(&files.settings)?.contains("[kek]");
    let entries = fs::read_dir(&files.folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<String>>>()
    });
    let mut names = entries.map_err(|source| Failure::file(format!("list {}", files.folder.display()), &source))?;
    names.sort_unstable();
    let key_files = names.iter().filter(|name| name.ends_with(".kek")).count();
    screen.line(format!("the witness's folder: {}", names.join(" ")))?;
    screen.line(format!(
        "the witness holds {key_files} KEK files and {open} of {total} data keys (node.key is its TLS key)"
    ))?;
    if key_files > 0 || configured || open > 0 || total > 0 {
        return Err(Failure::new(Exit::Verification, "the witness holds a key", "see its folder and its settings"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_values_are_found_across_reads_and_in_folders() {
        let folder = tempfile::tempdir().unwrap();
        let needles = ["Thành phố Hà Nội".to_owned(), "drill-1-".to_owned()];
        plant(&folder.path().join("a/b"), &needles).unwrap();
        fs::write(folder.path().join("clean"), "nothing here").unwrap();
        fs::write(folder.path().join("empty"), "").unwrap();
        let found = search_folder(folder.path(), &needles).unwrap();
        assert_eq!(found.files, 3);
        let held: Vec<&str> = found.hits.iter().map(|(_, needle)| needle.as_str()).collect();
        assert_eq!(held, ["Thành phố Hà Nội", "drill-1-"]);
        assert!(found.hits.iter().all(|(path, _)| path.ends_with("a/b/control")));
    }

    #[test]
    fn a_folder_without_them_has_no_hits() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x"), "Thành phố".repeat(100_000)).unwrap();
        let found = search_folder(folder.path(), &["Thành phố Hà Nội".to_owned()]).unwrap();
        assert!(found.hits.is_empty());
        assert_eq!(found.bytes, "Thành phố".len() as u64 * 100_000);
    }
}

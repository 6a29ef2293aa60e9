//! Which of RocksDB's errors mean that another copy is needed.

/// Whether RocksDB says, in words only, that what it has written is wrong or gone, or that the disk does not give it.
/// A disk that is full or fails to write says nothing of the rows, nor does a limit of this process.
pub(super) fn is_damage(said: &str) -> bool {
    const OWN_LIMITS: [&str; 3] = ["Too many open files", "Permission denied", "Cannot allocate memory"];
    if OWN_LIMITS.iter().any(|limit| said.contains(limit)) {
        return false;
    }
    let reads = || said.split(": ").any(|part| part.to_lowercase().starts_with("while ") && part.contains("read"));
    said.starts_with("Corruption: ")
        || said.starts_with("IO error: ")
            && (said.contains("No such file or directory") || said.contains("Input/output error") && reads())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rocksdb_says_is_damage_only_if_another_copy_would_help() {
        for said in [
            "Corruption: block checksum mismatch: stored = 1, computed = 2  in /d/db-1/000012.sst offset 0 size 92",
            "Corruption: Can't access /000012.sst: IO error: No such file or directory: while stat a file for size",
            "IO error: No such file or directory: While open a file for random read: /d/db-1/000012.sst: No such file or directory",
            "IO error: While pread offset 0 len 4096: /d/db-1/000012.sst: Input/output error",
        ] {
            assert!(is_damage(said), "{said}");
        }
        for said in [
            "IO error: No space left on device: While appending to file: /d/db-1/000012.sst: No space left on device",
            "IO error: While fdatasync: /d/already/000012.sst: Input/output error",
            "IO error: While open a file for random read: /d/db-1/000012.sst: Too many open files",
            "Corruption: Can't access /000012.sst: IO error: while stat a file for size: Permission denied",
            "IO error: While lock file: /d/db-1/LOCK: Resource temporarily unavailable",
            "Invalid argument: Column families not opened: more",
        ] {
            assert!(!is_damage(said), "{said}");
        }
    }
}

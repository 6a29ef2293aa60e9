//! A copy of a node's disk and records, to be put back later: the mistake of an operator with old backups.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use saola_raft::sim::random_u64;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::engine::{Batch, EngineHome, KeyRange, Kind};

/// What a node had on its disk, without the identity file.
pub struct FolderCopy {
    files: Vec<(String, Vec<u8>)>,
    rows: Batch,
    note: Option<Bytes>,
}

impl FolderCopy {
    /// Reads all files and rows; fails where the disk does.
    pub(super) fn of(disk: &SimDisk, home: &MemoryHome) -> io::Result<Self> {
        let read = |name: String| {
            let file = disk.open(&name, false)?;
            let mut bytes = vec![0; file.len()? as usize];
            let count = file.read_at(0, &mut bytes)?;
            bytes.truncate(count);
            Ok((name, bytes))
        };
        let files = disk.list()?.into_iter().map(read).collect::<io::Result<_>>()?;
        let view = home.open_current().expect("memory opens").view();
        let mut rows = Batch::default();
        for kind in Kind::ALL {
            for row in view.scan(kind, KeyRange::all(), false) {
                let (key, value) = row.expect("memory reads");
                rows.put(kind, key, value);
            }
        }
        Ok(Self { files, rows, note: home.note().expect("memory reads") })
    }

    /// A disk and records with just this content, all of it durable.
    pub fn restore(&self) -> (Arc<SimDisk>, Arc<MemoryHome>) {
        let disk = SimDisk::new(random_u64());
        for (name, bytes) in &self.files {
            let file = disk.open(name, true).expect("a new disk makes files");
            file.write_at(0, &[IoSlice::new(bytes)]).expect("a new disk has room");
            file.sync_data().expect("a new disk syncs");
        }
        disk.sync_dir().expect("a new disk syncs");
        let home = MemoryHome::new();
        let engine = home.open_current().expect("memory opens");
        engine.write(self.rows.clone()).expect("memory writes");
        engine.flush().expect("memory flushes");
        if let Some(note) = &self.note {
            home.keep_note(note).expect("memory is written");
        }
        (Arc::new(disk), Arc::new(home))
    }
}

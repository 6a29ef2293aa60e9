//! The log on the real disk, with its writer on a thread of its own.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, mpsc};
use std::thread;

use saola_storage::disk::{Disk, RealDisk};
use saola_storage::log::{Log, LogOp, LogSettings};
use saola_storage::types::EpochId;

use crate::log_support::{Model, append, id, vote};

const SETTINGS: LogSettings = LogSettings {
    group_id: 1,
    epoch: EpochId { number: 1, plan: 0 },
    segment_bytes: 64 << 10,
    tail_bytes: 16 << 10,
    reserve_bytes: 64 << 10,
};

#[test]
fn restart_keeps_every_acknowledged_operation() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
    let (log, writer) = Log::open(disk.clone(), SETTINGS).unwrap();
    let thread = thread::spawn(move || writer.run(|error| panic!("{error}")));

    let (acknowledge, acknowledged) = mpsc::channel();
    let mut expected = Model::default();
    let mut submit = |op: LogOp| {
        expected.apply(&op);
        let acknowledge = acknowledge.clone();
        log.submit(op, Some(Box::new(move |result| acknowledge.send(result).unwrap())));
    };
    let mut operations = 0;
    for round in 0..40 {
        let first = round * 10;
        submit(append(1, first..first + 10, 100 + 300 * round as usize));
        submit(LogOp::Vote(vote(round)));
        operations += 2;
    }
    submit(LogOp::TruncateAfter(Some(id(1, 389))));
    submit(append(2, 390..391, 200_000));
    submit(LogOp::Purge(id(1, 200)));
    for result in acknowledged.iter().take(operations + 3) {
        result.unwrap();
    }
    assert!(log.stats().segments > 1);
    assert_eq!(log.stats().flushed_index, Some(390));
    assert_eq!(Model::of(&log), expected);
    log.close();
    thread.join().unwrap();

    let (log, _writer) = Log::open(disk.clone(), SETTINGS).unwrap();
    assert_eq!(Model::of(&log), expected);
    assert!(disk.free_bytes().unwrap() > 0);
}

#[test]
fn the_real_disk_keeps_names_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    assert!(disk.open("a", false).is_err());
    let file = disk.open("a", true).unwrap();
    file.allocate(100).unwrap();
    file.allocate(50).unwrap();
    assert_eq!(file.len().unwrap(), 100);

    let parts: Vec<Vec<u8>> = (0..3000u32).map(|i| vec![i as u8; (i % 3) as usize]).collect();
    let slices: Vec<_> = parts.iter().map(|part| std::io::IoSlice::new(part)).collect();
    file.write_at(10, &slices).unwrap();
    file.sync_data().unwrap();
    let mut read = vec![0; 5000];
    assert_eq!(file.read_at(10, &mut read).unwrap(), 3000);
    assert_eq!(read[..3000], parts.concat());

    disk.rename("a", "b").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.list().unwrap(), ["b"]);
    disk.remove("b").unwrap();
    assert!(disk.list().unwrap().is_empty());
    assert_eq!(file.len().unwrap(), 3010, "an open handle goes on working");
}

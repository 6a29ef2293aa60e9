//! Formats of a newer release are refused, each with the release that wrote them.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::sync::Arc;

use prost::Message;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::engine::{Batch, EngineHome, Kind};
use saola_storage::export::{Body, Chunk, Start};
use saola_storage::keyspace::encode_value;
use saola_storage::keyspace::format::{self, FormatRow};
use saola_storage::release::RELEASE;
use saola_storage::store::{Keeps, Store, StoreSettings};

use crate::state_support::{apply, memory_home, open, put, started};

fn opened(home: &Arc<dyn EngineHome>) -> Result<Store, String> {
    Store::open(Arc::clone(home), Keeps::Records, StoreSettings::default()).map_err(|error| error.to_string())
}

fn row_of(home: &Arc<dyn EngineHome>) -> FormatRow {
    format::read(&*home.open_current().unwrap().view()).unwrap().unwrap()
}

#[test]
fn rows_of_a_newer_format_are_refused_before_any_is_read() {
    let home: Arc<dyn EngineHome> = Arc::new(MemoryHome::new());
    drop(opened(&home).unwrap());
    let row = row_of(&home);
    assert_eq!((row.format, row.first_release.as_str(), row.last_release.as_str()), (1, RELEASE, RELEASE));

    let newer = FormatRow { format: 2, last_release: "0.3.0".into(), ..row };
    let mut batch = Batch::default();
    batch.put(Kind::Meta, format::KEY, encode_value(&newer));
    // No release could read this one, but none gets so far.
    batch.put(Kind::Meta, &b"applied"[..], &b"?"[..]);
    let engine = home.open_current().unwrap();
    engine.write(batch).unwrap();
    engine.flush().unwrap();
    let refused = opened(&home).err().unwrap();
    let expected = format!(
        "the state machine's database has format 2, written by Saola 0.3.0; this release {RELEASE} reads format 1: \
         install 0.3.0 or later"
    );
    assert_eq!(refused, expected);
}

#[test]
fn a_received_state_of_a_newer_format_is_refused_with_the_senders_release() {
    let store = open(&memory_home());
    let start = Start { format: 2, log_ids_only: false, release: "0.3.0".into() };
    let body = Chunk { sequence: 0, body: Some(Body::Start(start)) }.encode_to_vec();
    let crc = crc32fast::hash(&body);
    let chunk = [&(body.len() as u32).to_le_bytes(), &crc.to_le_bytes(), &body[..]].concat();
    let refused = store.import().unwrap().write(&chunk).unwrap_err().to_string();
    assert!(refused.contains("a received state has format 2, written by Saola 0.3.0"), "{refused}");
}

/// Two releases in one cluster name themselves, each in its own copy.
#[test]
fn a_received_state_leaves_out_which_release_wrote_the_senders_rows() {
    let (from, to) = (memory_home(), memory_home());
    let mut batch = Batch::default();
    let old = FormatRow { format: 1, first_release: "0.0.1".into(), last_release: "0.0.1".into() };
    batch.put(Kind::Meta, format::KEY, encode_value(&old));
    from.home.open_current().unwrap().write(batch).unwrap();
    let sender = started(&from);
    apply(&sender, vec![put("agency", 1, b"a", b"1", None)]);
    sender.flush().unwrap();
    assert_eq!(
        (row_of(&from.home).first_release.as_str(), row_of(&from.home).last_release.as_str()),
        ("0.0.1", RELEASE)
    );

    let receiver = open(&to);
    let (mut export, mut import) = (sender.export().unwrap(), receiver.import().unwrap());
    while let Some(chunk) = export.next_chunk().unwrap() {
        import.write(&chunk).unwrap();
    }
    import.finish().unwrap();
    assert_eq!(row_of(&to.home).first_release, RELEASE);
}

#[cfg(feature = "rocksdb")]
#[test]
fn rows_of_an_unknown_kind_are_refused_by_name() {
    use saola_storage::engine::rocks;

    let folder = tempfile::tempdir().unwrap();
    let home = rocks::RocksHome::new(folder.path(), rocks::RocksSettings::LOG_IDS_ONLY);
    let home: Arc<dyn EngineHome> = Arc::new(home);
    opened(&home).unwrap().flush().unwrap();
    let options = rocksdb::Options::default();
    let path = folder.path().join("db-1");
    let kinds = rocksdb::DB::list_cf(&options, &path).unwrap();
    let mut newer = rocksdb::DB::open_cf(&options, &path, kinds).unwrap();
    newer.create_cf("audit", &options).unwrap();
    drop(newer);
    let refused = opened(&home).err().unwrap();
    let reading = rocks::read_only(folder.path()).err().unwrap().to_string();
    for text in [refused, reading] {
        assert!(text.contains("rows of kind \"audit\", written by Saola "), "{text}");
        assert!(text.contains("install the release that wrote it or later"), "{text}");
    }
}

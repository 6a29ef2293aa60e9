//! The stream of a state, written into an empty store, or beside a similar state.
//!
//! Mode 0: each part is a chunk as it arrives. Mode bit 0: each part is the body of a chunk, whose frame, number and
//! manifest are put right, so that the rows are read. Mode bit 1: the store has a similar state, with a write of its own, and
//! takes outlines; while rows are lacking, a part is one of those.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use saola_storage::command::CommandBatch;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::export::{Body, Chunk};
use saola_storage::import::Import;
use saola_storage::orphan::Head;
use saola_storage::store::Store;
use sha2::{Digest, Sha256};

use crate::disk::files::in_folder;
use crate::store::{empty, entry, furnished, put, read_all};
use crate::{Seed, input};

const FRAMED_HERE: u8 = 1;
const BESIDE_ANOTHER: u8 = 2;
const FRAME_BYTES: usize = 8;

/// See the module.
pub fn run(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let (store, mut import) = receiver(mode);
    let (mut hash, mut sequence) = (Sha256::new(), 0);
    for part in input::parts(bytes) {
        let chunk = match mode & FRAMED_HERE {
            0 => part.to_vec(),
            _ => frame(part, sequence, &hash),
        };
        if !import.lacking().is_empty() {
            if import.fill(&chunk).is_err() {
                break;
            }
            continue;
        }
        if import.write(&chunk).is_err() {
            break;
        }
        hash.update(&chunk);
        sequence += 1;
    }
    if import.finish().is_ok() {
        read_all(&store);
    }
}

fn receiver(mode: u8) -> (Store, Import) {
    let home = Arc::new(MemoryHome::new());
    match mode & BESIDE_ANOTHER {
        0 => {
            let store = empty(&home);
            let import = store.import().expect("memory has room");
            (store, import)
        }
        _ => {
            let store = with_a_write(b"ward/2");
            let import = in_folder(|folder| store.import_difference(Some((folder, Head::default()))));
            (store, import.expect("memory and a temporary folder have room"))
        }
    }
}

/// A small state that goes on with a write of its own.
pub(crate) fn with_a_write(id: &'static [u8]) -> Store {
    let store = furnished(&Arc::new(MemoryHome::new()));
    let commands = vec![put(99, id)];
    store.apply(vec![entry(2, CommandBatch { stamp_us: 2, commands })]).expect("a good command is applied");
    store
}

fn frame(body: &[u8], sequence: u64, hash: &Sha256) -> Vec<u8> {
    let body = match Chunk::decode(Bytes::copy_from_slice(body)) {
        Ok(mut chunk) => {
            chunk.sequence = sequence;
            if let Some(Body::Manifest(manifest)) = &mut chunk.body {
                manifest.chunks = sequence;
                manifest.sha256 = Bytes::copy_from_slice(&hash.clone().finalize());
            }
            chunk.encode_to_vec()
        }
        Err(_) => body.to_vec(),
    };
    [&(body.len() as u32).to_le_bytes()[..], &crc32fast::hash(&body).to_le_bytes(), &body].concat()
}

/// A small state, framed and not.
pub fn seeds() -> Vec<Seed> {
    let mut export = furnished(&Arc::new(MemoryHome::new())).export().expect("a store that applied all exports");
    let mut chunks = Vec::new();
    while let Some(chunk) = export.next_chunk().expect("memory reads") {
        chunks.push(chunk);
    }
    // The row with all buckets of the digest is too long for a part.
    chunks.retain(|chunk| chunk.len() < usize::from(u16::MAX));
    let bodies: Vec<_> = chunks.iter().map(|chunk| chunk.slice(FRAME_BYTES..)).collect();
    vec![
        ("chunks", input::join(0, chunks)),
        ("bodies", input::join(FRAMED_HERE, bodies)),
        ("difference", input::join(BESIDE_ANOTHER, difference())),
    ]
}

/// Outlines and the rows that the receiver lacks.
fn difference() -> Vec<Bytes> {
    let mut export = with_a_write(b"ward/3").export().expect("a store that applied all exports").outlined();
    let (_store, mut import) = receiver(BESIDE_ANOTHER);
    let mut chunks = Vec::new();
    while let Some(chunk) = export.next_chunk().expect("memory reads") {
        import.write(&chunk).expect("it is as it was sent");
        chunks.push(chunk);
        let mut spans = VecDeque::from(import.lacking());
        while let Some(rows) = export.rows_of(&mut spans).expect("memory reads") {
            import.fill(&rows).expect("these were asked for");
            chunks.push(rows);
        }
    }
    chunks
}

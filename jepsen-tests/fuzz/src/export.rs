//! The stream of a state, written into an empty store.
//!
//! Mode 0: each part is a chunk as it arrives. Mode bit 0: each part is the body of a chunk, whose frame, number and
//! manifest are put right, so that the rows are read.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::export::{Body, Chunk};
use sha2::{Digest, Sha256};

use crate::store::{empty, furnished, read_all};
use crate::{Seed, input};

const FRAMED_HERE: u8 = 1;
const FRAME_BYTES: usize = 8;

/// See the module.
pub fn run(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let store = empty(&Arc::new(MemoryHome::new()));
    let mut import = store.import().expect("memory has room");
    let mut hash = Sha256::new();
    for (part, sequence) in input::parts(bytes).into_iter().zip(0..) {
        let chunk = match mode & FRAMED_HERE {
            0 => part.to_vec(),
            _ => frame(part, sequence, &hash),
        };
        if import.write(&chunk).is_err() {
            break;
        }
        hash.update(&chunk);
    }
    if import.finish().is_ok() {
        read_all(&store);
    }
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
    vec![("chunks", input::join(0, chunks)), ("bodies", input::join(FRAMED_HERE, bodies))]
}

//! Envelopes and wrapped data keys, opened with keys of this crate.
//!
//! Mode bit 0: what names the key is put right, so that the cipher is reached.

use bytes::Bytes;
use prost::Message;
use saola_storage::command::{Wrap, WrappedDek};
use saola_storage::kek::{KekProvider, KekPublic};
use saola_storage::keyring::OpenKeys;
use saola_storage::seal::{SealContext, envelope_dek_id, open};

use crate::store::{self, CONTENT_TYPE, INCARNATION, SITE, STORE, dek, kek, wrapped_dek};
use crate::{Seed, input};

const NAMED_HERE: u8 = 1;
const ID: &[u8] = b"ward/1";
const VALUE: &[u8] = b"{}";

/// Opens an envelope: nothing but the true one opens.
///
/// # Panics
/// Another one did.
pub fn envelope(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let mut bytes = bytes.to_vec();
    if mode & NAMED_HERE != 0 && bytes.len() >= 18 {
        bytes[..2].copy_from_slice(&[1, 1]);
        bytes[2..18].copy_from_slice(&dek().id().0);
    }
    let named = envelope_dek_id(&bytes);
    let context =
        SealContext { store_uuid: &STORE, incarnation: &INCARNATION, record_id: ID, content_type: CONTENT_TYPE };
    if let Ok(value) = open(&dek(), &context, &bytes) {
        assert_eq!((value.as_slice(), named.ok()), (VALUE, Some(dek().id())), "a forged envelope opened");
    }
}

/// An envelope.
pub fn envelope_seeds() -> Vec<Seed> {
    let sealed = store::envelope(ID, VALUE);
    vec![("sealed", [&[0][..], &sealed].concat()), ("named", [&[NAMED_HERE][..], &sealed].concat())]
}

/// Opens a key ring of two entries, one after the other and together.
///
/// # Panics
/// A key opened that nobody wrapped.
pub fn key_ring(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let _ = std::str::from_utf8(bytes).map(|text| KekPublic::from_hex(text).is_ok());
    let mut ring = Vec::new();
    for part in input::parts(bytes).into_iter().take(4) {
        let _ = KekPublic::from_slice(part).is_ok();
        let Ok(mut wrapped) = WrappedDek::decode(Bytes::copy_from_slice(part)) else { continue };
        if mode & NAMED_HERE != 0 {
            let first = wrapped.wraps.pop().unwrap_or_default();
            let kek_public = Bytes::copy_from_slice(&kek().public().0);
            wrapped.wraps = vec![Wrap { site: SITE.into(), kek_public, ..first }];
        }
        ring.push(wrapped);
    }
    let mut keys = OpenKeys::default();
    for upto in 0..=ring.len() {
        let unopened = keys.sync(&kek(), SITE, &STORE, &ring[..upto]);
        assert!(unopened.len() + keys.len() <= upto);
    }
    for wrapped in &ring {
        let id = <[u8; 16]>::try_from(&wrapped.id[..]).map(saola_storage::seal::DekId);
        if let Some(open) = id.ok().and_then(|id| keys.get(&id)) {
            assert_eq!(open.id(), dek().id(), "a forged wrap opened");
        }
    }
}

/// A key ring with a good entry and its like.
pub fn key_ring_seeds() -> Vec<Seed> {
    let good = wrapped_dek().encode_to_vec();
    let other = WrappedDek { id: Bytes::from_static(&[1; 16]), ..wrapped_dek() }.encode_to_vec();
    vec![("ring", input::join(0, [&good, &other])), ("named", input::join(NAMED_HERE, [&other, &good]))]
}

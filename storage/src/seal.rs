//! Sealing of values: the envelope, its suites and its data encryption keys.
//!
//! Envelope version 1 is `version u8, suite u8, DEK id 16, salt 16, nonce 12, ciphertext, tag 16`.
//! Suite 1 derives one key per write from the DEK and the salt and seals with AES-256-GCM, so there is no
//! counter to keep and no bound on the number of seals. What the value belongs to (store, collection incarnation,
//! record, content type) is authenticated with it: an envelope moved elsewhere does not open.

use std::fmt;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use bytes::Bytes;
use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// Envelope format version that this release writes.
pub const ENVELOPE_VERSION: u8 = 1;
/// Bytes that an envelope adds to a value.
pub const ENVELOPE_OVERHEAD: usize = HEAD_BYTES + TAG_BYTES;

const SUITE_HKDF_AES256GCM: u8 = 1;
const DEK_ID_AT: usize = 2;
const SALT_AT: usize = 18;
const NONCE_AT: usize = 34;
const HEAD_BYTES: usize = 46;
const TAG_BYTES: usize = 16;
const WRITE_KEY_LABEL: &[u8] = b"saola/v1";

/// Names a data encryption key: 16 random bytes, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DekId(pub [u8; 16]);

impl fmt::Display for DekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DekId({self})")
    }
}

/// A data encryption key in clear. Lives in memory only, is wiped on drop and never printed.
pub struct Dek {
    id: DekId,
    key: Zeroizing<[u8; 32]>,
}

impl Dek {
    /// Takes a key of 32 random bytes under its id.
    pub fn new(id: DekId, key: Zeroizing<[u8; 32]>) -> Dek {
        Dek { id, key }
    }

    /// The key's name.
    pub fn id(&self) -> DekId {
        self.id
    }

    pub(crate) fn key_bytes(&self) -> &[u8; 32] {
        &self.key
    }

    fn write_key(&self, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::from_prk(self.key.as_slice())
            .ok()
            .and_then(|hkdf| hkdf.expand_multi_info(&[WRITE_KEY_LABEL, salt], key.as_mut_slice()).ok())
            .ok_or(SealError::Cipher { dek: self.id })?;
        Ok(key)
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dek(id={})", self.id)
    }
}

/// What a sealed value belongs to; authenticated with it.
#[derive(Clone, Copy, Debug)]
pub struct SealContext<'a> {
    /// The store, made at init; survives restore and forks.
    pub store_uuid: &'a [u8; 16],
    /// The collection's incarnation.
    pub incarnation: &'a [u8; 16],
    /// The record's id.
    pub record_id: &'a [u8],
    /// Media type of the value.
    pub content_type: &'a str,
}

impl SealContext<'_> {
    fn associated_data(&self, suite: u8, dek: &DekId) -> Vec<u8> {
        let fields: [&[u8]; 7] = [
            &[ENVELOPE_VERSION],
            &[suite],
            self.store_uuid,
            self.incarnation,
            self.record_id,
            &dek.0,
            self.content_type.as_bytes(),
        ];
        length_prefixed(&fields)
    }
}

/// Why a value could not be sealed or an envelope not opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The bytes end before an envelope of its version does.
    #[error(
        "read envelope: {found} bytes are too few, the shortest envelope has {ENVELOPE_OVERHEAD}; \
         the stored version is damaged: compare the replicas with `saola cluster digest`"
    )]
    Truncated {
        /// Bytes that are there.
        found: usize,
    },
    /// Written by another release.
    #[error(
        "read envelope: version {found} is unknown, this release reads version {ENVELOPE_VERSION}; \
         use the release that wrote it, or compare the replicas with `saola cluster digest`"
    )]
    UnknownVersion {
        /// The first byte.
        found: u8,
    },
    /// Sealed with a suite that this release does not have.
    #[error(
        "read envelope: suite {found} is unknown, this release has suite 1 (HKDF-SHA-256, AES-256-GCM); \
         use the release that wrote it, or compare the replicas with `saola cluster digest`"
    )]
    UnknownSuite {
        /// The second byte.
        found: u8,
    },
    /// Another key was given than the one that the envelope names.
    #[error(
        "open envelope: it was sealed under data key {named}, but key {given} was given; \
         look the key up by the envelope's own id"
    )]
    WrongDek {
        /// Named by the envelope.
        named: DekId,
        /// Given by the caller.
        given: DekId,
    },
    /// Authentication failed.
    #[error(
        "open envelope: it does not open under data key {dek} for this store, collection, record and content type, \
         so it was altered or moved; compare the replicas with `saola cluster digest`"
    )]
    Forged {
        /// Named by the envelope.
        dek: DekId,
    },
    /// The cipher refused its input; only a value of more than 2^36 bytes can cause it.
    #[error("seal value under data key {dek}: the cipher refused the value's length; send a smaller value")]
    Cipher {
        /// The key in use.
        dek: DekId,
    },
}

/// Seals `value` under `dek`. The caller gives 28 fresh random bytes (salt and nonce), never the same twice.
///
/// # Errors
/// [`SealError::Cipher`] when the value is longer than the cipher allows.
pub fn seal(dek: &Dek, context: &SealContext<'_>, value: &[u8], entropy: &[u8; 28]) -> Result<Bytes, SealError> {
    let (salt, nonce) = entropy.split_at(NONCE_AT - SALT_AT);
    let mut envelope = Vec::with_capacity(ENVELOPE_OVERHEAD + value.len());
    envelope.extend_from_slice(&[ENVELOPE_VERSION, SUITE_HKDF_AES256GCM]);
    envelope.extend_from_slice(&dek.id.0);
    envelope.extend_from_slice(salt);
    envelope.extend_from_slice(nonce);
    envelope.extend_from_slice(value);

    let refused = SealError::Cipher { dek: dek.id };
    let associated = context.associated_data(SUITE_HKDF_AES256GCM, &dek.id);
    let nonce = Nonce::try_from(nonce).map_err(|_| refused.clone())?;
    let body = InOutBuf::from(&mut envelope[HEAD_BYTES..]);
    let tag = cipher(dek, salt)?.encrypt_inout_detached(&nonce, &associated, body).map_err(|_| refused)?;
    envelope.extend_from_slice(&tag);
    Ok(envelope.into())
}

/// Opens an envelope.
///
/// # Errors
/// Any [`SealError`] but `Cipher`; arbitrary bytes give an error, never a panic.
pub fn open(dek: &Dek, context: &SealContext<'_>, envelope: &[u8]) -> Result<Vec<u8>, SealError> {
    let named = envelope_dek_id(envelope)?;
    if named != dek.id {
        return Err(SealError::WrongDek { named, given: dek.id });
    }
    let forged = SealError::Forged { dek: named };
    let (head, sealed) = envelope.split_at(HEAD_BYTES);
    let (body, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
    let associated = context.associated_data(head[1], &named);
    let nonce = Nonce::try_from(&head[NONCE_AT..]).map_err(|_| forged.clone())?;
    let tag = Tag::try_from(tag).map_err(|_| forged.clone())?;
    let mut value = body.to_vec();
    cipher(dek, &head[SALT_AT..NONCE_AT])?
        .decrypt_inout_detached(&nonce, &associated, InOutBuf::from(value.as_mut_slice()), &tag)
        .map_err(|_| forged)?;
    Ok(value)
}

/// The id of the key under which an envelope was sealed; checks version, suite and length first.
///
/// # Errors
/// [`SealError::Truncated`], [`SealError::UnknownVersion`] or [`SealError::UnknownSuite`].
pub fn envelope_dek_id(envelope: &[u8]) -> Result<DekId, SealError> {
    match envelope {
        [version, ..] if *version != ENVELOPE_VERSION => {
            return Err(SealError::UnknownVersion { found: *version });
        }
        [_, suite, ..] if *suite != SUITE_HKDF_AES256GCM => {
            return Err(SealError::UnknownSuite { found: *suite });
        }
        _ if envelope.len() < ENVELOPE_OVERHEAD => {
            return Err(SealError::Truncated { found: envelope.len() });
        }
        _ => {}
    }
    let mut id = [0; 16];
    id.copy_from_slice(&envelope[DEK_ID_AT..SALT_AT]);
    Ok(DekId(id))
}

/// Joins fields so that no two lists of fields give the same bytes: each with its length, u32 little-endian.
pub(crate) fn length_prefixed(fields: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(fields.iter().map(|field| 4 + field.len()).sum());
    for field in fields {
        joined.extend_from_slice(&(field.len() as u32).to_le_bytes());
        joined.extend_from_slice(field);
    }
    joined
}

fn cipher(dek: &Dek, salt: &[u8]) -> Result<Aes256Gcm, SealError> {
    let key = dek.write_key(salt)?;
    Aes256Gcm::new_from_slice(key.as_slice()).map_err(|_| SealError::Cipher { dek: dek.id })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORE: [u8; 16] = [0x11; 16];
    const INCARNATION: [u8; 16] = [0x22; 16];

    fn dek() -> Dek {
        Dek::new(DekId(*b"dek-id-for-tests"), Zeroizing::new(*b"canary-key-bytes-canary-key-byte"))
    }

    fn context<'a>() -> SealContext<'a> {
        SealContext {
            store_uuid: &STORE,
            incarnation: &INCARNATION,
            record_id: "ward/00004".as_bytes(),
            content_type: "application/json",
        }
    }

    fn entropy() -> [u8; 28] {
        std::array::from_fn(|i| i as u8)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    // Computed apart from this code, with Python's `cryptography` package, from the layout described above.
    #[test]
    fn envelopes_of_version_1_stay_as_they_are() {
        let plain = SealContext { record_id: "xã/Tân Thành".as_bytes(), content_type: "", ..context() };
        let vectors: [(_, &[u8], _); 2] = [
            (context(), b"value", "c757de8c3697e3e311b680a772c1510f9f9968bd3f"),
            (plain, b"", "eeea59388dfd008fddf9337eda933ad3"),
        ];
        for (context, value, sealed) in vectors {
            let envelope = seal(&dek(), &context, value, &entropy()).unwrap();
            let head = "010164656b2d69642d666f722d7465737473000102030405060708090a0b0c0d0e0f101112131415161718191a1b";
            assert_eq!(hex(&envelope), format!("{head}{sealed}"));
            assert_eq!(open(&dek(), &context, &envelope).unwrap(), value);
        }
    }

    #[test]
    fn what_is_sealed_opens_again() {
        for value in [&b""[..], b"x", &[7; 70_000]] {
            let envelope = seal(&dek(), &context(), value, &entropy()).unwrap();
            assert_eq!(envelope.len(), value.len() + ENVELOPE_OVERHEAD);
            assert_eq!(envelope_dek_id(&envelope).unwrap(), dek().id());
            assert_eq!(open(&dek(), &context(), &envelope).unwrap(), value);
        }
    }

    #[test]
    fn an_envelope_moved_elsewhere_does_not_open() {
        let envelope = seal(&dek(), &context(), b"value", &entropy()).unwrap();
        let other = [9; 16];
        let moved = [
            SealContext { store_uuid: &other, ..context() },
            SealContext { incarnation: &other, ..context() },
            SealContext { record_id: b"ward/00005", ..context() },
            SealContext { content_type: "text/plain", ..context() },
            // The same bytes cut differently between two fields.
            SealContext { record_id: b"ward/0000", ..context() },
        ];
        for context in moved {
            let refused = open(&dek(), &context, &envelope);
            assert_eq!(refused, Err(SealError::Forged { dek: dek().id() }));
        }
    }

    #[test]
    fn another_key_under_the_same_id_does_not_open() {
        let envelope = seal(&dek(), &context(), b"value", &entropy()).unwrap();
        let other = Dek::new(dek().id(), Zeroizing::new([1; 32]));
        assert_eq!(open(&other, &context(), &envelope), Err(SealError::Forged { dek: dek().id() }));
        let given = DekId([3; 16]);
        let other = Dek::new(given, Zeroizing::new([1; 32]));
        let refused = open(&other, &context(), &envelope);
        assert_eq!(refused, Err(SealError::WrongDek { named: dek().id(), given }));
    }

    #[test]
    fn unknown_version_and_suite_are_named() {
        let envelope = seal(&dek(), &context(), b"value", &entropy()).unwrap();
        let mut newer = envelope.to_vec();
        newer[0] = 2;
        assert_eq!(open(&dek(), &context(), &newer), Err(SealError::UnknownVersion { found: 2 }));
        let mut suite = envelope.to_vec();
        suite[1] = 9;
        let error = open(&dek(), &context(), &suite).unwrap_err();
        assert_eq!(error, SealError::UnknownSuite { found: 9 });
        assert!(error.to_string().contains("suite 9 is unknown"), "{error}");
    }

    #[test]
    fn a_key_never_prints_its_bytes() {
        let printed = format!("{:?} {:#?}", dek(), dek());
        assert!(!printed.contains("canary") && !printed.contains(&hex(b"canary")), "{printed}");
        assert!(printed.contains(&dek().id().to_string()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_open_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), known in any::<bool>()) {
            let mut bytes = bytes;
            if known && bytes.len() >= SALT_AT {
                bytes[..2].copy_from_slice(&[ENVELOPE_VERSION, SUITE_HKDF_AES256GCM]);
                bytes[DEK_ID_AT..SALT_AT].copy_from_slice(&dek().id().0);
            }
            prop_assert!(open(&dek(), &context(), &bytes).is_err());
        }

        #[test]
        fn any_changed_bit_is_noticed(value in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut envelope = seal(&dek(), &context(), &value, &entropy()).unwrap().to_vec();
            let at = at.index(envelope.len());
            envelope[at] ^= 1 << bit;
            prop_assert!(open(&dek(), &context(), &envelope).is_err());
        }
    }
}

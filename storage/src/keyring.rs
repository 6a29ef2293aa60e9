//! The key ring: data keys wrapped for every site, and those that this node holds open.
//!
//! What is replicated is [`WrappedDek`]; it holds one HPKE message per site that keeps keys. A node opens every data
//! key with its own site's KEK when the key appears and at start, and keeps them in [`OpenKeys`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hpke::rand_core::{Infallible, TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeS, Serializable};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::command::{Site, Wrap, WrappedDek};
use crate::kek::{KekError, KekProvider, KekPublic, WRAP_INFO, WrapAead, WrapKdf, WrapKem};
use crate::seal::{Dek, DekId, length_prefixed};

/// Why a data key cannot be wrapped or opened.
#[derive(Debug, Error)]
pub enum KeyRingError {
    /// The site map's public key for a site cannot be used.
    #[error(
        "wrap data key {dek} for site {site}: its KEK public key is not usable; correct it in the topology file \
             with `saola-node keygen public --file FILE`"
    )]
    BadSiteKey {
        /// The data key.
        dek: DekId,
        /// The site.
        site: String,
    },
    /// No site of the site map holds keys.
    #[error("wrap data key {dek}: no site of the site map has a KEK public key; add one to the topology file")]
    NoKeySite {
        /// The data key.
        dek: DekId,
    },
    /// The replicated entry is not of the right form.
    #[error(
        "open data key: its key ring entry is malformed ({what}); compare the replicas with `saola cluster digest`"
    )]
    Malformed {
        /// The bad part.
        what: &'static str,
    },
    /// The ring has no wrap of this key for the node's own site.
    #[error(
        "open data key {dek}: the key ring has no wrap of it for site {site}; check that the node's site name \
             is the one in the site map"
    )]
    NoWrap {
        /// The data key.
        dek: DekId,
        /// The node's site.
        site: String,
    },
    /// The node's KEK is not the one for which its site's wraps were made.
    #[error(
        "open data key {dek}: wrong KEK for site {site}: the wrap was made for public key {expected}, the node's \
             KEK has {found}; put the right file at the node's `[kek] file` and restart it"
    )]
    WrongKek {
        /// The data key.
        dek: DekId,
        /// The node's site.
        site: String,
        /// Public key of the wrap.
        expected: KekPublic,
        /// Public key of the node's KEK.
        found: KekPublic,
    },
    /// Right KEK, but the wrap does not open.
    #[error(
        "open data key {dek} at site {site}: its wrap in the key ring was altered; compare the replicas with \
             `saola cluster digest`"
    )]
    Damaged {
        /// The data key.
        dek: DekId,
        /// The node's site.
        site: String,
        /// What the KEK provider said.
        source: KekError,
    },
}

/// Wraps a data key for one site. The caller gives 32 fresh random bytes, never the same twice.
///
/// # Errors
/// [`KeyRingError::BadSiteKey`] when the site's public key is missing or not a usable one.
pub fn wrap_dek(
    dek: &Dek,
    store_uuid: &[u8; 16],
    incarnation: &[u8; 16],
    site: &Site,
    entropy: &Zeroizing<[u8; 32]>,
) -> Result<Wrap, KeyRingError> {
    let unusable = || KeyRingError::BadSiteKey { dek: dek.id(), site: site.name.clone() };
    let public = <WrapKem as Kem>::PublicKey::from_bytes(&site.kek_public).map_err(|_| unusable())?;
    let (encapsulated, ciphertext) = hpke::single_shot_seal_with_rng::<WrapAead, WrapKdf, WrapKem>(
        &OpModeS::Base,
        &public,
        WRAP_INFO,
        dek.key_bytes(),
        &associated_data(store_uuid, &dek.id(), incarnation, &site.name),
        &mut GivenEntropy { bytes: entropy.clone(), used: 0 },
    )
    .map_err(|_| unusable())?;
    Ok(Wrap {
        site: site.name.clone(),
        kek_public: site.kek_public.clone(),
        encapsulated: Bytes::copy_from_slice(&encapsulated.to_bytes()),
        ciphertext: ciphertext.into(),
    })
}

/// Wraps a data key for every site of the site map that holds keys. `entropy` gives 32 fresh random bytes per call.
///
/// # Errors
/// [`KeyRingError::BadSiteKey`], or [`KeyRingError::NoKeySite`] when no site holds keys.
pub fn wrap_for_sites(
    dek: &Dek,
    store_uuid: &[u8; 16],
    incarnation: &[u8; 16],
    sites: &[Site],
    mut entropy: impl FnMut() -> Zeroizing<[u8; 32]>,
) -> Result<WrappedDek, KeyRingError> {
    let wraps: Vec<Wrap> = sites
        .iter()
        .filter(|site| !site.kek_public.is_empty())
        .map(|site| wrap_dek(dek, store_uuid, incarnation, site, &entropy()))
        .collect::<Result<_, _>>()?;
    if wraps.is_empty() {
        return Err(KeyRingError::NoKeySite { dek: dek.id() });
    }
    Ok(WrappedDek { id: Bytes::copy_from_slice(&dek.id().0), incarnation: Bytes::copy_from_slice(incarnation), wraps })
}

/// Opens a data key with the KEK of `site`.
///
/// # Errors
/// Malformed or missing wrap, wrong KEK, or an altered wrap; each is its own [`KeyRingError`].
pub fn unwrap_dek(
    kek: &dyn KekProvider,
    wrapped: &WrappedDek,
    site: &str,
    store_uuid: &[u8; 16],
) -> Result<Dek, KeyRingError> {
    let dek = dek_id(wrapped)?;
    let incarnation = incarnation(wrapped)?;
    let wrap = wrapped
        .wraps
        .iter()
        .find(|wrap| wrap.site == site)
        .ok_or_else(|| KeyRingError::NoWrap { dek, site: site.to_owned() })?;
    let expected =
        KekPublic::from_slice(&wrap.kek_public).map_err(|_| KeyRingError::Malformed { what: "KEK public key" })?;
    let found = kek.public();
    if expected != found {
        return Err(KeyRingError::WrongKek { dek, site: site.to_owned(), expected, found });
    }
    let associated = associated_data(store_uuid, &dek, &incarnation, site);
    let opened = kek
        .open(&wrap.encapsulated, &wrap.ciphertext, &associated)
        .map_err(|source| KeyRingError::Damaged { dek, site: site.to_owned(), source })?;
    let mut key = Zeroizing::new([0; 32]);
    if opened.len() != key.len() {
        return Err(KeyRingError::Malformed { what: "length of the wrapped key" });
    }
    key.copy_from_slice(&opened);
    Ok(Dek::new(dek, key))
}

/// A data key of the ring that this node cannot open.
#[derive(Debug)]
pub struct Unopened {
    /// Its id; none when the entry itself is malformed.
    pub dek: Option<DekId>,
    /// Why, with the next step.
    pub error: KeyRingError,
}

/// The data keys that this node holds open. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct OpenKeys {
    by_id: HashMap<DekId, Arc<Dek>>,
    sealing: HashMap<[u8; 16], DekId>,
}

impl OpenKeys {
    /// Brings the open keys in line with the key ring: opens what is new, drops what is gone.
    /// Returns the keys that could not be opened; while there is one, the node must call itself sealed.
    pub fn sync(
        &mut self,
        kek: &dyn KekProvider,
        site: &str,
        store_uuid: &[u8; 16],
        ring: &[WrappedDek],
    ) -> Vec<Unopened> {
        let mut known = std::mem::take(&mut self.by_id);
        let mut unopened = Vec::new();
        self.sealing.clear();
        for wrapped in ring {
            let id = dek_id(wrapped).ok();
            let opened = match id.and_then(|id| known.remove(&id)) {
                Some(dek) => incarnation(wrapped).map(|incarnation| (incarnation, dek)),
                None => unwrap_dek(kek, wrapped, site, store_uuid)
                    .and_then(|dek| incarnation(wrapped).map(|incarnation| (incarnation, Arc::new(dek)))),
            };
            match opened {
                Ok((incarnation, dek)) => {
                    self.sealing.insert(incarnation, dek.id());
                    self.by_id.insert(dek.id(), dek);
                }
                Err(error) => unopened.push(Unopened { dek: id, error }),
            }
        }
        unopened
    }

    /// The key of that id, if open.
    pub fn get(&self, id: &DekId) -> Option<&Arc<Dek>> {
        self.by_id.get(id)
    }

    /// The key that seals new values of a collection incarnation, if open.
    pub fn sealing(&self, incarnation: &[u8; 16]) -> Option<&Arc<Dek>> {
        self.sealing.get(incarnation).and_then(|id| self.by_id.get(id))
    }

    /// How many keys are open.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True when no key is open.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

fn dek_id(wrapped: &WrappedDek) -> Result<DekId, KeyRingError> {
    wrapped.id.as_ref().try_into().map(DekId).map_err(|_| KeyRingError::Malformed { what: "data key id" })
}

fn incarnation(wrapped: &WrappedDek) -> Result<[u8; 16], KeyRingError> {
    wrapped.incarnation.as_ref().try_into().map_err(|_| KeyRingError::Malformed { what: "collection incarnation" })
}

/// Binds a wrap to its store, key, collection incarnation and site.
fn associated_data(store_uuid: &[u8; 16], dek: &DekId, incarnation: &[u8; 16], site: &str) -> Vec<u8> {
    length_prefixed(&[store_uuid, &dek.0, incarnation, site.as_bytes()])
}

/// Hands the caller's random bytes to HPKE, which draws exactly 32 for its ephemeral key.
struct GivenEntropy {
    bytes: Zeroizing<[u8; 32]>,
    used: usize,
}

impl TryRng for GivenEntropy {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), Infallible> {
        let end = self.used + wanted.len();
        wanted.copy_from_slice(self.bytes.get(self.used..end).expect("an X25519 encapsulation draws 32 bytes once"));
        self.bytes[self.used..end].zeroize();
        self.used = end;
        Ok(())
    }
}

impl TryCryptoRng for GivenEntropy {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kek::KekPrivate;

    const STORE: [u8; 16] = [0x11; 16];
    const INCARNATION: [u8; 16] = [0x22; 16];

    fn kek(byte: u8) -> KekPrivate {
        KekPrivate::from_random(Zeroizing::new([byte; 32]))
    }

    fn site(name: &str, byte: u8) -> Site {
        Site { name: name.to_owned(), kek_public: Bytes::copy_from_slice(&kek(byte).public().0) }
    }

    fn sites() -> [Site; 3] {
        [site("main", 1), site("dr", 2), Site { name: "third".to_owned(), kek_public: Bytes::new() }]
    }

    fn dek() -> Dek {
        Dek::new(DekId(*b"dek-id-for-tests"), Zeroizing::new(*b"canary-key-bytes-canary-key-byte"))
    }

    fn wrapped() -> WrappedDek {
        let mut next = 0;
        wrap_for_sites(&dek(), &STORE, &INCARNATION, &sites(), || {
            next += 1;
            Zeroizing::new([next; 32])
        })
        .unwrap()
    }

    // Computed apart from this code, from the text of RFC 9180.
    #[test]
    fn wraps_of_version_1_stay_as_they_are() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let wrap = wrap_dek(&dek(), &STORE, &INCARNATION, &site("main", 1), &Zeroizing::new([5; 32])).unwrap();
        assert_eq!(hex(&wrap.kek_public), "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209");
        assert_eq!(hex(&wrap.encapsulated), "402802aae25501861e6da002ef9f3e105b9296c3e3c90c92e600ec9a0ff52657");
        let sealed = "9d71278391b1a572805215b31f443ffb7227ca1a5d4e33a408a19d9e051046b1172ac30cb89a31aa0d796ad2b9ed073e";
        assert_eq!(hex(&wrap.ciphertext), sealed);
    }

    #[test]
    fn every_key_site_opens_with_its_own_kek_and_the_witness_gets_no_wrap() {
        let wrapped = wrapped();
        assert_eq!(wrapped.wraps.len(), 2);
        for (name, byte) in [("main", 1), ("dr", 2)] {
            let opened = unwrap_dek(&kek(byte), &wrapped, name, &STORE).unwrap();
            assert_eq!((opened.id(), opened.key_bytes()), (dek().id(), dek().key_bytes()));
        }
        let none = unwrap_dek(&kek(1), &wrapped, "third", &STORE);
        assert!(matches!(none, Err(KeyRingError::NoWrap { .. })));
    }

    #[test]
    fn a_wrong_kek_is_named_with_both_public_keys() {
        let error = unwrap_dek(&kek(9), &wrapped(), "main", &STORE).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, KeyRingError::WrongKek { .. }), "{text}");
        assert!(text.contains(&kek(1).public().to_string()) && text.contains(&kek(9).public().to_string()), "{text}");
        assert!(text.contains("[kek] file"), "{text}");
    }

    #[test]
    fn a_wrap_moved_to_another_store_key_collection_or_site_does_not_open() {
        let damaged = |wrapped: &WrappedDek, name: &str, store: &[u8; 16]| {
            let error = unwrap_dek(&kek(1), wrapped, name, store).unwrap_err();
            assert!(matches!(error, KeyRingError::Damaged { .. }), "{error}");
        };
        damaged(&wrapped(), "main", &[0; 16]);
        damaged(&WrappedDek { id: Bytes::from_static(&[0; 16]), ..wrapped() }, "main", &STORE);
        damaged(&WrappedDek { incarnation: Bytes::from_static(&[0; 16]), ..wrapped() }, "main", &STORE);
        let mut moved = wrapped();
        moved.wraps[0].site = "dr".to_owned();
        damaged(&moved, "dr", &STORE);
    }

    #[test]
    fn a_site_key_of_no_use_is_refused() {
        for kek_public in [Bytes::from_static(&[1; 31]), Bytes::from_static(&[0; 32])] {
            let site = Site { name: "main".to_owned(), kek_public };
            let refused = wrap_dek(&dek(), &STORE, &INCARNATION, &site, &Zeroizing::new([1; 32]));
            assert!(matches!(refused, Err(KeyRingError::BadSiteKey { .. })));
        }
        let refused = wrap_for_sites(&dek(), &STORE, &INCARNATION, &sites()[2..], || Zeroizing::new([1; 32]));
        assert!(matches!(refused, Err(KeyRingError::NoKeySite { .. })));
    }

    #[test]
    fn open_keys_follow_the_ring_and_report_what_stays_shut() {
        let second_dek = Dek::new(DekId([7; 16]), Zeroizing::new([8; 32]));
        let second = wrap_for_sites(&second_dek, &STORE, &[0x33; 16], &sites(), || Zeroizing::new([5; 32])).unwrap();
        let malformed = WrappedDek { id: Bytes::from_static(b"short"), ..wrapped() };
        let mut keys = OpenKeys::default();
        assert!(keys.sync(&kek(2), "dr", &STORE, &[wrapped()]).is_empty());
        let kept = keys.get(&dek().id()).unwrap().clone();

        let unopened = keys.sync(&kek(2), "dr", &STORE, &[wrapped(), second.clone(), malformed]);
        assert_eq!(unopened.len(), 1);
        assert!(unopened[0].dek.is_none());
        assert_eq!(keys.len(), 2);
        assert!(Arc::ptr_eq(&kept, keys.sealing(&INCARNATION).unwrap()));
        assert_eq!(keys.sealing(&[0x33; 16]).unwrap().id(), second_dek.id());

        assert!(keys.sync(&kek(2), "dr", &STORE, &[second]).is_empty());
        assert!(keys.get(&dek().id()).is_none() && keys.sealing(&INCARNATION).is_none());

        let mut wrong = OpenKeys::default();
        let unopened = wrong.sync(&kek(1), "dr", &STORE, &[wrapped()]);
        assert!(wrong.is_empty() && matches!(unopened[0].error, KeyRingError::WrongKek { .. }));
        assert_eq!(unopened[0].dek, Some(dek().id()));
    }

    proptest! {
        #[test]
        fn arbitrary_wraps_never_open_and_never_panic(
            encapsulated in prop::collection::vec(any::<u8>(), 0..40),
            ciphertext in prop::collection::vec(any::<u8>(), 0..60),
            id in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut forged = wrapped();
            forged.wraps[0].encapsulated = encapsulated.into();
            forged.wraps[0].ciphertext = ciphertext.into();
            prop_assert!(unwrap_dek(&kek(1), &forged, "main", &STORE).is_err());
            let renamed = WrappedDek { id: id.into(), ..wrapped() };
            prop_assert!(unwrap_dek(&kek(2), &renamed, "dr", &STORE).is_err());
        }
    }
}

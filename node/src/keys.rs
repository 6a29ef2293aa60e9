//! The data keys that this node holds open, kept in line with the replicated key ring.
//!
//! A witness has none and asks for none. A data node whose KEK is missing, wrong or open to others, or that cannot
//! open one of the ring's keys, is *sealed*: it votes and replicates, and says why it cannot serve.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use saola_storage::command::WrappedDek;
use saola_storage::kek::{KekPrivate, KekProvider, KekPublic};
use saola_storage::keyring::OpenKeys;
use saola_storage::seal::{self, DekId, SealContext};
use saola_storage::store::{Collection, Store, StoredVersion};

use crate::api::errors::{Reason, Refusal};
use crate::entropy;
use crate::settings::Settings;

/// Where the node's site key comes from.
pub enum Kek {
    /// A witness holds no key.
    Witness,
    /// It cannot be used; the reason names the file and the next step.
    Unavailable(String),
    /// Ready to open wraps.
    Ready(Box<dyn KekProvider>),
}

impl Kek {
    /// Reads the key file that the settings name. Never fails: a node without its key starts sealed.
    pub fn load(settings: &Settings) -> Kek {
        match &settings.kek {
            None => Kek::Witness,
            Some(path) => match KekPrivate::read_file(path) {
                Ok(key) => Kek::Ready(Box::new(key)),
                Err(error) => Kek::Unavailable(with_causes(&error)),
            },
        }
    }
}

/// The node's side of the key ring.
pub struct Keys {
    kek: Kek,
    site: String,
    ring: ArcSwap<Ring>,
    syncing: Mutex<()>,
}

/// The open keys as of one version of the key ring.
#[derive(Debug, Default)]
pub struct Ring {
    /// None before the first look at the store.
    version: Option<u64>,
    store_uuid: [u8; 16],
    open: OpenKeys,
    total: usize,
    sealed: Option<String>,
    kek_unusable: bool,
}

impl Keys {
    /// For a node at `site`.
    pub fn new(kek: Kek, site: &str) -> Keys {
        Keys { kek, site: site.into(), ring: ArcSwap::default(), syncing: Mutex::new(()) }
    }

    /// The open keys, first brought in line with the store's key ring if that has changed.
    pub fn follow(&self, store: &Store) -> Arc<Ring> {
        let current = self.ring.load_full();
        if current.version == Some(store.keyring_version()) {
            return current;
        }
        let _one_at_a_time = self.syncing.lock();
        let current = self.ring.load_full();
        // Read before the keys are: a change in between leads to one sync more, not to one too few.
        let version = store.keyring_version();
        if current.version == Some(version) {
            return current;
        }
        let next = Arc::new(self.sync(&current, store, version));
        if next.sealed != current.sealed {
            match &next.sealed {
                Some(reason) => tracing::warn!(reason, "node is sealed: it votes and replicates but serves no records"),
                None => tracing::info!("node is unsealed"),
            }
        }
        self.ring.store(next.clone());
        next
    }

    /// The keys of another key ring of this store, such as an orphan bundle's. What cannot be opened is said by whoever
    /// needs it.
    pub fn ring_of(&self, store_uuid: [u8; 16], keys: &[WrappedDek]) -> Ring {
        let mut ring = Ring { store_uuid, total: keys.len(), ..Ring::default() };
        match &self.kek {
            Kek::Ready(kek) => {
                let unopened = ring.open.sync(kek.as_ref(), &self.site, &store_uuid, keys);
                ring.sealed = unopened.first().map(|first| with_causes(&first.error));
            }
            Kek::Unavailable(reason) => ring.sealed = Some(reason.clone()),
            Kek::Witness => {}
        }
        ring
    }

    fn sync(&self, current: &Ring, store: &Store, version: u64) -> Ring {
        let kek = match &self.kek {
            Kek::Witness => return Ring { version: Some(version), ..Ring::default() },
            Kek::Unavailable(reason) => return Ring::closed(version, reason.clone(), 0),
            Kek::Ready(kek) => kek.as_ref(),
        };
        let view = store.view();
        let deks = view.deks();
        let Some(info) = view.info() else {
            // No cluster yet: nothing to open.
            return Ring { version: Some(version), ..Ring::default() };
        };
        let expected = info.sites.iter().find(|s| s.name == self.site).map(|s| KekPublic::from_slice(&s.kek_public));
        if let Some(Ok(expected)) = expected
            && expected != kek.public()
        {
            let reason = format!(
                "wrong KEK: site {} has public key {expected} in the site map, the node's key file holds {}; \
                 put the site's key file at [kek] file and restart the node",
                self.site,
                kek.public()
            );
            return Ring::closed(version, reason, deks.len());
        }
        let mut open = current.open.clone();
        let unopened = open.sync(kek, &self.site, &info.store_uuid, &deks);
        let sealed = unopened.first().map(|first| {
            format!("{} of {} data keys cannot be opened: {}", unopened.len(), deks.len(), with_causes(&first.error))
        });
        Ring {
            version: Some(version),
            store_uuid: info.store_uuid,
            open,
            total: deks.len(),
            sealed,
            kek_unusable: false,
        }
    }
}

impl Ring {
    fn closed(version: u64, reason: String, total: usize) -> Ring {
        Ring { version: Some(version), total, sealed: Some(reason), kek_unusable: true, ..Ring::default() }
    }

    /// Why the node calls itself sealed, if it does.
    pub fn sealed(&self) -> Option<&str> {
        self.sealed.as_deref()
    }

    /// Data keys that are open.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Data keys in the key ring.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The store that the keys belong to.
    pub fn store_uuid(&self) -> &[u8; 16] {
        &self.store_uuid
    }

    /// The keys themselves, to wrap them for another site.
    pub fn open_keys(&self) -> &OpenKeys {
        &self.open
    }

    /// Refuses every call while the KEK itself cannot be used; a single closed key refuses only its own records.
    pub fn check_open(&self) -> Result<(), Refusal> {
        match (&self.sealed, self.kek_unusable) {
            (Some(reason), true) => Err(sealed(reason)),
            _ => Ok(()),
        }
    }

    /// Seals a value for a record of `collection`.
    ///
    /// # Errors
    /// SEALED when the collection's key is not open here.
    pub fn seal(
        &self,
        collection: &Collection,
        record_id: &[u8],
        content_type: &str,
        value: &[u8],
    ) -> Result<Bytes, Refusal> {
        let dek = self.open.sealing(&collection.incarnation).ok_or_else(|| {
            sealed(self.sealed().unwrap_or("the collection's data key is not in this node's key ring yet"))
        })?;
        let entropy = entropy::random().map_err(Refusal::internal)?;
        let context = self.context(collection, record_id, content_type);
        seal::seal(dek, &context, value, &entropy).map_err(Refusal::internal)
    }

    /// Opens the value of a version.
    ///
    /// # Errors
    /// SEALED when its key is not open here, named by id; CORRUPT when it does not open.
    pub fn open(&self, collection: &Collection, version: &StoredVersion) -> Result<Bytes, Refusal> {
        let id = seal::envelope_dek_id(&version.envelope).map_err(corrupt)?;
        let dek = self.open.get(&id).ok_or_else(|| self.closed_key(id))?;
        let context = self.context(collection, &version.id, &version.content_type);
        seal::open(dek, &context, &version.envelope).map(Bytes::from).map_err(corrupt)
    }

    fn context<'a>(
        &'a self,
        collection: &'a Collection,
        record_id: &'a [u8],
        content_type: &'a str,
    ) -> SealContext<'a> {
        SealContext { store_uuid: &self.store_uuid, incarnation: &collection.incarnation, record_id, content_type }
    }

    fn closed_key(&self, id: DekId) -> Refusal {
        let reason = self.sealed().unwrap_or("it is not in this node's key ring yet");
        sealed(&format!("data key {id} is not open here: {reason}"))
    }
}

fn sealed(reason: &str) -> Refusal {
    Refusal::new(
        Reason::Sealed,
        format!("this node is sealed: {reason}"),
        "ask another node, or give this one its key; `saola status` shows which nodes are sealed",
    )
}

fn corrupt(error: seal::SealError) -> Refusal {
    Refusal::new(Reason::Corrupt, error.to_string(), "read the record from another node and compare digests")
}

/// An error with the chain of its causes, as one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

//! Opens sealed values with the private key of a site.

use std::path::Path;

use saola_storage::kek::{KekPrivate, KekProvider};
use saola_storage::keyring::OpenKeys;
use saola_storage::seal::{self, SealContext, envelope_dek_id};
use saola_storage::store::{Collection, StoredVersion, VersionOp, View};

use crate::exit::{Exit, Failure};

/// The data keys that one site's private key opens.
pub(super) struct Values {
    keys: OpenKeys,
    store_uuid: [u8; 16],
}

impl Values {
    /// Reads the key file and opens the key ring of the store.
    pub fn new(kek: &Path, view: &View) -> Result<Values, Failure> {
        let sealed = |what: String, next: &str| Failure::new(Exit::Sealed, what, next.to_owned());
        let kek = KekPrivate::read_file(kek).map_err(|error| {
            let text = error.to_string();
            let (what, next) = text.rsplit_once("; ").unwrap_or((&text, "check the file"));
            sealed(what.to_owned(), next)
        })?;
        let Some(info) = view.info() else {
            return Err(Failure::new(
                Exit::Precondition,
                "the folder belongs to no cluster yet, so it holds no values",
                "give the folder of a member",
            ));
        };
        let ring = view.deks();
        let public = kek.public();
        // Whose key it is, the wraps themselves say.
        let wraps = ring.iter().flat_map(|dek| &dek.wraps);
        let site = wraps.into_iter().find(|wrap| wrap.kek_public == public.0[..]).map(|wrap| wrap.site.clone());
        let Some(site) = site else {
            return Err(sealed(
                format!("no data key of this store is wrapped for the public key {public} of that file"),
                "give the KEK file of one of its sites; `saola-node keygen public --file FILE` prints a file's public key",
            ));
        };
        let mut keys = OpenKeys::default();
        for unopened in keys.sync(&kek, &site, &info.store_uuid, &ring) {
            eprintln!("warning: {}", unopened.error);
        }
        Ok(Values { keys, store_uuid: info.store_uuid })
    }

    /// The value of a version; nothing for a deletion.
    pub fn open(&self, collection: &Collection, version: &StoredVersion) -> Result<Vec<u8>, Failure> {
        if version.op == VersionOp::Delete {
            return Ok(Vec::new());
        }
        let record = format!("{}/{} g{}", collection.name, crate::show::id(&version.id), version.generation);
        let failed = |error: seal::SealError| {
            super::split(Exit::Verification, &error, "compare the replicas with `saola cluster digest`")
                .while_doing(&record)
        };
        let named = envelope_dek_id(&version.envelope).map_err(failed)?;
        let dek = self.keys.get(&named).ok_or_else(|| {
            Failure::new(
                Exit::Sealed,
                format!("{record}: its data key {named} is not open under that private key"),
                "give the KEK file of a site whose wrap of that data key opens",
            )
        })?;
        let context = SealContext {
            store_uuid: &self.store_uuid,
            incarnation: &collection.incarnation,
            record_id: &version.id,
            content_type: &version.content_type,
        };
        seal::open(dek, &context, &version.envelope).map_err(failed)
    }
}

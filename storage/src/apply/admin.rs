//! Bootstrap, collections, sites, node ids: rare commands that change the catalog and take no revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::{Machine, Place};
use crate::catalog::StoreInfo;
use crate::command::{
    AddSite, Bootstrap, ClaimNodeId, CollectionCreated, CollectionExists, CreateCollection, Decision, Done, NodeIdUsed,
    Reseal, Site, StoreExists, WrappedDek,
};
use crate::digest::Item;
use crate::engine::Kind;
use crate::error::StoreError;
use crate::keyspace::collections::{self, Collection};
use crate::keyspace::{encode_value, meta, sites};
use crate::planted::{self, Bug};
use crate::retention::Retention;

impl Machine {
    pub(super) fn bootstrap(
        &mut self,
        draft: &mut Draft<'_>,
        bootstrap: Bootstrap,
        place: Place,
    ) -> Result<Decision, StoreError> {
        if self.catalog.info.is_some() {
            return Ok(Decision::StoreExists(StoreExists {}));
        }
        let ids = (<[u8; 16]>::try_from(&bootstrap.store_uuid[..]), <[u8; 16]>::try_from(&bootstrap.cluster_id[..]));
        let (Ok(store_uuid), Ok(cluster_id)) = ids else {
            return Ok(Decision::Reseal(Reseal {}));
        };
        if let Some(set) = &bootstrap.protection {
            self.set_protection(draft, set, place)?;
        }
        if let Some(set) = bootstrap.failover.clone() {
            self.set_failover(draft, set, place)?;
        }
        for (position, site) in (0..).zip(&bootstrap.sites) {
            add_site_row(draft, position, site);
        }
        let Bootstrap { cluster_name, sites, node_ids, .. } = bootstrap;
        let node_ids = node_ids.into_iter().collect();
        let info = StoreInfo { store_uuid, cluster_id, cluster_name, sites, node_ids, claims: BTreeMap::new() };
        draft.batch.put(Kind::Meta, meta::INFO, encode_value(&info.row()));
        Arc::make_mut(&mut self.catalog).info = Some(info);
        Ok(Decision::Done(Done {}))
    }

    pub(super) fn claim_node_id(&mut self, draft: &mut Draft<'_>, claim: ClaimNodeId) -> Decision {
        let Some(info) = &mut Arc::make_mut(&mut self.catalog).info else {
            return Decision::Reseal(Reseal {});
        };
        let ClaimNodeId { node_id, folder_id } = claim;
        let is_new = info.node_ids.insert(node_id);
        match folder_id.is_empty() {
            true => drop(info.claims.remove(&node_id)),
            false if is_new => drop(info.claims.insert(node_id, folder_id)),
            // An answer that was lost is asked for again.
            false if info.claims.get(&node_id) == Some(&folder_id) => return Decision::Done(Done {}),
            false => return Decision::NodeIdUsed(NodeIdUsed {}),
        }
        draft.batch.put(Kind::Meta, meta::INFO, encode_value(&info.row()));
        Decision::Done(Done {})
    }

    pub(super) fn create_collection(
        &mut self,
        draft: &mut Draft<'_>,
        create: CreateCollection,
        place: Place,
    ) -> Decision {
        if let Some(found) = self.catalog.collections.get(&create.name) {
            let incarnation = Bytes::copy_from_slice(&found.incarnation);
            return Decision::CollectionExists(CollectionExists { incarnation });
        }
        let key_style = create.key_style();
        let CreateCollection { name, incarnation, max_value_bytes, owner, label, dek, .. } = create;
        let (Ok(number_bytes), Some(dek)) = (<[u8; 16]>::try_from(&incarnation[..]), dek) else {
            return Decision::Reseal(Reseal {});
        };
        if !self.fits(&dek, &incarnation) {
            return Decision::Reseal(Reseal {});
        }
        let collection = Collection {
            number: self.catalog.next_collection(),
            name,
            incarnation: number_bytes,
            max_value_bytes,
            key_style,
            owner,
            label,
            created_revision: self.applied.revision,
            retention: Retention::default(),
            collected_below: 0,
        };
        let key = Bytes::copy_from_slice(&collections::key(collection.number));
        draft.add_row(Kind::Collections, key, collections::encode(&collection));
        draft.add_row(Kind::KeyRing, dek.id.clone(), encode_value(&dek));
        let catalog = Arc::make_mut(&mut self.catalog);
        catalog.collections_change_at(place.index);
        catalog.collections.insert(collection.name.clone(), Arc::new(collection));
        catalog.deks.insert(dek.id.clone(), dek);
        Decision::CollectionCreated(CollectionCreated { incarnation })
    }

    /// A first data key is new, belongs to a new incarnation, and every site that holds keys can open it.
    fn fits(&self, dek: &WrappedDek, incarnation: &Bytes) -> bool {
        dek.id.len() == 16
            && dek.incarnation == *incarnation
            && !self.catalog.deks.contains_key(&dek.id)
            && self.catalog.collections.values().all(|other| other.incarnation != incarnation[..])
            && self.catalog.key_sites().all(|site| wrapped_for(dek, site))
    }

    pub(super) fn add_site(&mut self, draft: &mut Draft<'_>, add: AddSite) -> Decision {
        let (Some(site), Some(info)) = (add.site, &self.catalog.info) else {
            return Decision::Reseal(Reseal {});
        };
        if info.sites.contains(&site) {
            return Decision::Done(Done {});
        }
        let name_taken = info.sites.iter().any(|other| other.name == site.name);
        let Some(wraps) = self.wraps_for(&site, &add.deks).filter(|_| !name_taken) else {
            return Decision::Reseal(Reseal {});
        };
        add_site_row(draft, info.sites.len() as u32, &site);
        let catalog = Arc::make_mut(&mut self.catalog);
        for dek in wraps {
            let Some(kept) = catalog.deks.get_mut(&dek.id) else { continue };
            let written = Item::new(Kind::KeyRing, &kept.id, &encode_value(kept));
            kept.wraps.extend(dek.wraps.iter().cloned());
            draft.replace_row(Kind::KeyRing, kept.id.clone(), Some(written), encode_value(kept));
        }
        if let Some(info) = &mut catalog.info {
            info.sites.push(site);
        }
        Decision::Done(Done {})
    }

    /// The new wraps, one per data key of the ring; none when they do not cover it. A site without a KEK needs none.
    fn wraps_for<'d>(&self, site: &Site, deks: &'d [WrappedDek]) -> Option<&'d [WrappedDek]> {
        if site.kek_public.is_empty() {
            return Some(&[]);
        }
        let ids: std::collections::BTreeSet<&Bytes> = deks.iter().map(|dek| &dek.id).collect();
        let covered = ids.len() == deks.len() && ids.into_iter().eq(self.catalog.deks.keys());
        let fit = deks.iter().all(|dek| dek.wraps.len() == 1 && wrapped_for(dek, site));
        (fit && (covered || planted::is(Bug::SiteLacksKey))).then_some(deks)
    }
}

fn wrapped_for(dek: &WrappedDek, site: &Site) -> bool {
    dek.wraps.iter().any(|wrap| wrap.site == site.name && wrap.kek_public == site.kek_public)
}

fn add_site_row(draft: &mut Draft<'_>, position: u32, site: &Site) {
    draft.add_row(Kind::Sites, Bytes::copy_from_slice(&sites::key(position)), encode_value(site));
}

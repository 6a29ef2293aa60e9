//! What every call needs and that changes seldom, kept decoded in memory: identity, sites, collections, key ring.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{Site, WrappedDek};
use crate::engine::{EngineView, KeyRange, Kind};
use crate::epoch::{Approvers, Epoch};
use crate::error::StoreError;
use crate::failover::FailoverState;
use crate::goal::Goal;
use crate::keyspace::collections::Collection;
use crate::keyspace::meta::{self, InfoRow, NodeClaim};
use crate::keyspace::{array, collections, decode_value, epochs, failover, keyring, protection, sites};
use crate::promotion::epoch_id;
use crate::protection::ProtectionState;
use crate::types::EpochId;

/// What the store is; known once the first command of the cluster has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Made at init; survives restore and forks.
    pub store_uuid: [u8; 16],
    /// New after a restore or fork.
    pub cluster_id: [u8; 16],
    /// Name that destructive verbs ask for.
    pub cluster_name: String,
    /// The site map, in the order in which sites were added.
    pub sites: Vec<Site>,
    /// Every node id that was ever used; none is used again.
    pub node_ids: BTreeSet<u64>,
    /// The data folder that each id was given to, of those claimed after the cluster was made.
    pub claims: BTreeMap<u64, Bytes>,
}

impl StoreInfo {
    pub(crate) fn row(&self) -> InfoRow {
        InfoRow {
            store_uuid: Bytes::copy_from_slice(&self.store_uuid),
            cluster_id: Bytes::copy_from_slice(&self.cluster_id),
            cluster_name: self.cluster_name.clone(),
            node_ids: self.node_ids.iter().copied().collect(),
            claims: (self.claims.iter())
                .map(|(node_id, folder_id)| NodeClaim { node_id: *node_id, folder_id: folder_id.clone() })
                .collect(),
        }
    }
}

/// Collections by name.
pub(crate) type Collections = BTreeMap<String, Arc<Collection>>;

/// So many earlier lists of collections are kept. As many changes may wait for the other site before they are shown
/// early; each of them is one call of an operator.
const EARLIER: usize = 256;

/// The decoded rows.
#[derive(Clone, Default)]
pub(crate) struct Catalog {
    pub info: Option<StoreInfo>,
    pub collections: Collections,
    /// What the collections were before the entry at each of these indexes changed them, since the store was opened.
    earlier: VecDeque<(u64, Arc<Collections>)>,
    /// By DEK id.
    pub deks: BTreeMap<Bytes, WrappedDek>,
    /// None: nobody has set it yet.
    pub protection: Option<ProtectionState>,
    /// The same.
    pub failover: Option<FailoverState>,
    /// First index that the witness vouches for, if it had to forget some; 0: all that a data node lacks.
    pub released_next: u64,
    /// What the cluster is declared to survive; the outer none: nobody has ever said.
    pub goal: Option<Option<Goal>>,
    /// Who may approve a forced promotion, since when; the newest last.
    pub approvers: Vec<Approvers>,
    /// The epochs that forced promotions began, the newest last.
    pub epochs: Vec<Epoch>,
}

impl Catalog {
    pub fn load(view: &dyn EngineView) -> Result<Catalog, StoreError> {
        let mut catalog = Catalog::default();
        if let Some(value) = view.get(Kind::Meta, meta::INFO)? {
            let row: InfoRow = decode_value(Kind::Meta, meta::INFO, value)?;
            let mut info = StoreInfo {
                store_uuid: array(Kind::Meta, meta::INFO, "store uuid", &row.store_uuid)?,
                cluster_id: array(Kind::Meta, meta::INFO, "cluster id", &row.cluster_id)?,
                cluster_name: row.cluster_name,
                sites: Vec::new(),
                node_ids: row.node_ids.into_iter().collect(),
                claims: row.claims.into_iter().map(|claim| (claim.node_id, claim.folder_id)).collect(),
            };
            for row in view.scan(Kind::Sites, KeyRange::all(), false) {
                let (key, value) = row?;
                sites::decode_key(&key)?;
                info.sites.push(decode_value(Kind::Sites, &key, value)?);
            }
            catalog.info = Some(info);
        }
        for row in view.scan(Kind::Collections, KeyRange::all(), false) {
            let (key, value) = row?;
            let collection = collections::decode(&key, value)?;
            catalog.collections.insert(collection.name.clone(), Arc::new(collection));
        }
        for row in view.scan(Kind::KeyRing, KeyRange::all(), false) {
            let (key, value) = row?;
            let dek = keyring::decode(&key, value)?;
            catalog.deks.insert(key, dek);
        }
        if let Some(value) = view.get(Kind::Protection, protection::KEY)? {
            catalog.protection = Some(protection::decode(value)?);
        }
        if let Some(value) = view.get(Kind::Protection, failover::KEY)? {
            catalog.failover = Some(failover::decode(value)?);
        }
        if let Some(value) = view.get(Kind::Protection, failover::RELEASED)? {
            catalog.released_next = failover::decode_released(value)?;
        }
        if let Some(value) = view.get(Kind::Protection, failover::GOAL)? {
            catalog.goal = Some(failover::decode_goal(value)?);
        }
        if let Some(value) = view.get(Kind::Protection, epochs::APPROVERS)? {
            catalog.approvers = epochs::decode_approvers(value)?;
        }
        if let Some(value) = view.get(Kind::Protection, epochs::EPOCHS)? {
            catalog.epochs = epochs::decode_epochs(value)?;
        }
        Ok(catalog)
    }

    /// The newest epoch.
    pub fn epoch(&self) -> EpochId {
        self.epochs.last().map_or(EpochId { number: 1, plan: 0 }, |it| epoch_id(it.number, Some(&it.record)))
    }

    /// The entry at `index` is about to create a collection or to change a policy.
    pub fn collections_change_at(&mut self, index: u64) {
        self.earlier.push_back((index, Arc::new(self.collections.clone())));
        let surplus = self.earlier.len().saturating_sub(EARLIER);
        self.earlier.drain(..surplus);
    }

    /// The collections as the entry at `index` left them.
    pub fn collections_at(&self, index: u64) -> &Collections {
        let later = self.earlier.partition_point(|(changed_at, _)| *changed_at <= index);
        self.earlier.get(later).map_or(&self.collections, |(_, collections)| collections)
    }

    /// The number that the next collection gets.
    pub fn next_collection(&self) -> u32 {
        self.collections.values().map(|collection| collection.number).max().unwrap_or(0) + 1
    }

    /// Sites that hold a KEK, so that every data key must be wrapped for them.
    pub fn key_sites(&self) -> impl Iterator<Item = &Site> {
        self.info.iter().flat_map(|info| &info.sites).filter(|site| !site.kek_public.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::encode_value;

    #[test]
    fn collections_are_shown_as_an_entry_left_them() {
        let mut catalog = Catalog::default();
        let made = |catalog: &mut Catalog, index: u64| {
            catalog.collections_change_at(index);
            let number = catalog.next_collection();
            let row = collections::CollectionRow {
                name: format!("c{number}"),
                incarnation: Bytes::from(vec![0; 16]),
                ..collections::CollectionRow::default()
            };
            let collection = collections::decode(&collections::key(number), encode_value(&row)).expect("it is whole");
            catalog.collections.insert(collection.name.clone(), Arc::new(collection));
        };
        made(&mut catalog, 10);
        made(&mut catalog, 10);
        made(&mut catalog, 12);
        let known = |index| catalog.collections_at(index).len();
        assert_eq!([known(9), known(10), known(11), known(12), known(99)], [0, 2, 2, 3, 3]);
        for index in 13..1_000 {
            catalog.collections_change_at(index);
        }
        assert_eq!(catalog.earlier.len(), EARLIER);
    }
}

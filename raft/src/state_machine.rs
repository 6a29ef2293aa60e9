//! openraft's state machine over the store.
//!
//! Business failures are outcomes; an error from here is a disk failure and stops the node.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{Instant as _, OptionalSend, RaftSnapshotBuilder};
use prost::Message;
use saola_storage::epoch::Approvers;
use saola_storage::error::StoreError;
use saola_storage::export::Export;
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::import::Import;
use saola_storage::planted::{self, Bug};
use saola_storage::store::{Applied, ApplyEntry, SkipTo, Store};
use saola_storage::types::LogId;
use tokio::sync::watch;

use crate::convert::place_in_log;
use crate::frontier::{self, FrontierCell, Gate};
use crate::member::{Member, MembershipRecord, membership_from_record, membership_to_record};
use crate::payload;
use crate::types::{Outcomes, Runtime, Takes, TypeConfig, log_id_from, log_id_to};

/// Entries applied in one engine batch at most.
const APPLY_BATCH: usize = 256;
/// A batch up to so many bytes is applied where it stands: it only writes to memory, and handing it to another thread
/// and back costs 20 µs (measured on two cores), as much as applying five to ten puts.
const SMALL_BYTES: usize = 64 << 10;
/// After a batch that took longer the engine is holding its writers back, and may do so for seconds: the next one goes
/// to another thread whatever its size.
const MOMENT: Duration = Duration::from_millis(1);

/// What a Raft snapshot is made of.
pub(crate) enum SnapshotBody {
    /// To be sent: reads a pinned view when pulled.
    Outgoing(Box<Export>),
    /// Received, not yet installed.
    Incoming(Box<Import>),
    /// No records: they are on disk already, or must go to nobody, or come to a witness, which is told who approves promotions.
    LogIdsOnly(Vec<Approvers>),
}

impl SnapshotBody {
    /// A state that has come whole, and what Raft must be told of it: what it holds, not what was announced.
    pub(crate) fn received<RT: Runtime>(import: Import) -> Result<(SnapshotMetaOf<TypeConfig<RT>>, Self), String> {
        let Some(manifest) = import.manifest() else {
            return Err("the records have not come whole".into());
        };
        let last = manifest.log_id.map(|row| place_in_log::<RT>(LogId::from(row).into())).transpose();
        let membership = manifest.membership.clone().map(|row| (row.log_id.into(), row.membership));
        let meta = openraft::storage::SnapshotMeta {
            last_log_id: last.map_err(|refusal| refusal.message)?,
            last_membership: stored_membership::<RT>(membership.as_ref()).map_err(|error| error.to_string())?,
        };
        Ok((meta, SnapshotBody::Incoming(Box::new(import))))
    }
}

/// The store as openraft sees it. Clones share the store.
pub(crate) struct StateMachine<RT> {
    store: Arc<Store>,
    frontier: Arc<FrontierCell>,
    own_site: String,
    /// What the rule for the frontier was taken from last: version of the catalog, entry that set the membership.
    gate_by: Option<(u64, Option<LogId>)>,
    applied_next: watch::Sender<u64>,
    digest_taken: watch::Sender<u64>,
    /// What the next small batch will probably take.
    takes: Takes,
    runtime: PhantomData<fn() -> RT>,
}

impl<RT> Clone for StateMachine<RT> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            frontier: self.frontier.clone(),
            own_site: self.own_site.clone(),
            gate_by: self.gate_by,
            applied_next: self.applied_next.clone(),
            digest_taken: self.digest_taken.clone(),
            takes: self.takes,
            runtime: PhantomData,
        }
    }
}

fn store_io(error: StoreError) -> io::Error {
    io::Error::other(error)
}

impl<RT: Runtime> StateMachine<RT> {
    /// `news`: told of the first index that is not applied, and of the newest digest's.
    pub(crate) fn new(
        store: Arc<Store>,
        frontier: Arc<FrontierCell>,
        own_site: String,
        news: (watch::Sender<u64>, watch::Sender<u64>),
    ) -> Self {
        let (applied_next, digest_taken) = news;
        let (takes, runtime) = (Takes::AMoment, PhantomData);
        let this = Self { store, frontier, own_site, gate_by: None, applied_next, digest_taken, takes, runtime };
        this.announce(&this.store.applied());
        this
    }

    fn announce(&self, applied: &Applied) {
        if let Some(log_id) = applied.log_id {
            self.frontier.applied(log_id, log_id.index, Some(self.gate(applied)));
            self.applied_next.send_replace(log_id.index + 1);
        }
    }

    /// The rule for this node, should it lead, by the applied state.
    fn gate(&self, applied: &Applied) -> Gate {
        let record = applied.membership.as_ref().and_then(|(_, bytes)| MembershipRecord::decode(bytes.clone()).ok());
        let MembershipRecord { configs, seats } = record.unwrap_or_default();
        let voters = configs.last().map(|set| set.node_ids.iter().copied().collect()).unwrap_or_default();
        let members: Vec<Member> = seats.into_iter().filter_map(|seat| seat.member).collect();
        frontier::gate(&self.store.protection(), &self.own_site, &members, &voters)
    }

    /// The same, if the applied state may have another rule than at the last call.
    fn changed_gate(&mut self) -> Option<Gate> {
        let applied = self.store.applied();
        let by = (self.store.keyring_version(), applied.membership.as_ref().map(|(at, _)| *at));
        (self.gate_by.replace(by) != Some(by)).then(|| self.gate(&applied))
    }

    fn meta(applied: &Applied) -> io::Result<SnapshotMetaOf<TypeConfig<RT>>> {
        Ok(openraft::storage::SnapshotMeta {
            last_log_id: applied.log_id.as_ref().map(log_id_to::<RT>),
            last_membership: stored_membership::<RT>(applied.membership.as_ref())?,
        })
    }

    async fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig<RT>>>) -> io::Result<()> {
        let mut entries = Vec::with_capacity(batch.len());
        let mut bytes = 0;
        for (entry, _) in &batch {
            if let openraft::EntryPayload::Normal(proposal) = &entry.payload {
                bytes += proposal.0.len();
            }
            let log_id = log_id_from::<RT>(&entry.log_id);
            let payload = payload::to_apply::<RT>(&entry.payload)
                .map_err(|error| io::Error::other(format!("apply entry {log_id}: {error}")))?;
            entries.push(ApplyEntry { log_id, payload });
        }
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            return Ok(());
        };
        let of_leader = entries.iter().find(|entry| entry.log_id.leader == last.leader);
        let first_of_leader = of_leader.map_or(last.index, |entry| entry.log_id.index);
        let takes = if bytes > SMALL_BYTES { Takes::Long } else { self.takes };
        let began = RT::Instant::now();
        let store = self.store.clone();
        let outcomes = RT::disk(takes, move || store.apply(entries)).await.map_err(store_io)?;
        if bytes <= SMALL_BYTES {
            self.takes = if began.elapsed() > MOMENT { Takes::Long } else { Takes::AMoment };
        }
        let gate = self.changed_gate();
        self.frontier.applied(last, first_of_leader, gate);
        self.applied_next.send_replace(last.index + 1);
        if let Some(index) = self.store.newest_digest() {
            self.digest_taken.send_if_modified(|known| std::mem::replace(known, index) != index);
        }
        for ((_, responder), outcomes) in batch.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(Outcomes(outcomes));
            }
        }
        Ok(())
    }
}

fn stored_membership<RT: Runtime>(
    membership: Option<&(LogId, Bytes)>,
) -> io::Result<StoredMembershipOf<TypeConfig<RT>>> {
    let Some((log_id, bytes)) = membership else {
        return Ok(Default::default());
    };
    let record = MembershipRecord::decode(bytes.clone())
        .map_err(|error| io::Error::other(format!("stored membership does not decode: {error}")))?;
    let membership = membership_from_record(record).map_err(io::Error::other)?;
    Ok(openraft::StoredMembership::new(Some(log_id_to::<RT>(log_id)), membership))
}

impl<RT: Runtime> RaftStateMachine<TypeConfig<RT>> for StateMachine<RT> {
    type SnapshotData = SnapshotBody;
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<TypeConfig<RT>>>, StoredMembershipOf<TypeConfig<RT>>), io::Error> {
        let applied = self.store.applied();
        Ok((applied.log_id.as_ref().map(log_id_to::<RT>), stored_membership::<RT>(applied.membership.as_ref())?))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig<RT>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_BATCH);
        while let Some(chunk) = chunks.next().await {
            let batch = chunk.into_iter().collect::<Result<Vec<_>, io::Error>>()?;
            self.apply_batch(batch).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig<RT>>,
        snapshot: SnapshotBody,
    ) -> Result<(), io::Error> {
        match snapshot {
            SnapshotBody::Incoming(import) => {
                RT::disk(Takes::Long, move || import.finish()).await.map_err(store_io)?;
            }
            SnapshotBody::LogIdsOnly(approvers) => {
                if let Some(last) = &meta.last_log_id {
                    let record = membership_to_record(meta.last_membership.membership()).encode_to_vec();
                    let at = meta.last_membership.log_id().as_ref();
                    let membership = at.map(|at| (log_id_from::<RT>(at), record.into()));
                    let to = SkipTo { last: log_id_from::<RT>(last), membership, approvers };
                    let store = self.store.clone();
                    RT::disk(Takes::Long, move || store.skip_to(to)).await.map_err(store_io)?;
                }
            }
            SnapshotBody::Outgoing(mut export) => {
                let store = self.store.clone();
                let copy = move || {
                    let mut import = store.import()?;
                    while let Some(chunk) = export.next_chunk()? {
                        import.write(&chunk)?;
                    }
                    import.finish()
                };
                RT::disk(Takes::Long, copy).await.map_err(store_io)?;
            }
        }
        self.announce(&self.store.applied());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig<RT>, SnapshotBody>>, io::Error> {
        if self.store.applied().log_id.is_none() {
            return Ok(None);
        }
        let export = match self.store.export() {
            Ok(export) => export,
            // It must go to nobody; openraft asks for it at a start, too.
            Err(StoreError::Quarantined { .. }) => {
                let meta = Self::meta(&self.store.applied())?;
                return Ok(Some(Snapshot { meta, snapshot: SnapshotBody::LogIdsOnly(Vec::new()) }));
            }
            Err(error) => return Err(store_io(error)),
        };
        Ok(Some(Snapshot { meta: Self::meta(export.applied())?, snapshot: SnapshotBody::Outgoing(Box::new(export)) }))
    }
}

impl<RT: Runtime> RaftSnapshotBuilder<TypeConfig<RT>> for StateMachine<RT> {
    type SnapshotData = SnapshotBody;

    /// A snapshot is a flush: what was flushed is read back and copied nowhere.
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig<RT>, SnapshotBody>, io::Error> {
        let store = self.store.clone();
        let flushed = match planted::is(Bug::PurgedTooFar) {
            true => store.applied(),
            false => RT::disk(Takes::Long, move || store.flush()).await.map_err(store_io)?,
        };
        reach(Failpoint::SnapshotBuilt);
        let export = match self.store.export() {
            Ok(export) => Some(export).filter(|export| *export.applied() == flushed),
            // The log may be purged all the same: what is wrong here is mended from another node's rows.
            Err(StoreError::Quarantined { .. }) => None,
            Err(error) => return Err(store_io(error)),
        };
        // More may have been applied meanwhile. Whoever sends a snapshot asks for the current one.
        let snapshot =
            export.map_or(SnapshotBody::LogIdsOnly(Vec::new()), |export| SnapshotBody::Outgoing(Box::new(export)));
        Ok(Snapshot { meta: Self::meta(&flushed)?, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::storage::SnapshotMeta;
    use saola_storage::engine::memory::MemoryHome;
    use saola_storage::store::ApplyPayload;
    use saola_storage::store::{Keeps, StoreSettings};
    use saola_storage::types::LeaderId;

    use super::*;
    use crate::member::{Member, Membership};
    use crate::types::TokioRuntime;

    fn at(index: u64) -> LogIdOf<TypeConfig<TokioRuntime>> {
        log_id_to::<TokioRuntime>(&LogId { leader: LeaderId { term: 1, node_id: 1 }, index })
    }

    #[tokio::test]
    async fn witness_takes_a_newer_snapshot_whose_membership_it_has_applied() {
        let store = Store::open(Arc::new(MemoryHome::new()), Keeps::LogIdsOnly, StoreSettings::default()).unwrap();
        let frontier = Arc::new(FrontierCell::new(None));
        let mut machine = StateMachine::<TokioRuntime>::new(
            Arc::new(store),
            frontier,
            String::new(),
            (watch::Sender::new(0), watch::Sender::new(0)),
        );
        let members = BTreeMap::from([(1, Member { node_id: 1, ..Member::default() })]);
        let membership = Membership::new(vec![BTreeSet::from([1])], members).unwrap();
        for last in [10, 20] {
            let meta = SnapshotMeta {
                last_log_id: Some(at(last)),
                last_membership: openraft::StoredMembership::new(Some(at(5)), membership.clone()),
            };
            machine.install_snapshot(&meta, SnapshotBody::LogIdsOnly(Vec::new())).await.unwrap();
            let (applied, kept) = machine.applied_state().await.unwrap();
            assert_eq!((applied, kept), (meta.last_log_id, meta.last_membership));
        }
    }
    fn store() -> Arc<Store> {
        Arc::new(Store::open(Arc::new(MemoryHome::new()), Keeps::Records, StoreSettings::default()).unwrap())
    }

    fn member_of(node_id: u64) -> Membership {
        let members = BTreeMap::from([(node_id, Member { node_id, ..Member::default() })]);
        Membership::new(vec![BTreeSet::from([node_id])], members).unwrap()
    }

    #[test]
    fn raft_is_told_what_was_received_and_nothing_before_it_is_whole() {
        let membership = |node_id| membership_to_record(&member_of(node_id)).encode_to_vec();
        let sender = store();
        let first = log_id_from::<TokioRuntime>(&at(1));
        let last = log_id_from::<TokioRuntime>(&at(2));
        let entries = vec![
            ApplyEntry { log_id: first, payload: ApplyPayload::Membership(membership(1).into()) },
            ApplyEntry { log_id: last, payload: ApplyPayload::Blank },
        ];
        sender.apply(entries).unwrap();
        let receiver = store();
        let receive = |chunks: usize| {
            let (mut import, mut export) = (receiver.import().unwrap(), sender.export().unwrap());
            for _ in 0..chunks {
                if let Some(chunk) = export.next_chunk().unwrap() {
                    import.write(&chunk).unwrap();
                }
            }
            SnapshotBody::received::<TokioRuntime>(import)
        };
        assert!(receive(1).map(|_| ()).unwrap_err().contains("not come whole"));
        let (meta, body) = receive(usize::from(u16::MAX)).unwrap();
        assert_eq!(meta.last_log_id, Some(at(2)));
        assert_eq!(meta.last_membership, openraft::StoredMembership::new(Some(at(1)), member_of(1)));
        assert_eq!(receiver.applied().log_id, None, "nothing is installed yet");
        let SnapshotBody::Incoming(import) = body else { panic!("it came from a peer") };
        assert_eq!(import.finish().unwrap().log_id, Some(last));
    }
}

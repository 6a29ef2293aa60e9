//! Put and delete: check everything, then write one version, its head and its change.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::draft::Draft;
use super::{Machine, Place};
use crate::chain::Link;
use crate::command::{
    Conflict, Decision, DeleteRecord, Expect, ExpectKind, NotFound, Provenance, PutRecord, Reseal, UnknownCollection,
    Written,
};
use crate::engine::Kind;
use crate::error::StoreError;
use crate::keyspace::changes::{self, ChangeRow};
use crate::keyspace::collections::Collection;
use crate::keyspace::encode_value;
use crate::keyspace::heads::{self, Head};
use crate::keyspace::versions::{self, VersionOp, VersionRow};
use crate::planted::{self, Bug};
use crate::seal::envelope_dek_id;

/// A version that has passed all checks.
struct Draw<'a> {
    collection: &'a Collection,
    id: Bytes,
    op: VersionOp,
    envelope: Bytes,
    content_type: String,
    provenance: Option<Provenance>,
    value_bytes: u64,
}

impl Machine {
    pub(super) fn put(&mut self, draft: &mut Draft<'_>, place: Place, put: PutRecord) -> Result<Decision, StoreError> {
        let Some(collection) = self.catalog.collections.get(&put.collection).cloned() else {
            return Ok(Decision::UnknownCollection(UnknownCollection {}));
        };
        let key = Bytes::from(heads::key(collection.number, &put.id));
        let head = draft.head(&key)?;
        if let Some(conflict) = check(put.expect.as_ref(), head) {
            return Ok(Decision::Conflict(conflict));
        }
        if !self.may_seal(&put.envelope, &collection) {
            return Ok(Decision::Reseal(Reseal {}));
        }
        let version = Draw {
            collection: &collection,
            id: put.id,
            op: VersionOp::Put,
            envelope: put.envelope,
            content_type: put.content_type,
            provenance: put.provenance,
            value_bytes: put.value_bytes,
        };
        let head = head.cloned();
        Ok(self.write_version(draft, place, key, head, version))
    }

    pub(super) fn delete(
        &mut self,
        draft: &mut Draft<'_>,
        place: Place,
        delete: DeleteRecord,
    ) -> Result<Decision, StoreError> {
        let Some(collection) = self.catalog.collections.get(&delete.collection).cloned() else {
            return Ok(Decision::UnknownCollection(UnknownCollection {}));
        };
        let key = Bytes::from(heads::key(collection.number, &delete.id));
        let head = draft.head(&key)?;
        if let Some(conflict) = check(delete.expect.as_ref(), head) {
            return Ok(Decision::Conflict(conflict));
        }
        if !head.is_some_and(Head::live) {
            return Ok(Decision::NotFound(NotFound {}));
        }
        let version = Draw {
            collection: &collection,
            id: delete.id,
            op: VersionOp::Delete,
            envelope: Bytes::new(),
            content_type: String::new(),
            provenance: delete.provenance,
            value_bytes: 0,
        };
        let head = head.cloned();
        Ok(self.write_version(draft, place, key, head, version))
    }

    /// Only a data key that stands in the ring for this very collection may seal for it.
    fn may_seal(&self, envelope: &[u8], collection: &Collection) -> bool {
        let Ok(id) = envelope_dek_id(envelope) else {
            return false;
        };
        self.catalog.deks.get(&id.0[..]).is_some_and(|dek| dek.incarnation == collection.incarnation[..])
    }

    fn write_version(
        &mut self,
        draft: &mut Draft<'_>,
        place: Place,
        head_key: Bytes,
        head: Option<Head>,
        version: Draw<'_>,
    ) -> Decision {
        let Draw { collection, id, op, envelope, content_type, provenance, value_bytes } = version;
        let was_live = head.as_ref().is_some_and(Head::live);
        let counts = |it: &&Head| it.live() || !planted::is(Bug::GenerationAgain);
        let generation = head.as_ref().filter(counts).map_or(0, |head| head.generation) + 1;
        let revision = self.applied.revision + 1;
        let own = if planted::is(Bug::ClockInApply) { std::ptr::from_ref(self).addr() as u64 % 7 } else { 0 };
        let recorded_at_us = match planted::is(Bug::TimeGoesBack) {
            true => place.stamp_us,
            false => self.applied.clock_us.saturating_add(1).max(place.stamp_us) + own,
        };
        let digest: [u8; 32] = Sha256::digest(&envelope).into();
        let link = Link {
            incarnation: &collection.incarnation,
            id: &id,
            generation,
            revision,
            recorded_at_us,
            op,
            content_type: &content_type,
            provenance: provenance.as_ref(),
            digest: &digest,
        };
        let chain = link.after(head.as_ref().map_or(&[0; 32], |head| &head.chain[..]));
        let chain = Bytes::copy_from_slice(&chain);

        let version_key = versions::key(collection.number, &id, generation);
        let row = VersionRow {
            revision,
            recorded_at_us,
            op: op as i32,
            content_type,
            provenance,
            envelope,
            digest: Bytes::copy_from_slice(&digest),
            chain: chain.clone(),
            value_bytes,
        };
        draft.add_row(Kind::Versions, version_key, encode_value(&row));
        let change = ChangeRow { recorded_at_us, collection: collection.number, id, generation };
        draft.add_row(Kind::Changes, Bytes::copy_from_slice(&changes::key(revision)), encode_value(&change));
        self.newest.record(draft, revision, recorded_at_us);
        draft.set_head(head_key, Head { generation, revision, recorded_at_us, op: op as i32, chain });

        self.applied.revision = revision;
        self.applied.clock_us = recorded_at_us;
        self.counts.versions += 1;
        match (was_live, op) {
            (true, VersionOp::Delete) => self.counts.records -= 1,
            (false, VersionOp::Put | VersionOp::Undelete | VersionOp::Rollback) => self.counts.records += 1,
            _ => {}
        }
        Decision::Written(Written { generation })
    }
}

/// Decides a condition; a conflict says what is there.
fn check(expect: Option<&Expect>, head: Option<&Head>) -> Option<Conflict> {
    let live = head.is_some_and(Head::live);
    let generation = head.map_or(0, |head| head.generation);
    let holds = match expect {
        None => true,
        Some(expect) => match ExpectKind::try_from(expect.kind) {
            Ok(ExpectKind::Any) => true,
            Ok(ExpectKind::Absent) => !live,
            Ok(ExpectKind::Generation) => generation == expect.generation || planted::is(Bug::ConditionIgnored),
            // A condition that this release cannot read never holds.
            Err(_) => false,
        },
    };
    let revision = head.map_or(0, |head| head.revision);
    (!holds).then_some(Conflict { live, generation, revision })
}

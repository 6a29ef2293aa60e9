//! Orphan bundles in this node's folder: what is in them, how that stands to the records of now, and writing it again.
//!
//! Values are opened here, with the site's key: whoever asks sees ids and provenance, and never a value.

use std::path::PathBuf;

use bytes::Bytes;
use saola_client::proto::{
    DeleteRequest, DiscardOrphansRequest, Expect, ListOrphansResponse, OrphanBundle as BundleInfo, OrphanFate,
    OrphanOutcome, Provenance, PutRequest, ReplayOrphansRequest, ReplayOrphansResponse, RequestId, expect,
};
use saola_storage::orphan::{self, Orphan, OrphanBundle, OrphanError};
use saola_storage::store::{At, Collection, StoredVersion, VersionOp};

use super::cluster::header;
use super::deadline::Deadline;
use super::errors::{Reason, Refusal};
use super::point::Point;
use super::{convert, write};
use crate::entropy;
use crate::keys::Ring;
use crate::node::Node;

/// Writes of one call.
const PAGE: usize = 256;
/// Bytes of sealed values that one call holds in memory.
const PAGE_BYTES: usize = 8 << 20;

/// The bundles of this node.
///
/// # Errors
/// The folder cannot be listed.
pub async fn list(node: &Node) -> Result<ListOrphansResponse, Refusal> {
    let paths = bundles(node)?;
    let read = on_disk(move || Ok(paths.into_iter().map(|path| info(&path)).collect())).await?;
    Ok(ListOrphansResponse { header: Some(header(node)), bundles: read })
}

/// Says what would come of the next writes of a bundle, or writes them again.
///
/// # Errors
/// No such bundle, one that cannot be read, or no leader. What was written before stays: the call can be repeated.
pub async fn replay(
    node: &Node,
    call: ReplayOrphansRequest,
    deadline: Deadline,
) -> Result<ReplayOrphansResponse, Refusal> {
    node.check_serves_records()?;
    let path = find(node, &call.bundle)?;
    let (bundle, page, next) = on_disk(move || read_page(&path, call.after_revision)).await?;
    let store_uuid: [u8; 16] = bundle.head.store_uuid.as_ref().try_into().map_err(|_| {
        Refusal::invalid("the bundle does not say which store it is from".into(), "use the copy of another node")
    })?;
    let keys = node.keys().ring_of(store_uuid, &bundle.data_keys);
    let mut replay = Replay { node, bundle: &bundle, keys, client: Bytes::copy_from_slice(&random_id()?), fresh: 0 };
    let mut outcomes = Vec::with_capacity(page.len());
    for orphan in page {
        outcomes.push(replay.one(orphan, call.dry_run, deadline).await?);
    }
    Ok(ReplayOrphansResponse { header: Some(header(node)), outcomes, next })
}

/// Removes a bundle for good.
///
/// # Errors
/// No such bundle, or the file cannot be removed.
pub async fn discard(node: &Node, call: DiscardOrphansRequest) -> Result<(), Refusal> {
    let path = find(node, &call.bundle)?;
    tracing::warn!(bundle = %path.display(), "an orphan bundle is discarded");
    on_disk(move || std::fs::remove_file(&path).map_err(Refusal::internal)).await
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(Refusal::internal)?
}

fn random_id() -> Result<[u8; 16], Refusal> {
    entropy::random().map_err(Refusal::internal)
}

fn bundles(node: &Node) -> Result<Vec<PathBuf>, Refusal> {
    orphan::list(&node.replica().orphans_folder()).map_err(Refusal::internal)
}

fn name(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_suffix(orphan::SUFFIX).map_or(name.clone(), str::to_owned)
}

/// The bundle of that name: one that was listed, so that a name leads nowhere else.
fn find(node: &Node, wanted: &str) -> Result<PathBuf, Refusal> {
    let found = bundles(node)?.into_iter().find(|path| name(path) == wanted);
    found.ok_or_else(|| {
        let what = format!("node {} has no orphan bundle {wanted:?}", node.member().name);
        Refusal::invalid(what, "`saola orphan list` says which node has which")
    })
}

fn unreadable(error: OrphanError) -> Refusal {
    Refusal::new(Reason::Corrupt, error.to_string(), "use the bundle of another node of that site")
}

fn info(path: &std::path::Path) -> BundleInfo {
    let read = || -> Result<BundleInfo, OrphanError> {
        let mut bundle = OrphanBundle::open(path)?;
        let (mut orphans, mut uncertain) = (0, 0);
        while let Some(orphan) = bundle.next_orphan()? {
            orphans += 1;
            uncertain += u64::from(orphan.revision > bundle.head.committed_revision);
        }
        let head = bundle.head;
        Ok(BundleInfo {
            name: name(path),
            epoch: head.epoch,
            left_by_epoch: head.left_by_epoch,
            node: head.node,
            site: head.site,
            base_revision: head.base_revision,
            orphans,
            uncertain,
            bytes: bundle.bytes,
            problem: String::new(),
        })
    };
    read().unwrap_or_else(|error| BundleInfo { name: name(path), problem: error.to_string(), ..BundleInfo::default() })
}

/// The writes behind a revision, as many as one call takes, and where the next call goes on; 0: that was all.
fn read_page(path: &std::path::Path, after: u64) -> Result<(OrphanBundle, Vec<Orphan>, u64), Refusal> {
    let mut bundle = OrphanBundle::open(path).map_err(unreadable)?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(orphan) = bundle.next_orphan().map_err(unreadable)? {
        if orphan.revision <= after {
            continue;
        }
        if page.len() == PAGE || bytes >= PAGE_BYTES {
            let next = page.last().map_or(0, |last: &Orphan| last.revision);
            return Ok((bundle, page, next));
        }
        bytes += orphan.version.as_ref().map_or(0, |version| version.envelope.len());
        page.push(orphan);
    }
    Ok((bundle, page, 0))
}

/// What is to be done with one write.
enum Step {
    Ends(OrphanFate, String),
    Write { collection: Collection, version: Box<StoredVersion>, value: Bytes },
}

struct Replay<'a> {
    node: &'a Node,
    bundle: &'a OrphanBundle,
    keys: Ring,
    /// For writes whose own call is not known any more.
    client: Bytes,
    fresh: u64,
}

impl Replay<'_> {
    async fn one(&mut self, orphan: Orphan, dry_run: bool, deadline: Deadline) -> Result<OrphanOutcome, Refusal> {
        let point = self.node.read_point(deadline).await?;
        let collection = self.bundle.collection(&orphan);
        let version = self.bundle.version(&orphan).map_err(unreadable)?;
        let about = version.clone();
        let mut outcome = OrphanOutcome {
            revision: orphan.revision,
            collection: collection.map_or_else(|| format!("#{}", orphan.collection), |it| it.name.clone()),
            id: orphan.id.clone(),
            generation: orphan.generation,
            was_committed: orphan.revision <= self.bundle.head.committed_revision,
            ..OrphanOutcome::default()
        };
        if let Some(info) = about.map(|it| convert::version_info(&outcome.collection, it)) {
            outcome.op = info.op;
            outcome.recorded_at_us = info.recorded_at_us;
            outcome.provenance = info.provenance;
            outcome.value_bytes = info.value_bytes;
        }
        let (fate, detail) = match self.step(&point, &orphan, collection, version)? {
            Step::Ends(fate, detail) => (fate, detail),
            Step::Write { .. } if dry_run => (OrphanFate::WouldBeWritten, String::new()),
            Step::Write { collection, version, value } => {
                self.write(&orphan, &collection, &version, value, deadline).await?
            }
        };
        (outcome.fate, outcome.detail) = (fate.into(), detail);
        Ok(outcome)
    }

    /// Decides by what stands in the record now.
    fn step(
        &self,
        point: &Point,
        orphan: &Orphan,
        theirs: Option<&Collection>,
        version: Option<StoredVersion>,
    ) -> Result<Step, Refusal> {
        let ends = |fate, detail: &str| Ok(Step::Ends(fate, detail.to_owned()));
        let Some(version) = version else {
            return ends(OrphanFate::ValueGone, "policy had removed it there before the side was left behind");
        };
        let (Some(theirs), ours) = (theirs, theirs.and_then(|it| point.collection(&it.name).ok())) else {
            return ends(OrphanFate::NoCollection, "the bundle does not say which collection it was in");
        };
        let Some(ours) = ours.filter(|ours| ours.incarnation == theirs.incarnation) else {
            return ends(OrphanFate::NoCollection, "this side has no such collection, or another one by that name");
        };
        let value = match version.op {
            VersionOp::Delete => Bytes::new(),
            _ => self.keys.open(theirs, &version)?,
        };
        let newest = point.view.get(&ours, &orphan.id, At::Revision(point.revision))?;
        let now = newest.as_ref().map_or(0, |newest| newest.generation);
        if now >= orphan.generation {
            let there = point.view.get(&ours, &orphan.id, At::Generation(orphan.generation));
            let there = there.ok().flatten();
            return match there.map(|there| self.is_same(&ours, &there, &version, &value)).transpose()? {
                Some(true) => ends(OrphanFate::IsThere, ""),
                _ => Ok(Step::Ends(
                    OrphanFate::Conflict,
                    format!("this side has written the record: it is at generation {now}"),
                )),
            };
        }
        match now {
            now if now + 1 == orphan.generation => {
                Ok(Step::Write { collection: ours, version: Box::new(version), value })
            }
            now if now + 1 == orphan.first_generation => ends(OrphanFate::After, "once those before it are written"),
            now if now >= orphan.first_generation => {
                ends(OrphanFate::After, "if those before it are the ones that are there")
            }
            now => Ok(Step::Ends(OrphanFate::Conflict, format!("the record is at generation {now} on this side"))),
        }
    }

    fn is_same(
        &self,
        collection: &Collection,
        there: &StoredVersion,
        version: &StoredVersion,
        value: &Bytes,
    ) -> Result<bool, Refusal> {
        let is_deleted = |it: &StoredVersion| it.op == VersionOp::Delete;
        if is_deleted(there) || is_deleted(version) {
            return Ok(is_deleted(there) && is_deleted(version));
        }
        Ok(there.content_type == version.content_type && self.node.ring().open(collection, there)? == *value)
    }

    /// Writes it again, under the call that it came with; if nobody remembers that call, under a new one.
    async fn write(
        &mut self,
        orphan: &Orphan,
        collection: &Collection,
        version: &StoredVersion,
        value: Bytes,
        deadline: Deadline,
    ) -> Result<(OrphanFate, String), Refusal> {
        let call = orphan.request.clone().map(|it| RequestId {
            client: it.client,
            since: it.since,
            sequence: it.sequence,
            done_below: it.done_below,
        });
        let request = match call {
            Some(request) => request,
            None => self.fresh_call(),
        };
        let mut written = self.send(request, orphan, collection, version, value.clone(), deadline).await;
        if written.as_ref().is_err_and(|refusal| refusal.reason() == Reason::RequestExpired) {
            let request = self.fresh_call();
            written = self.send(request, orphan, collection, version, value, deadline).await;
        }
        match written {
            Ok(true) => Ok((OrphanFate::IsThere, "its client had sent it again by itself".into())),
            Ok(false) => Ok((OrphanFate::Written, String::new())),
            Err(refusal) if [Reason::Conflict, Reason::NotFound].contains(&refusal.reason()) => {
                Ok((OrphanFate::Conflict, refusal.message().to_owned()))
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn fresh_call(&mut self) -> RequestId {
        self.fresh += 1;
        let since = self.node.replica().status().frontier_index;
        RequestId { client: self.client.clone(), since, sequence: self.fresh, done_below: self.fresh }
    }

    /// True: the call had been answered before.
    async fn send(
        &self,
        request: RequestId,
        orphan: &Orphan,
        collection: &Collection,
        version: &StoredVersion,
        value: Bytes,
        deadline: Deadline,
    ) -> Result<bool, Refusal> {
        let kind = match orphan.generation - 1 {
            0 => expect::Kind::Absent(true),
            before => expect::Kind::Generation(before),
        };
        let provenance = version.provenance.clone().map(|it| Provenance {
            source_system: it.source_system,
            actor: it.actor,
            reason: it.reason,
        });
        let (request, expect) = (Some(request), Some(Expect { kind: Some(kind) }));
        let (name, id) = (collection.name.clone(), orphan.id.clone());
        let written = if version.op == VersionOp::Delete {
            let call = DeleteRequest { request, collection: name, id, expect, provenance };
            write::delete(self.node, call, deadline).await
        } else {
            let content_type = version.content_type.clone();
            let call = PutRequest { request, collection: name, id, value, content_type, expect, provenance };
            write::put(self.node, call, deadline).await
        };
        written.map(|answer| answer.replayed)
    }
}

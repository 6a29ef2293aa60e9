//! Orphan bundles in this node's folder: what is in them, how that stands to the records of now, and writing it again.
//!
//! Values are opened here, with the site's key: whoever asks sees ids and provenance, and never a value.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use saola_client::Retry;
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
const PAGE: usize = 4096;
/// Bytes of sealed values that one call holds in memory, about.
const PAGE_BYTES: usize = 8 << 20;
/// A call ends early enough for its answer to arrive.
const CALL_LIMIT: Duration = Duration::from_secs(20);

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
    let Page { bundle, orphans, before, mut next } = on_disk(move || read_page(&path, call.after_revision)).await?;
    let store_uuid: [u8; 16] = bundle.head.store_uuid.as_ref().try_into().map_err(|_| {
        Refusal::invalid("the bundle does not say which store it is from".into(), "use the copy of another node")
    })?;
    let keys = node.keys().ring_of(store_uuid, &bundle.data_keys);
    let client = Bytes::copy_from_slice(&entropy::random::<16>().map_err(Refusal::internal)?);
    let point = node.read_point(deadline).await?;
    let mut replay = Replay { node, bundle: &bundle, keys, before, client, fresh: 0, point };
    let (mut outcomes, began) = (Vec::with_capacity(orphans.len()), Instant::now());
    for orphan in orphans {
        if began.elapsed() > CALL_LIMIT.min(deadline.left()) {
            next = outcomes.last().map_or(call.after_revision, |last: &OrphanOutcome| last.revision);
            break;
        }
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

fn bundles(node: &Node) -> Result<Vec<PathBuf>, Refusal> {
    orphan::list(&node.replica().orphans_folder()).map_err(Refusal::internal)
}

fn name(path: &Path) -> String {
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

fn info(path: &Path) -> BundleInfo {
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

/// Writes of one call.
struct Page {
    bundle: OrphanBundle,
    orphans: Vec<Orphan>,
    /// The bundle's last write before these to each of their records.
    before: HashMap<RecordKey, Before>,
    /// Where the next call goes on; 0: that was all.
    next: u64,
}

type RecordKey = (u32, Bytes);

/// A write of the bundle that came before another one to the same record.
struct Before {
    orphan: Orphan,
    /// What came of it.
    stands: Stands,
}

/// Where a write of the bundle stands on this side.
#[derive(Clone, Copy)]
enum Stands {
    /// At this generation, if that holds what it wrote.
    At(u64),
    /// It would stand there if this were no dry run.
    Would,
    Nowhere,
}

fn record(orphan: &Orphan) -> RecordKey {
    (orphan.collection, orphan.id.clone())
}

/// The writes behind a revision, as many as one call takes.
fn read_page(path: &Path, after: u64) -> Result<Page, Refusal> {
    let mut bundle = OrphanBundle::open(path).map_err(unreadable)?;
    let (mut orphans, mut bytes, mut next) = (Vec::new(), 0, 0);
    while let Some(orphan) = bundle.next_orphan().map_err(unreadable)? {
        if orphan.revision <= after {
            continue;
        }
        if orphans.len() == PAGE || bytes >= PAGE_BYTES {
            next = orphans.last().map_or(0, |last: &Orphan| last.revision);
            break;
        }
        bytes += orphan.version.envelope.len();
        orphans.push(orphan);
    }
    let mut before = HashMap::new();
    if after > 0 {
        let of_page: HashSet<RecordKey> = orphans.iter().map(record).collect();
        let mut again = OrphanBundle::open(path).map_err(unreadable)?;
        while let Some(orphan) = again.next_orphan().map_err(unreadable)?.filter(|it| it.revision <= after) {
            if of_page.contains(&record(&orphan)) {
                let stands = Stands::At(orphan.generation);
                before.insert(record(&orphan), Before { orphan, stands });
            }
        }
    }
    Ok(Page { bundle, orphans, before, next })
}

/// A write that is to be made again.
struct Again {
    collection: Collection,
    version: StoredVersion,
    value: Bytes,
    /// Generation of the version that it goes onto; 0: there is none.
    onto: u64,
}

/// What is to be done with one write.
enum Step {
    Ends(OrphanFate, String),
    Write(Box<Again>),
}

fn ends(fate: OrphanFate, detail: impl Into<String>) -> Step {
    Step::Ends(fate, detail.into())
}

struct Replay<'a> {
    node: &'a Node,
    bundle: &'a OrphanBundle,
    keys: Ring,
    /// The bundle's last write so far to each record.
    before: HashMap<RecordKey, Before>,
    /// For writes whose own call is not known any more.
    client: Bytes,
    fresh: u64,
    /// Shows all that was written so far.
    point: Point,
}

impl Replay<'_> {
    async fn one(&mut self, orphan: Orphan, dry_run: bool, deadline: Deadline) -> Result<OrphanOutcome, Refusal> {
        let version = self.bundle.version(&orphan).map_err(unreadable)?;
        let theirs = self.bundle.collection(&orphan);
        let name = theirs.map_or_else(|| format!("#{}", orphan.collection), |it| it.name.clone());
        let info = convert::version_info(&name, version.clone());
        let mut outcome = OrphanOutcome {
            revision: orphan.revision,
            collection: name,
            id: orphan.id.clone(),
            generation: orphan.generation,
            was_committed: orphan.revision <= self.bundle.head.committed_revision,
            op: info.op,
            recorded_at_us: info.recorded_at_us,
            provenance: info.provenance,
            value_bytes: info.value_bytes,
            ..OrphanOutcome::default()
        };
        // A value that cannot be opened holds up nobody else.
        let step =
            self.step(&orphan, theirs, version).unwrap_or_else(|refusal| ends(OrphanFate::Refused, refusal.message()));
        let mut onto = 0;
        let (fate, detail) = match step {
            Step::Ends(fate, detail) => (fate, detail),
            Step::Write(_) if dry_run => (OrphanFate::WouldBeWritten, String::new()),
            Step::Write(again) => {
                let written = self.write(&orphan, &again, deadline).await?;
                self.point = self.node.read_point(deadline).await?;
                onto = again.onto;
                written
            }
        };
        let stands = match fate {
            OrphanFate::Written => Stands::At(onto + 1),
            OrphanFate::IsThere => Stands::At(orphan.generation),
            OrphanFate::WouldBeWritten | OrphanFate::After => Stands::Would,
            _ => Stands::Nowhere,
        };
        (outcome.fate, outcome.detail) = (fate.into(), detail);
        self.before.insert(record(&orphan), Before { orphan, stands });
        Ok(outcome)
    }

    /// Decides by what stands in the record now: a write goes onto what it was written onto, and onto nothing else.
    fn step(&self, orphan: &Orphan, theirs: Option<&Collection>, version: StoredVersion) -> Result<Step, Refusal> {
        let (Some(theirs), ours) = (theirs, theirs.and_then(|it| self.point.collection(&it.name).ok())) else {
            return Ok(ends(OrphanFate::NoCollection, "the bundle does not say which collection it was in"));
        };
        let Some(ours) = ours.filter(|ours| ours.incarnation == theirs.incarnation) else {
            let detail = format!("this side has no collection {}, or another one by that name", theirs.name);
            return Ok(ends(OrphanFate::NoCollection, detail));
        };
        let value = self.value(theirs, &version)?;
        let newest = self.point.view.get(&ours, &orphan.id, At::Revision(self.point.revision))?;
        let now = newest.as_ref().map_or(0, |newest| newest.generation);
        let there = match now >= orphan.generation {
            true => self.point.view.get(&ours, &orphan.id, At::Generation(orphan.generation)).ok().flatten(),
            false => None,
        };
        if let Some(there) = there
            && self.is_same(&ours, &there, &version, &value)?
        {
            return Ok(ends(OrphanFate::IsThere, ""));
        }
        let conflict =
            || ends(OrphanFate::Conflict, format!("this side has written the record: it is at generation {now}"));
        let write = |version| {
            let (collection, value) = (ours.clone(), value.clone());
            Step::Write(Box::new(Again { collection, version, value, onto: now }))
        };
        let Some(before) = self.before.get(&record(orphan)) else {
            return Ok(if now == orphan.follows { write(version) } else { conflict() });
        };
        // The one before it in the bundle must be what is there now: at its place, not only of the same content.
        let at = match before.stands {
            Stands::Would => return Ok(ends(OrphanFate::After, "once those before it are written")),
            Stands::Nowhere => return Ok(ends(OrphanFate::Conflict, "a write before it to this record is one")),
            Stands::At(at) => at,
        };
        let before_it = self.bundle.version(&before.orphan).map_err(unreadable)?;
        let its_value = self.value(theirs, &before_it)?;
        match &newest {
            Some(newest) if newest.generation == at && self.is_same(&ours, newest, &before_it, &its_value)? => {
                Ok(write(version))
            }
            _ => Ok(conflict()),
        }
    }

    fn value(&self, theirs: &Collection, version: &StoredVersion) -> Result<Bytes, Refusal> {
        match version.op {
            VersionOp::Delete => Ok(Bytes::new()),
            _ => self.keys.open(theirs, version),
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
        again: &Again,
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
        let mut written = self.send(request, again, deadline).await;
        if written.as_ref().is_err_and(|refusal| refusal.reason() == Reason::RequestExpired) {
            let request = self.fresh_call();
            written = self.send(request, again, deadline).await;
        }
        match written {
            Ok(true) => Ok((OrphanFate::IsThere, "its client had sent it again by itself".into())),
            Ok(false) => Ok((OrphanFate::Written, String::new())),
            Err(refusal) if [Reason::Conflict, Reason::NotFound].contains(&refusal.reason()) => {
                Ok((OrphanFate::Conflict, refusal.message().to_owned()))
            }
            // Whatever else this side has against it, it has against this write alone.
            Err(refusal) if refusal.reason().retry() == Retry::Never => {
                Ok((OrphanFate::Refused, refusal.message().to_owned()))
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
    async fn send(&self, request: RequestId, again: &Again, deadline: Deadline) -> Result<bool, Refusal> {
        let Again { collection, version, value, onto } = again;
        let kind = match onto {
            0 => expect::Kind::Absent(true),
            onto => expect::Kind::Generation(*onto),
        };
        let provenance = version.provenance.clone().map(|it| Provenance {
            source_system: it.source_system,
            actor: it.actor,
            reason: it.reason,
        });
        let (request, expect) = (Some(request), Some(Expect { kind: Some(kind) }));
        let (name, id, value) = (collection.name.clone(), version.id.clone(), value.clone());
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

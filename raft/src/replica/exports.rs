//! The sending side of a state: exports that receivers pull, each pinned until it has not been asked for in a while.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::Instant as _;
use parking_lot::Mutex;
use saola_storage::error::StoreError;
use saola_storage::export::Export;
use saola_storage::outline::Span;
use saola_storage::types::{LogId, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{AdminError, InstantOf, Replica, Shared};
use crate::types::{Runtime, Takes, detach};
use crate::wire::{FetchPart, FetchReply, FetchRequest, Nothing, Refusal, RefusalCode};

/// Exports at a time. Each keeps the engine from forgetting what has been overwritten since.
const OPEN_MAX: usize = 2;
/// An export that nobody asked for in so long is let go.
pub(super) const KEPT: Duration = Duration::from_secs(60);
/// So long a follower that has the entries is given to apply them before it refuses.
const APPLY_LIMIT: Duration = Duration::from_secs(2);

type ExportId = [u8; 16];

/// Exports that are pinned here, and the bandwidth that they share.
pub(crate) struct Exports<I> {
    open: Mutex<BTreeMap<ExportId, Arc<Pinned<I>>>>,
    budget: Mutex<Budget<I>>,
    /// For a copy that is no node's.
    copying: Arc<Semaphore>,
}

/// One export.
struct Pinned<I> {
    receiver: NodeId,
    reading: Mutex<Reading>,
    used: Mutex<I>,
}

/// A copy that is no node's.
struct Copied<I> {
    /// With the only place for one; none: it was let go.
    reading: Mutex<Option<(Export, OwnedSemaphorePermit)>>,
    used: Mutex<I>,
}

struct Reading {
    export: Export,
    /// Counts the streams that have read from it: only the newest one goes on.
    turn: u64,
}

/// What decides whether one more export may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    id: ExportId,
    receiver: NodeId,
    /// Its manifest has been sent.
    ended: bool,
}

/// Which of the open exports go so that `receiver` can have a new one; none: there is no place. A receiver needs one
/// export; one that was sent to its end is only kept in case its end was lost.
fn place_for(receiver: NodeId, open: &[Open]) -> Option<Vec<ExportId>> {
    let mut gone: Vec<ExportId> = open.iter().filter(|one| one.receiver == receiver).map(|one| one.id).collect();
    if open.len() - gone.len() >= OPEN_MAX {
        gone.push(open.iter().find(|one| one.receiver != receiver && one.ended)?.id);
    }
    Some(gone)
}

/// Bytes that may be sent in a second.
#[derive(Debug)]
struct Budget<I> {
    bytes_per_s: u64,
    /// When what was sent so far is paid for.
    paid_at: I,
}

impl<I: openraft::Instant> Budget<I> {
    /// How long to wait before `bytes` may be sent. What was not used before is lost: no bursts.
    fn take(&mut self, now: I, bytes: usize) -> Duration {
        let begin = if self.paid_at > now { self.paid_at } else { now };
        let cost_us = (bytes as u64).saturating_mul(1_000_000) / self.bytes_per_s.max(1);
        self.paid_at = begin + Duration::from_micros(cost_us);
        begin - now
    }
}

impl<I: openraft::Instant> Exports<I> {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        let budget = Mutex::new(Budget { bytes_per_s, paid_at: I::now() });
        Self { open: Mutex::default(), budget, copying: Arc::new(Semaphore::new(1)) }
    }

    /// Waits until so many bytes may be sent.
    async fn pay<RT: Runtime<Instant = I>>(&self, bytes: usize) {
        let wait = self.budget.lock().take(I::now(), bytes);
        if !wait.is_zero() {
            RT::sleep(wait).await;
        }
    }

    /// Pins a new export for a receiver; none: there is no place.
    fn begin(&self, id: ExportId, receiver: NodeId, export: Export) -> Option<Arc<Pinned<I>>> {
        let mut open = self.open.lock();
        let view: Vec<Open> = open
            .iter()
            // An export that is being read has not ended.
            .map(|(id, pinned)| Open {
                id: *id,
                receiver: pinned.receiver,
                ended: pinned.reading.try_lock().is_some_and(|reading| reading.export.has_ended()),
            })
            .collect();
        for gone in place_for(receiver, &view)? {
            open.remove(&gone);
        }
        let reading = Mutex::new(Reading { export, turn: 0 });
        let pinned = Arc::new(Pinned { receiver, reading, used: Mutex::new(I::now()) });
        open.insert(id, pinned.clone());
        Some(pinned)
    }

    fn find(&self, id: &[u8], receiver: NodeId) -> Option<(ExportId, Arc<Pinned<I>>)> {
        let id: ExportId = id.try_into().ok()?;
        let pinned = self.open.lock().get(&id).cloned()?;
        (pinned.receiver == receiver).then_some((id, pinned))
    }
}

impl<RT: Runtime> Replica<RT> {
    /// The whole state as it is now, sealed as it is kept, in the chunks of [`saola_storage::export`]. It has nothing that
    /// the loss of a site could take back. It shares the bandwidth of nodes that pull the records, and takes none of their places.
    ///
    /// # Errors
    /// The state is bad, or is being copied already. Each chunk may be the reason why there are no more.
    pub async fn export(&self) -> Result<BoxStream<'static, Result<Bytes, AdminError>>, AdminError> {
        let shared = self.shared.clone();
        let busy = |message: String| AdminError::from(Refusal::new(RefusalCode::Busy, message));
        let place = shared.exports.copying.clone().try_acquire_owned();
        let place = place.map_err(|_| busy("this node's records are being copied already: ask again later".into()))?;
        let stopped = |error: StoreError| AdminError::from(Refusal::new(RefusalCode::Stopped, error.to_string()));
        let export = shared.store.export().map_err(stopped)?;
        let upto = export.applied().log_id.map_or(0, |last| last.index);
        if RT::timeout(APPLY_LIMIT, shared.frontier.reached(upto)).await.is_err() {
            return Err(busy(format!("writes up to index {upto} wait for the other site: ask again once they do not")));
        }
        tracing::info!("the records of this node are copied");
        let copied =
            Arc::new(Copied { reading: Mutex::new(Some((export, place))), used: Mutex::new(InstantOf::<RT>::now()) });
        let watched = Arc::downgrade(&copied);
        detach::<RT>(async move {
            loop {
                let Some(idle) = watched.upgrade().map(|copied| copied.used.lock().elapsed()) else { return };
                if idle >= KEPT {
                    // Whoever pulls it holds on to the rest: what it pins goes.
                    watched.upgrade().iter().for_each(|copied| drop(copied.reading.lock().take()));
                    return;
                }
                RT::sleep(KEPT - idle).await;
            }
        });
        let chunks = futures::stream::unfold(Some((shared, copied)), move |goes_on| async move {
            let (shared, copied) = goes_on?;
            let read = copied.clone();
            let chunk =
                RT::disk(Takes::Long, move || read.reading.lock().as_mut().map(|(export, _)| export.next_chunk()));
            match chunk.await {
                Some(Ok(chunk)) => {
                    let chunk = chunk?;
                    shared.exports.pay::<RT>(chunk.len()).await;
                    *copied.used.lock() = InstantOf::<RT>::now();
                    Some((Ok(chunk), Some((shared, copied))))
                }
                Some(Err(error)) => Some((Err(stopped(error)), None)),
                None => Some((
                    Err(busy(format!("nothing of the copy was read for {} s: begin again", KEPT.as_secs()))),
                    None,
                )),
            }
        });
        Ok(chunks.boxed())
    }
}

impl<RT: Runtime> Shared<RT> {
    /// Answers a receiver that has been let in.
    pub(crate) async fn serve_export(
        self: &Arc<Self>,
        receiver: NodeId,
        request: FetchRequest,
    ) -> BoxStream<'static, FetchReply> {
        let only = |part: FetchPart| futures::stream::iter([FetchReply::from(part)]).boxed();
        let found = match request.export_id.is_empty() {
            true => match self.begin_export(receiver, request.at_least.map(LogId::from), request.outlined).await {
                Ok(begun) => Some(begun),
                Err(refusal) => return only(FetchPart::Refused(refusal)),
            },
            false => self.exports.find(&request.export_id, receiver),
        };
        let Some((id, pinned)) = found else {
            return only(FetchPart::Gone(Nothing {}));
        };
        if !request.spans.is_empty() {
            let begin = (self.clone(), Arc::downgrade(&pinned), VecDeque::from(request.spans));
            let chunks = futures::stream::unfold(begin, move |(shared, pinned, spans)| async move {
                let (part, left) = shared.next_of_spans(id, pinned.upgrade()?, spans).await?;
                Some((FetchReply::from(part), (shared, pinned, left)))
            });
            return chunks.boxed();
        }
        let resumed = pinned.clone();
        let turn = RT::disk(Takes::Long, move || {
            let mut reading = resumed.reading.lock();
            let turn = reading.export.resume_at(request.from_chunk).then_some(reading.turn + 1)?;
            reading.turn = turn;
            Some(turn)
        });
        let Some(turn) = turn.await else {
            return only(FetchPart::Gone(Nothing {}));
        };
        let began = FetchReply::from(FetchPart::Began(Bytes::copy_from_slice(&id)));
        // A receiver that hangs does not keep what the table has let go.
        let (shared, pinned) = (self.clone(), Arc::downgrade(&pinned));
        let chunks = futures::stream::unfold(true, move |goes_on| {
            let (shared, pinned) = (shared.clone(), pinned.upgrade().filter(|_| goes_on));
            async move {
                let next = shared.next_of_export(id, pinned?, turn).await;
                next.map(|part| {
                    let goes_on = matches!(part, FetchPart::Chunk(_));
                    (FetchReply::from(part), goes_on)
                })
            }
        });
        let parts = if request.outlined { 1 } else { usize::MAX };
        futures::stream::iter([began]).chain(chunks.take(parts)).boxed()
    }

    async fn begin_export(
        self: &Arc<Self>,
        receiver: NodeId,
        at_least: Option<LogId>,
        outlined: bool,
    ) -> Result<(ExportId, Arc<Pinned<InstantOf<RT>>>), Refusal> {
        let own = self.claim.node_id;
        if let Some(log_id) = at_least {
            let _in_time = RT::timeout(APPLY_LIMIT, self.applied(log_id.index)).await;
            let applied = self.store.applied().log_id;
            if applied < at_least {
                let applied = applied.map_or("nothing".to_owned(), |applied| format!("log id {applied}"));
                let message = format!("node {own} has applied {applied}, not yet {log_id}: ask another node");
                return Err(Refusal::new(RefusalCode::Busy, message));
            }
        }
        let export = self.store.export().map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        let export = if outlined { export.outlined() } else { export };
        let id: ExportId = rand::RngExt::random(&mut RT::thread_rng());
        let Some(pinned) = self.exports.begin(id, receiver, export) else {
            let message = format!("node {own} is sending its state to {OPEN_MAX} other nodes: ask again later");
            return Err(Refusal::new(RefusalCode::Busy, message));
        };
        tracing::info!(receiver, "a node pulls the records of this one");
        let (shared, watched) = (self.clone(), Arc::downgrade(&pinned));
        detach::<RT>(async move {
            loop {
                let Some(idle) = watched.upgrade().map(|pinned| pinned.used.lock().elapsed()) else { return };
                if idle >= KEPT {
                    shared.exports.open.lock().remove(&id);
                    return;
                }
                RT::sleep(KEPT - idle).await;
            }
        });
        Ok((id, pinned))
    }

    /// The next part of the stream that is in turn; none ends it.
    async fn next_of_export(&self, id: ExportId, pinned: Arc<Pinned<InstantOf<RT>>>, turn: u64) -> Option<FetchPart> {
        let read = pinned.clone();
        let chunk = RT::disk(Takes::Long, move || {
            let mut reading = read.reading.lock();
            // The receiver has come back on another connection.
            if reading.turn == turn { reading.export.next_chunk() } else { Ok(None) }
        });
        self.sent(id, &pinned, chunk.await).await
    }

    /// Rows that a receiver lacks, and the spans that are left then; none: all have been sent.
    async fn next_of_spans(
        &self,
        id: ExportId,
        pinned: Arc<Pinned<InstantOf<RT>>>,
        mut spans: VecDeque<Span>,
    ) -> Option<(FetchPart, VecDeque<Span>)> {
        let read = pinned.clone();
        let read = RT::disk(Takes::Long, move || {
            let chunk = read.reading.lock().export.rows_of(&mut spans);
            (chunk, spans)
        });
        let (chunk, left) = read.await;
        Some((self.sent(id, &pinned, chunk).await?, left))
    }

    /// What was read, once it is paid for.
    async fn sent(
        &self,
        id: ExportId,
        pinned: &Pinned<InstantOf<RT>>,
        chunk: Result<Option<Bytes>, StoreError>,
    ) -> Option<FetchPart> {
        match chunk {
            Ok(chunk) => {
                let chunk = chunk?;
                self.exports.pay::<RT>(chunk.len()).await;
                *pinned.used.lock() = InstantOf::<RT>::now();
                Some(FetchPart::Chunk(chunk))
            }
            Err(error) => {
                self.exports.open.lock().remove(&id);
                tracing::error!("read the records for another node: {error}");
                Some(FetchPart::Refused(Refusal::new(RefusalCode::Stopped, error.to_string())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TokioRuntime;

    fn open(id: u8, receiver: NodeId, ended: bool) -> Open {
        Open { id: [id; 16], receiver, ended }
    }

    #[test]
    fn a_receiver_has_one_export_and_a_third_one_waits_for_an_end() {
        assert_eq!(place_for(4, &[]), Some(vec![]));
        assert_eq!(place_for(4, &[open(1, 5, false)]), Some(vec![]));
        assert_eq!(place_for(4, &[open(1, 4, false), open(2, 5, false)]), Some(vec![[1; 16]]));
        assert_eq!(place_for(4, &[open(1, 5, false), open(2, 6, false)]), None);
        assert_eq!(place_for(4, &[open(1, 5, false), open(2, 6, true)]), Some(vec![[2; 16]]));
    }

    #[test]
    fn what_is_sent_is_paid_for_and_what_was_not_used_is_lost() {
        type Clock = InstantOf<TokioRuntime>;
        let start = Clock::now();
        let ms = Duration::from_millis;
        let mut budget = Budget { bytes_per_s: 1000, paid_at: start };
        assert_eq!(budget.take(start, 500), ms(0));
        assert_eq!(budget.take(start, 500), ms(500));
        assert_eq!(budget.take(start + ms(900), 100), ms(100));
        assert_eq!(budget.take(start + ms(5_000), 100), ms(0));
        assert_eq!(budget.take(start + ms(5_000), 100), ms(100));
    }
}

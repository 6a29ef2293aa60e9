//! The receiving side of a state: pulls it from one node, over as many cuts of the link as it takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::Instant as _;
use saola_storage::error::StoreError;
use saola_storage::import::Import;
use saola_storage::orphan::Head;
use saola_storage::types::LogId;

use super::exports::KEPT;
use super::{InstantOf, Shared};
use crate::member::Member;
use crate::transport::{PeerAddress, TransportError};
use crate::types::{Runtime, Takes};
use crate::wire::{FetchPart, FetchReply, FetchRequest, Refusal};

/// Pause before a cut transfer is tried again; doubles up to the longest while nothing arrives.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A chunk may take so long: the slowest budget that a source may have sends one in a quarter of it. A connection that
/// is dead ends much earlier, by its keep-alives.
const CHUNK_LIMIT: Duration = Duration::from_secs(30);
/// So often a transfer is begun with one source. It forgets an export that was not asked for in a while.
const BEGINNINGS_MAX: u32 = 3;

/// Why a node's state could not be had. Nothing has changed here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// It does not give it, at least not now.
    #[error("{node} does not send its records: {}", .refusal.message)]
    Refused {
        /// Its name.
        node: String,
        /// What it says.
        refusal: Refusal,
    },
    /// Nothing has come for too long.
    #[error("{node} has sent nothing for {silent_s} s ({reason}); see that it runs and can be reached")]
    Silent {
        /// Its name.
        node: String,
        /// Seconds.
        silent_s: u64,
        /// What the last attempt ended with.
        reason: String,
    },
    /// It lets go of each transfer before it has ended.
    #[error(
        "{node} forgets each transfer of its records before it has ended; see that it does not restart all the time"
    )]
    Forgets {
        /// Its name.
        node: String,
    },
    /// The disk here has no room for a second copy.
    #[error(
        "this node's disk has {free_bytes} bytes free, less than limits.min_free_bytes ({min_free_bytes}), and no room for \
         another copy of the records: make room"
    )]
    NoRoom {
        /// Free bytes.
        free_bytes: u64,
        /// The mark.
        min_free_bytes: u64,
    },
    /// What it sends cannot be taken.
    #[error("the records that {node} sends cannot be taken")]
    Bad {
        /// Its name.
        node: String,
        /// What is wrong.
        source: StoreError,
    },
}

impl FetchError {
    /// With its cause, in one line.
    pub(super) fn in_full(&self) -> String {
        let cause = std::error::Error::source(self);
        cause.map_or(self.to_string(), |cause| format!("{self}: {cause}"))
    }
}

/// Where writes go that are here and do not come.
#[derive(Clone, Debug)]
pub(super) struct Orphans {
    /// Of bundles.
    pub(super) folder: PathBuf,
    /// Says where they come from.
    pub(super) head: Head,
}

/// A transfer under way.
struct Transfer {
    /// What the source calls it; empty: it has not answered yet.
    export_id: Bytes,
    import: Import,
}

/// How one connection ended.
enum End {
    Whole,
    Gone,
    Cut(String),
    Failed(FetchError),
}

/// Pulls the whole state of `from`, which must have applied `at_least`. What comes back is complete, checked and on
/// stable storage beside the present state; `Import::finish` would make it the current one. Gives up when nothing has
/// come for `patience`.
pub(crate) async fn fetch_state<RT: Runtime>(
    shared: &Arc<Shared<RT>>,
    from: &Member,
    at_least: Option<LogId>,
    patience: Duration,
    orphans: Option<&Orphans>,
) -> Result<Import, FetchError> {
    let pulled = pull(shared, from, at_least, patience, orphans).await;
    if pulled.is_err() {
        // What has come would keep its room until the next flush, which a full disk puts off.
        let store = shared.store.clone();
        RT::disk(Takes::Long, move || store.discard_unfinished()).await;
    }
    pulled
}

async fn pull<RT: Runtime>(
    shared: &Arc<Shared<RT>>,
    from: &Member,
    at_least: Option<LogId>,
    patience: Duration,
    orphans: Option<&Orphans>,
) -> Result<Import, FetchError> {
    let mut transfer = begin(shared, from, orphans).await?;
    let (mut beginnings, mut pause, mut came) = (1, PAUSE, InstantOf::<RT>::now());
    loop {
        let before = transfer.import.shipped();
        let end;
        (transfer, end) = attempt(shared, from, at_least, transfer).await;
        if transfer.import.shipped() != before {
            (pause, came) = (PAUSE, InstantOf::<RT>::now());
        }
        let reason = match end {
            End::Whole => return Ok(transfer.import),
            End::Failed(error) => return Err(error),
            End::Gone if beginnings < BEGINNINGS_MAX => {
                beginnings += 1;
                transfer = begin(shared, from, orphans).await?;
                continue;
            }
            End::Gone => return Err(FetchError::Forgets { node: from.name.clone() }),
            End::Cut(reason) => reason,
        };
        // What has come would be lost with another source, so it is waited for as long as this one keeps its place.
        let patience = if transfer.import.received() > 0 { patience.max(KEPT) } else { patience };
        if came.elapsed() >= patience {
            let silent_s = came.elapsed().as_secs();
            return Err(FetchError::Silent { node: from.name.clone(), silent_s, reason });
        }
        RT::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

async fn begin<RT: Runtime>(
    shared: &Arc<Shared<RT>>,
    from: &Member,
    orphans: Option<&Orphans>,
) -> Result<Transfer, FetchError> {
    let (store, orphans) = (shared.store.clone(), orphans.cloned());
    let import = RT::disk(Takes::Long, move || {
        store.import_difference(orphans.as_ref().map(|it| (it.folder.as_path(), it.head.clone())))
    });
    let import = import.await;
    let import = import.map_err(|source| FetchError::Bad { node: from.name.clone(), source })?;
    Ok(Transfer { export_id: Bytes::new(), import })
}

/// Takes what comes over one connection.
async fn attempt<RT: Runtime>(
    shared: &Arc<Shared<RT>>,
    from: &Member,
    at_least: Option<LogId>,
    mut transfer: Transfer,
) -> (Transfer, End) {
    // What was lacking when the last connection was cut comes first.
    let filled;
    (transfer, filled) = fill(shared, from, transfer).await;
    if let Err(end) = filled {
        return (transfer, end);
    }
    // Outlines come one a call: those that nobody reads yet would take the room of the rows.
    let mut asked_for = None;
    let mut replies: Replies = futures::stream::empty().boxed();
    loop {
        let received = transfer.import.received();
        let chunk = match next_chunk(shared, from, &mut replies, &mut transfer.export_id).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) if asked_for == Some(received) => {
                return (transfer, End::Cut("the connection was closed".to_owned()));
            }
            Ok(None) => {
                asked_for = Some(received);
                let request = FetchRequest {
                    header: Some(shared.header(from, 0)),
                    export_id: transfer.export_id.clone(),
                    from_chunk: received,
                    at_least: at_least.map(Into::into),
                    outlined: transfer.import.takes_outlines(),
                    spans: Vec::new(),
                };
                replies = match ask(shared, from, request).await {
                    Ok(replies) => replies,
                    Err(end) => return (transfer, end),
                };
                continue;
            }
            Err(end) => return (transfer, end),
        };
        let mut taken;
        (transfer, taken) = take::<RT>(from, transfer, move |import| import.write(&chunk)).await;
        if taken.is_ok() {
            (transfer, taken) = fill(shared, from, transfer).await;
        }
        match taken {
            Ok(()) if transfer.import.manifest().is_some() => return (transfer, End::Whole),
            Ok(()) => {}
            Err(end) => return (transfer, end),
        }
    }
}

type Replies = BoxStream<'static, Result<FetchReply, TransportError>>;

fn late<E>(_: E) -> End {
    End::Cut(format!("nothing within {} s", CHUNK_LIMIT.as_secs()))
}

async fn ask<RT: Runtime>(shared: &Shared<RT>, from: &Member, request: FetchRequest) -> Result<Replies, End> {
    let address = PeerAddress { address: from.peer_address.clone(), name: from.name.clone() };
    let asked = RT::timeout(CHUNK_LIMIT, shared.transport.fetch(&address, request)).await.map_err(late)?;
    asked.map_err(|error| End::Cut(error.reason().to_owned()))
}

/// The next chunk of a connection; none: it was closed.
async fn next_chunk<RT: Runtime>(
    shared: &Shared<RT>,
    from: &Member,
    replies: &mut Replies,
    export_id: &mut Bytes,
) -> Result<Option<Bytes>, End> {
    loop {
        let reply = match RT::timeout(CHUNK_LIMIT, replies.next()).await.map_err(late)? {
            Some(reply) => reply.map_err(|error| End::Cut(error.reason().to_owned()))?,
            None => return Ok(None),
        };
        return match reply.part {
            Some(FetchPart::Began(id)) => {
                *export_id = id;
                continue;
            }
            Some(FetchPart::Chunk(_)) if shared.free_bytes() < shared.min_free_bytes() => {
                let (free_bytes, min_free_bytes) = (shared.free_bytes(), shared.min_free_bytes());
                Err(End::Failed(FetchError::NoRoom { free_bytes, min_free_bytes }))
            }
            Some(FetchPart::Chunk(chunk)) => Ok(Some(chunk)),
            Some(FetchPart::Gone(_)) => Err(End::Gone),
            Some(FetchPart::Refused(refusal)) => {
                Err(End::Failed(FetchError::Refused { node: from.name.clone(), refusal }))
            }
            None => Err(End::Cut("an answer of the wrong kind".to_owned())),
        };
    }
}

/// Has the import take something, on a thread that may wait for the disk.
async fn take<RT: Runtime>(
    from: &Member,
    transfer: Transfer,
    taking: impl FnOnce(&mut Import) -> Result<(), StoreError> + Send + 'static,
) -> (Transfer, Result<(), End>) {
    let Transfer { export_id, mut import } = transfer;
    let (import, taken) = RT::disk(Takes::Long, move || {
        let taken = taking(&mut import);
        (import, taken)
    })
    .await;
    let bad = |source| End::Failed(FetchError::Bad { node: from.name.clone(), source });
    (Transfer { export_id, import }, taken.map_err(bad))
}

/// Asks for the rows that the outline shows to be lacking, until none are.
async fn fill<RT: Runtime>(shared: &Shared<RT>, from: &Member, mut transfer: Transfer) -> (Transfer, Result<(), End>) {
    loop {
        let spans = transfer.import.lacking();
        if spans.is_empty() {
            return (transfer, Ok(()));
        }
        let (header, export_id) = (Some(shared.header(from, 0)), transfer.export_id.clone());
        let request = FetchRequest { header, export_id, spans, ..FetchRequest::default() };
        let before = transfer.import.filled();
        let mut replies = match ask(shared, from, request).await {
            Ok(replies) => replies,
            Err(end) => return (transfer, Err(end)),
        };
        loop {
            let chunk = match next_chunk(shared, from, &mut replies, &mut transfer.export_id).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(end) => return (transfer, Err(end)),
            };
            let taken;
            (transfer, taken) = take::<RT>(from, transfer, move |import| import.fill(&chunk)).await;
            if taken.is_err() {
                return (transfer, taken);
            }
        }
        if transfer.import.filled() == before && !transfer.import.lacking().is_empty() {
            return (transfer, Err(End::Cut("the rows that were asked for did not come".to_owned())));
        }
    }
}

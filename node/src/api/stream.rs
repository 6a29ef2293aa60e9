//! Answers of many messages, for readers that may be slow or stop reading.
//!
//! Each holds a thread and a view of the store until it ends, so there are only so many at a time, and one whose reader
//! takes nothing for a while is ended with an error.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::errors::{Reason, Refusal};

/// Streams of one node at a time; one more is answered BUSY. Tokio's pool of blocking threads has 512.
const STREAMS: usize = 128;
/// Messages that wait for the reader: it holds a few in memory, not the whole answer.
const AHEAD: usize = 4;
/// A reader that takes nothing for so long has stopped reading.
const PATIENCE: Duration = Duration::from_secs(30);

/// A streamed answer.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The streams of one node.
pub struct Streams {
    free: Arc<Semaphore>,
    patience: Duration,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams { free: Arc::new(Semaphore::new(STREAMS)), patience: PATIENCE }
    }
}

/// Where a streamed answer goes.
pub struct Sink<T> {
    messages: mpsc::Sender<Result<T, Status>>,
    patience: Duration,
    stalled: std::cell::Cell<bool>,
}

impl<T> Sink<T> {
    /// Hands the next message to the reader; false when there is no use in another one.
    pub fn send(&self, message: Result<T, Refusal>) -> bool {
        let goes_on = message.is_ok();
        let sending = self.messages.send_timeout(message.map_err(Status::from), self.patience);
        match Handle::current().block_on(sending) {
            Ok(()) => goes_on,
            Err(SendTimeoutError::Closed(_)) => false,
            Err(SendTimeoutError::Timeout(_)) => {
                self.stalled.set(true);
                false
            }
        }
    }
}

impl Streams {
    /// Begins a stream; `produce` runs on a thread that may wait for the disk and for the reader.
    ///
    /// # Errors
    /// BUSY when too many are under way.
    pub fn begin<T: Send + 'static>(
        &self,
        produce: impl FnOnce(&Sink<T>) + Send + 'static,
    ) -> Result<Answers<T>, Refusal> {
        let permit = self.free.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(
                Reason::Busy,
                format!("this node sends {STREAMS} histories already"),
                "ask another node, or again in a moment; read each history to its end",
            )
        })?;
        let patience = self.patience;
        let (messages, receiver) = mpsc::channel(AHEAD);
        let (stalled, end) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let sink = Sink { messages, patience, stalled: false.into() };
            produce(&sink);
            if sink.stalled.get() {
                let why = Refusal::new(
                    Reason::Busy,
                    format!("the reader took nothing for {} s, so the answer is cut short here", patience.as_secs()),
                    "ask again and read the answer without long pauses",
                );
                // A reader that is gone needs no reason.
                let _gone = stalled.send(Status::from(why));
            }
            drop(permit);
        });
        let end = stream::once(end).filter_map(|why| std::future::ready(why.ok().map(Err)));
        Ok(ReceiverStream::new(receiver).chain(end).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(count: usize) -> Streams {
        Streams { free: Arc::new(Semaphore::new(count)), patience: Duration::from_millis(1) }
    }

    fn count_up(sink: &Sink<u64>) {
        let _all_sent = (0..1_000).all(|number| sink.send(Ok(number)));
    }

    #[tokio::test]
    async fn a_reader_that_stops_reading_gives_its_thread_back_and_hears_why() {
        let streams = streams(1);
        let mut answers = streams.begin(count_up).expect("one is free");
        let refused = streams.begin(count_up).map(|_| ()).expect_err("none is free");
        assert_eq!(refused.reason(), Reason::Busy);
        // Nothing is read until the thread has given up.
        let _free = streams.free.clone().acquire_owned().await.expect("nobody closes it");
        let mut read = 0;
        let status = loop {
            match answers.next().await.expect("the end has a reason") {
                Ok(number) => {
                    assert_eq!(number, read);
                    read += 1;
                }
                Err(status) => break status,
            }
        };
        assert_eq!(read, AHEAD as u64);
        assert!(status.message().contains("cut short"), "{status}");
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_whole_answer_ends_without_an_error_and_a_refusal_ends_it() {
        let streams = Streams { patience: PATIENCE, ..streams(2) };
        let whole = streams.begin(count_up).expect("one is free");
        assert_eq!(whole.filter_map(|answer| std::future::ready(answer.ok())).count().await, 1_000);
        let broken = streams.begin(|sink: &Sink<u64>| {
            let refusal = Refusal::plain(Reason::Corrupt, "rot".into());
            assert!(sink.send(Ok(1)) && !sink.send(Err(refusal)));
        });
        let broken: Vec<_> = broken.expect("one is free").collect().await;
        assert!(matches!(&broken[..], [Ok(1), Err(status)] if status.message() == "rot"));
    }
}

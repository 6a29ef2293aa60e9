//! Numbers the writes of one client, so that a retry is recognised.
//!
//! A session is a client id with the log index that the client had seen before its first write. The cluster keeps a
//! session's outcomes from `done_below` on; a session that it has forgotten is given up for a new one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::proto;
use crate::types::RequestId;

/// One client id and its open calls.
pub(crate) struct Session {
    client: [u8; 16],
    since: u64,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    last: u64,
    open: BTreeSet<u64>,
}

impl Session {
    pub fn new(client: [u8; 16], since: u64) -> Arc<Session> {
        Arc::new(Session { client, since, calls: Mutex::default() })
    }

    /// Opens the next call. It is settled when the ticket is dropped.
    pub fn open(self: &Arc<Session>) -> Ticket {
        let mut calls = self.calls();
        calls.last += 1;
        let sequence = calls.last;
        calls.open.insert(sequence);
        drop(calls);
        Ticket { session: self.clone(), sequence }
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        // Every change under the lock is one step, so a panic elsewhere leaves it whole.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open write. While it lives, the cluster is asked to keep its outcome.
pub(crate) struct Ticket {
    session: Arc<Session>,
    sequence: u64,
}

impl Ticket {
    pub fn id(&self) -> RequestId {
        RequestId { client: self.session.client, since: self.session.since, sequence: self.sequence }
    }

    /// The id as sent, with the lowest call that is still open.
    pub fn to_proto(&self) -> proto::RequestId {
        proto::RequestId {
            client: Bytes::copy_from_slice(&self.session.client),
            since: self.session.since,
            sequence: self.sequence,
            done_below: self.session.calls().open.first().copied().unwrap_or(self.sequence),
        }
    }

    pub fn is_of(&self, session: &Arc<Session>) -> bool {
        Arc::ptr_eq(&self.session, session)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.calls().open.remove(&self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_below_is_the_lowest_open_call() {
        let session = Session::new([7; 16], 42);
        let (first, second) = (session.open(), session.open());
        assert_eq!((first.id().sequence, second.id().sequence, second.id().since), (1, 2, 42));
        assert_eq!(second.to_proto().done_below, 1);
        drop(first);
        assert_eq!(second.to_proto().done_below, 2);
        let third = session.open();
        drop(second);
        assert_eq!((third.id().sequence, third.to_proto().done_below), (3, 3));
    }
}

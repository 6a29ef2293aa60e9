//! The request table: makes a retried call take effect once.
//!
//! It lives decoded in memory and is written row by row with each batch. It is bounded: when it holds more outcomes
//! than allowed, the clients whose newest call is oldest in the log are forgotten, and the floor rises to the
//! `since` they had; an unknown client at or below the floor may be one of them and is refused. `since` is a log index,
//! and each command has one of its own, a refused one too: so whoever asks anew after an eviction is told of an index
//! above the floor. (A revision can stand still while clients come and go, and then the floor would shut everybody out.)

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::draft::Draft;
use crate::command::{Outcome, RequestId};
use crate::digest::Item;
use crate::engine::{EngineView, KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::requests::{Call, RequestRow};
use crate::keyspace::{decode_value, encode_value};
use crate::planted::{self, Bug};

/// Most outcomes kept of one client, so that its row stays small: a client that leaves more calls unsettled than
/// this gets its oldest ones forgotten.
const MAX_CALLS: usize = 4096;

#[derive(Default)]
struct Client {
    since: u64,
    done_below: u64,
    last_used: u64,
    calls: BTreeMap<u64, Outcome>,
    /// The row as it was last written.
    written: Option<Item>,
}

impl Client {
    /// What it counts against the bound; a client without outcomes takes a row too.
    fn size(&self) -> usize {
        self.calls.len().max(1)
    }
}

/// What the table says about a command before it is run.
pub(super) enum Known {
    /// An earlier entry decided it so.
    Decided(Outcome),
    /// It may have been decided by an entry whose outcome is forgotten.
    Expired,
    /// It is new.
    New,
}

/// The table.
pub(crate) struct RequestTable {
    clients: BTreeMap<Bytes, Client>,
    /// All clients, by log index of their newest call.
    by_use: BTreeSet<(u64, Bytes)>,
    /// Sum of the clients' sizes.
    entries: usize,
    max_entries: usize,
    floor: u64,
    /// Clients whose rows differ from what is written.
    touched: BTreeSet<Bytes>,
    /// Rows that are written but forgotten here.
    forgotten: BTreeMap<Bytes, Item>,
}

impl RequestTable {
    pub fn load(view: &dyn EngineView, max_entries: usize, floor: u64) -> Result<RequestTable, StoreError> {
        let mut table = RequestTable {
            clients: BTreeMap::new(),
            by_use: BTreeSet::new(),
            entries: 0,
            max_entries: max_entries.max(1),
            floor,
            touched: BTreeSet::new(),
            forgotten: BTreeMap::new(),
        };
        for row in view.scan(Kind::Requests, KeyRange::all(), false) {
            let (key, value) = row?;
            let written = Some(Item::new(Kind::Requests, &key, &value));
            let RequestRow { since, done_below, last_used, calls } = decode_value(Kind::Requests, &key, value)?;
            let calls = calls.into_iter().map(|call| (call.sequence, call.outcome)).collect();
            let client = Client { since, done_below, last_used, calls, written };
            table.entries += client.size();
            table.by_use.insert((last_used, key.clone()));
            table.clients.insert(key, client);
        }
        Ok(table)
    }

    /// Unknown clients whose `since` is at or below it are refused.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Looks a command of the entry at `index` up, and notes that its client is alive.
    pub(super) fn look_up(&mut self, request: &RequestId, index: u64) -> Known {
        let client = match self.clients.get_mut(&request.client) {
            Some(client) => client,
            None if request.since <= self.floor => return Known::Expired,
            None => {
                self.entries += 1;
                self.clients.entry(request.client.clone()).or_default()
            }
        };
        self.by_use.remove(&(client.last_used, request.client.clone()));
        self.by_use.insert((index, request.client.clone()));
        self.touched.insert(request.client.clone());
        client.last_used = index;
        // A client saw its index before this entry was there; believed, it could raise the floor above everybody.
        client.since = client.since.max(request.since.min(index.saturating_sub(1)));
        let known = client.calls.get(&request.sequence).filter(|_| !planted::is(Bug::RequestForgotten));
        if let Some(outcome) = known {
            return Known::Decided(outcome.clone());
        }
        if request.sequence < client.done_below {
            return Known::Expired;
        }
        Known::New
    }

    /// Keeps the outcome of a command that was new, and forgets what is settled or too much.
    pub(super) fn record(&mut self, request: &RequestId, outcome: Outcome) {
        let Some(client) = self.clients.get_mut(&request.client) else {
            return;
        };
        // The command may have had all rows settled, to take their digest.
        self.touched.insert(request.client.clone());
        let before = client.size();
        client.calls.insert(request.sequence, outcome);
        client.done_below = client.done_below.max(request.done_below);
        client.calls = client.calls.split_off(&client.done_below);
        while client.calls.len() > MAX_CALLS.min(self.max_entries) {
            if let Some((sequence, _)) = client.calls.pop_first() {
                client.done_below = sequence + 1;
            }
        }
        self.entries = self.entries - before + client.size();
        self.evict(&request.client);
    }

    fn evict(&mut self, spared: &Bytes) {
        while self.entries > self.max_entries {
            let oldest = self.by_use.iter().find(|(_, client)| client != spared).cloned();
            let Some((used, id)) = oldest else { return };
            self.by_use.remove(&(used, id.clone()));
            self.touched.remove(&id);
            if let Some(client) = self.clients.remove(&id) {
                self.entries -= client.size();
                self.floor = self.floor.max(client.since);
                if let Some(written) = client.written {
                    self.forgotten.insert(id, written);
                }
            }
        }
    }

    /// Writes what has changed.
    pub(super) fn settle(&mut self, draft: &mut Draft<'_>) {
        for (id, written) in std::mem::take(&mut self.forgotten) {
            draft.remove_row(Kind::Requests, id, written);
        }
        for id in std::mem::take(&mut self.touched) {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let calls = client.calls.iter();
            let value = encode_value(&RequestRow {
                since: client.since,
                done_below: client.done_below,
                last_used: client.last_used,
                calls: calls
                    .map(|(sequence, outcome)| Call { sequence: *sequence, outcome: outcome.clone() })
                    .collect(),
            });
            client.written = Some(draft.replace_row(Kind::Requests, id, client.written, value));
        }
    }
}

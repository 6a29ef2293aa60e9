//! A copy that cannot be used: its rows cannot be read as they were written where apply, or a start, needs them.
//!
//! Reads may fail for a row and the rest of the copy serve on (`quarantine`); but apply must not go past such a row, and
//! what is not whole cannot be opened. So the engine is condemned, for this process and all later ones, and a start
//! on it is a start with an empty store in memory, which applies, serves and exports nothing and only takes another
//! node's state (`import`), or this copy again if all of it reads as it was written after all ([`SecondLook`]). A copy
//! that is condemned knows nothing any more, so who else is a member stands in a note beside it.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::apply::{self, Keeps, Machine};
use crate::digest::BucketSet;
use crate::engine::memory::MemoryEngine;
use crate::engine::{Engine, EngineError, EngineHome, Kind};
use crate::error::StoreError;
use crate::keyspace::meta::{self, MembershipRow};
use crate::keyspace::{decode_value, format};
use crate::quarantine::{Held, Quarantine, name_of_hex};
use crate::read::View;
use crate::scrub::Scrub;
use crate::store::{Applied, Shared, StoreSettings, Writer, view_state};
use crate::types::LogId;

/// A membership, with the entry that set it.
type Members = (LogId, Bytes);

impl Shared {
    /// A store whose home cannot be opened.
    pub(crate) fn ruined(
        home: Arc<dyn EngineHome>,
        settings: StoreSettings,
        damage: &StoreError,
    ) -> Result<Shared, StoreError> {
        let why = damage.to_string();
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let mut machine = Machine::load(&*engine.view(), Keeps::Records, settings.max_request_entries)?;
        machine.applied.membership = home.note()?.and_then(read_note);
        let shared = Shared::new(home, Keeps::Records, settings, (engine, machine))?;
        shared.hold_all(&why);
        let mut writer = shared.writer.lock();
        (writer.stopped, writer.ruined) = (Some(why), true);
        drop(writer);
        Ok(shared)
    }

    /// Nothing more may be applied, because of this error; answers what to tell. Damage condemns the copy.
    pub(crate) fn stop(&self, writer: &mut Writer, error: StoreError) -> StoreError {
        // After a failed switch the home's current engine may be another than the one which failed here.
        let error = match error.is_damage() && self.keeps == Keeps::Records && writer.stopped.is_none() {
            true => self.condemn(writer, &error),
            false => error,
        };
        writer.stopped = Some(error.to_string());
        error
    }

    fn condemn(&self, writer: &mut Writer, damage: &StoreError) -> StoreError {
        let why = match damage {
            StoreError::Corrupt { kind, key, why } => {
                format!("{} cannot be read: {why}", name_of_hex(&self.published().catalog, kind, key))
            }
            other => other.to_string(),
        };
        self.hold_all(&why);
        self.note_members(self.published().applied.membership.as_ref());
        if let Err(error) = self.home.condemn(&why) {
            tracing::error!(
                "write down that this copy is not used any more, or the next start meets its damage again: {error}"
            );
        }
        writer.ruined = true;
        StoreError::Ruined { why }
    }

    fn hold_all(&self, why: &str) {
        let held = Held { whole: true, buckets: BucketSet::all(), why: why.to_owned() };
        self.published().quarantine.hold(Some(held));
    }

    /// Writes down who else is a member, if that has changed. It serves a copy that is lost later, so a failure is told
    /// and the next flush tries again.
    pub(crate) fn note_members(&self, members: Option<&Members>) {
        let Some(members) = members.filter(|_| self.keeps == Keeps::Records) else { return };
        let mut noted = self.noted.lock();
        if *noted == Some(members.0) {
            return;
        }
        match self.home.keep_note(&note(members)) {
            Ok(()) => *noted = Some(members.0),
            Err(error) => tracing::warn!("write down the members beside the records: {error}"),
        }
    }
}

/// A copy that cannot be used is read through once more: the disk may have failed only for a while. Dropped before
/// [`SecondLook::finish`], it leaves everything as it was.
pub struct SecondLook {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    machine: Machine,
    quarantine: Arc<Quarantine>,
    scrub: Scrub,
}

impl SecondLook {
    /// `at_least`: a copy that ends before this entry is of no use, as the log begins behind it.
    pub(crate) fn new(shared: Arc<Shared>, at_least: Option<LogId>) -> Result<SecondLook, StoreError> {
        if !shared.writer.lock().ruined {
            return Err(useless("they are in use".to_owned()));
        }
        let engine = shared.home.open_condemned()?;
        let rows = engine.view();
        format::read(&*rows)?;
        let machine = Machine::load(&*rows, shared.keeps, shared.settings.max_request_entries)?;
        if let Some(begins) = at_least.filter(|begins| Some(*begins) > machine.applied.log_id) {
            return Err(useless(format!("they end before {begins}, behind which the log begins")));
        }
        let quarantine = Arc::new(Quarantine::load(&*rows, Arc::clone(&shared.watch))?);
        let scrub = View { state: Arc::new(view_state(rows, &machine, Arc::clone(&quarantine))) }.scrub();
        Ok(SecondLook { shared, engine, machine, quarantine, scrub })
    }

    /// Reads about so many bytes more; true once all rows have been read and are sound.
    ///
    /// # Errors
    /// They are not; this look is over.
    pub fn step(&mut self, max_bytes: usize) -> Result<bool, StoreError> {
        match self.scrub.step(max_bytes) {
            None => Ok(false),
            Some(report) if report.is_bad() || report.damaged > 0 => Err(useless(report.to_string())),
            Some(_) => Ok(true),
        }
    }

    /// Uses the copy again, from its last flush on; for one whose [`SecondLook::step`] was true.
    ///
    /// # Errors
    /// The engine failed.
    pub fn finish(self) -> Result<Applied, StoreError> {
        let SecondLook { shared, engine, machine, quarantine, .. } = self;
        let mut writer = shared.writer.lock();
        if let Some(batch) = format::stamp(format::read(&*engine.view())?) {
            engine.write(batch)?;
        }
        shared.home.absolve()?;
        Ok(shared.go_on_with(&mut writer, engine, machine, quarantine))
    }
}

fn useless(why: String) -> StoreError {
    EngineError { what: "use the records again".to_owned(), source: why.into(), damage: true }.into()
}

/// CRC-32 of what follows, little-endian, and the value of the membership row.
fn note((at, members): &Members) -> Bytes {
    let row = apply::membership_value(*at, members);
    let mut bytes = BytesMut::with_capacity(4 + row.len());
    bytes.put_u32_le(crc32fast::hash(&row));
    bytes.put(row);
    bytes.freeze()
}

/// None: it is damaged.
fn read_note(mut bytes: Bytes) -> Option<Members> {
    let crc = bytes.try_get_u32_le().ok()?;
    if crc != crc32fast::hash(&bytes) {
        return None;
    }
    let row: MembershipRow = decode_value(Kind::Meta, meta::MEMBERSHIP, bytes).ok()?;
    Some((row.log_id.into(), row.membership))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderId;

    #[test]
    fn the_note_of_the_members_comes_back_whole_or_not_at_all() {
        let members = (LogId { leader: LeaderId { term: 2, node_id: 1 }, index: 7 }, Bytes::from_static(b"members"));
        let written = note(&members);
        assert_eq!(read_note(written.clone()), Some(members));
        for cut in 0..written.len() {
            assert_eq!(read_note(written.slice(..cut)), None, "cut to {cut}");
        }
        for place in 0..written.len() {
            let mut bytes = written.to_vec();
            bytes[place] ^= 1;
            assert_eq!(read_note(bytes.into()), None, "byte {place} flipped");
        }
    }
}

//! Replaces a damaged copy by a sound one at the same log index.
//!
//! Another node's state is older than this one, because this node has gone on applying while it came. What lies between
//! is applied to it again from this node's own log, whose entries are checked by their CRC when they are read. So the
//! index up to which this node has applied never moves, and whoever counts on it, as Raft does, notices nothing.

use std::sync::Arc;

use crate::apply::{Applied, ApplyEntry, Machine};
use crate::engine::Engine;
use crate::error::StoreError;
use crate::import::{Import, ImportError, Whole};

/// Entries that are left for the last stretch at most, during which nothing else is applied here.
const LAST_STRETCH: u64 = 64;

/// Reads committed entries of this node's log, in order and without a gap: from the first index given, up to the second
/// one (inclusive) or fewer.
pub type ReadLog<'l> = dyn FnMut(u64, u64) -> Result<Vec<ApplyEntry>, StoreError> + 'l;

fn index_of(applied: &Applied) -> u64 {
    applied.log_id.map_or(0, |last| last.index)
}

impl Import {
    /// Checks the whole received state, brings it to the index that this node has applied, and makes it the current
    /// one. What was held back of the old one is served again. Views taken before stay as they are.
    ///
    /// # Errors
    /// The stream is incomplete or does not hold together, this node has not come as far or its log does not reach back
    /// so far, or the engine or the log failed; the old state stays.
    pub fn replace_damaged(self, read_log: &mut ReadLog<'_>) -> Result<Applied, StoreError> {
        let Whole { shared, generation, engine, mut machine } = self.whole()?;
        let received = index_of(&machine.applied);
        let published = || index_of(&shared.writer.lock().machine.applied);
        let applied = published();
        if received > applied {
            return Err(ImportError::Newer { received, applied }.into());
        }
        loop {
            let target = published();
            if target - index_of(&machine.applied) <= LAST_STRETCH {
                break;
            }
            catch_up(&*engine, &mut machine, target, read_log)?;
        }
        // Most of it reaches the disk while this node still applies.
        engine.flush()?;
        let mut writer = shared.writer.lock();
        if let Some(reason) = &writer.stopped {
            return Err(StoreError::Stopped { reason: reason.clone() });
        }
        let target = index_of(&writer.machine.applied);
        catch_up(&*engine, &mut machine, target, read_log)?;
        if machine.applied.log_id != writer.machine.applied.log_id {
            let why = format!(
                "with this node's log it leads to {:?}, not to {:?}",
                machine.applied.log_id, writer.machine.applied.log_id
            );
            return Err(ImportError::Inconsistent { why }.into());
        }
        engine.flush()?;
        let applied = shared.make_current(&mut writer, generation, Arc::clone(&engine), machine)?;
        drop(writer);
        shared.discard_others();
        Ok(applied)
    }
}

/// Applies the log behind a received state, up to `target`.
fn catch_up(
    engine: &dyn Engine,
    machine: &mut Machine,
    target: u64,
    read_log: &mut ReadLog<'_>,
) -> Result<(), StoreError> {
    let received = index_of(&machine.applied);
    loop {
        let next = machine.applied.log_id.map_or(0, |last| last.index + 1);
        if next > target {
            return Ok(());
        }
        let entries = read_log(next, target)?;
        // Another log than the own one, or a gap in it, must not pass for this node's history.
        let follow = entries.iter().zip(next..=target).all(|(entry, index)| entry.log_id.index == index);
        if entries.is_empty() || !follow || entries.len() as u64 > target - next + 1 {
            return Err(ImportError::LogGone { received, missing: next }.into());
        }
        let applying = machine.apply(&*engine.view(), entries)?;
        engine.write(applying.batch)?;
    }
}

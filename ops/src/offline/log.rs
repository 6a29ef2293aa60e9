//! x
use saola_storage::folder::StoppedFolder;
pub(super) fn last_index(_f: &StoppedFolder) -> Option<u64> { None }
pub(super) fn releases(_f: &StoppedFolder) -> String { String::new() }

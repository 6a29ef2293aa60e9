//! One node's disk loses power, over and over: its real RocksDB above a file system that forgets what was not synced, and its
//! real log on the simulated disk. After each cut both open again, and must have what they promised.
//!
//! - [`life`]: what a node does between cuts, and what must hold after each; - [`work`]: the writes, sealed;
//! - [`mirror`]: what the records must be, by the ordered map over the same log; - [`fault_fs`]: the file system.
//!
//! RocksDB's threads run as they like, so a seed repeats what is done and not when the power goes; a life is told with both.

pub mod fault_fs;
pub mod life;
pub mod mirror;
pub mod work;

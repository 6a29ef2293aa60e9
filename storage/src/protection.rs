//! How the sites protect each other: what an acknowledgement waits for.

use crate::command::{ProtectionMode, SetProtection};

/// When a write counts as safe (the names are Oracle Data Guard's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A commit is enough: what that is worth when a site is lost depends on the topology.
    #[default]
    MaximumPerformance,
    /// Data nodes of another site have flushed it too; without them writes stall.
    MaximumProtection,
}

/// What the cluster has been told to do. Replicated: it changes at a log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// When a write counts as safe.
    pub mode: Mode,
    /// So many data nodes of other sites must have flushed it, at least 1.
    pub acks: u32,
}

impl Default for Protection {
    fn default() -> Protection {
        Protection { mode: Mode::default(), acks: 1 }
    }
}

impl From<Protection> for SetProtection {
    fn from(protection: Protection) -> SetProtection {
        let mode = match protection.mode {
            Mode::MaximumPerformance => ProtectionMode::MaximumPerformance,
            Mode::MaximumProtection => ProtectionMode::MaximumProtection,
        };
        SetProtection { mode: mode.into(), acks: protection.acks }
    }
}

impl Mode {
    /// As it stands in the log; none: a newer release's.
    pub fn of(written: i32) -> Option<Mode> {
        match ProtectionMode::try_from(written).ok()? {
            ProtectionMode::MaximumPerformance => Some(Mode::MaximumPerformance),
            ProtectionMode::MaximumProtection => Some(Mode::MaximumProtection),
        }
    }
}

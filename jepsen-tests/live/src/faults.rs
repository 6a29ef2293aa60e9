//! What can be done to a cluster of real processes, in one list.

use std::time::Duration;

/// What a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One node.
    Node,
    /// One data node of a site that has a spare machine.
    Spared,
    /// All data nodes of a site, at once.
    Site,
    /// All nodes, at once.
    All,
    /// What lies between hosts, or what people ask for: no node is taken from the others.
    Nobody,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL, and a start.
    Kill,
    /// The same for a site.
    KillSite,
    /// The same for all.
    KillAll,
    /// Ended in order, and started with a new certificate.
    NewCertificate,
    /// Killed for good: `saola cluster replace` puts a fresh node on another machine in its place.
    Replaced,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// The same for a site.
    PauseSite,
    /// The file system is shut down without flushing its log, the process killed; both come back.
    PowerCut,
    /// The same for a site.
    PowerCutSite,
    /// The same for all.
    PowerCutAll,
    /// Nothing more fits on the disk.
    DiskFull,
    /// Writes and syncs of the file system wait.
    DiskHangs,
    /// The kernel finds the file system damaged and makes it read-only; it is mended.
    DiskBreaks,
    /// `fdatasync` fails with EIO.
    SyncFails,
    /// Each `fdatasync` takes longer.
    SyncSlow,
    /// A node and all other hosts do not reach each other.
    CutNode,
    /// A node hears nobody, or nobody hears it.
    CutOneWay,
    /// Two nodes do not reach each other.
    CutPair,
    /// The two sites do not reach each other.
    CutSites,
    /// Clients do not reach a node.
    CutClients,
    /// Packets between sites wait, and overtake each other.
    SlowLinks,
    /// Packets are lost.
    LossyLinks,
    /// Packets arrive twice.
    RepeatedPackets,
    /// A wall clock is set forward or back.
    ClockStep,
    /// `saola switchover` to the other site.
    Switchover,
    /// Leadership is handed to a node.
    Transfer,
    /// `saola protection set`, to another mode and back.
    ModeChange,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 27] = [
        Kind::Kill,
        Kind::KillSite,
        Kind::KillAll,
        Kind::NewCertificate,
        Kind::Replaced,
        Kind::Pause,
        Kind::PauseSite,
        Kind::PowerCut,
        Kind::PowerCutSite,
        Kind::PowerCutAll,
        Kind::DiskFull,
        Kind::DiskHangs,
        Kind::DiskBreaks,
        Kind::SyncFails,
        Kind::SyncSlow,
        Kind::CutNode,
        Kind::CutOneWay,
        Kind::CutPair,
        Kind::CutSites,
        Kind::CutClients,
        Kind::SlowLinks,
        Kind::LossyLinks,
        Kind::RepeatedPackets,
        Kind::ClockStep,
        Kind::Switchover,
        Kind::Transfer,
        Kind::ModeChange,
    ];

    /// As it stands in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::KillSite => "kill-site",
            Kind::KillAll => "kill-all",
            Kind::NewCertificate => "new-certificate",
            Kind::Replaced => "replaced",
            Kind::Pause => "pause",
            Kind::PauseSite => "pause-site",
            Kind::PowerCut => "power-cut",
            Kind::PowerCutSite => "power-cut-site",
            Kind::PowerCutAll => "power-cut-all",
            Kind::DiskFull => "disk-full",
            Kind::DiskHangs => "disk-hangs",
            Kind::DiskBreaks => "disk-breaks",
            Kind::SyncFails => "sync-fails",
            Kind::SyncSlow => "sync-slow",
            Kind::CutNode => "cut-node",
            Kind::CutOneWay => "cut-one-way",
            Kind::CutPair => "cut-pair",
            Kind::CutSites => "cut-sites",
            Kind::CutClients => "cut-clients",
            Kind::SlowLinks => "slow-links",
            Kind::LossyLinks => "lossy-links",
            Kind::RepeatedPackets => "repeated-packets",
            Kind::ClockStep => "clock-step",
            Kind::Switchover => "switchover",
            Kind::Transfer => "transfer",
            Kind::ModeChange => "mode-change",
        }
    }

    /// What it is done to.
    pub fn scope(self) -> Scope {
        match self {
            Kind::KillSite | Kind::PauseSite | Kind::PowerCutSite => Scope::Site,
            Kind::KillAll | Kind::PowerCutAll => Scope::All,
            Kind::Replaced => Scope::Spared,
            Kind::Kill
            | Kind::NewCertificate
            | Kind::Pause
            | Kind::PowerCut
            | Kind::DiskFull
            | Kind::DiskHangs
            | Kind::DiskBreaks
            | Kind::SyncFails
            | Kind::SyncSlow
            | Kind::ClockStep => Scope::Node,
            _ => Scope::Nobody,
        }
    }

    /// A node may end by itself under it, and while it lasts is not started again: its disk is not to be trusted, and it says so
    /// before it ends.
    pub fn may_end_nodes(self) -> bool {
        matches!(self, Kind::DiskHangs | Kind::DiskBreaks | Kind::SyncFails | Kind::SyncSlow)
    }

    /// How long it lasts: a part of this, drawn at random.
    pub fn longest(self) -> Duration {
        Duration::from_millis(match self {
            Kind::NewCertificate | Kind::Switchover | Kind::Transfer => 100,
            Kind::KillAll | Kind::PowerCutAll => 500,
            Kind::Pause | Kind::PauseSite | Kind::SyncFails | Kind::DiskBreaks => 2_500,
            _ => 4_000,
        })
    }
}

/// What came of a try to do a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It was done.
    Installed,
    /// This machine cannot do it, for this reason.
    Skipped(String),
    /// Nobody knows whether it was done, for this reason.
    Indeterminate(String),
}

/// How often a kind was done, could not be done here, and may have been done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// See [`Tried::Installed`].
    pub installed: u64,
    /// See [`Tried::Skipped`].
    pub skipped: u64,
    /// See [`Tried::Indeterminate`].
    pub indeterminate: u64,
    /// The newest reason of one that was not done.
    pub why: String,
}

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, tried: Tried) {
        match tried {
            Tried::Installed => self.installed += 1,
            Tried::Skipped(why) => (self.skipped, self.why) = (self.skipped + 1, why),
            Tried::Indeterminate(why) => (self.indeterminate, self.why) = (self.indeterminate + 1, why),
        }
    }

    /// Counts what another one has counted.
    pub fn add(&mut self, other: Tally) {
        self.installed += other.installed;
        self.skipped += other.skipped;
        self.indeterminate += other.indeterminate;
        if !other.why.is_empty() {
            self.why = other.why;
        }
    }
}

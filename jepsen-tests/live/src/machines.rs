//! What the nodes of a cluster run on: a network namespace each, a disk each, a wall clock each.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use saola_ops::exit::Failure;
use saola_ops::launch::{NodeFiles, Plan, PlannedNode};

use crate::disks::Disk;
use crate::network::{Network, Quality};

/// The host of the clients, which is at the main site.
pub const CLIENTS: &str = "clients";
/// Preloaded into each node: `clock.c`.
const CLOCK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clock.so"));
/// From host to host of one site.
const NEAR: Quality =
    Quality { delay: Duration::from_micros(100), jitter: Duration::ZERO, lost_ppm: 0, twice_ppm: 0, is_cut: false };
/// From site to site.
const FAR: Quality = Quality {
    delay: Duration::from_millis(2),
    jitter: Duration::from_micros(500),
    lost_ppm: 0,
    twice_ppm: 0,
    is_cut: false,
};

/// A fault's part in how packets fare from one host to another.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// What is worse than without the fault; a delay is added.
    pub worse: Quality,
}

/// All of them.
pub struct Machines {
    network: Network,
    /// By node.
    disks: BTreeMap<String, Disk>,
    images: PathBuf,
    /// How far ahead each node's wall clock is stands in a file of its own here, as `clock.c` reads it.
    clocks: PathBuf,
    /// Each host's site.
    sites: BTreeMap<String, String>,
}

impl Machines {
    /// For the nodes of a plan, which it changes so that they run there, and for those that may come later. The disks come with
    /// [`Machines::give_disk`].
    ///
    /// # Errors
    /// Without the rights or the tools.
    pub fn new(plan: &mut Plan, spares: &[PlannedNode], folder: &Path, seed: u64) -> Result<Machines, Failure> {
        let mut sites: BTreeMap<String, String> =
            plan.nodes.iter().chain(spares).map(|node| (node.name.clone(), node.site.clone())).collect();
        sites.insert(CLIENTS.to_owned(), "main".to_owned());
        let names: Vec<&str> = sites.keys().map(String::as_str).collect();
        let network = Network::new(&names, seed)?;
        let (clocks, images) = (folder.join("clocks"), folder.join("images"));
        for folder in [&clocks, &images] {
            fs::create_dir_all(folder)
                .map_err(|source| Failure::file(format!("make {}", folder.display()), &source))?;
        }
        let library = clocks.join("clock.so");
        fs::write(&library, CLOCK).map_err(|source| Failure::file(format!("write {}", library.display()), &source))?;
        let machines = Machines { network, disks: BTreeMap::new(), images, clocks, sites };
        let mut networks = machines.network.networks();
        for (name, network) in &mut networks {
            machines.set_clock(name, 0)?;
            let (library, clock) = (library.display(), machines.clocks.join(name));
            let follows = [format!("LD_PRELOAD={library}"), format!("SAOLA_CLOCK={}", clock.display())];
            network.inside.extend(["env".to_owned()].into_iter().chain(follows));
        }
        plan.networks = networks;
        machines.set_links(&[]);
        Ok(machines)
    }

    /// Gives a node a disk for its data, before it is started.
    ///
    /// # Errors
    /// Without the rights or the tools.
    pub fn give_disk(&mut self, name: &str, files: &NodeFiles) -> Result<(), Failure> {
        let disk = Disk::new(self.images.join(format!("{name}.img")), files.data.clone())?;
        self.disks.insert(name.to_owned(), disk);
        Ok(())
    }

    /// The calling thread, and all that it starts from now on, are at the clients' host.
    ///
    /// # Errors
    /// Without the rights.
    pub fn enter(&self) -> Result<(), Failure> {
        self.network.enter(CLIENTS)
    }

    /// A node's disk.
    ///
    /// # Panics
    /// There is no such node.
    pub fn disk(&mut self, node: &str) -> &mut Disk {
        self.disks.get_mut(node).expect("each node was given a disk")
    }

    /// Takes the disks away, for a look at their images.
    pub fn into_disks(self) -> BTreeMap<String, Disk> {
        self.disks
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.sites.keys().map(String::as_str)
    }

    /// A host's site.
    pub fn site(&self, host: &str) -> &str {
        self.sites.get(host).map_or("", String::as_str)
    }

    /// Packets that were handed to nobody so far, from one host to another.
    pub fn dropped(&self, from: &str, to: &str) -> u64 {
        self.network.counts(from, to).dropped
    }

    /// From now on all links are as distance makes them, and these effects.
    pub fn set_links(&self, effects: &[Effect]) {
        for from in self.hosts() {
            for to in self.hosts().filter(|to| *to != from) {
                let mut quality = if self.site(from) == self.site(to) { NEAR } else { FAR };
                for Effect { worse, .. } in effects.iter().filter(|it| it.from == from && it.to == to) {
                    quality.delay += worse.delay;
                    quality.jitter += worse.jitter;
                    quality.lost_ppm = quality.lost_ppm.max(worse.lost_ppm);
                    quality.twice_ppm = quality.twice_ppm.max(worse.twice_ppm);
                    quality.is_cut |= worse.is_cut;
                }
                self.network.set(from, to, quality);
            }
        }
    }

    /// Sets a node's wall clock so many seconds ahead of the true time.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn set_clock(&self, node: &str, ahead_s: i64) -> Result<(), Failure> {
        let path = self.clocks.join(node);
        // In place: the node has the file mapped.
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let written = file.and_then(|file| file.write_all_at(&(ahead_s * 1_000_000_000).to_ne_bytes(), 0));
        written.map_err(|source| Failure::file(format!("write {}", path.display()), &source))
    }
}

//! Sites in network namespaces of their own, joined by a switch that takes its time: what lies between two data centres,
//! on one machine and without any of its own networks. Needs root, `ip` (package iproute2) and `/dev/net/tun`.
//!
//! Each site has one address, on a TUN device; what its nodes send to each other stays on the loopback of its namespace.
//! A thread for each site reads packets, and a thread for each direction between two sites lets each packet wait for
//! half of a round trip and hands it on, in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use saola_ops::exit::{Exit, Failure};
use saola_ops::launch::SiteNetwork;
use tun_rs::{DeviceBuilder, SyncDevice};

/// What a packet may be long; as on a link within a data centre.
const MTU: u16 = 9000;
/// Threads look so often whether the switch has ended.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

struct Packet {
    due: Instant,
    bytes: Vec<u8>,
}

struct Site {
    name: String,
    namespace: String,
    address: [u8; 4],
    device: Arc<SyncDevice>,
}

/// The sites and their switch. Dropping it removes them.
pub struct Wan {
    sites: Vec<Site>,
    half_us: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

fn failure(doing: &str, source: &dyn std::fmt::Display) -> Failure {
    let next = "run it as root on Linux with iproute2 and /dev/net/tun";
    Failure::new(Exit::Other, format!("{doing}: {source}"), next)
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let doing = format!("ip {}", arguments.join(" "));
    let output: Output = Command::new("ip").args(arguments).output().map_err(|source| failure(&doing, &source))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(failure(&doing, &said.trim())) }
}

fn enter(namespace: &str) -> Result<(), Failure> {
    let doing = format!("enter network namespace {namespace}");
    let file = File::open(Path::new("/run/netns").join(namespace)).map_err(|source| failure(&doing, &source))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|source| failure(&doing, &source))
}

impl Wan {
    /// Sites of these names that nothing delays yet.
    ///
    /// # Errors
    /// Without the rights or the tools.
    pub fn new(names: &[&str]) -> Result<Wan, Failure> {
        let (half_us, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut wan = Wan { sites: Vec::new(), half_us, ended, threads: Vec::new() };
        for (name, last) in names.iter().zip(1..) {
            let namespace = format!("saola-{}-{name}", std::process::id());
            ip(&["netns", "add", &namespace])?;
            let address = [10, 78, 0, last];
            let made = Self::device(&namespace, address);
            match made {
                Ok(device) => {
                    let device = Arc::new(device);
                    wan.sites.push(Site { name: (*name).to_owned(), namespace, address, device });
                }
                Err(failure) => {
                    remove(&namespace);
                    return Err(failure);
                }
            }
        }
        for from in 0..wan.sites.len() {
            let mut lines = BTreeMap::new();
            for to in (0..wan.sites.len()).filter(|to| *to != from) {
                let (sender, receiver) = channel();
                let device = wan.sites[to].device.clone();
                lines.insert(wan.sites[to].address, sender);
                wan.threads.push(std::thread::spawn(move || deliver(&receiver, &device)));
            }
            let (device, half_us, ended) = (wan.sites[from].device.clone(), wan.half_us.clone(), wan.ended.clone());
            wan.threads.push(std::thread::spawn(move || forward(&device, &lines, &half_us, &ended)));
        }
        Ok(wan)
    }

    /// Made by a thread of its own, which is in the namespace meanwhile.
    fn device(namespace: &str, address: [u8; 4]) -> Result<SyncDevice, Failure> {
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        let made = std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                enter(namespace)?;
                let device =
                    DeviceBuilder::new().name("wan").ipv4(Ipv4Addr::from(address), 24, None).mtu(MTU).build_sync();
                let device = device.map_err(|source| failure("make a TUN device", &source))?;
                device.set_nonblocking(true).map_err(|source| failure("use a TUN device", &source))?;
                Ok(device)
            });
            made.join()
        });
        made.map_err(|_| failure("make a TUN device", &"its thread panicked"))?
    }

    /// From now on a packet and its answer between two sites take so much longer than within one.
    pub fn set_round_trip(&self, round_trip: Duration) {
        let half_us = u64::try_from(round_trip.as_micros() / 2).unwrap_or(u64::MAX);
        self.half_us.store(half_us, Ordering::Relaxed);
    }

    /// How long a byte and its answer take over a TCP connection from the calling thread's site to another one: one after
    /// another, so many of them.
    ///
    /// # Errors
    /// No such site, or a connection that fails.
    pub fn echo(&self, to: &str, count: usize) -> Result<Vec<Duration>, Failure> {
        let site = self.site(to)?;
        let doing = format!("send bytes to site {to}");
        let listener = std::thread::scope(|scope| {
            let bound = scope.spawn(|| {
                enter(&site.namespace)?;
                TcpListener::bind((Ipv4Addr::from(site.address), 0)).map_err(|source| failure(&doing, &source))
            });
            bound.join().map_err(|_| failure(&doing, &"a thread panicked"))
        })??;
        let address = listener.local_addr().map_err(|source| failure(&doing, &source))?;
        let answers = std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut byte = [0];
            while stream.read(&mut byte)? > 0 {
                stream.write_all(&byte)?;
            }
            Ok(())
        });
        let ask = || -> std::io::Result<Vec<Duration>> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            let mut times = Vec::new();
            for _ in 0..count {
                let start = Instant::now();
                stream.write_all(&[1])?;
                stream.read_exact(&mut [0])?;
                times.push(start.elapsed());
            }
            Ok(times)
        };
        let times = ask().map_err(|source| failure(&doing, &source))?;
        let answered = answers.join().map_err(|_| failure(&doing, &"a thread panicked"))?;
        answered.map_err(|source| failure(&doing, &source))?;
        Ok(times)
    }

    /// Where the nodes of the sites run, for a plan.
    pub fn networks(&self) -> BTreeMap<String, SiteNetwork> {
        let network = |site: &Site| SiteNetwork {
            address: Ipv4Addr::from(site.address).to_string(),
            inside: ["ip", "netns", "exec", &site.namespace].map(str::to_owned).to_vec(),
        };
        self.sites.iter().map(|site| (site.name.clone(), network(site))).collect()
    }

    /// The calling thread, and all that it starts from now on, are at a site.
    ///
    /// # Errors
    /// No such site.
    pub fn enter(&self, name: &str) -> Result<(), Failure> {
        enter(&self.site(name)?.namespace)
    }

    fn site(&self, name: &str) -> Result<&Site, Failure> {
        let site = self.sites.iter().find(|site| site.name == name);
        site.ok_or_else(|| failure("find a site", &format!("there is no {name}")))
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("warning: a thread of the switch has panicked");
            }
        }
        self.sites.iter().for_each(|site| remove(&site.namespace));
    }
}

fn remove(namespace: &str) {
    if let Err(failure) = ip(&["netns", "del", namespace]) {
        eprintln!("warning: {}", failure.what());
    }
}

/// Reads what a site sends. It ends with the switch, and the lines with it.
fn forward(device: &SyncDevice, lines: &BTreeMap<[u8; 4], Sender<Packet>>, half_us: &AtomicU64, ended: &AtomicBool) {
    let mut buffer = vec![0; usize::from(MTU)];
    while !ended.load(Ordering::Relaxed) {
        match device.recv(&mut buffer) {
            Ok(length) => {
                let due = Instant::now() + Duration::from_micros(half_us.load(Ordering::Relaxed));
                // IPv4's destination stands in bytes 16 to 19 (RFC 791, section 3.1); other packets go nowhere.
                let to = buffer[..length].get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
                if let Some(line) = to.and_then(|to| lines.get(&to)) {
                    // A line that has ended has lost its device, and so will this one.
                    let _line_ended = line.send(Packet { due, bytes: buffer[..length].to_vec() });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let _looks_again = poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&LOOK));
            }
            Err(error) => {
                eprintln!("warning: read from a TUN device: {error}");
                return;
            }
        }
    }
}

/// Hands on what one site sends to another, each packet at its time.
fn deliver(packets: &Receiver<Packet>, device: &SyncDevice) {
    while let Ok(Packet { due, bytes }) = packets.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // What a full queue drops is sent again, as on any network.
        let _dropped = device.send(&bytes);
    }
}

//! Hosts in network namespaces of their own, joined by a switch in this process that lets packets wait, loses them, repeats
//! them, or hands them to nobody: what lies between machines and between data centres, on one machine and without any of its own
//! networks. Needs root, `ip` (package iproute2) and `/dev/net/tun`.
//!
//! Each host has one address, on a TUN device; what a host sends to itself stays on the loopback of its namespace. A thread for
//! each host reads what it sends, and one for each host hands it what is due, the earliest first: with a jitter packets overtake
//! each other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use saola_ops::exit::{Exit, Failure};
use saola_ops::launch::OwnNetwork;
use tun_rs::{DeviceBuilder, SyncDevice};

/// What a packet may be long; as on a link within a data centre.
const MTU: u16 = 9000;
/// Threads look so often whether the switch has ended.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const MILLION: u32 = 1_000_000;

/// How packets from one host to another fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Each waits so long.
    pub delay: Duration,
    /// And up to so much longer.
    pub jitter: Duration,
    /// So many of a million are lost.
    pub lost_ppm: u32,
    /// So many of a million arrive twice.
    pub twice_ppm: u32,
    /// None arrives.
    pub is_cut: bool,
}

/// What became of the packets from one host to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed on.
    pub passed: u64,
    /// Handed to nobody: the line was cut, or lost them.
    pub dropped: u64,
    /// Handed on twice.
    pub twice: u64,
}

#[derive(Default)]
struct Line {
    quality: Quality,
    counts: Counts,
}

struct Host {
    name: String,
    namespace: String,
    address: Ipv4Addr,
    device: Arc<SyncDevice>,
}

/// The hosts and their switch. Dropping it removes them.
pub struct Network {
    hosts: Vec<Host>,
    /// By sender, then by receiver.
    lines: Arc<Vec<Vec<Mutex<Line>>>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A packet that waits: the earliest, and of equals the first, is the greatest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Reverse<Instant>,
    number: Reverse<u64>,
    bytes: Vec<u8>,
}

fn failure(doing: &str, source: &dyn std::fmt::Display) -> Failure {
    let next = "run it as root on Linux with iproute2 and /dev/net/tun";
    Failure::new(Exit::Other, format!("{doing}: {source}"), next)
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let doing = format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).output().map_err(|source| failure(&doing, &source))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(failure(&doing, &said.trim())) }
}

fn file_of(namespace: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace)
}

fn enter(namespace: &str) -> Result<(), Failure> {
    let doing = format!("enter network namespace {namespace}");
    let file = File::open(file_of(namespace)).map_err(|source| failure(&doing, &source))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|source| failure(&doing, &source))
}

fn lock(line: &Mutex<Line>) -> std::sync::MutexGuard<'_, Line> {
    // Nothing panics while it holds a line.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Hosts of these names, between which packets go at once. `seed` decides which are lost.
    ///
    /// # Errors
    /// Without the rights or the tools.
    pub fn new(names: &[&str], seed: u64) -> Result<Network, Failure> {
        let line = |_: usize| Mutex::new(Line::default());
        let lines = (0..names.len()).map(|_| (0..names.len()).map(line).collect()).collect();
        let mut network =
            Network { hosts: Vec::new(), lines: Arc::new(lines), ended: Arc::default(), threads: Vec::new() };
        for (name, last) in names.iter().zip(1..) {
            let namespace = format!("saola-{}-{name}", std::process::id());
            ip(&["netns", "add", &namespace])?;
            let address = Ipv4Addr::new(10, 78, 0, last);
            match device(&namespace, address) {
                Ok(device) => {
                    let name = (*name).to_owned();
                    network.hosts.push(Host { name, namespace, address, device: Arc::new(device) });
                }
                Err(failure) => {
                    remove(&namespace);
                    return Err(failure);
                }
            }
        }
        let (queues, receivers): (Vec<_>, Vec<_>) = network.hosts.iter().map(|_| channel()).unzip();
        for (host, packets) in network.hosts.iter().zip(receivers) {
            let device = host.device.clone();
            network.threads.push(std::thread::spawn(move || deliver(&packets, &device)));
        }
        for (from, host) in network.hosts.iter().enumerate() {
            let reader = Forwarder {
                device: host.device.clone(),
                from,
                lines: network.lines.clone(),
                queues: queues.clone(),
                rng: SmallRng::seed_from_u64(seed.wrapping_add(from as u64)),
                sent: 0,
            };
            let ended = network.ended.clone();
            network.threads.push(std::thread::spawn(move || reader.run(&ended)));
        }
        Ok(network)
    }

    /// From now on packets from one host to another fare so.
    ///
    /// # Panics
    /// There is no such host.
    pub fn set(&self, from: &str, to: &str, quality: Quality) {
        lock(&self.lines[self.position(from)][self.position(to)]).quality = quality;
    }

    /// What became of the packets from one host to another.
    ///
    /// # Panics
    /// There is no such host.
    pub fn counts(&self, from: &str, to: &str) -> Counts {
        lock(&self.lines[self.position(from)][self.position(to)]).counts
    }

    /// From now on a packet and its answer between any two hosts take so much longer than within one.
    pub fn set_round_trip(&self, round_trip: Duration) {
        let quality = Quality { delay: round_trip / 2, ..Quality::default() };
        for line in self.lines.iter().flatten() {
            lock(line).quality = quality;
        }
    }

    /// How long a byte and its answer take over a TCP connection from the calling thread's host to another one: one after
    /// another, so many of them.
    ///
    /// # Errors
    /// No such host, or a connection that fails.
    pub fn echo(&self, to: &str, count: usize) -> Result<Vec<Duration>, Failure> {
        let host = &self.hosts[self.position(to)];
        let doing = format!("send bytes to {to}");
        let listener = std::thread::scope(|scope| {
            let bound = scope.spawn(|| {
                enter(&host.namespace)?;
                TcpListener::bind((host.address, 0)).map_err(|source| failure(&doing, &source))
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

    /// Where a plan's nodes run, by the hosts' names.
    pub fn networks(&self) -> BTreeMap<String, OwnNetwork> {
        let network = |host: &Host| OwnNetwork {
            address: host.address.to_string(),
            // Unlike `ip netns exec` it leaves mounts as they are, which come and go with a node's disk.
            inside: vec!["nsenter".into(), format!("--net={}", file_of(&host.namespace).display())],
        };
        self.hosts.iter().map(|host| (host.name.clone(), network(host))).collect()
    }

    /// The calling thread, and all that it starts from now on, are at a host.
    ///
    /// # Errors
    /// Without the rights.
    pub fn enter(&self, name: &str) -> Result<(), Failure> {
        enter(&self.hosts[self.position(name)].namespace)
    }

    fn position(&self, name: &str) -> usize {
        self.hosts.iter().position(|host| host.name == name).expect("the caller named the hosts")
    }
}

/// Made by a thread of its own, which is in the namespace meanwhile.
fn device(namespace: &str, address: Ipv4Addr) -> Result<SyncDevice, Failure> {
    ip(&["-n", namespace, "link", "set", "lo", "up"])?;
    let made = std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            enter(namespace)?;
            let device = DeviceBuilder::new().name("wan").ipv4(address, 24, None).mtu(MTU).build_sync();
            let device = device.map_err(|source| failure("make a TUN device", &source))?;
            device.set_nonblocking(true).map_err(|source| failure("use a TUN device", &source))?;
            Ok(device)
        });
        made.join()
    });
    made.map_err(|_| failure("make a TUN device", &"its thread panicked"))?
}

impl Drop for Network {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("warning: a thread of the switch has panicked");
            }
        }
        self.hosts.iter().for_each(|host| remove(&host.namespace));
    }
}

fn remove(namespace: &str) {
    if let Err(failure) = ip(&["netns", "del", namespace]) {
        eprintln!("warning: {}", failure.what());
    }
}

/// Reads what a host sends. It ends with the switch, and the queues with the last of them.
struct Forwarder {
    device: Arc<SyncDevice>,
    from: usize,
    lines: Arc<Vec<Vec<Mutex<Line>>>>,
    queues: Vec<Sender<Packet>>,
    rng: SmallRng,
    sent: u64,
}

impl Forwarder {
    fn run(mut self, ended: &AtomicBool) {
        let mut buffer = vec![0; usize::from(MTU)];
        while !ended.load(Ordering::Relaxed) {
            match self.device.recv(&mut buffer) {
                Ok(length) => self.forward(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let _looks_again = poll(&mut [PollFd::new(&*self.device, PollFlags::IN)], Some(&LOOK));
                }
                Err(error) => {
                    eprintln!("warning: read from a TUN device: {error}");
                    return;
                }
            }
        }
    }

    fn forward(&mut self, bytes: &[u8]) {
        // IPv4's destination stands in bytes 16 to 19 (RFC 791, section 3.1); other packets go nowhere.
        let Some([10, 78, 0, last]) = bytes.get(16..20) else { return };
        let Some(to) = usize::from(*last).checked_sub(1).filter(|to| *to < self.queues.len()) else { return };
        let mut line = lock(&self.lines[self.from][to]);
        let quality = line.quality;
        if quality.is_cut || self.rng.random_range(0..MILLION) < quality.lost_ppm {
            line.counts.dropped += 1;
            return;
        }
        let copies = 1 + u64::from(self.rng.random_range(0..MILLION) < quality.twice_ppm);
        line.counts.passed += 1;
        line.counts.twice += copies - 1;
        drop(line);
        for _ in 0..copies {
            let more_us = self.rng.random_range(0..=quality.jitter.as_micros() as u64);
            let due = Instant::now() + quality.delay + Duration::from_micros(more_us);
            self.sent += 1;
            // A queue that has ended has lost its device, and so will this host.
            let _queue_ended =
                self.queues[to].send(Packet { due: Reverse(due), number: Reverse(self.sent), bytes: bytes.to_vec() });
        }
    }
}

/// Hands a host what the others send, each packet at its time.
fn deliver(packets: &Receiver<Packet>, device: &SyncDevice) {
    let mut waiting: BinaryHeap<Packet> = BinaryHeap::new();
    loop {
        let next = match waiting.peek() {
            None => packets.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(first) => packets.recv_timeout(first.due.0.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(packet) => waiting.push(packet),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.peek().is_some_and(|first| first.due.0 <= Instant::now()) {
            // What a full queue drops is sent again, as on any network.
            let _dropped = waiting.pop().map(|packet| device.send(&packet.bytes));
        }
    }
}

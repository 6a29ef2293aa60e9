//! Loopback ports for nodes that listen.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::Mutex;

use saola_node::entropy;

/// Below the range that the kernel gives to outgoing connections, which could otherwise take the port of a node that
/// is down for a moment.
const PORTS: Range<u16> = 10_000..32_000;
const TRIES: usize = 1000;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// An address that nobody listens on, and that no other test of this program gets.
pub fn free() -> String {
    for _ in 0..TRIES {
        let random = u16::from_le_bytes(entropy::random().unwrap());
        let port = PORTS.start + random % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TAKEN.lock().unwrap().insert(port) {
            return format!("127.0.0.1:{port}");
        }
    }
    panic!("no free port in {PORTS:?} after {TRIES} tries");
}

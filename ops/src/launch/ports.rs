//! Loopback ports for nodes, kept for them also while they are down.

use std::net::{Ipv4Addr, TcpListener};

use crate::exit::{Exit, Failure};

/// Ports for listening are taken from here: below the range that the kernel gives to outgoing connections, which
/// could otherwise take the port of a node that is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Whoever listens on a port of this address has it for its nodes, whether they run or not: other clusters on this machine
/// leave it alone. Nobody connects there.
const KEPT_AT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Ports that nobody else takes as long as this lives.
#[derive(Debug)]
pub struct Ports {
    /// All different.
    pub numbers: Vec<u16>,
    _kept: Vec<TcpListener>,
}

impl Ports {
    /// So many that nobody listens on at this moment, and nobody keeps.
    ///
    /// # Errors
    /// There are not so many.
    pub fn take(count: usize) -> Result<Ports, Failure> {
        let mut random = rand::rng();
        let (mut numbers, mut kept) = (Vec::new(), Vec::new());
        for _ in 0..count * 100 {
            if numbers.len() == count {
                return Ok(Ports { numbers, _kept: kept });
            }
            let port = rand::Rng::random_range(&mut random, PORTS);
            let Ok(keeps) = TcpListener::bind((KEPT_AT, port)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                numbers.push(port);
                kept.push(keeps);
            }
        }
        Err(Failure::new(
            Exit::Other,
            format!("find {count} free ports on 127.0.0.1 between {} and {}", PORTS.start, PORTS.end),
            "end some of the programs that listen there",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_all_different_and_kept_while_nobody_listens() {
        let ports = Ports::take(15).unwrap();
        let mut numbers = ports.numbers.clone();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 15);
        let is_kept = |port: &u16| TcpListener::bind((KEPT_AT, *port)).is_err();
        assert!(numbers.iter().all(is_kept), "another cluster would take one of them");
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, numbers[0])).is_ok(), "the node itself can listen");
        drop(ports);
        assert!(!is_kept(&numbers[0]));
    }
}

//! Every decoder of Saola against arbitrary bytes: what a disk, a peer, a client or an operator's file may hold.
//!
//! A [`Target`] takes any bytes and must neither panic nor allocate more than a little. `make fuzz` lets libFuzzer look
//! for bytes that make it do so; the test of this crate replays the corpus, found crashes included, in every
//! `make test`. Checksums stop random bytes at the door, so most targets have a mode that puts them right first.
//!
//! - [`disk`]: the log's segments, the rows of the store, the node's identity file, the KEK file, promotion plans;
//! - [`log_payload`]: command batches, applied; [`export`]: the stream of a state;
//! - [`sealed`]: envelopes and wrapped data keys;
//! - [`peer`]: messages to a running replica, and answers to its own;
//! - [`public`]: requests of clients, page tokens, topology files, lines of an import;
//! - `store`: small stores for the above; [`input`]: how the bytes of an input are divided; [`heap`]: the limit.

pub mod disk;
pub mod export;
pub mod heap;
pub mod input;
pub mod log_payload;
pub mod peer;
pub mod public;
pub mod sealed;
mod store;

/// A decoder and what leads to it.
pub struct Target {
    /// Name of its folder in the corpus.
    pub name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Seed>,
}

/// An input made by the product's own encoders, under the name of its file in the corpus.
pub type Seed = (&'static str, Vec<u8>);

/// All of them.
pub const TARGETS: [Target; 16] = [
    Target { name: "log", run: disk::log::run, seeds: disk::log::seeds },
    Target { name: "rows", run: disk::rows::run, seeds: disk::rows::seeds },
    Target { name: "identity", run: disk::files::identity, seeds: disk::files::identity_seeds },
    Target { name: "promotion_plan", run: disk::files::plan, seeds: disk::files::plan_seeds },
    Target { name: "orphans", run: disk::files::orphans, seeds: disk::files::orphans_seeds },
    Target { name: "kek_file", run: disk::files::kek, seeds: disk::files::kek_seeds },
    Target { name: "commands", run: log_payload::run, seeds: log_payload::seeds },
    Target { name: "export", run: export::run, seeds: export::seeds },
    Target { name: "envelope", run: sealed::envelope, seeds: sealed::envelope_seeds },
    Target { name: "key_ring", run: sealed::key_ring, seeds: sealed::key_ring_seeds },
    Target { name: "peer_message", run: peer::decode::run, seeds: peer::decode::seeds },
    Target { name: "peer", run: peer::run, seeds: peer::seeds },
    Target { name: "request", run: public::request, seeds: public::request_seeds },
    Target { name: "page_token", run: public::page_token, seeds: public::page_token_seeds },
    Target { name: "topology", run: public::topology, seeds: public::topology_seeds },
    Target { name: "import_line", run: public::import_line, seeds: public::import_line_seeds },
];

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs it on an input.
    ///
    /// # Panics
    /// The input shows a mistake of the product.
    pub fn run(&self, input: &[u8]) {
        (self.run)(input);
        heap::check();
    }

    /// Inputs that lead far into the decoder.
    pub fn seeds(&self) -> Vec<Seed> {
        (self.seeds)()
    }
}

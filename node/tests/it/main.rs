//! Real `saola-node` processes on loopback, spoken to as clients, peers and operators speak to them.
//!
//! Reading order: [`harness`] (certificates, processes, clusters, waiting); the command line: [`settings`], [`keygen`];
//! one node: [`records`], [`refusals`], [`restart`], [`places`] (folders and ports), [`certificates`], [`disk`],
//! [`observe`] (metrics, probes, log); its key: [`sealed`]; several nodes: [`quorum`], [`folders`], [`rot`].

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod certificates;
mod disk;
mod folders;
mod harness;
mod keygen;
mod observe;
mod places;
mod quorum;
mod records;
mod refusals;
mod restart;
mod rot;
mod sealed;
mod settings;

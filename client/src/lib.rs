//! Client library of Saola, a store of sealed, versioned master records that outlives the loss of a site.
//!
//! A [`Client`] is cheap to clone, finds the nodes of the cluster by itself, goes to another node when one fails, and
//! retries a write under one request id, so that it takes effect once. When the deadline ends and it cannot be told
//! whether a write took effect, it says so: [`Error::UnknownOutcome`].
//!
//! ```no_run
//! use std::time::Duration;
//! use saola_client::{At, Client, Error, Expect, Tls};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .endpoints(["127.0.0.1:7001", "127.0.0.1:7003"])
//!     .tls(Tls::from_files("ca.pem", "client.pem", "client.key")?)
//!     .deadline(Duration::from_secs(3))
//!     .build()?;
//!
//! let first = client.put("agency", "ward/00004", r#"{"name":"Phường Trúc Bạch"}"#).expect(Expect::Absent).send().await?;
//! match client.put("agency", "ward/00004", "{}").expect(Expect::Generation(first.generation)).send().await {
//!     Ok(written) => println!("revision {}", written.revision),
//!     Err(Error::Conflict { generation, .. }) => println!("someone wrote generation {generation} first"),
//!     Err(Error::UnknownOutcome { request, .. }) => println!("may have been written: look for {request:?}"),
//!     Err(other) => return Err(other.into()),
//! }
//! let before = client.get("agency", "ward/00004").at(At::Revision(first.revision)).send().await?;
//! println!("{:?} as of revision {}", before.value.map(|version| version.value), first.revision);
//! let mut wards = client.list("agency").prefix("ward/").all();
//! while let Some(version) = wards.next().await? {
//!     println!("{:?} generation {}", version.id, version.generation);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! To read the code: [`reason`] is the register of reason codes that nodes and clients share; `error` sorts failures by
//! what to do next; [`epoch`] is the lineage that was seen; `pool` keeps the nodes and picks one; `session` numbers the calls; `call` is
//! the retry loop;
//! `client`, `records`, `collections`, `cluster`, `dr` and [`drill`] are the calls themselves. `proto/saola/v1/*.proto` is the contract.

mod call;
mod client;
mod cluster;
mod collections;
mod dr;
pub mod drill;
pub mod epoch;
mod error;
mod pool;
pub mod reason;
mod records;
mod session;
mod types;

pub use client::{Client, ClientBuilder, Tls};
pub use cluster::{CHANGE_LIMIT, TransferTo};
pub use collections::{CreateCollection, KeyStyle, RetentionChange};
pub use error::{Details, Error};
pub use reason::{Reason, Retry};
pub use records::{BatchGet, Delete, Get, History, List, Listing, Page, PageToken, Put};
pub use types::{At, Expect, Op, Provenance, Reply, RequestId, Version, Written};

/// The contract `saola.v1` as generated: messages, client stubs and the traits that a node implements.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("saola.v1");

    /// All files of the contract as an encoded `FileDescriptorSet`, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// Name that every node's certificate carries, whatever its address; clients verify it.
pub const SERVER_NAME: &str = "node.saola";

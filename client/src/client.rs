//! The client itself and how it is built.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::epoch::EpochSeen;
use crate::error::{Details, Error};
use crate::pool::{Connector, Pool};
use crate::reason::Reason;
use crate::session::Session;

const DEADLINE: Duration = Duration::from_secs(5);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Largest reply that is taken: a full page of large values.
pub(crate) const MAX_REPLY_BYTES: usize = 64 << 20;

/// Certificates for mutual TLS, as PEM. The key is never printed.
#[derive(Clone)]
pub struct Tls {
    /// The authorities that sign the nodes' certificates.
    pub ca_pem: Vec<u8>,
    /// The client's own certificate.
    pub cert_pem: Vec<u8>,
    /// Its private key.
    pub key_pem: Vec<u8>,
}

impl Tls {
    /// Reads the three files.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the file that cannot be read.
    pub fn from_files(ca: impl AsRef<Path>, cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Tls, Error> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| unreadable(path.to_owned(), &error));
        Ok(Tls { ca_pem: read(ca.as_ref())?, cert_pem: read(cert.as_ref())?, key_pem: read(key.as_ref())? })
    }
}

fn unreadable(path: PathBuf, error: &io::Error) -> Error {
    let next = "check the path and that you may read the file; `saola cert dev` makes a set for development".to_owned();
    let message = format!("read TLS file {}: {error}", path.display());
    Error::Invalid(Details { next, ..Details::new(Reason::InvalidArgument, message) })
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    tls: Option<Tls>,
    deadline: Duration,
    attempt_timeout: Duration,
}

impl ClientBuilder {
    /// Nodes to begin with, as `host:port`. One that answers is enough: the others are learnt from it.
    pub fn endpoints<S: Into<String>>(mut self, endpoints: impl IntoIterator<Item = S>) -> ClientBuilder {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// Certificates for mutual TLS; required.
    pub fn tls(mut self, tls: Tls) -> ClientBuilder {
        self.tls = Some(tls);
        self
    }

    /// How long one call may take with all its attempts; 5 s if not set.
    pub fn deadline(mut self, deadline: Duration) -> ClientBuilder {
        self.deadline = deadline;
        self
    }

    /// How long one node may take before another is asked; 1.5 s if not set.
    pub fn attempt_timeout(mut self, attempt_timeout: Duration) -> ClientBuilder {
        self.attempt_timeout = attempt_timeout;
        self
    }

    /// Builds the client inside a tokio runtime. Connections are made when they are first used.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an endpoint, certificate or key that cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let tls = self.tls.ok_or_else(|| Error::invalid("build client: no certificates; set `tls`"))?;
        let pool = Pool::new(Connector::new(&tls), &self.endpoints, false)?;
        let shared = Shared {
            attempt_timeout: self.attempt_timeout,
            epoch: EpochSeen::default(),
            highest_index: AtomicU64::new(0),
            session: Mutex::new(None),
        };
        Ok(Client { shared: Arc::new(shared), pool: Arc::new(pool), deadline: self.deadline })
    }
}

/// What a client shares with its clones and with clients pinned from it.
pub(crate) struct Shared {
    attempt_timeout: Duration,
    pub epoch: EpochSeen,
    pub highest_index: AtomicU64,
    pub session: Mutex<Option<Arc<Session>>>,
}

/// A cluster as its users see it. Clones share connections, the epoch seen, and the numbering of writes.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
    deadline: Duration,
}

impl Client {
    /// Starts with the default settings.
    pub fn builder() -> ClientBuilder {
        let (endpoints, tls) = (Vec::new(), None);
        ClientBuilder { endpoints, tls, deadline: DEADLINE, attempt_timeout: ATTEMPT_TIMEOUT }
    }

    /// The same client with another deadline per call.
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        Client { deadline, ..self.clone() }
    }

    /// This client pinned to one node: each call is one attempt there, with the whole deadline, and no fail-over.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the endpoint is not `host:port`.
    pub fn at_endpoint(&self, endpoint: &str) -> Result<Client, Error> {
        let pool = Pool::new(self.pool.connector().clone(), &[endpoint.to_owned()], true)?;
        Ok(Client { pool: Arc::new(pool), ..self.clone() })
    }

    /// The nodes that the client knows, configured and learnt, as `host:port`.
    pub fn endpoints(&self) -> Vec<String> {
        self.pool.addresses()
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.shared.attempt_timeout
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn deadline_from_now(&self) -> Instant {
        Instant::now() + self.deadline
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

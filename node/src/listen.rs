//! Ports: bound with a message that helps, and TLS connections taken one by one, so that a refused caller is
//! named in the log with what to do about it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::tls;

/// A caller that has not finished its TLS handshake by then is dropped.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at a time; more wait in the kernel's queue, so that a flood cannot take the memory.
pub const HANDSHAKES: usize = 256;
/// Pause after the system refused to accept, which happens when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} ({key}): {source}; {next}")]
pub struct ListenError {
    key: &'static str,
    address: SocketAddr,
    source: io::Error,
    next: &'static str,
}

/// Binds `address`; `key` names the setting in the error.
///
/// # Errors
/// [`ListenError`] with the next step, as when the port is taken.
pub async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| {
        let next = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is taken, perhaps by this node running already: stop that process or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: write one of its own",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
            _ => "choose another address",
        };
        ListenError { key, address, source, next }
    })
}

/// The same port once more: whichever of the two accepts a connection has it.
///
/// # Errors
/// No file descriptor is left.
pub fn twin(listener: &TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener.as_fd().try_clone_to_owned()?.into())
}

/// Accepts connections and hands on those whose handshake succeeds, until the receiver is dropped.
pub fn accept_tls(listener: TcpListener, config: ServerConfig) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (accepted, receiver) = mpsc::channel(16);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let (Ok(permit), false) = (handshakes.clone().acquire_owned().await, accepted.is_closed()) else {
                return;
            };
            let (stream, caller) = tokio::select! {
                () = accepted.closed() => return,
                next = listener.accept() => match next {
                    Ok(next) => next,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client connection; raise `ulimit -n` if it persists");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                if let Some(stream) = handshake(&acceptor, stream, caller).await {
                    // Fails only while the server stops; the caller then sees its connection close.
                    let _closing = accepted.send(Ok(stream)).await;
                }
                drop(permit);
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream, caller: SocketAddr) -> Option<TlsStream<TcpStream>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%caller, %error, "client connection went away");
        return None;
    }
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(refusal) => {
                    tracing::warn!(%caller, reason = %refusal, hint = tls::hint(refusal), "client refused");
                }
                None => tracing::debug!(%caller, %error, "client connection went away during its handshake"),
            }
            None
        }
        Err(_late) => {
            tracing::warn!(%caller, "client dropped: no TLS handshake within {HANDSHAKE_LIMIT:?}");
            None
        }
    }
}

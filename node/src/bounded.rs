//! Connections of the metrics port: bounded in number and in how long one may stand still, so that callers who never
//! ask, or never read, cannot take the node's memory and file descriptors.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Hands out a bounded number of connections at a time; more callers wait in the kernel's queue.
pub struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    still_limit: Duration,
}

impl BoundedListener {
    /// At most `connections` at a time, each ended once it has stood still for `still_limit`.
    pub fn new(listener: TcpListener, connections: usize, still_limit: Duration) -> BoundedListener {
        BoundedListener { listener, places: Arc::new(Semaphore::new(connections)), still_limit }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("nobody closes this semaphore");
        let (stream, caller) = Listener::accept(&mut self.listener).await;
        let still = Box::pin(tokio::time::sleep(self.still_limit));
        (BoundedStream { stream, still, still_limit: self.still_limit, _place: place }, caller)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection; it gives its place back when dropped.
pub struct BoundedStream {
    stream: TcpStream,
    still: Pin<Box<Sleep>>,
    still_limit: Duration,
    _place: OwnedSemaphorePermit,
}

impl BoundedStream {
    /// Passes progress on; an error once there has been none for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, step: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if step.is_ready() {
            let until = Instant::now() + self.still_limit;
            self.still.as_mut().reset(until);
            return step;
        }
        ready!(self.still.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_read(context, buf);
        self.watch(context, step)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, step)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_caller_that_never_asks_gives_its_place_to_the_next() {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("its address");
        let mut listener = BoundedListener::new(socket, 1, Duration::from_millis(20));
        let _silent = TcpStream::connect(address).await.expect("connected");
        let mut asking = TcpStream::connect(address).await.expect("connected");
        asking.write_all(b"x").await.expect("sent");

        let (mut first, _) = listener.accept().await;
        assert_eq!(listener.places.available_permits(), 0, "the second caller waits");
        let ended = first.read_u8().await.expect_err("nothing was sent");
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        drop(first);
        let (mut second, _) = listener.accept().await;
        assert_eq!(second.read_u8().await.expect("the second caller's byte"), b'x');
    }
}

//! Peers that a node is cut off from on purpose, because a drill has it so.
//!
//! Nothing is answered at once, as on a link that swallows everything: callers wait for as long as they would then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::{Caller, Lane, PeerAddress, Transport, TransportError};
use crate::wire::{AppendReply, AppendRequest, FetchReply, FetchRequest, PeerReply, PeerRequest};

/// A stream to a peer that does not answer is given up after so long, as its keep-alive would.
const STREAM_LIMIT: Duration = Duration::from_secs(3);

/// The names of the peers that this node neither hears nor reaches. Clones are one.
#[derive(Clone, Debug)]
pub struct Cuts(Arc<watch::Sender<BTreeSet<String>>>);

impl Default for Cuts {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Cuts {
    /// These peers from now on, and no others.
    pub fn set(&self, names: BTreeSet<String>) {
        self.0.send_replace(names);
    }

    /// Those who are cut off now.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.borrow().clone()
    }

    /// Resolves when one of these peers is cut off, or none of them is.
    fn until(&self, names: &[String], cut: bool) -> impl Future<Output = ()> + Send + 'static {
        let (mut seen, names) = (self.0.subscribe(), names.to_vec());
        // An error means that nobody can change it any more, and then the node ends.
        async move {
            let _ended = seen.wait_for(|off| names.iter().any(|name| off.contains(name)) == cut).await;
        }
    }

    /// Resolves when the caller is cut off.
    pub(super) fn until_cut(&self, caller: &Caller) -> impl Future<Output = ()> + Send + 'static {
        self.until(&caller.0, true)
    }

    /// Resolves when the caller is not cut off any more; at once when it is not.
    pub(super) fn until_heard(&self, caller: &Caller) -> impl Future<Output = ()> + Send + 'static {
        self.until(&caller.0, false)
    }

    fn is_cut(&self, name: &str) -> bool {
        self.0.borrow().contains(name)
    }
}

fn broken(to: &PeerAddress) -> TransportError {
    TransportError::Broken { peer: format!("{} at {}", to.name, to.address), reason: "a drill cuts it off".into() }
}

/// A transport that does not reach the peers that are cut off.
pub struct CutTransport<T> {
    inner: T,
    cuts: Cuts,
}

impl<T: Transport> CutTransport<T> {
    /// `cuts` says whom it does not reach.
    pub fn new(inner: T, cuts: Cuts) -> Self {
        Self { inner, cuts }
    }

    /// What comes of `begun`, unless the peer is cut off before it is there or for `limit` from now on.
    fn unless_cut<R: Send + 'static>(
        &self,
        to: &PeerAddress,
        limit: Duration,
        begin: impl FnOnce() -> BoxFuture<'static, Result<R, TransportError>>,
    ) -> BoxFuture<'static, Result<R, TransportError>> {
        let names = [to.name.clone()];
        let to = to.clone();
        if self.cuts.is_cut(&to.name) {
            let heard = self.cuts.until(&names, false);
            return Box::pin(async move {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "drills run on the real clock; the simulator cuts its own links"
                )]
                let _waited = tokio::time::timeout(limit, heard).await;
                Err(broken(&to))
            });
        }
        let cut = self.cuts.until(&names, true);
        let begun = begin();
        Box::pin(async move {
            tokio::select! {
                ended = begun => ended,
                () = cut => Err(broken(&to)),
            }
        })
    }
}

impl<T: Transport> Transport for CutTransport<T> {
    fn call(
        &self,
        to: &PeerAddress,
        lane: Lane,
        request: PeerRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, TransportError>> {
        self.unless_cut(to, timeout, || self.inner.call(to, lane, request, timeout))
    }

    fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply, TransportError>>, TransportError>> {
        let cut = self.cuts.until(std::slice::from_ref(&to.name), true).boxed().shared();
        let requests = requests.take_until(cut.clone()).boxed();
        let opened = self.unless_cut(to, STREAM_LIMIT, || self.inner.append(to, requests));
        Box::pin(async move { Ok(opened.await?.take_until(cut).boxed()) })
    }

    fn fetch(
        &self,
        to: &PeerAddress,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<FetchReply, TransportError>>, TransportError>> {
        let cut = self.cuts.until(std::slice::from_ref(&to.name), true);
        let opened = self.unless_cut(to, STREAM_LIMIT, || self.inner.fetch(to, request));
        Box::pin(async move { Ok(opened.await?.take_until(cut).boxed()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers whatever it is asked, and never ends a stream by itself.
    struct Answers;

    impl Transport for Answers {
        fn call(
            &self,
            _: &PeerAddress,
            _: Lane,
            _: PeerRequest,
            _: Duration,
        ) -> BoxFuture<'static, Result<PeerReply, TransportError>> {
            Box::pin(async { Ok(PeerReply::default()) })
        }

        fn append(
            &self,
            _: &PeerAddress,
            requests: BoxStream<'static, AppendRequest>,
        ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply, TransportError>>, TransportError>>
        {
            Box::pin(async move { Ok(requests.map(|_| Ok(AppendReply::default())).boxed()) })
        }

        fn fetch(
            &self,
            _: &PeerAddress,
            _: FetchRequest,
        ) -> BoxFuture<'static, Result<BoxStream<'static, Result<FetchReply, TransportError>>, TransportError>>
        {
            Box::pin(async { Ok(futures::stream::pending().boxed()) })
        }
    }

    fn to(name: &str) -> PeerAddress {
        PeerAddress { address: "127.0.0.1:1".into(), name: name.into() }
    }

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_peer_that_is_cut_off_is_not_reached_until_the_cut_ends_and_others_are() {
        let cuts = Cuts::default();
        let transport = CutTransport::new(Answers, cuts.clone());
        let call = |name| transport.call(&to(name), Lane::Control, PeerRequest::default(), SHORT);
        call("dr-1").await.expect("nothing is cut");
        cuts.set(BTreeSet::from(["dr-1".to_owned()]));
        let error = call("dr-1").await.expect_err("it is cut off");
        assert_eq!(error.to_string(), "no answer from dr-1 at 127.0.0.1:1: a drill cuts it off");
        call("main-2").await.expect("it is not");
        cuts.set(BTreeSet::new());
        call("dr-1").await.expect("the cut has ended");
    }

    #[tokio::test]
    async fn streams_under_way_end_when_the_peer_is_cut_off() {
        let cuts = Cuts::default();
        let transport = CutTransport::new(Answers, cuts.clone());
        let endless = futures::stream::pending().boxed();
        let mut replies = transport.append(&to("dr-1"), endless).await.expect("it opens");
        let mut pieces = transport.fetch(&to("dr-1"), FetchRequest::default()).await.expect("it opens");
        cuts.set(BTreeSet::from(["dr-1".to_owned()]));
        assert!(replies.next().await.is_none() && pieces.next().await.is_none());
    }

    #[tokio::test]
    async fn a_caller_is_cut_off_under_any_of_its_names() {
        let cuts = Cuts::default();
        let caller = Caller::certified(vec!["dr-1".into(), "dr-old".into()]);
        cuts.until_heard(&caller).await;
        cuts.set(BTreeSet::from(["dr-old".to_owned()]));
        cuts.until_cut(&caller).await;
        assert!(cuts.until_heard(&caller).now_or_never().is_none());
    }
}

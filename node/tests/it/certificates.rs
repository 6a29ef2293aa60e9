//! Who may talk: certificates that nodes start with, and those that they answer.

use std::fs;
use std::time::Duration;

use saola_raft::transport::tonic::{TlsFiles, TonicTransport};
use saola_raft::transport::{Lane, PeerAddress, Transport, TransportError};
use saola_raft::wire::{Answer, Header, Nothing, PeerRequest, Question};

use super::harness::certs::Valid;
use super::harness::process::refused_start;
use super::harness::wait::until;
use super::harness::{Authority, Cluster, Pair};

#[tokio::test]
async fn a_node_does_not_start_with_a_certificate_that_others_would_refuse() {
    let cluster = Cluster::prepare(1);
    let node = &cluster.nodes[0];
    let (ours, other) = (&cluster.authority, Authority::new());
    let mixed = Pair { key_pem: ours.node("main-1", Valid::Now).key_pem, ..ours.node("main-1", Valid::Now) };
    let cases: [(Pair, &[&str]); 5] = [
        (
            other.node("main-1", Valid::Now),
            &["another authority signed it", "use certificates of the authority in tls.ca"],
        ),
        (ours.node("main-1", Valid::Expired), &["expired", "it is past its end: renew it"]),
        (ours.node("main-2", Valid::Now), &["main-1.node.saola", "it was made for another name"]),
        (ours.client("main-1", Valid::Now), &["main-1.node.saola"]),
        (mixed, &["does not belong to tls.key", "put the matching pair there"]),
    ];
    for (pair, expected) in cases {
        fs::write(node.folder.join("node.pem"), pair.cert_pem).unwrap();
        fs::write(node.folder.join("node.key"), pair.key_pem).unwrap();
        let said = refused_start(&node.settings_file()).await;
        for part in ["tls.cert", "node.pem"].iter().chain(expected) {
            assert!(said.contains(part), "{part:?} in: {said}");
        }
    }
    assert!(!node.data().exists(), "nothing is made before the certificate is good");
}

#[tokio::test]
async fn clients_without_a_good_certificate_are_not_served_and_the_log_says_why() {
    let mut cluster = Cluster::prepare(1);
    cluster.start(0).await;
    let (ours, other) = (&cluster.authority, Authority::new());
    let strangers = [
        (ours, other.client("tester", Valid::Now), "another authority signed it"),
        (ours, ours.client("tester", Valid::Expired), "it is past its end: renew it"),
        (&other, cluster.client_pair.clone(), "it must trust the authority that signed tls.cert"),
    ];
    for (trusted, pair, hint) in strangers {
        let client = cluster.client_as(trusted, &pair, 0);
        let error = client.cluster_status(true).await.expect_err("refused");
        assert_eq!(error.reason(), "UNREACHABLE", "{error}");
        assert!(error.next_step().contains("certificate"), "{error}");
        let log = || cluster.nodes[0].log();
        until("the log says why", async || if log().contains(hint) { Ok(()) } else { Err(log()) }).await;
    }
    // A node's certificate may call the client port too.
    let node = ours.node("main-9", Valid::Now);
    for pair in [&node, &cluster.client_pair] {
        assert_eq!(cluster.client_as(ours, pair, 0).cluster_status(true).await.unwrap().nodes.len(), 1);
    }
}

#[tokio::test]
async fn the_peer_port_is_for_nodes_under_their_own_names() {
    let mut cluster = Cluster::prepare(1);
    cluster.start(0).await;
    let to = PeerAddress { address: cluster.nodes[0].peer.clone(), name: "main-1".into() };
    let ask = async |pair: Pair, to: &PeerAddress, header: Option<Header>| {
        let transport = TonicTransport::new(TlsFiles {
            ca_pem: cluster.authority.pem.clone().into(),
            cert_pem: pair.cert_pem.into(),
            key_pem: pair.key_pem.into(),
        });
        let request = PeerRequest { header, question: Some(Question::Identify(Nothing {})) };
        transport.call(to, Lane::Control, request, Duration::from_secs(10)).await
    };
    let refused = |answer: Result<_, TransportError>, part: &str| {
        let error = answer.map(|_: saola_raft::wire::PeerReply| ()).expect_err("refused").to_string();
        assert!(error.contains(part), "{part:?} in: {error}");
    };
    let ours = &cluster.authority;

    let node = ours.node("main-2", Valid::Now);
    let answer = ask(node.clone(), &to, None).await.unwrap().answer;
    let Some(Answer::Identity(identity)) = answer else { panic!("no identity: {answer:?}") };
    assert_eq!(identity.member.unwrap().name, "main-1");

    let refusal = ask(cluster.client_pair.clone(), &to, None).await;
    refused(refusal.clone(), "the caller's certificate is not a node's");
    refused(refusal, "carries the DNS name <name>.node.saola");
    let header = Header { from_name: "main-3".into(), ..Header::default() };
    refused(ask(node.clone(), &to, Some(header)).await, "is from main-3, the certificate is main-2's");
    refused(ask(Authority::new().node("main-2", Valid::Now), &to, None).await, "main-1");
    refused(ask(ours.node("main-2", Valid::Expired), &to, None).await, "main-1");
    let elsewhere = PeerAddress { name: "main-7".into(), ..to };
    refused(ask(node, &elsewhere, None).await, "main-7");
}

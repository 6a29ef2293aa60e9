//! Who may talk: certificates that nodes start with, and those that they answer.

use std::fs;
use std::time::Duration;

use saola_raft::transport::tonic::{PeerTls, TonicTransport};
use saola_raft::transport::{Lane, PeerAddress, Transport, TransportError};
use saola_raft::wire::{Adopt, Answer, Header, Nothing, PeerRequest, Question, RefusalCode, WIRE_VERSION};
use saola_raft::{Member, Role};
use tokio::net::TcpStream;

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
        // A node that refuses a certificate hangs up: its alert may be lost on the way.
        assert!(["UNREACHABLE", "CERTIFICATE_REFUSED", "NODE_UNTRUSTED"].contains(&error.reason()), "{error}");
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

/// Asks a node's peer port with a certificate.
async fn ask(
    trusted: &Authority,
    pair: &Pair,
    to: &PeerAddress,
    header: Option<Header>,
    question: Question,
) -> Result<Option<Answer>, TransportError> {
    let tls = PeerTls::new(trusted.pem.as_bytes(), pair.cert_pem.as_bytes(), pair.key_pem.as_bytes()).unwrap();
    let request = PeerRequest { header, question: Some(question) };
    let reply = TonicTransport::new(tls).call(to, Lane::Control, request, Duration::from_secs(10)).await;
    Ok(reply?.answer)
}

fn from(name: &str) -> Option<Header> {
    Some(Header { wire_version: WIRE_VERSION, from_name: name.into(), ..Header::default() })
}

const WHO: Question = Question::Identify(Nothing {});

#[tokio::test]
async fn the_peer_port_is_for_nodes_under_their_own_names() {
    let mut cluster = Cluster::prepare(1);
    cluster.start(0).await;
    let to = PeerAddress { address: cluster.nodes[0].peer.clone(), name: "main-1".into() };
    let ours = &cluster.authority;
    let broken = |answer: Result<_, TransportError>, part: &str| {
        let error = answer.map(|_: Option<Answer>| ()).expect_err("refused").to_string();
        assert!(error.contains(part), "{part:?} in: {error}");
    };

    let node = ours.node("main-2", Valid::Now);
    let answer = ask(ours, &node, &to, from("main-2"), WHO).await.unwrap();
    let Some(Answer::Identity(identity)) = answer else { panic!("no identity: {answer:?}") };
    assert_eq!(identity.member.unwrap().name, "main-1");

    let refusal = ask(ours, &cluster.client_pair, &to, from("tester"), WHO).await;
    broken(refusal.clone(), "the caller's certificate is not a node's");
    broken(refusal, "carries the DNS name <name>.node.saola");
    let other = Authority::new();
    broken(ask(ours, &other.node("main-2", Valid::Now), &to, from("main-2"), WHO).await, "main-1");
    broken(ask(ours, &ours.node("main-2", Valid::Expired), &to, from("main-2"), WHO).await, "main-1");
    let elsewhere = PeerAddress { name: "main-7".into(), ..to };
    broken(ask(ours, &node, &elsewhere, from("main-2"), WHO).await, "main-7");
}

#[tokio::test]
async fn nobody_asks_or_adopts_a_node_under_another_nodes_name_or_none() {
    let mut cluster = Cluster::prepare(1);
    cluster.start(0).await;
    let to = PeerAddress { address: cluster.nodes[0].peer.clone(), name: "main-1".into() };
    let node = cluster.authority.node("main-2", Valid::Now);
    let member = Member {
        node_id: 1,
        name: "main-1".into(),
        site: "main".into(),
        role: Role::Voter as i32,
        peer_address: to.address.clone(),
        ..Member::default()
    };
    let adopt = Adopt { cluster_id: vec![7; 16].into(), epoch: 1, member: Some(member), record: Default::default() };
    for question in [WHO, Question::Status(Nothing {}), Question::Adopt(adopt), Question::Greet(Nothing {})] {
        let cases = [
            (from("main-3"), RefusalCode::WrongCertificate, "it is from main-3, the certificate is main-2's"),
            (from(""), RefusalCode::WrongCertificate, "the certificate is main-2's"),
            (None, RefusalCode::BadMessage, "without a header"),
        ];
        for (header, code, part) in cases {
            let answer = ask(&cluster.authority, &node, &to, header, question.clone()).await.unwrap();
            let Some(Answer::Refused(refusal)) = answer else { panic!("{question:?} was answered {answer:?}") };
            assert_eq!(refusal.kind(), code, "{refusal:?}");
            assert!(refusal.message.contains(part), "{part:?} in: {}", refusal.message);
        }
    }
    let client = ask(&cluster.authority, &cluster.client_pair, &to, from("tester"), WHO).await;
    assert!(client.is_err(), "a client was answered {client:?}");
    assert_eq!(cluster.own_status(0).await.state, "waiting");
}

#[tokio::test]
async fn connections_that_never_finish_their_handshake_are_dropped_and_keep_no_peer_out() {
    let cluster = Cluster::running(3).await;
    let stall = async || TcpStream::connect(&cluster.nodes[0].peer).await.unwrap();
    let oldest = stall().await;
    let mut others = Vec::new();
    for _ in 0..200 {
        others.push(stall().await);
    }
    cluster.put("a", "1").await;
    let mut byte = [0];
    until("the node drops the oldest", async || match oldest.try_read(&mut byte) {
        Ok(0) => Ok(()),
        Ok(_) => panic!("an answer to nothing"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err("it waits".into()),
        Err(_reset) => Ok(()),
    })
    .await;
    // The newest goes when its time is over.
    let newest = others.last().expect("there are many");
    until("the node drops the newest", async || match newest.try_read(&mut byte) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err("it waits".to_owned()),
        _ => Ok(()),
    })
    .await;
    cluster.put("a", "2").await;
}

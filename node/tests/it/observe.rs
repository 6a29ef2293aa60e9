//! What an operator sees: metrics, probes, health, reflection, and a log that never shows a value.

use std::collections::BTreeSet;

use saola_client::At;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::harness::wait::until;
use super::harness::{COLLECTION, Cluster, http};

const README: &str = include_str!("../../README.md");

/// A connection to a node's client port.
pub async fn channel(cluster: &Cluster, index: usize) -> Channel {
    let pair = &cluster.client_pair;
    let tls = ClientTlsConfig::new()
        .domain_name("node.saola")
        .ca_certificate(Certificate::from_pem(&cluster.authority.pem))
        .identity(Identity::from_pem(&pair.cert_pem, &pair.key_pem));
    let endpoint = Endpoint::from_shared(format!("https://{}", cluster.nodes[index].client)).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

/// Waits until the health service says so.
pub async fn becomes(health: &mut HealthClient<Channel>, service: &str, expected: ServingStatus) {
    until(&format!("health of {service:?}"), async || {
        match health.check(HealthCheckRequest { service: service.into() }).await {
            Ok(answer) if answer.get_ref().status() == expected => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Metrics of the README's table.
fn documented() -> BTreeSet<String> {
    let table = README.split_once("## Metrics").expect("the README has the section").1;
    let table = table.split_once("\n## ").map_or(table, |(table, _)| table);
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `saola_")?.split_once('`'));
    rows.map(|(name, _)| format!("saola_{name}")).collect()
}

/// Metrics of a scrape, under the names that Prometheus gives them.
fn exported(scrape: &str) -> BTreeSet<String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect()
}

fn sample(scrape: &str, name: &str) -> i64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in: {scrape}")).parse().unwrap()
}

#[tokio::test]
async fn metrics_are_those_of_the_readme_and_show_what_happened() {
    let cluster = Cluster::running(1).await;
    for n in 0..5 {
        cluster.put(&format!("r/{n}"), "v").await;
    }
    cluster.client().delete(COLLECTION, "r/0").send().await.unwrap();
    let too_new = cluster.client().get(COLLECTION, "r/1").at(At::Revision(1000)).send().await;
    assert!(too_new.is_err());

    let (code, scrape) = http::get(&cluster.nodes[0].metrics, "/metrics").await;
    assert_eq!(code, 200);
    assert_eq!(exported(&scrape), documented(), "left: exported, right: in the README's table");
    assert!(scrape.ends_with("# EOF\n"), "{scrape}");
    for (name, expected) in [
        ("saola_raft_leader", 1),
        ("saola_raft_has_leader", 1),
        ("saola_store_records", 4),
        ("saola_store_versions", 6),
        ("saola_store_revision", cluster.status(0).await.header.unwrap().revision.try_into().unwrap()),
        ("saola_sealed", 0),
        ("saola_keys_open", 1),
        ("saola_keys_total", 1),
        ("saola_writes_refused", 0),
        ("saola_request_seconds_count{method=\"Records/Put\",code=\"0\"}", 5),
        ("saola_request_seconds_count{method=\"Records/Get\",code=\"11\"}", 1),
        ("saola_peer_matched_lag{node=\"1\"}", 0),
    ] {
        assert_eq!(sample(&scrape, name), expected, "{name}");
    }
    let day = 86_400;
    assert!((day - 3600..=day).contains(&sample(&scrape, "saola_certificate_expires_in_seconds")));
    for name in ["saola_log_syncs_total", "saola_disk_free_bytes", "saola_process_resident_bytes"] {
        assert!(sample(&scrape, name) > 0, "{name}");
    }
    assert!(!scrape.contains("r/1") && !scrape.contains(COLLECTION), "labels name no record");
}

#[tokio::test]
async fn probes_tell_a_live_node_from_a_ready_one() {
    let mut cluster = Cluster::prepare(1);
    cluster.start(0).await;
    let address = cluster.nodes[0].metrics.clone();
    assert_eq!(http::get(&address, "/livez").await, (200, "alive\n".to_owned()));
    let (code, why) = http::get(&address, "/readyz").await;
    assert!(code == 503 && why.contains("not part of a cluster yet"), "{code} {why}");
    let status = cluster.status(0).await;
    assert_eq!((status.nodes[0].state.as_str(), status.protection.contains("saola cluster init")), ("waiting", true));
    let error = cluster.at(0).get(COLLECTION, "a").send().await.expect_err("no cluster yet");
    assert_eq!(error.reason(), "NOT_ADOPTED", "{error}");
    cluster.nodes[0].kill();

    let cluster = Cluster::running(1).await;
    assert_eq!(http::get(&cluster.nodes[0].metrics, "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(http::get(&cluster.nodes[0].metrics, "/nowhere").await.0, 404);
}

#[tokio::test]
async fn health_and_reflection_speak_their_standard_protocols() {
    let mut cluster = Cluster::prepare(1);
    cluster.start(0).await;
    let channel = channel(&cluster, 0).await;
    let mut health = HealthClient::new(channel.clone());
    becomes(&mut health, "", ServingStatus::Serving).await;
    becomes(&mut health, "saola.v1.Records", ServingStatus::NotServing).await;
    cluster.init().await;
    becomes(&mut health, "saola.v1.Records", ServingStatus::Serving).await;
    let unknown = health.check(HealthCheckRequest { service: "saola.v1.Nothing".into() }).await.expect_err("unknown");
    assert_eq!(unknown.code(), tonic::Code::NotFound);

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let answer: ServerReflectionResponse = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["saola.v1.Records", "saola.v1.Collections", "saola.v1.Cluster"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

#[tokio::test]
async fn the_log_tells_who_leads_and_who_belongs_in_plain_text() {
    let mut cluster = Cluster::prepare(2);
    cluster.start(0).await;
    let log = cluster.nodes[0].log();
    assert!(log.contains("waiting to be made part of a cluster: run `saola cluster init`"), "{log}");
    cluster.start(1).await;
    cluster.init().await;
    until("leader and members are in the log", async || {
        let log = cluster.nodes[0].log();
        let told =
            ["leader: node ", "members: node 1 (main-1, voter at main", "members: node 2 (main-2, voter at main"];
        if told.iter().all(|line| log.contains(line)) { Ok(()) } else { Err(log) }
    })
    .await;
    cluster.nodes[1].kill();
    until("the loss of the quorum is in the log", async || {
        let log = cluster.nodes[0].log();
        if log.contains("leader: none with a quorum") && log.contains("`saola status` names") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    assert!(!cluster.nodes[0].log().contains('\x1b'), "colours are for terminals");
}

#[tokio::test]
async fn values_never_appear_in_the_log_or_on_disk_however_much_is_logged() {
    const CANARY: &str = "canary-4711-plaintext";
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].log_filter = Some("trace");
    cluster.start_and_init().await;
    cluster.put("planted", CANARY).await;
    assert_eq!(cluster.value("planted").await.as_deref(), Some(CANARY));
    assert_eq!(cluster.client().history(COLLECTION, "planted").send().await.unwrap().value.len(), 1);
    let over = format!("{CANARY}{}", "x".repeat(1 << 20));
    assert!(cluster.client().put(COLLECTION, "planted", over).send().await.is_err());
    assert!(cluster.nodes[0].terminate().await.success());
    let log = cluster.nodes[0].log();
    assert!(log.contains("TRACE") && log.contains("node stops"), "the log is the whole one");
    assert!(!log.contains(CANARY));

    let mut files = 0;
    let mut folders = vec![cluster.nodes[0].data()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{}", path.display());
        }
    }
    assert!(files > 5, "the walk found the folder");
}

//! `saola cluster …`: make the cluster, change its members, hand over leadership, compare the replicas.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use saola_client::proto::{DigestResponse, Member, Site, StatusResponse};
use saola_client::{Client, TransferTo};
use serde_json::{Value, json};

use super::change::end_of;
use super::status::{member_document, role};
use super::verdict::unprotected;
use super::view::cluster_view;
use crate::cli::{ClusterVerb, TransferArgs};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, hex, print_json, print_line, table};
use crate::topology::Topology;

/// Runs a verb on the cluster. Changes of its members may take `change_limit`, other calls the client's deadline.
///
/// # Errors
/// A wrong topology file, an unknown node, a refused confirmation, or a failed call.
pub async fn cluster(
    client: &Client,
    change_limit: Duration,
    verb: ClusterVerb,
    format: Format,
) -> Result<Exit, Failure> {
    let patient = client.with_deadline(change_limit);
    match verb {
        ClusterVerb::Init { topology } => init(client, &patient, &Topology::read(&topology)?, format).await,
        ClusterVerb::Add { node, kek_public } => {
            let site = kek_public.map(|key| Site { name: node.site.clone(), kek_public: key.0.into() });
            let call = patient.add_member(node.to_node().to_proto(), site);
            let members = end_of(client, &format!("add node {}", node.name), Some(node.node_id), call).await?;
            changed(client, members, format).await
        }
        ClusterVerb::Remove { node, confirm } => {
            let status = cluster_view(client).await?;
            let going = find_node(&status, &node)?;
            let what = format!("remove node {}", going.name);
            confirmed(&status, &what, confirm).await?;
            let members = end_of(client, &what, None, patient.remove_member(going.node_id)).await?;
            changed(client, members, format).await
        }
        ClusterVerb::Replace { node, new, confirm } => {
            let status = cluster_view(client).await?;
            let what = format!("replace node {node} by {}", new.name);
            let (new, new_id) = (new.to_node().to_proto(), new.node_id);
            let members = match find_node(&status, &node) {
                // An earlier call has swapped them; what is left, if anything, is to add the new one.
                Err(_) if members(&status).contains(&new) => {
                    end_of(client, &what, Some(new_id), patient.add_member(new, None)).await?
                }
                going => {
                    let going = going?;
                    confirmed(&status, &what, confirm).await?;
                    end_of(client, &what, Some(new_id), patient.replace_member(going.node_id, new)).await?
                }
            };
            changed(client, members, format).await
        }
        ClusterVerb::Transfer(args) => transfer(client, args, format).await,
        ClusterVerb::Digest => digest(client, format).await,
        ClusterVerb::Members => print_members(&members(&cluster_view(client).await?), format),
    }
}

async fn init(client: &Client, patient: &Client, topology: &Topology, format: Format) -> Result<Exit, Failure> {
    let call = patient.cluster_init(topology.to_proto());
    let cluster_id = hex(&end_of(client, "make the cluster", None, call).await?);
    match format {
        Format::Json => print_json("init", json!({"cluster_name": topology.cluster_name, "cluster_id": cluster_id}))?,
        Format::Table => {
            print_line(format!("cluster {} ({cluster_id}) of {} nodes", topology.cluster_name, topology.node.len()))?;
        }
    }
    Ok(Exit::Done)
}

/// Prints the members after a change, and which sites are not protected now: a change may have given that away.
async fn changed(client: &Client, members: Vec<Member>, format: Format) -> Result<Exit, Failure> {
    print_members(&members, format)?;
    match cluster_view(client).await {
        Ok(status) => unprotected(&status).iter().for_each(|note| eprintln!("attention: {note}")),
        Err(failure) => eprintln!("attention: the change is made, but no status can be read: {failure}"),
    }
    Ok(Exit::Done)
}

async fn transfer(client: &Client, args: TransferArgs, format: Format) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let (to, what) = match (args.node, args.site.unwrap_or_default()) {
        (Some(node), _) => (TransferTo::Node(find_node(&status, &node)?.node_id), format!("transfer to node {node}")),
        (None, site) => (TransferTo::Site(site.clone()), format!("transfer to site {site}")),
    };
    let leader = client.transfer(to).await.map_err(doing(what))?;
    match format {
        Format::Json => print_json("transfer", json!({"leader": leader}))?,
        Format::Table => {
            let member = find_node(&status, &leader.to_string())?;
            print_line(format!("{} at {} leads", member.name, member.site))?;
        }
    }
    Ok(Exit::Done)
}

fn members(status: &StatusResponse) -> Vec<Member> {
    status.nodes.iter().filter_map(|node| node.member.clone()).collect()
}

/// The member of that name or number.
pub(super) fn find_node(status: &StatusResponse, node: &str) -> Result<Member, Failure> {
    let members = members(status);
    let by_name = members.iter().find(|member| member.name == node);
    let by_id = || members.iter().find(|member| node.parse() == Ok(member.node_id));
    by_name.or_else(by_id).cloned().ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        Failure::usage(
            format!("there is no node {node} in cluster {}", status.cluster_name),
            format!("name one of {}", names.join(", ")),
        )
    })
}

/// What cannot be undone wants the cluster's name, from the flag or from the terminal.
pub(crate) async fn confirmed(status: &StatusResponse, doing: &str, confirm: Option<String>) -> Result<(), Failure> {
    let name = &status.cluster_name;
    if name.is_empty() {
        // Else whoever types the right name would be told that it is wrong.
        return Err(Failure::new(
            Exit::Unreachable,
            format!("{doing}: the node that was asked does not know the cluster's name yet; nothing was changed"),
            "ask again in a moment, or another node with --endpoint; `saola status` says how far each has come",
        ));
    }
    let given = match confirm {
        Some(given) => given,
        None if io::stdin().is_terminal() => {
            ask(format!("{doing} of cluster {name}: type the cluster's name to go on: ")).await?
        }
        None => return Err(Failure::usage(format!("{doing}: not confirmed"), format!("add --confirm {name}"))),
    };
    if given == *name {
        return Ok(());
    }
    Err(Failure::usage(
        format!("{doing}: `{given}` is not the cluster's name; nothing was changed"),
        "see `saola status` for the name",
    ))
}

pub(crate) async fn ask(question: String) -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(move || {
        io::stderr().write_all(question.as_bytes())?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer.trim().to_owned())
    });
    let result = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|source| Failure::file("ask on the terminal", &source))
}

fn print_members(members: &[Member], format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Json => {
            let members: Vec<Value> = members.iter().map(member_document).collect();
            print_json("members", json!({"members": members}))?;
        }
        Format::Table => {
            let row = |member: &Member| {
                vec![
                    member.node_id.to_string(),
                    member.name.clone(),
                    member.site.clone(),
                    role(member).to_owned(),
                    member.peer_address.clone(),
                    member.client_address.clone(),
                ]
            };
            let heading = ["ID", "NODE", "SITE", "ROLE", "PEER ADDRESS", "CLIENT ADDRESS"];
            print_line(table(&heading, &[0], members.iter().map(row).collect()))?;
        }
    }
    Ok(Exit::Done)
}

async fn digest(client: &Client, format: Format) -> Result<Exit, Failure> {
    let reply = client.digest().await.map_err(doing("compare the replicas"))?;
    let verdict = compare(&reply);
    match format {
        Format::Json => {
            let digests: Vec<Value> = reply
                .digests
                .iter()
                .map(|it| json!({"node_id": it.node_id, "digest": hex(&it.digest), "error": it.error}))
                .collect();
            print_json(
                "digest",
                json!({"log_index": reply.log_index, "equal": verdict == Digests::Equal, "digests": digests}),
            )?;
        }
        Format::Table => {
            let rows = reply.digests.iter().map(|it| {
                let shown = if it.digest.is_empty() { it.error.clone() } else { hex(&it.digest) };
                vec![it.node_id.to_string(), shown]
            });
            print_line(table(&["ID", &format!("DIGEST AT LOG INDEX {}", reply.log_index)], &[0], rows.collect()))?;
        }
    }
    match verdict {
        Digests::Equal => Ok(Exit::Done),
        Digests::Incomplete => {
            eprintln!("not every data node answered");
            Ok(Exit::Degraded)
        }
        Digests::Different => Err(Failure::new(
            Exit::Verification,
            format!("the data nodes differ at log index {}", reply.log_index),
            "keep the folders of all nodes, and replace the node that stands alone with `saola cluster replace`",
        )),
    }
}

/// What a comparison of the replicas says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digests {
    /// All data nodes hold the same state.
    Equal,
    /// Those that answered hold the same state; not all answered.
    Incomplete,
    /// Two of them differ.
    Different,
}

/// Compares the digests of all data nodes.
pub fn compare(reply: &DigestResponse) -> Digests {
    let mut known = reply.digests.iter().filter(|it| !it.digest.is_empty()).map(|it| &it.digest);
    let first = known.next();
    if known.any(|digest| Some(digest) != first) {
        return Digests::Different;
    }
    match first.is_some() && reply.digests.iter().all(|it| !it.digest.is_empty()) {
        true => Digests::Equal,
        false => Digests::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{NodeDigest, NodeStatus};

    use super::*;

    fn digests(all: &[&[u8]]) -> DigestResponse {
        let digest = |digest: &&[u8]| NodeDigest { digest: digest.to_vec().into(), ..NodeDigest::default() };
        DigestResponse { digests: all.iter().map(digest).collect(), ..DigestResponse::default() }
    }

    #[test]
    fn a_difference_is_told_from_a_missing_answer() {
        assert_eq!(compare(&digests(&[b"a", b"a"])), Digests::Equal);
        assert_eq!(compare(&digests(&[b"a", b""])), Digests::Incomplete);
        assert_eq!(compare(&digests(&[b"a", b"", b"b"])), Digests::Different);
        assert_eq!(compare(&digests(&[])), Digests::Incomplete);
    }

    fn status() -> StatusResponse {
        let node = |node_id, name: &str| NodeStatus {
            member: Some(Member { node_id, name: name.into(), ..Member::default() }),
            ..NodeStatus::default()
        };
        StatusResponse {
            cluster_name: "demo".into(),
            nodes: vec![node(1, "main-1"), node(2, "dr-1")],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn nodes_are_found_by_name_and_by_number() {
        assert_eq!(find_node(&status(), "dr-1").unwrap().node_id, 2);
        assert_eq!(find_node(&status(), "1").unwrap().name, "main-1");
        assert!(find_node(&status(), "dr-9").unwrap_err().next().contains("main-1, dr-1"));
    }

    #[tokio::test]
    async fn what_cannot_be_undone_wants_the_name_of_the_cluster() {
        assert!(confirmed(&status(), "remove node dr-1", Some("demo".into())).await.is_ok());
        let unnamed = StatusResponse { cluster_name: String::new(), ..status() };
        let failure = confirmed(&unnamed, "remove node dr-1", Some("demo".into())).await.unwrap_err();
        assert!(failure.what().contains("does not know the cluster's name yet"), "{failure}");
        let failure = confirmed(&status(), "remove node dr-1", Some("prod".into())).await.unwrap_err();
        assert!(failure.what().contains("nothing was changed"), "{failure}");
    }
}

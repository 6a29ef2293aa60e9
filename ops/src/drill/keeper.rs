//! Keeps what a drill does to nodes up, and ends it.
//!
//! A node ends a trouble by itself when it is not asked for again within [`LASTS`]: if this process or its machine is
//! lost, the cluster is whole again within that time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use saola_client::proto::CutOff;
use saola_client::proto::Role;
use saola_client::proto::trouble_request::Kind;
use saola_client::{Client, Error};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::report::Why;
use super::stage::Place;
use super::watch::Breaks;
use crate::exit::Failure;

/// A trouble that is not asked for again ends after so long.
pub const LASTS: Duration = Duration::from_secs(4);
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Between two attempts at a node that does not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a node may take to answer.
const CALL_LIMIT: Duration = Duration::from_millis(1_500);
/// How long nodes may take to show that they know the drill, an election included.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// A node without a trouble of its own only knows that the drill runs.
fn ready() -> Kind {
    Kind::CutOff(CutOff { nodes: Vec::new() })
}

/// Has a node neither hear nor reach these.
pub fn cut_off<'p>(from: impl IntoIterator<Item = &'p Place>) -> Kind {
    Kind::CutOff(CutOff { nodes: from.into_iter().map(|place| place.name.clone()).collect() })
}

type Wanted = BTreeMap<String, Kind>;

/// The nodes that can be troubled, and what is done to them.
pub struct Keeper {
    drill: String,
    nodes: BTreeMap<String, Client>,
    /// Held while nodes are told, so that what is told later counts.
    wanted: Arc<Mutex<Wanted>>,
    keeping: JoinHandle<()>,
}

impl Keeper {
    /// Makes the drill known to all data nodes: from then on they do as they are told, also when they are cut off.
    ///
    /// # Errors
    /// A node that does not take part.
    pub async fn start(drill: &str, nodes: &[Place], client: &Client, breaks: Breaks) -> Result<Keeper, Failure> {
        let nodes = clients(nodes, client)?;
        let wanted: Wanted = nodes.keys().map(|name| (name.clone(), ready())).collect();
        let limit = Instant::now() + READY_LIMIT;
        for (name, kind) in &wanted {
            loop {
                match nodes[name].trouble(drill, kind.clone(), LASTS).await {
                    Ok(()) => break,
                    Err(Error::Unavailable(_)) if Instant::now() < limit => tokio::time::sleep(PAUSE).await,
                    Err(error) => {
                        end_all(&nodes).await;
                        return Err(Failure::from(error).while_doing(format!("make the drill known to node {name}")));
                    }
                }
            }
        }
        let wanted = Arc::new(Mutex::new(wanted));
        let keeping = tokio::spawn(keep(drill.to_owned(), nodes.clone(), wanted.clone(), breaks));
        Ok(Keeper { drill: drill.to_owned(), nodes, wanted, keeping })
    }

    /// Does this to these nodes from now on, all at once.
    ///
    /// # Errors
    /// Nodes that did not do it.
    pub async fn trouble(&self, kinds: &[(&str, Kind)]) -> Result<(), String> {
        let mut wanted = self.wanted.lock().await;
        wanted.extend(kinds.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())));
        let begun = kinds.iter().map(|(name, kind)| async move {
            let node = self.nodes.get(*name).ok_or_else(|| format!("node {name} keeps no records"))?;
            node.trouble(&self.drill, kind.clone(), LASTS).await.map_err(|error| format!("node {name}: {error}"))
        });
        let failed: Vec<String> = join_all(begun).await.into_iter().filter_map(Result::err).collect();
        drop(wanted);
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// Kills a node's process; it starts again by itself.
    ///
    /// # Errors
    /// It could not be told to.
    pub async fn crash(&self, name: &str, down_ms: u32) -> Result<(), String> {
        let node = self.nodes.get(name).ok_or_else(|| format!("node {name} keeps no records"))?;
        let kind = Kind::Crash(saola_client::proto::Crash { down_ms });
        node.trouble(&self.drill, kind, LASTS).await.map_err(|error| format!("node {name}: {error}"))
    }

    /// Ends what is done to nodes; they know the drill still.
    ///
    /// # Errors
    /// Nodes that did not answer; there it ends by itself within [`LASTS`].
    pub async fn heal(&self) -> Result<(), String> {
        let all: Vec<(&str, Kind)> = self.nodes.keys().map(|name| (name.as_str(), ready())).collect();
        self.trouble(&all).await
    }

    /// Ends everything, and gives the names of those that did not answer.
    pub async fn end(self) -> Vec<String> {
        self.keeping.abort();
        // It ends by the abort alone; from then on nobody asks for anything again.
        let _aborted = self.keeping.await;
        end_all(&self.nodes).await
    }
}

/// A client for each data node.
fn clients(nodes: &[Place], client: &Client) -> Result<BTreeMap<String, Client>, Failure> {
    let data = nodes.iter().filter(|place| place.role != Role::Witness);
    let pinned =
        data.map(|place| Ok((place.name.clone(), client.at_endpoint(&place.address)?.with_deadline(CALL_LIMIT))));
    pinned.collect()
}

/// Ends whatever any drill does to any node; gives the names of those that did not answer.
///
/// # Errors
/// An address that is none.
pub async fn end_everywhere(nodes: &[Place], client: &Client) -> Result<Vec<String>, Failure> {
    Ok(end_all(&clients(nodes, client)?).await)
}

async fn end_all(nodes: &BTreeMap<String, Client>) -> Vec<String> {
    let ended = nodes.iter().map(|(name, node)| async move { node.end_trouble().await.is_err().then(|| name.clone()) });
    join_all(ended).await.into_iter().flatten().collect()
}

/// A node that does not answer now is asked again with the next round; if it never is, its trouble ends by itself. One
/// that refuses ends the drill.
async fn keep(drill: String, nodes: BTreeMap<String, Client>, wanted: Arc<Mutex<Wanted>>, breaks: Breaks) {
    let mut again = tokio::time::interval(AGAIN_AFTER);
    loop {
        again.tick().await;
        let wanted = wanted.lock().await;
        let (nodes, drill, breaks) = (&nodes, &drill, &breaks);
        join_all(wanted.iter().map(|(name, kind)| async move {
            let Some(node) = nodes.get(name) else { return };
            if let Err(Error::Invalid(details)) = node.trouble(drill, kind.clone(), LASTS).await {
                breaks.off(Why::Refused { node: name.clone(), said: details.message });
            }
        }))
        .await;
    }
}

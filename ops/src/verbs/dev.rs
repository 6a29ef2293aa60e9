//! `saola dev`: one node on loopback to try the commands and the client library, ended with the command.

use crate::exit::{Exit, Failure};
use crate::launch::{LocalCluster, Place, Plan, node_binary};
use crate::output::print_line;

/// Starts the node, prints how to talk to it, and waits for it to end; dropping the future ends the node.
///
/// # Errors
/// A node that does not start or ends by itself.
pub async fn dev() -> Result<Exit, Failure> {
    let mut cluster = LocalCluster::prepare(&Plan::one_node(), Place::Temporary, &node_binary()?)?;
    cluster.start_all().await?;
    cluster.init().await?;
    for line in cluster.how_to_talk()? {
        print_line(line)?;
    }
    eprintln!("\nOne node, one site, for trying only. Ctrl-C ends it and removes {}.", cluster.folder().display());
    Err(cluster.unexpected_end().await)
}

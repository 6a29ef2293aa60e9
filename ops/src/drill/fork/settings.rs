//! The settings of the node that runs on a fork, made of those of the node that is copied.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::exit::Failure;

/// Free space that a node keeps, unless its settings say otherwise: as in the node's README.
const MIN_FREE_BYTES: u64 = 512 << 20;

/// Settings of a node, as far as a fork has to know them.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSettings {
    table: Table,
    path: PathBuf,
}

/// What is different in a fork.
#[derive(Clone, Debug)]
pub struct Changed<'c> {
    /// Number that the cluster knows the node by.
    pub node_id: u64,
    /// Its role there.
    pub role: &'c str,
    /// Its site there.
    pub site: &'c str,
    /// Where its data goes.
    pub data_dir: &'c Path,
    /// Where it listens for other nodes.
    pub peer: &'c str,
    /// Where it listens for clients.
    pub client: &'c str,
}

impl NodeSettings {
    /// Reads the settings file of a data node.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<NodeSettings, Failure> {
        let doing = format!("read node settings {}", path.display());
        let text = fs::read_to_string(path).map_err(|source| Failure::input(&doing, &source))?;
        let next = "name the file that `saola-node --config` reads on a data node, as in /etc/saola/node.toml";
        let table: Table = toml::from_str(&text).map_err(|error| Failure::usage(format!("{doing}: {error}"), next))?;
        let path = std::path::absolute(path).map_err(|source| Failure::input(&doing, &source))?;
        let settings = NodeSettings { table, path };
        for (section, key) in [("node", "name"), ("tls", "ca"), ("tls", "cert"), ("tls", "key"), ("kek", "file")] {
            if settings.text(section, key).is_none() {
                return Err(Failure::usage(format!("{doing}: it has no {section}.{key}"), next));
            }
        }
        Ok(settings)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.text("node", "name").unwrap_or_default()
    }

    /// So many bytes of its disk stay free.
    pub fn min_free_bytes(&self) -> u64 {
        let said = self.table.get("limits").and_then(|limits| limits.get("min_free_bytes")).and_then(Value::as_integer);
        said.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(MIN_FREE_BYTES)
    }

    fn text(&self, section: &str, key: &str) -> Option<&str> {
        self.table.get(section)?.get(key)?.as_str()
    }

    /// The file for a fork: who it is, where it listens and where its data goes are its own, all else is the node's.
    pub fn of_fork(&self, changed: &Changed<'_>) -> String {
        let mut table = self.table.clone();
        let base = self.path.parent().unwrap_or(Path::new("/"));
        for (section, keys) in [("tls", &["ca", "cert", "key"][..]), ("kek", &["file"])] {
            for key in keys {
                let absolute = self.text(section, key).map(|file| base.join(file));
                put(&mut table, section, key, absolute.map(|file| file.display().to_string()).unwrap_or_default());
            }
        }
        put(&mut table, "node", "node_id", i64::try_from(changed.node_id).unwrap_or(i64::MAX));
        put(&mut table, "node", "role", changed.role);
        put(&mut table, "node", "site", changed.site);
        put(&mut table, "node", "data_dir", changed.data_dir.display().to_string());
        table.remove("listen");
        put(&mut table, "listen", "peer", changed.peer);
        put(&mut table, "listen", "client", changed.client);
        table.to_string()
    }
}

fn put(table: &mut Table, section: &str, key: &str, value: impl Into<Value>) {
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(key.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "[node]\nname = \"dr-1\"\nnode_id = 3\nsite = \"dr\"\nrole = \"voter\"\ndata_dir = \"data\"\n\
        [listen]\npeer = \"10.0.0.3:7101\"\nclient = \"10.0.0.3:7001\"\nmetrics = \"10.0.0.3:7201\"\n\
        [tls]\nca = \"ca.pem\"\ncert = \"node.pem\"\nkey = \"/keys/node.key\"\n[kek]\nfile = \"dr.kek\"\n\
        [timing]\npreset = \"wan\"\n[limits]\nmin_free_bytes = 1000\n";

    #[test]
    fn a_fork_listens_elsewhere_with_a_folder_of_its_own_and_has_the_nodes_keys_and_timing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        fs::write(&path, NODE).unwrap();
        let settings = NodeSettings::read(&path).unwrap();
        assert_eq!((settings.name(), settings.min_free_bytes()), ("dr-1", 1_000));
        let data = Path::new("/var/tmp/drill/data");
        let (peer, client) = ("127.0.0.1:1", "127.0.0.1:2");
        let text = settings.of_fork(&Changed { node_id: 6, role: "learner", site: "dr", data_dir: data, peer, client });
        let table: Table = text.parse().unwrap();
        assert_eq!(table["node"]["node_id"].as_integer(), Some(6));
        assert_eq!(table["node"]["role"].as_str(), Some("learner"));
        assert_eq!(table["node"]["data_dir"].as_str(), data.to_str());
        let listen: Table = toml::from_str("peer = \"127.0.0.1:1\"\nclient = \"127.0.0.1:2\"").unwrap();
        assert_eq!(table["listen"].as_table(), Some(&listen), "and no metrics, whose port the node itself has");
        assert_eq!(table["tls"]["key"].as_str(), Some("/keys/node.key"));
        assert_eq!(table["kek"]["file"].as_str(), dir.path().join("dr.kek").to_str());
        assert_eq!(table["timing"]["preset"].as_str(), Some("wan"));
    }

    #[test]
    fn settings_of_a_witness_or_of_something_else_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        for (text, missing) in [("a = 1", "node.name"), (&*NODE.replace("[kek]\nfile = \"dr.kek\"\n", ""), "kek.file")]
        {
            fs::write(&path, text).unwrap();
            let refused = NodeSettings::read(&path).unwrap_err();
            assert!(refused.what().contains(missing), "{refused}");
        }
    }
}

//! The text of the identity file (format version 1): the first line `saola-folder 1`, then one `key = value` a line.

use std::collections::BTreeMap;
use std::path::Path;

use super::{FolderClaim, FolderError};
use crate::member::Role;
use crate::release::{RELEASE, UnknownFormat};

const LABEL: &str = "saola-folder ";
/// Format version of the identity file.
pub const FORMAT: u64 = 1;

/// What an identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFile {
    /// Who lives in the folder.
    pub claim: FolderClaim,
    /// The folder's own random id.
    pub folder_id: [u8; 16],
    /// Cluster id and epoch, once it belongs to a cluster.
    pub membership: Option<([u8; 16], u64)>,
    /// Release that wrote the file; empty before releases said so.
    pub release: String,
}

/// What is wrong with an identity file.
pub(super) enum Problem {
    Newer(UnknownFormat),
    Damaged(String),
}

impl Problem {
    pub fn at(self, path: &Path) -> FolderError {
        match self {
            Problem::Newer(format) => FolderError::Newer { path: path.to_owned(), format },
            Problem::Damaged(reason) => FolderError::Damaged { path: path.to_owned(), reason },
        }
    }
}

impl IdentityFile {
    pub(super) fn encode(&self) -> String {
        let FolderClaim { node_id, name, site, role } = &self.claim;
        let mut text = format!(
            "{LABEL}{FORMAT}\nnode_id = {node_id}\nname = {name}\nsite = {site}\nrole = {}\nfolder_id = {}\n",
            role.as_str(),
            hex(&self.folder_id)
        );
        if let Some((cluster_id, epoch)) = self.membership {
            text += &format!("cluster_id = {}\nepoch = {epoch}\n", hex(&cluster_id));
        }
        text + &format!("release = {RELEASE}\n")
    }

    pub(super) fn parse(text: &str) -> Result<IdentityFile, Problem> {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let fields: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(" = ")).collect();
        // All releases name themselves so, whatever else they write.
        let release = fields.get("release").copied().unwrap_or_default().to_owned();
        match first.strip_prefix(LABEL).and_then(|format| format.parse().ok()) {
            Some(FORMAT) => {}
            Some(found) => return Err(Problem::Newer(UnknownFormat::new(found, &release, FORMAT))),
            None => return Err(Problem::Damaged(format!("first line is {first:?}"))),
        }
        let field = |key: &str| fields.get(key).copied().ok_or_else(|| Problem::Damaged(format!("no line for {key}")));
        let number = |key: &str| field(key)?.parse::<u64>().map_err(|e| Problem::Damaged(format!("{key}: {e}")));
        let id16 =
            |key: &str| unhex(field(key)?).ok_or_else(|| Problem::Damaged(format!("{key} is not 32 hex digits")));
        let role = match field("role")? {
            "voter" => Role::Voter,
            "learner" => Role::Learner,
            "witness" => Role::Witness,
            other => return Err(Problem::Damaged(format!("role {other:?}"))),
        };
        let membership = match fields.contains_key("cluster_id") {
            true => Some((id16("cluster_id")?, number("epoch")?)),
            false => None,
        };
        let claim = FolderClaim {
            node_id: number("node_id")?,
            name: field("name")?.to_owned(),
            site: field("site")?.to_owned(),
            role,
        };
        Ok(IdentityFile { claim, folder_id: id16("folder_id")?, membership, release })
    }

    pub(super) fn describe(&self) -> String {
        let cluster = match &self.membership {
            Some((id, _)) => format!(" of cluster {}", hex(id)),
            None => String::new(),
        };
        format!("{}{cluster}", self.claim)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (slot, i) in out.iter_mut().zip((0..32).step_by(2)) {
        *slot = u8::from_str_radix(&text[i..i + 2], 16).ok()?;
    }
    Some(out)
}

//! The text of the identity file: the first line `saola-folder` and the format version, then one `key = value` a line.
//!
//! Format 1 is written as long as it says everything. Format 2 has what forced promotions and fences leave behind:
//! `votes` (`since promotion`: a learner became a voter), `record` (the approved plan that began the folder's epoch),
//! `promised_epoch` and `promised` (an approved plan that the node waits for), `outbid_N` (plans that it waited for before that,
//! each as epoch and plan), `given_up` (plans up to this epoch are promised no more), `fenced` and `fenced_by` (why it takes no
//! part, and the plan that said so). Format 3 has what reinstatements leave: `numbered` (the number that the node goes by
//! instead of `node_id`, which the settings say, and the one before that), and, until it has the records of its new epoch, `members` (who has them,
//! a `MembershipRecord`) and `left_behind` (where its own writes come from that nobody else has, the head of an orphan
//! bundle). A release that knows an earlier format alone must not run such a folder, and does not.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::{FolderClaim, FolderError};
use crate::member::Role;
use crate::release::{RELEASE, UnknownFormat};
use crate::types::NodeId;

const LABEL: &str = "saola-folder ";
/// Format version of the identity file.
pub const FORMAT: u64 = 3;
const VOTES: &str = "since promotion";

/// What an identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFile {
    /// Who lives in the folder.
    pub claim: FolderClaim,
    /// The folder's own random id.
    pub folder_id: [u8; 16],
    /// Cluster id and epoch, once it belongs to a cluster.
    pub membership: Option<([u8; 16], u64)>,
    /// What forced promotions and fences left behind.
    pub lineage: Lineage,
    /// Release that wrote the file; empty before releases said so.
    pub release: String,
}

/// What forced promotions and fences left in a folder. Plans are opaque here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The settings say learner, and a promotion has given this node a vote.
    pub votes: bool,
    /// The approved plan that began this folder's epoch.
    pub record: Option<Bytes>,
    /// An approved plan for an epoch that this node waits for: it takes no part in its own any more.
    pub promised: Option<Promise>,
    /// What it had promised before that, for earlier epochs, the newest last: such a plan may have begun elsewhere.
    pub outbid: Vec<Promise>,
    /// No plan for an epoch up to this one is promised any more: one of them was given up.
    pub given_up: u64,
    /// It takes no part at all.
    pub fenced: Option<Fence>,
    /// The number that this node goes by since it was reinstated; none: the one that its settings say.
    pub numbered: Option<Numbered>,
    /// It was reinstated, and has not got the records of its epoch yet.
    pub reinstating: Option<Reinstating>,
}

/// See [`Lineage::numbered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The number that it goes by.
    pub now: NodeId,
    /// The one that it had before.
    pub before: NodeId,
}

/// See [`Lineage::reinstating`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reinstating {
    /// Who has the records: bytes of a `MembershipRecord`.
    pub members: Bytes,
    /// Where the writes come from that are here and nowhere else: bytes of the head of an orphan bundle.
    pub left_behind: Bytes,
}

/// See [`Lineage::promised`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The epoch.
    pub epoch: u64,
    /// The plan.
    pub plan: Bytes,
}

/// Why a node takes no part, whatever its peers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// In one line.
    pub why: String,
    /// The approved plan of an epoch that went on without it, if that is why.
    pub record: Option<Bytes>,
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
    /// The format that says all of it; what is written.
    pub fn format(&self) -> u64 {
        match &self.lineage {
            Lineage { numbered: None, reinstating: None, .. } if self.lineage == Lineage::default() => 1,
            Lineage { numbered: None, reinstating: None, .. } => 2,
            _ => FORMAT,
        }
    }

    pub(super) fn encode(&self) -> String {
        let FolderClaim { node_id, name, site, role } = &self.claim;
        let format = self.format();
        let mut text = format!(
            "{LABEL}{format}\nnode_id = {node_id}\nname = {name}\nsite = {site}\nrole = {}\nfolder_id = {}\n",
            role.as_str(),
            hex(&self.folder_id)
        );
        if let Some((cluster_id, epoch)) = self.membership {
            text += &format!("cluster_id = {}\nepoch = {epoch}\n", hex(&cluster_id));
        }
        let Lineage { votes, record, promised, outbid, given_up, fenced, numbered, reinstating } = &self.lineage;
        if *votes {
            text += &format!("votes = {VOTES}\n");
        }
        if let Some(record) = record {
            text += &format!("record = {}\n", hex(record));
        }
        if let Some(Promise { epoch, plan }) = promised {
            text += &format!("promised_epoch = {epoch}\npromised = {}\n", hex(plan));
        }
        for (number, Promise { epoch, plan }) in (1..).zip(outbid) {
            text += &format!("outbid_{number} = {epoch} {}\n", hex(plan));
        }
        if *given_up > 0 {
            text += &format!("given_up = {given_up}\n");
        }
        if let Some(Fence { why, record }) = fenced {
            text += &format!("fenced = {}\n", why.replace(['\n', '\r'], " "));
            if let Some(record) = record {
                text += &format!("fenced_by = {}\n", hex(record));
            }
        }
        if let Some(Numbered { now, before }) = numbered {
            text += &format!("numbered = {now} {before}\n");
        }
        if let Some(Reinstating { members, left_behind }) = reinstating {
            text += &format!("members = {}\nleft_behind = {}\n", hex(members), hex(left_behind));
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
            Some(1..=FORMAT) => {}
            Some(found) => return Err(Problem::Newer(UnknownFormat::new(found, &release, FORMAT))),
            None => return Err(Problem::Damaged(format!("first line is {first:?}"))),
        }
        let field = |key: &str| fields.get(key).copied().ok_or_else(|| Problem::Damaged(format!("no line for {key}")));
        let number = |key: &str| field(key)?.parse::<u64>().map_err(|e| Problem::Damaged(format!("{key}: {e}")));
        let id16 =
            |key: &str| unhex(field(key)?).ok_or_else(|| Problem::Damaged(format!("{key} is not 32 hex digits")));
        let bytes = |key: &str| match fields.get(key) {
            Some(text) => match unhex_all(text) {
                Some(bytes) => Ok(Some(Bytes::from(bytes))),
                None => Err(Problem::Damaged(format!("{key} is not hex digits"))),
            },
            None => Ok(None),
        };
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
        let promised = match bytes("promised")? {
            Some(plan) => Some(Promise { epoch: number("promised_epoch")?, plan }),
            None => None,
        };
        let fenced = match fields.get("fenced") {
            Some(why) => Some(Fence { why: (*why).to_owned(), record: bytes("fenced_by")? }),
            None => None,
        };
        let votes = fields.get("votes") == Some(&VOTES);
        let given_up = if fields.contains_key("given_up") { number("given_up")? } else { 0 };
        let mut outbid = Vec::new();
        for key in (1..).map(|number: u32| format!("outbid_{number}")).take_while(|key| fields.contains_key(&**key)) {
            let read = fields.get(&*key).and_then(|text| text.split_once(' '));
            let read = read.and_then(|(epoch, plan)| Some((epoch.parse().ok()?, unhex_all(plan)?)));
            let (epoch, plan) =
                read.ok_or_else(|| Problem::Damaged(format!("{key} is not an epoch and hex digits")))?;
            outbid.push(Promise { epoch, plan: plan.into() });
        }
        let numbered = match fields.get("numbered") {
            Some(text) => {
                let numbers = text.split_once(' ');
                let read = numbers
                    .and_then(|(now, before)| Some(Numbered { now: now.parse().ok()?, before: before.parse().ok()? }));
                Some(read.ok_or_else(|| Problem::Damaged("numbered is not two numbers".into()))?)
            }
            None => None,
        };
        let reinstating = match bytes("members")? {
            Some(members) => Some(Reinstating { members, left_behind: bytes("left_behind")?.unwrap_or_default() }),
            None => None,
        };
        let record = bytes("record")?;
        let lineage = Lineage { votes, record, promised, outbid, given_up, fenced, numbered, reinstating };
        Ok(IdentityFile { claim, folder_id: id16("folder_id")?, membership, lineage, release })
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
    unhex_all(text)?.try_into().ok()
}

fn unhex_all(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

//! The plan of a forced promotion, who has approved it, and the keys they approve with.
//!
//! A plan (format version 1, prost) says everything that is going to be done and why. Its hash is what is approved:
//! SHA-256 of `saola/promotion-plan/v1` and the plan's bytes. An approval is an Ed25519 signature (RFC 8032) of
//! `saola/promotion-approval/v1` and that hash. Plan and approvals together ([`SignedPlan`]) are the recovery record: it
//! begins the new epoch in a node's folder, and fences whoever is not in it. As a file it is one PEM block
//! (RFC 7468, label `SAOLA PROMOTION PLAN`), so that it can be sent by mail. Keys are PKCS #8 and SPKI PEM files, as
//! `openssl genpkey -algorithm ed25519` makes them.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ed25519_dalek::pkcs8::spki::der::pem::{LineEnding, decode_vec, encode_string};
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::{Enumeration, Message};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::command::Approver;
use crate::folder::hex;
use crate::keyspace::meta::LogIdRow;
use crate::member::Member;
use crate::types::EpochId;

/// Format version of plans that this release writes and reads.
pub const FORMAT: u32 = 1;
const PLAN_DOMAIN: &[u8] = b"saola/promotion-plan/v1";
const APPROVAL_DOMAIN: &[u8] = b"saola/promotion-approval/v1";
const LABEL: &str = "SAOLA PROMOTION PLAN";
/// No key file is longer.
const MAX_KEY_BYTES: u64 = 4096;

/// What would be lost: P8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Verdict {
    /// Acknowledged writes may be lost, nobody can say how many.
    Unknown = 0,
    /// At most [`Plan::lost_revisions`] are lost.
    Bounded = 1,
    /// No acknowledged write is lost.
    ProvenZero = 2,
}

/// A node that answered when the plan was made, as it stood then.
#[derive(Clone, PartialEq, Message)]
pub struct Survivor {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its site.
    #[prost(string, tag = "3")]
    pub site: String,
    /// End of its log.
    #[prost(message, optional, tag = "4")]
    pub last: Option<LogIdRow>,
    /// It is fenced: it takes no part any more, and its log counts.
    #[prost(bool, tag = "5")]
    pub fenced: bool,
    /// For messages to people: "voter", "learner", "witness".
    #[prost(string, tag = "6")]
    pub role: String,
}

/// What people vouch for who approve the plan: no node can know it.
#[derive(Clone, PartialEq, Message)]
pub struct Attested {
    /// Why the nodes that did not answer take no part any more: "racks without power, seen by …".
    #[prost(string, tag = "1")]
    pub fenced: String,
    /// The other side has acknowledged nothing since then, microseconds since 1970.
    #[prost(uint64, optional, tag = "2")]
    pub stopped_us: Option<u64>,
    /// The other side's newest revision, seen after it had stopped.
    #[prost(uint64, optional, tag = "3")]
    pub last_revision: Option<u64>,
    /// Nobody has changed the protection or the data nodes there since it was cut off.
    #[prost(bool, tag = "4")]
    pub unchanged: bool,
}

/// What is going to be done.
#[derive(Clone, PartialEq, Message)]
pub struct Plan {
    /// Always [`FORMAT`].
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub cluster_id: Bytes,
    /// The cluster's name, for people.
    #[prost(string, tag = "3")]
    pub cluster_name: String,
    /// The epoch that is going to begin.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// The epoch that ends.
    #[prost(uint64, tag = "5")]
    pub former_epoch: u64,
    /// The site that is promoted.
    #[prost(string, tag = "6")]
    pub site: String,
    /// When it was made, by the clock of the node that made it, microseconds since 1970.
    #[prost(uint64, tag = "7")]
    pub made_us: u64,
    /// After this moment it is not begun any more; what was begun is finished.
    #[prost(uint64, tag = "8")]
    pub expires_us: u64,
    /// All up to this entry is kept: the newest one of all survivors.
    #[prost(message, optional, tag = "9")]
    pub base: Option<LogIdRow>,
    /// The node that begins the epoch as its only voter.
    #[prost(uint64, tag = "10")]
    pub base_node: u64,
    /// The node that has the base, which may be another one: then its tail is shipped first.
    #[prost(uint64, tag = "11")]
    pub holder: u64,
    /// Raft's term of the entry that begins the epoch: far above those of the former one.
    #[prost(uint64, tag = "12")]
    pub term: u64,
    /// The members of the new epoch.
    #[prost(message, repeated, tag = "13")]
    pub members: Vec<Member>,
    /// Who answered.
    #[prost(message, repeated, tag = "14")]
    pub survivors: Vec<Survivor>,
    /// Who did not.
    #[prost(message, repeated, tag = "15")]
    pub lost: Vec<Member>,
    /// What people vouch for.
    #[prost(message, optional, tag = "16")]
    pub attested: Option<Attested>,
    /// What would be lost.
    #[prost(enumeration = "Verdict", tag = "17")]
    pub verdict: i32,
    /// See [`Verdict::Bounded`].
    #[prost(uint64, tag = "18")]
    pub lost_revisions: u64,
    /// The arithmetic behind the verdict, a sentence each.
    #[prost(string, repeated, tag = "19")]
    pub because: Vec<String>,
    /// Who may approve, as it stands at the base. A node that keeps no records cannot know it otherwise.
    #[prost(message, repeated, tag = "20")]
    pub approvers: Vec<Approver>,
    /// So many of them must.
    #[prost(uint32, tag = "21")]
    pub needed: u32,
    /// Store-wide revision at the node that begins the epoch when the plan was made.
    #[prost(uint64, tag = "22")]
    pub revision: u64,
    /// Who answered and is no member of the new epoch: fenced ones.
    #[prost(message, repeated, tag = "23")]
    pub left: Vec<Member>,
}

/// One approval.
#[derive(Clone, PartialEq, Message)]
pub struct Approval {
    /// Who.
    #[prost(string, tag = "1")]
    pub name: String,
    /// 64 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub signature: Bytes,
}

/// A plan with its approvals: once it is carried out, the recovery record.
#[derive(Clone, PartialEq, Message)]
pub struct SignedPlan {
    /// Bytes of a [`Plan`].
    #[prost(bytes = "bytes", tag = "1")]
    pub plan: Bytes,
    /// Its approvals.
    #[prost(message, repeated, tag = "2")]
    pub approvals: Vec<Approval>,
}

/// Why a plan or an approver's key cannot be used.
#[derive(Debug, Error)]
pub enum PromotionError {
    /// Not the bytes of a plan.
    #[error("not a promotion plan: {reason}; use the file that `saola dr plan promote` wrote")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A newer release's.
    #[error("the plan has format {found}, this release reads {FORMAT}: use the release that made it")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// Too few approvals.
    #[error("{valid} of {needed} approvals that are needed are valid{problems}; have approvers run `saola dr approve`")]
    NotApproved {
        /// Valid ones, each approver counted once.
        valid: usize,
        /// So many are needed.
        needed: u32,
        /// What is wrong with others, in words.
        problems: String,
    },
    /// The key file is open to others.
    #[error("approver's key {path}: mode {mode:04o} lets other users at it; run `chmod 600 {path}`", path = path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not such a key.
    #[error("{path} is not {what}: use the file that `saola approver keygen` wrote", path = path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// File system.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// It is no plan, or one of a newer format.
    pub fn from_bytes(bytes: &Bytes) -> Result<Plan, PromotionError> {
        let malformed = |reason: String| PromotionError::Malformed { reason };
        let plan = Plan::decode(bytes.clone()).map_err(|error| malformed(error.to_string()))?;
        if plan.format > FORMAT {
            return Err(PromotionError::Newer { found: plan.format });
        }
        let has_base_node = plan.members.iter().any(|member| member.node_id == plan.base_node);
        if plan.format == 0 || plan.cluster_id.len() != 16 || plan.epoch <= plan.former_epoch || !has_base_node {
            return Err(malformed("it says too little".into()));
        }
        Ok(plan)
    }

    /// The member of the new epoch with this number.
    pub fn member(&self, node_id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.node_id == node_id)
    }
}

/// What is approved: see the head of this module.
pub fn plan_hash(plan: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(PLAN_DOMAIN).chain_update(plan).finalize().into()
}

fn approved_message(plan: &[u8]) -> Vec<u8> {
    [APPROVAL_DOMAIN, &plan_hash(plan)].concat()
}

impl SignedPlan {
    /// Bytes, as they are sent and kept.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads them, and the plan in them.
    ///
    /// # Errors
    /// It is no plan, or one of a newer format.
    pub fn from_bytes(bytes: &Bytes) -> Result<(SignedPlan, Plan), PromotionError> {
        let malformed = |error: prost::DecodeError| PromotionError::Malformed { reason: error.to_string() };
        let signed = SignedPlan::decode(bytes.clone()).map_err(malformed)?;
        let plan = Plan::from_bytes(&signed.plan)?;
        Ok((signed, plan))
    }

    /// As a file: one PEM block.
    pub fn to_text(&self) -> String {
        let text = encode_string(LABEL, LineEnding::LF, &self.encode_to_vec());
        text.expect("the label is plain text, and a string has room for any block")
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// It is no plan, or one of a newer format.
    pub fn from_text(text: &str) -> Result<(SignedPlan, Plan), PromotionError> {
        let malformed = |reason: String| PromotionError::Malformed { reason };
        let (label, bytes) = decode_vec(text.trim().as_bytes()).map_err(|error| malformed(error.to_string()))?;
        if label != LABEL {
            return Err(malformed(format!("it is a {label}")));
        }
        SignedPlan::from_bytes(&bytes.into())
    }

    /// Adds an approval, in the place of an earlier one under this name.
    pub fn approve(&mut self, name: &str, key: &ApproverKey) {
        let signature = key.0.sign(&approved_message(&self.plan));
        self.approvals.retain(|approval| approval.name != name);
        let signature = Bytes::copy_from_slice(&signature.to_bytes());
        self.approvals.push(Approval { name: name.to_owned(), signature });
    }

    /// Whether enough of these approvers have approved it; answers who has.
    ///
    /// # Errors
    /// They have not.
    pub fn check(&self, approvers: &[Approver], needed: u32) -> Result<Vec<String>, PromotionError> {
        let message = approved_message(&self.plan);
        let (mut valid, mut problems, mut keys) = (BTreeSet::new(), String::new(), BTreeSet::new());
        for approval in &self.approvals {
            let approver = approvers.iter().find(|approver| approver.name == approval.name);
            let name = &approval.name;
            let problem = match approver.map(|approver| (approver, is_signed(approver, &message, &approval.signature)))
            {
                Some((approver, true)) if keys.insert(&approver.public_key) => {
                    valid.insert(name.clone());
                    continue;
                }
                Some((_, true)) => format!("{name}'s key has approved already"),
                Some((_, false)) => format!("{name}'s is not by the known key, or of another plan"),
                None => format!("{name} is no approver"),
            };
            problems += &format!("; {problem}");
        }
        match valid.len() >= needed as usize {
            true => Ok(valid.into_iter().collect()),
            false => Err(PromotionError::NotApproved { valid: valid.len(), needed, problems }),
        }
    }
}

fn is_signed(approver: &Approver, message: &[u8], signature: &[u8]) -> bool {
    is_signed_by(&approver.public_key, message, signature)
}

/// Whether the holder of this public key has signed these bytes ([`ApproverKey::sign`]).
pub fn is_signed_by(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = <[u8; 32]>::try_from(public_key).ok().and_then(|key| VerifyingKey::from_bytes(&key).ok());
    let signature = <[u8; 64]>::try_from(signature).ok().map(|bytes| Signature::from_bytes(&bytes));
    match (key, signature) {
        // Strict: a weak key, or a second form of a signature, is not one.
        (Some(key), Some(signature)) => key.verify_strict(message, &signature).is_ok(),
        _ => false,
    }
}

/// Whether 32 bytes are a public key that somebody may approve with.
pub fn is_public_key(bytes: &[u8]) -> bool {
    let key = <[u8; 32]>::try_from(bytes).ok().and_then(|key| VerifyingKey::from_bytes(&key).ok());
    key.is_some_and(|key| !key.is_weak())
}

/// An approver's private key. Wiped on drop, never printed.
pub struct ApproverKey(SigningKey);

impl ApproverKey {
    /// Makes a key of 32 random bytes.
    pub fn from_random(bytes: &Zeroizing<[u8; 32]>) -> ApproverKey {
        ApproverKey(SigningKey::from_bytes(bytes))
    }

    /// Its public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs what is no plan. `message` begins with words that say what it is, so that a signature of one thing is never
    /// one of another.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Reads a PKCS #8 PEM file that only its owner may read.
    ///
    /// # Errors
    /// It cannot be read, is open to others, or no such key.
    pub fn read_file(path: &Path) -> Result<ApproverKey, PromotionError> {
        let failed = |source| PromotionError::Io { action: "read the approver's key", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(PromotionError::OpenToOthers { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_BYTES as usize));
        file.take(MAX_KEY_BYTES).read_to_string(&mut text).map_err(failed)?;
        let key = SigningKey::from_pkcs8_pem(&text);
        let not_a_key = |_| PromotionError::NotAKey { path: path.to_owned(), what: "an Ed25519 private key (PKCS #8)" };
        key.map(ApproverKey).map_err(not_a_key)
    }

    /// Writes new files with both halves: the private one at `path`, mode 0600, the public one beside it as `path.pub`;
    /// answers that path. Nothing is overwritten.
    ///
    /// # Errors
    /// One of them exists or cannot be written.
    pub fn write_files(&self, path: &Path) -> Result<PathBuf, PromotionError> {
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        let public = PathBuf::from(public);
        let private = self.0.to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 key has a PKCS #8 form");
        let spki = self.0.verifying_key().to_public_key_pem(LineEnding::LF).expect("and an SPKI form");
        for (path, mode, text) in [(path, 0o600, private.as_str()), (&public, 0o644, spki.as_str())] {
            let failed = |source| PromotionError::Io { action: "write the key file", path: path.to_owned(), source };
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Ok(public)
    }
}

/// Reads a public key: an SPKI PEM file.
///
/// # Errors
/// It cannot be read, or is no such key.
pub fn read_public_key(path: &Path) -> Result<[u8; 32], PromotionError> {
    let failed = |source| PromotionError::Io { action: "read the public key", path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(MAX_KEY_BYTES).read_to_string(&mut text).map_err(failed)?;
    let not_a_key = |_| PromotionError::NotAKey { path: path.to_owned(), what: "an Ed25519 public key (SPKI)" };
    VerifyingKey::from_public_key_pem(&text).map(|key| key.to_bytes()).map_err(not_a_key)
}

/// Whether two signed plans are one plan, whoever has approved either.
pub fn is_same_plan(one: &[u8], other: &[u8]) -> bool {
    let plan = |bytes| SignedPlan::decode(bytes).ok().map(|signed| signed.plan).filter(|plan| !plan.is_empty());
    plan(one).is_some_and(|one| plan(other) == Some(one))
}

/// The epoch of this number; `record`: how it began, if that is known.
pub fn epoch_id(number: u64, record: Option<&Bytes>) -> EpochId {
    let signed = record.and_then(|record| SignedPlan::decode(record.clone()).ok());
    let plan = signed.filter(|it| !it.plan.is_empty()).map_or(0, |signed| {
        let hash = plan_hash(&signed.plan);
        hash[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    });
    EpochId { number, plan }
}

/// The first digits of a plan's hash, as people compare them.
pub fn short_hash(plan: &[u8]) -> String {
    hex(&plan_hash(plan)[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> ApproverKey {
        ApproverKey::from_random(&Zeroizing::new([byte; 32]))
    }

    fn approver(name: &str, byte: u8) -> Approver {
        Approver { name: name.into(), public_key: Bytes::copy_from_slice(&key(byte).public()) }
    }

    fn plan() -> Plan {
        Plan {
            format: FORMAT,
            cluster_id: Bytes::from_static(&[1; 16]),
            epoch: 2,
            former_epoch: 1,
            base_node: 4,
            members: vec![Member { node_id: 4, ..Member::default() }],
            ..Plan::default()
        }
    }

    fn signed(plan: &Plan) -> SignedPlan {
        SignedPlan { plan: plan.encode_to_vec().into(), approvals: Vec::new() }
    }

    #[test]
    fn enough_different_approvers_must_have_signed_this_very_plan() {
        let approvers = [approver("an", 1), approver("binh", 2), approver("chi", 3), approver("an-again", 1)];
        let mut it = signed(&plan());
        let valid = |it: &SignedPlan| it.check(&approvers, 2).map_err(|error| error.to_string());
        assert!(valid(&it).unwrap_err().starts_with("0 of 2 approvals"));
        it.approve("an", &key(1));
        it.approve("an", &key(1));
        it.approve("an-again", &key(1));
        assert!(valid(&it).unwrap_err().contains("1 of 2 approvals that are needed are valid; an-again's key has"));
        it.approve("binh", &key(9));
        assert!(valid(&it).unwrap_err().contains("binh's is not by the known key"));
        it.approve("dung", &key(4));
        assert!(valid(&it).unwrap_err().contains("dung is no approver"));
        it.approve("binh", &key(2));
        assert_eq!(valid(&it).unwrap(), ["an", "binh"]);
        it.plan = Plan { epoch: 3, ..plan() }.encode_to_vec().into();
        assert!(valid(&it).is_err(), "it was another plan that they approved");
        assert_eq!(signed(&plan()).check(&[], 0).unwrap(), [""; 0], "nobody was ever named");
    }

    #[test]
    fn a_plan_comes_back_from_its_file_and_a_damaged_one_does_not() {
        let mut it = signed(&plan());
        it.approve("an", &key(1));
        let text = it.to_text();
        assert!(text.starts_with("-----BEGIN SAOLA PROMOTION PLAN-----\n"), "{text}");
        assert_eq!(SignedPlan::from_text(&text).unwrap(), (it.clone(), plan()));
        let (unsigned, other) = (signed(&plan()), signed(&Plan { epoch: 3, ..plan() }));
        assert!(is_same_plan(&it.to_bytes(), &unsigned.to_bytes()) && !is_same_plan(&it.to_bytes(), &other.to_bytes()));
        assert!(!is_same_plan(b"", b""), "no plan is no plan");
        let began = |it: &SignedPlan| epoch_id(2, Some(&it.to_bytes()));
        assert_eq!((began(&it), epoch_id(2, None).plan), (began(&unsigned), 0));
        assert!(began(&it).is_twin_of(began(&other)) && !began(&it).is_twin_of(epoch_id(2, None)));
        assert!(began(&it).to_string().contains(&short_hash(&it.plan)), "people see one name of it");
        assert!(SignedPlan::from_text(&text[..text.len() / 2]).is_err());
        assert!(SignedPlan::from_text("hello").is_err());
        for bad in [Plan { epoch: 1, ..plan() }, Plan { base_node: 5, ..plan() }, Plan::default()] {
            assert!(SignedPlan::from_bytes(&signed(&bad).to_bytes()).is_err(), "{bad:?}");
        }
        let newer = signed(&Plan { format: FORMAT + 1, ..plan() });
        assert!(matches!(SignedPlan::from_bytes(&newer.to_bytes()), Err(PromotionError::Newer { found: 2 })));
    }

    #[test]
    fn keys_come_back_from_their_files_which_others_may_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("an.key");
        let public = key(1).write_files(&path).unwrap();
        assert_eq!(read_public_key(&public).unwrap(), key(1).public());
        assert_eq!(ApproverKey::read_file(&path).unwrap().public(), key(1).public());
        assert!(key(1).write_files(&path).is_err(), "nothing is overwritten");
        assert!(matches!(ApproverKey::read_file(&public), Err(PromotionError::OpenToOthers { .. })));
        assert!(matches!(read_public_key(&path), Err(PromotionError::NotAKey { .. })));
        assert!(is_public_key(&key(1).public()) && !is_public_key(&[0; 32]) && !is_public_key(b"short"));
    }
}

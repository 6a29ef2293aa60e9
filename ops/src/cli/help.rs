//! What stands below the options in `--help`: examples and exit codes.

/// Of `saola` itself.
pub const FIRST_LOOK: &str = r#"A first look:
  saola dev                       # one throwaway node; prints what to export
  saola collection create agency
  saola put agency ward/00004 '{"name":"Phường Trúc Bạch"}'
  saola get agency ward/00004

Exit codes:
  0 done, healthy                      5 status: degraded
  1 other failure                      6 status: critical
  2 wrong command line or input        7 the nodes cannot open their keys
  3 no node, leader or quorum          8 replicas differ, something does not verify
  4 a condition does not hold,         9 not allowed
    or not found                      10 outcome unknown: it may have been applied"#;

/// Of `saola cluster init`.
pub const TOPOLOGY: &str = r#"A topology file:
  cluster_name = "registry"
  [[site]]
  name = "main"
  kek_public = "…"        # what `saola-node keygen kek` printed; "" where there is only a witness
  [[node]]
  node_id = 1
  name = "main-1"
  site = "main"
  role = "voter"          # or learner, witness
  peer_address = "10.0.0.1:7101"
  client_address = "10.0.0.1:7001"

To outlive the loss of either of two sites: two voters at each, and a witness at a third place.
Name one of the data nodes with --endpoint."#;

/// Of `saola cluster add`.
pub const ADD: &str = r#"Example:
  saola cluster add --node-id 6 --name dr-3 --site dr \
    --peer-address 10.0.2.3:7101 --client-address 10.0.2.3:7001"#;

/// Of `saola import`.
pub const LINES: &str = r#"Lines:
  {"op":"put","collection":"agency","id":"ward/00004","value":{"name":"Trúc Bạch"}}
  {"op":"delete","collection":"agency","id":"ward/00004"}
A value that is no JSON stands in `value_base64`, with its `content_type`. The collections must be there.
How far an import has come stands in FILE.saola-import; --resume goes on there."#;

/// Of `saola dr plan promote`.
#[cfg(feature = "offline")]
pub const PROMOTE: &str = r#"On the day:
  saola site fence main --why "…"                                  # what still answers there
  saola dr plan promote --site dr --attest "power is off, seen by …" # what would be lost
  saola dr approve promote-dr-….plan --key me.key                  # as many as are needed
  saola dr apply promote-dr-….plan
Name a node of the site that goes on with --endpoint. A plan is good for 15 minutes. The loss is one of:
  PROVEN ZERO   no acknowledged write is lost
  BOUNDED       at most so many revisions are (with --last-revision)
  UNKNOWN       nobody can say; --stopped-at with --unchanged may prove more"#;

/// Of `saola drill run`.
#[cfg(feature = "offline")]
pub const DRILL: &str = r#"Example:
  saola approver keygen --out officer.key               # once; officer.key.pub goes to whoever checks reports
  saola drill plan main-site-lost                       # what it would do here, and what stands against it
  saola drill run main-site-lost --by "A. Duty" --sign-with officer.key --out reports
  saola drill verify reports/drill-000001.html --signer officer.key.pub
On a data node, a forced promotion on a copy of it, with those who approve (the cluster goes on):
  saola drill run promote-copy --by "A. Duty" --sign-with officer.key --fork-of /etc/saola/node.toml --fork-folder copy
A drill begins only on a cluster that fares well, and is broken off by Ctrl-C, `saola drill abort`, a real alarm, or an
outage longer than the scenario allows. What it does to nodes ends by itself 4 s after this command falls silent."#;

/// Of `saola dr reinstate`.
#[cfg(feature = "offline")]
pub const REINSTATE: &str = r#"When the site that was left behind answers again:
  saola dr reinstate main --dry-run     # how its nodes stand
  saola dr reinstate main               # they come back, under new numbers, with what they lack
  saola orphan list                     # what they alone had written
  saola orphan diff BUNDLE              # beside the records as they are now
  saola orphan replay BUNDLE            # write again what nobody has written since
  saola switchover --to main            # once `saola status` says that the sites protect each other
Their settings and folders stay as they are. A node whose disk is lost: `saola cluster add` with an empty folder and a new id."#;

/// Of `saola dr approve`.
#[cfg(feature = "offline")]
pub const APPROVE: &str = r#"You sign the whole plan: what is done, what is vouched for, and the loss. Read it, compare the hash with the other
approvers by telephone, then type it. No node is asked: approve on any machine that has your key."#;

/// Of `saola approver set`.
#[cfg(feature = "offline")]
pub const APPROVERS: &str = r#"Example:
  saola approver keygen --out director.key                 # each on a machine of their own
  saola approver set --needed 2 --approver director=director.key.pub \
    --approver security=security.key.pub --approver operations=operations.key.pub
Keep the private keys where they can be had when the main site is gone."#;

/// Of `saola cert dev`.
pub const CERTIFICATES: &str = r#"Example:
  saola cert dev --out certs --node main-1 --node main-2 --client operator
Nodes take ca.pem, NAME.pem and NAME.key as tls.ca, tls.cert and tls.key; you take the client's as --ca, --cert, --key."#;

/// Of `saola offline`.
#[cfg(feature = "offline")]
pub const OFFLINE: &str = r#"Examples:
  saola offline records verify --data-dir FOLDER
  saola offline records get --data-dir FOLDER agency ward/00004 --kek main.kek
  saola offline log verify --data-dir FOLDER
  saola offline formats --data-dir FOLDER
FOLDER is `data_dir` of a node that has been stopped, or a copy of it; it may be on read-only media. These verbs ask no
cluster, so what other nodes have is not seen: what is shown is what this one folder holds."#;

/// Of `saola offline records verify`.
#[cfg(feature = "offline")]
pub const OFFLINE_VERIFY: &str = r#"Each finding is a line `collection/id gN: what`; the last line sums up. Example:
  saola offline records verify --data-dir FOLDER
Damage on one node: `saola cluster replace` makes it anew from the others."#;

/// Of `saola offline records get`.
#[cfg(feature = "offline")]
pub const OFFLINE_GET: &str = r#"Examples:
  saola offline records get --data-dir FOLDER agency ward/00004
  saola offline records get --data-dir FOLDER agency ward/00004 --as-of 2025-07-01T00:00:00Z --kek main.kek --raw
The key file must have mode 0600. What is in the log and not yet in the database is not seen; the command says how much."#;

/// Of `saola offline log dump`.
#[cfg(feature = "offline")]
pub const OFFLINE_DUMP: &str = r#"Example:
  saola offline log dump --data-dir FOLDER --from 100 --to 120"#;

//! The service `saola.v1.Drills`: what a drill does to this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use saola_client::drill::{LOCK, WORK};
use saola_client::proto::drills_server::Drills;
use saola_client::proto::trouble_request::Kind as Asked;
use saola_client::proto::{
    CutOff, EndTroubleRequest, EndTroubleResponse, ExportRequest, ExportResponse, GetRequest, TroubleRequest,
    TroubleResponse,
};
use tonic::{Request, Response, Status};

use super::cluster::header;
use super::deadline::Deadline;
use super::errors::{Reason, Refusal};
use super::stream::Answers;
use super::{admit, read};
use crate::drill::{Kind, Troubles};
use crate::node::Node;
use crate::process;

/// A node stays down no longer than this.
const LONGEST_DOWN_MS: u32 = 60_000;
/// The answer gets so long to leave before the process ends; nothing depends on it.
const ANSWER_LEAVES: Duration = Duration::from_millis(20);

/// Answers a drill.
pub struct DrillService {
    /// The node that is asked.
    pub node: Arc<Node>,
    /// What is done to it.
    pub troubles: Troubles,
}

#[tonic::async_trait]
impl Drills for DrillService {
    async fn trouble(&self, request: Request<TroubleRequest>) -> Result<Response<TroubleResponse>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        let TroubleRequest { drill, kind, for_ms } = request.into_inner();
        if !self.troubles.are_of(&drill) {
            self.check_runs(&drill, deadline).await?;
        }
        let kind = match kind {
            Some(Asked::CutOff(CutOff { nodes })) => self.cut_off(nodes)?,
            Some(Asked::HangDisk(true)) => Kind::HangDisk,
            Some(Asked::Crash(crash)) => {
                let down = Duration::from_millis(crash.down_ms.min(LONGEST_DOWN_MS).into());
                tracing::warn!(drill, "a drill crashes this node: it is down for {} ms", down.as_millis());
                tokio::spawn(async move {
                    tokio::time::sleep(ANSWER_LEAVES).await;
                    let error = process::replace(down);
                    tracing::error!("the drill cannot crash this node: {error}");
                });
                return Ok(Response::new(TroubleResponse { header: Some(header(&self.node)) }));
            }
            Some(Asked::HangDisk(false)) | None => {
                let next = "name one, or end it with EndTrouble";
                return Err(Refusal::invalid("the request names no trouble".into(), next).into());
            }
        };
        let lasts = Duration::from_millis(for_ms.into());
        self.troubles
            .make(&drill, kind, lasts)
            .map_err(|why| Refusal::invalid(why, "`saola drill cleanup` ends it"))?;
        Ok(Response::new(TroubleResponse { header: Some(header(&self.node)) }))
    }

    async fn end_trouble(&self, request: Request<EndTroubleRequest>) -> Result<Response<EndTroubleResponse>, Status> {
        admit(&self.node, request.metadata())?;
        let ended = self.troubles.end().unwrap_or_default();
        Ok(Response::new(EndTroubleResponse { header: Some(header(&self.node)), ended }))
    }

    type ExportStream = Answers<ExportResponse>;

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        self.check_runs(&request.into_inner().drill, deadline).await?;
        let chunks = self.node.replica().export().await.map_err(Refusal::from)?;
        let parts = chunks.map(|chunk| match chunk {
            Ok(chunk) => Ok(ExportResponse { chunk }),
            Err(error) => Err(Refusal::from(error).into()),
        });
        Ok(Response::new(parts.boxed()))
    }
}

impl DrillService {
    /// Nothing is done to a node but by the drill that holds the lock.
    async fn check_runs(&self, drill: &str, deadline: Deadline) -> Result<(), Refusal> {
        let call = GetRequest { collection: WORK.into(), id: LOCK.into(), ..GetRequest::default() };
        let holder = match read::get(&self.node, call, deadline).await {
            Ok(found) => found.version.map(|version| version.value),
            Err(refusal) if refusal.reason() == Reason::UnknownCollection => None,
            Err(refusal) => return Err(refusal),
        };
        match holder {
            Some(holder) if !drill.is_empty() && holder == drill.as_bytes() => Ok(()),
            _ => Err(Refusal::invalid(format!("drill {drill:?} does not run"), "`saola drill run` begins one")),
        }
    }

    fn cut_off(&self, nodes: Vec<String>) -> Result<Kind, Refusal> {
        let names: BTreeSet<String> = nodes.into_iter().collect();
        let members = self.node.replica().status().members;
        let own = &self.node.member().name;
        if let Some(name) = names.iter().find(|name| *name == own || !members.iter().any(|it| it.name == **name)) {
            let what = format!("{name:?} is no peer of this node");
            return Err(Refusal::invalid(what, "`saola cluster members` lists them"));
        }
        Ok(Kind::CutOff(names))
    }
}

//! `saola approver …`: who may approve a forced promotion.

use std::path::Path;

use saola_client::Client;
use saola_client::proto::Approver;
use saola_storage::promotion::{ApproverKey, read_public_key};
use serde_json::json;
use zeroize::Zeroizing;

use super::{about_plan, tell_if_outdated};
use crate::cli::ApproverVerb;
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, hex, print_json, print_line, table};
use crate::verbs::cluster::confirmed;
use crate::verbs::view::cluster_view;

/// Runs a verb; `client` makes one where a node is asked.
///
/// # Errors
/// A key that cannot be read or written, or a failed call.
pub async fn approver(
    client: impl Fn() -> Result<Client, Failure>,
    verb: ApproverVerb,
    format: Format,
) -> Result<Exit, Failure> {
    match verb {
        ApproverVerb::Keygen { out } => keygen(&out, format),
        ApproverVerb::List => list(&client()?, format).await,
        ApproverVerb::Set { approver, needed, confirm } => {
            let client = client()?;
            let named = |(name, file): (String, std::path::PathBuf)| {
                let key = read_public_key(&file).map_err(about_plan)?;
                Ok(Approver { name, public_key: key.to_vec().into() })
            };
            let approvers = approver.into_iter().map(named).collect::<Result<Vec<_>, Failure>>()?;
            let status = cluster_view(&client).await?;
            let what = format!("let {needed} of {} approvers decide on a forced promotion", approvers.len());
            confirmed(&status, &what, confirm).await?;
            client.set_approvers(approvers, needed).await.map_err(doing(what))?;
            list(&client, format).await
        }
    }
}

fn keygen(out: &Path, format: Format) -> Result<Exit, Failure> {
    let key = ApproverKey::from_random(&Zeroizing::new(rand::random()));
    let public = key.write_files(out).map_err(about_plan)?;
    match format {
        Format::Json => print_json("approver-keygen", json!({ "private": out, "public": public }))?,
        Format::Table => print_line(format!("{} (keep it yours, off the nodes)\n{}", out.display(), public.display()))?,
    }
    Ok(Exit::Done)
}

async fn list(client: &Client, format: Format) -> Result<Exit, Failure> {
    let known = client.epochs().await.map_err(doing("ask for the approvers"))?;
    tell_if_outdated(&known);
    if format == Format::Json {
        let approvers = known.approvers.iter().map(|it| json!({ "name": it.name, "public_key": hex(&it.public_key) }));
        let body = json!({
            "needed": known.needed, "approvers": approvers.collect::<Vec<_>>(), "outdated": known.outdated,
        });
        print_json("approver-list", body)?;
        return Ok(Exit::Done);
    }
    if known.approvers.is_empty() {
        print_line("nobody is named: a forced promotion needs no approval; name approvers with `saola approver set`")?;
        return Ok(Exit::Degraded);
    }
    let rows = known.approvers.iter().map(|it| vec![it.name.clone(), hex(&it.public_key)]).collect();
    print_line(table(&["APPROVER", "PUBLIC KEY"], &[], rows))?;
    print_line(format!("{} of {} must approve a forced promotion", known.needed, known.approvers.len()))?;
    Ok(Exit::Done)
}

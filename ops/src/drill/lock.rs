//! One drill at a time: the record `lock` names it, and nodes do what a drill asks only while it does.

use saola_client::drill::{LOCK, WORK};
use saola_client::{Client, CreateCollection, Error, Expect, Provenance, RetentionChange, Version};

use crate::exit::{Exit, Failure, doing};
use crate::time;

/// Collection of reports and of what is planned.
pub const DRILLS: &str = "saola.drills";
/// What drills have left in [`WORK`] stays so long.
const WORK_KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// Makes the collections that drills need, unless they are there.
///
/// # Errors
/// They cannot be made.
pub async fn make_collections(client: &Client) -> Result<(), Failure> {
    let made = |name: &'static str, label: &str| {
        let new = CreateCollection { owner: "saola".into(), label: label.into(), ..CreateCollection::new(name) };
        async move {
            match client.create_collection(new).await {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists(_)) => Ok(false),
                Err(error) => Err(doing(format!("make collection {name}"))(error)),
            }
        }
    };
    made(DRILLS, "reports of drills, and when the next ones are due").await?;
    if made(WORK, "what drills write while they run").await? {
        let limits = RetentionChange::Limits { max_generations: None, max_age: Some(WORK_KEPT) };
        client.set_retention(WORK, limits).await.map_err(doing(format!("limit what {WORK} keeps")))?;
    }
    Ok(())
}

/// The drill that runs now, if any: its id is the value, who runs it stands in the provenance.
///
/// # Errors
/// The record cannot be read.
pub async fn holder(client: &Client) -> Result<Option<Version>, Failure> {
    match client.get(WORK, LOCK).send().await {
        Ok(reply) => Ok(reply.value.filter(|version| !version.is_deleted())),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(doing("look for a drill that runs")(error)),
    }
}

/// Who runs which drill since when.
pub fn describe(held: &Version) -> String {
    let id = String::from_utf8_lossy(&held.value);
    let Provenance { actor, reason, .. } = &held.provenance;
    format!("drill {id} ({reason}) of {actor} runs since {}", time::iso(held.recorded_at_us))
}

/// Takes the lock.
///
/// # Errors
/// Another drill holds it.
pub async fn take(client: &Client, drill: &str, by: &str, scenario: &str) -> Result<(), Failure> {
    if let Some(held) = holder(client).await? {
        return Err(taken(&held));
    }
    let provenance = Provenance { actor: by.to_owned(), reason: scenario.to_owned(), ..Provenance::default() };
    let put = client.put(WORK, LOCK, drill.to_owned()).content_type("text/plain").expect(Expect::Absent);
    match put.provenance(provenance).send().await {
        Ok(_) => Ok(()),
        Err(Error::Conflict { .. }) => Err(match holder(client).await? {
            Some(held) => taken(&held),
            None => Failure::new(Exit::Precondition, "another drill was just there", "run it again"),
        }),
        // Whether it was written is there to be seen.
        Err(error) => match holder(client).await {
            Ok(Some(held)) if held.value == drill => Ok(()),
            _ => Err(doing("take the drill lock")(error)),
        },
    }
}

/// Gives the lock up that this drill holds, if it does.
///
/// # Errors
/// It cannot be read or removed.
pub async fn give_up(client: &Client, drill: &str) -> Result<(), Failure> {
    match holder(client).await?.filter(|held| held.value == drill) {
        Some(held) => release(client, &held).await,
        None => Ok(()),
    }
}

fn taken(held: &Version) -> Failure {
    let next = "`saola drill abort` ends it in order; `saola drill cleanup` clears up after one whose machine is gone";
    Failure::new(Exit::Precondition, describe(held), next)
}

/// Whether this drill still holds the lock. A cluster that cannot be asked now has not taken it away.
pub async fn is_held(client: &Client, drill: &str) -> bool {
    match holder(client).await {
        Ok(held) => held.is_some_and(|held| held.value == drill),
        Err(_) => true,
    }
}

/// Gives the lock up that `held` shows.
///
/// # Errors
/// It cannot be removed.
pub async fn release(client: &Client, held: &Version) -> Result<(), Failure> {
    match client.delete(WORK, LOCK).expect(Expect::Generation(held.generation)).send().await {
        // Whoever has changed it meanwhile has ended that drill.
        Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(doing("release the drill lock")(error)),
    }
}

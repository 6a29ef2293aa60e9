//! Step 4: one ward before and after the reform, its history, and how many units there are of each level.

use std::collections::BTreeMap;

use saola_client::{At, Client, Version};
use serde::Deserialize;

use super::load::{AGENCY, Loaded, Moment};
use super::screen::Screen;
use crate::exit::{Exit, Failure};
use crate::launch::LocalCluster;
use crate::output::grouped;
use crate::show;
use crate::time::iso;

const WARD: &str = "ward/00004";

/// Live units of each level.
type Levels = BTreeMap<String, u64>;

/// Shows them and checks them; returns how many records are live after the reform.
///
/// # Errors
/// A read that fails or shows something else than the files hold.
pub async fn show(screen: &Screen, cluster: &LocalCluster, loaded: &Loaded) -> Result<u64, Failure> {
    screen.step(4, "Read as of before and after the reform")?;
    let client = cluster.client();
    let before = as_of(client, loaded.before).await?;
    let after = as_of(client, loaded.after).await?;
    screen.line(format!("{WARD} as of revision {} and of {}", loaded.before.revision, iso(loaded.before.time_us)))?;
    screen.line(format!("    {}", show::value_text(&before)))?;
    screen.line(format!("{WARD} as of revision {} and of {}", loaded.after.revision, iso(loaded.after.time_us)))?;
    screen.line(format!("    {}", show::value_text(&after)))?;
    let history = client.history(AGENCY, WARD).send().await?.value;
    screen.line(format!("its history, {} versions:", history.len()))?;
    for version in &history {
        screen.line(format!("    {}", show::line(version)))?;
    }
    check(history == [before, after], "the history of the ward is not these two versions")?;
    let before = levels(client, loaded.before).await?;
    let after = levels(client, loaded.after).await?;
    screen.line(format!("live units before: {}", words(&before)))?;
    screen.line(format!("live units after:  {}", words(&after)))?;
    let expected = |counts: &[(&str, u64)]| counts.iter().map(|(level, count)| ((*level).to_owned(), *count)).collect();
    let expected_before: Levels = expected(&[("province", 63), ("district", 696), ("ward", 10_035)]);
    let expected_after: Levels = expected(&[("province", 34), ("ward", 3_321)]);
    check(before == expected_before, &format!("before the reform there should be {}", words(&expected_before)))?;
    check(after == expected_after, &format!("after the reform there should be {}", words(&expected_after)))?;
    Ok(after.values().sum())
}

fn check(holds: bool, otherwise: &str) -> Result<(), Failure> {
    match holds {
        true => Ok(()),
        false => Err(Failure::new(Exit::Verification, otherwise, "compare with `saola history agency ward/00004`")),
    }
}

/// The ward at a moment, read by revision and by time: both must show the same version.
async fn as_of(client: &Client, moment: Moment) -> Result<Version, Failure> {
    let by_revision = client.get(AGENCY, WARD).at(At::Revision(moment.revision)).send().await?.value;
    let by_time = client.get(AGENCY, WARD).at(At::TimeUs(moment.time_us)).send().await?.value;
    check(by_revision == by_time, &format!("{WARD} differs as of revision {} and of its time", moment.revision))?;
    by_revision.ok_or_else(|| {
        Failure::new(
            Exit::Verification,
            format!("{WARD} is missing at revision {}", moment.revision),
            "see `saola history`",
        )
    })
}

async fn levels(client: &Client, moment: Moment) -> Result<Levels, Failure> {
    let mut listing = client.list(AGENCY).page_size(1000).at(At::Revision(moment.revision)).all();
    let mut levels = Levels::new();
    while let Some(version) = listing.next().await? {
        *levels.entry(level(&version)?).or_default() += 1;
    }
    Ok(levels)
}

fn level(version: &Version) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Unit {
        level: String,
    }
    let unit: Unit = serde_json::from_slice(&version.value).map_err(|error| {
        let what = format!("value of {}: {error}", show::id(&version.id));
        Failure::new(Exit::Verification, what, "compare it with the imported file")
    })?;
    Ok(unit.level)
}

fn words(levels: &Levels) -> String {
    let total: u64 = levels.values().sum();
    let each = levels.iter().map(|(level, count)| format!("{} {level}s", grouped(*count)));
    format!("{} ({})", grouped(total), each.collect::<Vec<_>>().join(", "))
}

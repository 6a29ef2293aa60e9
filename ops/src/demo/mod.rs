//! `saola demo`: five nodes over two sites keep real records through the loss of a site, and prove it.
//!
//! One file a phase: [`setup`] (steps 1 and 2), [`load`] (3), [`reform`] (4), [`drill`] (5), [`audit`] (6),
//! [`rejoin`] (7), [`plaintext`] (8), [`summary`] (9). [`screen`] prints.

pub mod audit;
pub mod drill;
pub mod load;
pub mod plaintext;
pub mod reform;
pub mod rejoin;
pub mod screen;
pub mod setup;
pub mod summary;

use crate::cli::DemoArgs;
use crate::exit::{Exit, Failure};
use crate::launch::{LocalCluster, Place, node_binary};
use crate::output::print_line;
use screen::Screen;
use summary::Totals;

/// Runs the demo. Its last line on standard output is `demo: OK …` or `demo: FAILED …`.
///
/// # Errors
/// Only when standard output cannot be written; everything else ends in the last line and exit code 1.
pub async fn run(args: DemoArgs) -> Result<Exit, Failure> {
    match run_to_its_end(args).await {
        // Elsewhere a reader that has enough is no failure; here it has not read the verdict.
        Err(failure) if failure.exit() == Exit::Done => Err(Failure::new(
            Exit::Other,
            "demo: standard output was closed before the last line",
            "run it again, and read its output to the end",
        )),
        result => result,
    }
}

async fn run_to_its_end(args: DemoArgs) -> Result<Exit, Failure> {
    let failed = |failure: &Failure| {
        if !failure.next().is_empty() {
            eprintln!("\nnext: {}", failure.next());
        }
        print_line(format!("demo: FAILED {}", one_line(failure.what())))?;
        Ok(Exit::Other)
    };
    let screen = Screen::start();
    let place = args.dir.clone().map_or(Place::Temporary, Place::Folder);
    let prepared = node_binary().and_then(|binary| setup::prepare(&screen, place, &binary));
    let mut cluster = match prepared {
        Ok(cluster) => cluster,
        Err(failure) => return failed(&failure),
    };
    let result = play(&screen, &mut cluster).await.and_then(|totals| totals.verdict().map(|()| totals));
    match result {
        Ok(totals) => {
            end(cluster, args.keep)?;
            print_line(totals.line())?;
            Ok(Exit::Done)
        }
        Err(failure) => {
            cluster.keep_folder();
            eprintln!("\nThe nodes' files and logs stay in {}", cluster.folder().display());
            end(cluster, args.keep)?;
            failed(&failure)
        }
    }
}

async fn play(screen: &Screen, cluster: &mut LocalCluster) -> Result<Totals, Failure> {
    setup::start(screen, cluster).await?;
    let loaded = load::load(screen, cluster).await?;
    let records = reform::show(screen, cluster, &loaded).await?;
    let drill = drill::lose_main_site(screen, cluster).await?;
    let audit = audit::read_back(screen, cluster, &drill).await?;
    rejoin::bring_main_back(screen, cluster).await?;
    let plaintext_hits = plaintext::search(screen, cluster, &drill).await?;
    let revisions = summary::show(screen, cluster).await?;
    Ok(Totals {
        records,
        revisions,
        acked: drill.acks.len() as u64,
        lost: audit.lost,
        duplicated: audit.duplicated,
        gap_ms: drill.gap_ms(),
        plaintext_hits,
    })
}

/// Ends the nodes, or leaves them running and says how to talk to them.
fn end(cluster: LocalCluster, keep: bool) -> Result<(), Failure> {
    if keep {
        eprintln!("\nThe cluster goes on running. To talk to it:");
        for line in cluster.how_to_talk()? {
            eprintln!("  {line}");
        }
        eprintln!("  saola status");
        eprintln!("To end it: kill {}", cluster.pids().iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
        cluster.leave_running()?;
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

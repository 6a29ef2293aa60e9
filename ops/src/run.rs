//! From the command line to its verb.

use std::time::Duration;

use clap::CommandFactory;
use saola_client::CHANGE_LIMIT;

use saola_client::RetentionChange;

use crate::cli::{CertVerb, Cli, CollectionVerb, TopologyVerb, Verb, WitnessVerb};
use crate::exit::{Exit, Failure};
use crate::{certificates, connect, demo, import, signals, verbs};
#[cfg(feature = "offline")]
use crate::{dr, drill};

/// How long a call on records may take, unless told otherwise.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for calls on the cluster but changes of its members, which have [`CHANGE_LIMIT`].
pub(crate) const CLUSTER_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for imports and exports, which should live through a failover.
pub(crate) const BULK_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the verb, or ends it when a signal asks for it; children of the verb end with it.
///
/// # Errors
/// [`Failure`] with the exit code and the next step.
pub async fn run(cli: Cli) -> Result<Exit, Failure> {
    // An import settles first what is under way, a drill clears up.
    let times = match &cli.verb {
        Verb::Import(_) => 2,
        #[cfg(feature = "offline")]
        Verb::Drill(crate::cli::DrillVerb::Run(_)) => 3,
        _ => 1,
    };
    let asked_to_end = signals::asked_to_end(times)?;
    tokio::select! {
        result = verb(cli) => result,
        () = asked_to_end => {
            eprintln!("interrupted");
            Ok(Exit::Interrupted)
        }
    }
}

async fn verb(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    let records = || connect::client(&global, RECORDS_TIMEOUT);
    let format = global.output;
    match cli.verb {
        Verb::Status { watch } => verbs::status::status(&records()?, watch, format).await,
        Verb::Why => verbs::why::why(&records()?, format).await,
        Verb::Topology(TopologyVerb::Explain) => verbs::explain::explain(&records()?, format).await,
        Verb::Cluster(verb) => {
            let client = connect::client(&global, CLUSTER_TIMEOUT)?;
            let change_limit = global.timeout.unwrap_or(CHANGE_LIMIT);
            verbs::cluster::cluster(&client, change_limit, verb, format).await
        }
        Verb::Protection(verb) => verbs::protection::protection(&records()?, verb, format).await,
        Verb::Validate(verb) => verbs::validate::validate(&records()?, verb, format).await,
        Verb::Switchover(args) => {
            verbs::switchover::switchover(&connect::client(&global, CLUSTER_TIMEOUT)?, args, format).await
        }
        #[cfg(feature = "offline")]
        Verb::Dr(verb) => dr::dr(|limit| connect::client(&global, limit), verb, format).await,
        #[cfg(feature = "offline")]
        Verb::Approver(verb) => dr::approver::approver(records, verb, format).await,
        #[cfg(feature = "offline")]
        Verb::Site(verb) => dr::site(&connect::client(&global, CLUSTER_TIMEOUT)?, verb, format).await,
        #[cfg(feature = "offline")]
        Verb::Epoch(verb) => dr::epoch(&records()?, verb, format).await,
        #[cfg(feature = "offline")]
        Verb::Drill(verb) => drill::drill(&global, verb, format).await,
        #[cfg(feature = "offline")]
        Verb::Orphan(verb) => dr::orphan::orphan(&connect::client(&global, CLUSTER_TIMEOUT)?, verb, format).await,
        Verb::Goal(verb) => verbs::goal::goal(&records()?, verb, format).await,
        Verb::AutoFailover(verb) => verbs::failover::failover(&records()?, verb, format).await,
        Verb::Witness(WitnessVerb::Status) => verbs::witness::status(&records()?, format).await,
        Verb::Scrub(verb) => verbs::scrub::scrub(&records()?, verb, format).await,
        Verb::Collection(CollectionVerb::Create(args)) => verbs::collection::create(&records()?, args, format).await,
        Verb::Collection(CollectionVerb::List) => verbs::collection::list(&records()?, format).await,
        Verb::Collection(CollectionVerb::Show { name }) => verbs::collection::show(&records()?, &name, format).await,
        Verb::Collection(CollectionVerb::Retention(args)) => {
            verbs::collection::set_retention(&records()?, &args.name, args.limits(), format).await
        }
        Verb::Collection(CollectionVerb::Hold { name, reason }) => {
            verbs::collection::set_retention(&records()?, &name, RetentionChange::Hold(reason), format).await
        }
        Verb::Collection(CollectionVerb::Release { name }) => {
            verbs::collection::set_retention(&records()?, &name, RetentionChange::Release, format).await
        }
        Verb::Put(args) => verbs::write::put(&records()?, args, format).await,
        Verb::Delete(args) => verbs::write::delete(&records()?, args, format).await,
        Verb::Get(args) => verbs::read::get(&records()?, args, format).await,
        Verb::List(args) => verbs::read::list(&records()?, args, format).await,
        Verb::History(args) => verbs::read::history(&records()?, args, format).await,
        Verb::Import(args) => import::run(&connect::client(&global, BULK_TIMEOUT)?, args, format).await,
        Verb::Export(args) => verbs::export::export(&connect::client(&global, BULK_TIMEOUT)?, args).await,
        Verb::Cert(CertVerb::Dev(args)) => certificates::run(&args, format),
        Verb::Dev => verbs::dev::dev().await,
        Verb::Demo(args) => demo::run(args).await,
        #[cfg(feature = "offline")]
        Verb::Offline(verb) => crate::offline::offline(&global, verb).await,
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "saola", &mut text);
            crate::output::print_bytes(&text)?;
            Ok(Exit::Done)
        }
    }
}

//! The command `saola`: runs a verb, prints a failure once with its next step, and ends with its exit code.

use std::process::ExitCode;

use saola_ops::cli::Cli;
use saola_ops::exit::{Exit, Failure};
use saola_ops::output::print_failure;
use saola_ops::run;

fn main() -> ExitCode {
    let cli = Cli::from_arguments();
    let format = cli.global.output;
    let exit = match start(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            if failure.exit() != Exit::Done {
                print_failure(&failure, format);
            }
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn start(cli: Cli) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(|source| Failure::file("start the runtime", &source))?;
    let result = runtime.block_on(run::run(cli));
    // A thread may still wait for standard input; nothing is left for it to do.
    runtime.shutdown_background();
    result
}

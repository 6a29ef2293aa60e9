//! `saola-node` as a process that never outlives its handle.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::wait::until;

/// The program under test.
pub fn saola_node() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saola-node"));
    command.stdin(Stdio::null()).env_remove("SAOLA_LOG");
    command
}

/// A node that runs.
pub struct NodeProcess {
    child: Child,
}

impl NodeProcess {
    /// Starts it; what it prints is added to `log`. `log_filter` replaces its usual SAOLA_LOG.
    pub fn start(settings: &Path, log: &Path, log_filter: Option<&str>) -> NodeProcess {
        let open = || -> File { OpenOptions::new().create(true).append(true).open(log).unwrap() };
        let mut command = saola_node();
        command.arg("--config").arg(settings).stdout(open()).stderr(open());
        if let Some(filter) = log_filter {
            command.env("SAOLA_LOG", filter);
        }
        NodeProcess { child: command.spawn().unwrap() }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL; it is gone when this returns.
    pub fn kill(self) {
        drop(self);
    }

    /// SIGTERM; gives its exit status.
    pub async fn terminate(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        until("node ends after SIGTERM", async || self.ended().ok_or_else(|| "it runs".to_owned())).await
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Fails only for a process that has ended already.
        let _ended = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }
}

/// What a node says that does not start with these settings.
pub async fn refused_start(settings: &Path) -> String {
    let log = settings.with_extension("refused");
    let mut process = NodeProcess::start(settings, &log, None);
    let status = until("node refuses to start", async || process.ended().ok_or_else(|| "it runs".to_owned())).await;
    let said = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// Runs a verb to its end: success, standard output, standard error.
pub fn run(arguments: &[&str]) -> (bool, String, String) {
    let output = saola_node().args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

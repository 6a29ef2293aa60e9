//! One `saola-node` child process.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::exit::{Exit, Failure};

const BINARY: &str = "saola-node";
/// A node that was asked to end has so long to do it.
const TERMINATE_LIMIT: Duration = Duration::from_secs(30);
/// The kernel needs a moment to take back the memory of a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// So much of the end of a log is shown when a node fails.
const LOG_TAIL_LINES: usize = 12;

/// Finds `saola-node` beside this program, or one folder up, where test programs have it.
///
/// # Errors
/// When it is in neither place.
pub fn node_binary() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().map_err(|source| Failure::file("find this program", &source))?;
    let places = here.ancestors().skip(1).take(2).map(|folder| folder.join(BINARY));
    places.clone().find(|place| place.is_file()).ok_or_else(|| {
        let looked: Vec<String> = places.map(|place| place.display().to_string()).collect();
        Failure::new(
            Exit::Other,
            format!("find {BINARY}: it is not at {}", looked.join(" or ")),
            "build it with `make build`, or put it beside `saola`",
        )
    })
}

/// A running node. Dropping it kills the process.
#[derive(Debug)]
pub struct NodeProcess {
    name: String,
    child: Child,
    /// While it is open the node runs.
    stdin: Option<ChildStdin>,
    log: PathBuf,
    leave: bool,
}

impl NodeProcess {
    /// Starts a node; what it prints is added to `log`. `inside`: what runs it, if that is not this process. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(
        binary: &Path,
        name: &str,
        settings: &Path,
        log: &Path,
        inside: &[String],
    ) -> Result<NodeProcess, Failure> {
        let doing = format!("start node {name}");
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let output = open().and_then(|out| Ok((out.try_clone()?, out)));
        let (out, errors) =
            output.map_err(|source| Failure::file(format!("{doing}: open {}", log.display()), &source))?;
        let mut command = match inside.split_first() {
            None => Command::new(binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
        };
        let mut child = command
            .arg("--config")
            .arg(settings)
            // The other end closes when this process dies, however it does, and the node ends in order.
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(errors)
            // Ctrl-C goes to this process alone, which then ends its nodes in order.
            .process_group(0)
            .spawn()
            .map_err(|source| Failure::file(format!("{doing}: run {}", binary.display()), &source))?;
        // Out of the child's hands, which closes it as soon as somebody waits for the node.
        let stdin = child.stdin.take();
        Ok(NodeProcess { name: name.to_owned(), child, stdin, log: log.to_owned(), leave: false })
    }

    /// Its process id; none once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends SIGKILL and does not wait.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn send_kill(&mut self) -> Result<(), Failure> {
        self.child.start_kill().map_err(|source| Failure::file(format!("kill node {}", self.name), &source))
    }

    /// Sends a signal such as SIGTERM, SIGSTOP or SIGCONT.
    ///
    /// # Errors
    /// When the process has ended, or the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| self.ended("it has ended"))?;
        kill_process(pid, signal).map_err(|errno| self.ended(&format!("send {signal:?}: {errno}")))
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        self.child.wait().await.map_err(|source| Failure::file(format!("wait for node {}", self.name), &source))
    }

    /// Asks the node to end in order, and kills it if it does not.
    ///
    /// # Errors
    /// When it cannot be signalled, or had to be killed.
    pub async fn terminate(mut self) -> Result<ExitStatus, Failure> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(TERMINATE_LIMIT, self.wait()).await {
            Ok(status) => status,
            Err(_) => Err(self.ended(&format!("it did not end within {} s of SIGTERM", TERMINATE_LIMIT.as_secs()))),
        }
    }

    /// A failure if the process has ended, with the end of its log.
    pub fn check_running(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&format!("it ended with {status}"))),
            Err(source) => Err(Failure::file(format!("look after node {}", self.name), &source)),
        }
    }

    /// Lets the process live on when this is dropped, and when this process ends.
    ///
    /// # Errors
    /// When the node cannot be told.
    pub fn leave_running(&mut self) -> Result<(), Failure> {
        let doing = || format!("let node {} go on", self.name);
        if let Some(stdin) = self.stdin.take() {
            let stdin = stdin.into_owned_fd().map_err(|source| Failure::file(doing(), &source))?;
            File::from(stdin).write_all(b"\n").map_err(|source| Failure::file(doing(), &source))?;
        }
        self.leave = true;
        Ok(())
    }

    fn ended(&self, how: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n  ");
        Failure::new(
            Exit::Other,
            format!("node {}: {how}; the end of its log:\n  {tail}", self.name),
            format!("see {}", self.log.display()),
        )
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.leave || !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Err(error) = self.child.start_kill() {
            eprintln!("warning: kill node {}: {error}", self.name);
            return;
        }
        // Its files are removed next, and a dying process may still write; nothing can be awaited in a drop.
        let until = Instant::now() + KILL_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

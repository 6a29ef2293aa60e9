//! The command `saola`, as an operator of the cluster calls it.

use std::fmt;
use std::path::Path;
use std::process::Command;

use saola_ops::launch::node_binary;

/// It ended with another code than 0.
#[derive(Debug)]
pub struct Refused {
    /// What it printed.
    pub said: String,
    /// What it complained of.
    pub why: String,
}

impl From<String> for Refused {
    fn from(why: String) -> Refused {
        Refused { said: String::new(), why }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What it prints; `cluster`: the folder of that.
///
/// # Errors
/// It refuses, or cannot be run.
pub async fn saola(cluster: &Path, arguments: &[&str]) -> Result<String, Refused> {
    let binary = node_binary().map_err(|failure| failure.to_string())?;
    let mut command = Command::new(binary.with_file_name("saola"));
    command.arg("--profile").arg(cluster.join("profile.toml")).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.map_err(|error| error.to_string())?;
    let output = output.map_err(|error| format!("run saola: {error}; build it with `make build`"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(Refused { said, why: String::from_utf8_lossy(&output.stderr).trim().to_owned() }),
    }
}

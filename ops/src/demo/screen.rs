//! What the demo shows: numbered steps with the time since its start, and short lines below them.

use std::time::Instant;

use crate::exit::Failure;
use crate::output::print_line;

/// Number of steps.
const STEPS: u8 = 9;

/// The demo's screen.
#[derive(Debug)]
pub struct Screen {
    started: Instant,
}

impl Screen {
    /// An empty screen; the time begins now.
    pub fn start() -> Screen {
        Screen { started: Instant::now() }
    }

    /// Begins a step.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn step(&self, number: u8, title: &str) -> Result<(), Failure> {
        print_line(format!("\n{number}/{STEPS}  {title}  [{:.1} s]", self.started.elapsed().as_secs_f64()))
    }

    /// A line of the step; further lines of `text` are put below it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        text.as_ref().lines().try_for_each(|line| print_line(format!("     {line}")))
    }
}

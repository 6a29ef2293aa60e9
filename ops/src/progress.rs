//! Progress of long work, on standard error: a bar on a terminal, else a line every few seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::grouped;

/// Where there is no terminal, a line is printed no more often than this.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one piece of work, counted in lines or another unit.
#[derive(Debug)]
pub struct Progress {
    what: String,
    unit: &'static str,
    total: Option<u64>,
    started: Instant,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Starts showing `what`; `total` is how many lines there are, where that is known.
    pub fn start(what: &str, total: Option<u64>) -> Progress {
        Progress::of(what, "lines", total)
    }

    /// The same, counted in another unit.
    pub fn of(what: &str, unit: &'static str, total: Option<u64>) -> Progress {
        let started = Instant::now();
        let shown = if std::io::stderr().is_terminal() {
            Shown::Bar(bar(what, unit, total))
        } else {
            Shown::Lines { last: started }
        };
        Progress { what: what.to_owned(), unit, total, started, shown }
    }

    /// So many lines are done by now.
    pub fn set(&mut self, done: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                eprintln!("{}", line(&self.what, self.unit, done, self.total, self.started.elapsed()));
            }
            Shown::Lines { .. } => {}
        }
    }

    /// Prints a message without tearing the bar.
    pub fn say(&self, message: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| eprintln!("{message}")),
            Shown::Lines { .. } => eprintln!("{message}"),
        }
    }

    /// Ends the bar and tells how long it took.
    pub fn finish(&self) -> Duration {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, unit: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "   {msg} {bar:30} {percent:>3}%  {human_pos}/{human_len} UNIT  {per_sec:>10}  {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "   {msg} {spinner} {human_pos} UNIT  {per_sec}"),
    };
    // The templates are fixed; should indicatif ever refuse one, its own style does as well.
    let style =
        ProgressStyle::with_template(&template.replace("UNIT", unit)).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> ")).with_message(what.to_owned())
}

/// Lines a second, rounded.
pub fn rate(lines: u64, elapsed: Duration) -> u64 {
    (lines as f64 / elapsed.as_secs_f64().max(0.001)).round() as u64
}

fn line(what: &str, unit: &str, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let of = total.map(|total| format!(" of {}", grouped(total))).unwrap_or_default();
    format!("{what}: {}{of} {unit}, {} a second", grouped(done), grouped(rate(done, elapsed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_names_amount_and_rate() {
        assert_eq!(
            line("import", "lines", 5_000, Some(10_794), Duration::from_secs(2)),
            "import: 5,000 of 10,794 lines, 2,500 a second"
        );
        assert_eq!(line("import", "rows", 10, None, Duration::from_secs(1)), "import: 10 rows, 10 a second");
        assert_eq!(rate(10, Duration::ZERO), 10_000);
    }
}

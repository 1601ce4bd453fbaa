//! The bar on the terminal; nothing at all when standard error is no terminal. Called by `measure.rs`.

use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress {
    bar: ProgressBar,
    case: String,
}

impl Progress {
    /// `case` stands before every bar, to tell which of many measurements runs.
    pub fn new(case: &str) -> Self {
        // indicatif draws on standard error, and only if that is a terminal.
        Self { bar: ProgressBar::new(0), case: case.to_owned() }
    }

    /// Starts a bar of `length` steps.
    pub fn count(&self, step: &str, length: u64) {
        let style =
            ProgressStyle::with_template("{msg:50} [{bar:30}] {pos}/{len}").expect("a fixed template");
        self.bar.set_style(style.progress_chars("=> "));
        self.bar.set_length(length);
        self.bar.set_position(0);
        self.bar.set_message(format!("{}: {step}", self.case));
    }

    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Takes the bar away, so that figures start on a clean line.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}

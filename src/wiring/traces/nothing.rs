//! The same in a program that was built without traces: there is nothing to start.

use std::time::Duration;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::traces::Tracer;
use crate::wiring::ServeError;

/// Nothing.
pub struct Traces;

/// Nothing.
pub struct Tracing;

impl Traces {
    /// The check of the configuration has told if there should be some.
    pub fn open(_: &Config, _: &str) -> Result<(Tracer, Traces), ServeError> {
        Ok((Tracer::default(), Traces))
    }

    /// Starts nothing.
    pub fn start(self, _: &Metrics) -> Tracing {
        Tracing
    }
}

impl Tracing {
    /// Ends nothing.
    pub async fn stop(self, _: Duration) {}
}

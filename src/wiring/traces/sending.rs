//! The ends of what brings spans to a collector, in a program that was built with traces.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::collector::sending::{Collector, Sending};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::metrics::sheet::Sheet;
use crate::traces::{Figures, Recorded, Recording, Tracer};
use crate::wiring::ServeError;

/// What traces need, open; nothing is sent yet.
pub struct Traces(Option<(Collector, Recorded)>);

/// What sends them.
pub struct Tracing(Option<(watch::Sender<bool>, JoinHandle<()>)>);

impl Traces {
    /// Makes what begins spans, if there is a collector. `node`: this node's name.
    pub fn open(config: &Config, node: &str) -> Result<(Tracer, Traces), ServeError> {
        let settings = &config.traces;
        if !settings.is_used() {
            return Ok((Tracer::default(), Traces(None)));
        }
        let url = settings.endpoint().map_err(ServeError::Config)?.into();
        let (tracer, recorded) = Tracer::new(Recording {
            sample: settings.sample,
            queue: settings.queue,
            resource: settings.resource(node),
            remembers: config.hooks.is_used() || !config.forward.targets.is_empty(),
        });
        let collector = Collector { url, headers: settings.header_pairs() };
        Ok((tracer, Traces(Some((collector, recorded)))))
    }

    /// Starts to send, and puts the figures among the others.
    pub fn start(self, metrics: &Metrics) -> Tracing {
        let Some((collector, recorded)) = self.0 else { return Tracing(None) };
        let figures = recorded.figures.clone();
        metrics.add(Box::new(move |sheet| write(sheet, &figures)));
        let (stop, stopped) = watch::channel(false);
        let task = actix_rt::spawn(Sending::new(collector, recorded).run(stopped));
        Tracing(Some((stop, task)))
    }
}

impl Tracing {
    /// Offers what waits to the collector once more. At most `patience`.
    pub async fn stop(self, patience: Duration) {
        let Some((stop, task)) = self.0 else { return };
        // An error: it has ended by itself, by a panic, and the log has told.
        stop.send(true).unwrap_or_default();
        if timeout(patience, task).await.is_err() {
            log::warn!("traces: the collector did not answer in time; the last spans are lost");
        }
    }
}

fn write(sheet: &mut Sheet, figures: &Arc<Figures>) {
    let of = |figure: &AtomicU64| figure.load(Relaxed);
    sheet.counter("roomcast_traces_sent", "Spans that the collector has taken", of(&figures.sent));
    sheet.counter(
        "roomcast_traces_dropped",
        "Spans dropped because too many waited for the collector",
        of(&figures.dropped),
    );
    let help = "Spans that the collector did not take, or not in time";
    sheet.counter("roomcast_traces_failed", help, of(&figures.failed));
    sheet.gauge("roomcast_traces_waiting", "Spans that wait for the collector", of(&figures.waiting));
    let help = "1 while the collector took the last request";
    sheet.gauge("roomcast_traces_reached", help, of(&figures.reached));
}

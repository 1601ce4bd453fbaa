//! What one measurement found, in the units of the report. Filled by `measure.rs`; written as one JSON object and
//! picked from by the tables. Holds no text for people.

use std::time::Duration;

use serde::Serialize;

use crate::histogram::Histogram;
use crate::measure::Window;
use crate::server::syscalls::Calls;
use crate::tally::Faults;

/// All times in microseconds, all sizes in bytes, unless the name says otherwise. `None`: not measured.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    pub connections: u64,
    pub connections_per_s: f64,
    pub connect_cpu_us: f64,
    pub measured_s: f64,
    pub deliveries: u64,
    pub deliveries_per_s: f64,
    pub messages_per_s: f64,
    /// Messages of the whole run, before and after the measured time included.
    pub sent_in_all: u64,
    /// Server CPU, user and system, by deliveries and by messages published.
    pub cpu_us_per_delivery: Option<f64>,
    pub user_us_per_delivery: Option<f64>,
    pub system_us_per_delivery: Option<f64>,
    pub cpu_us_per_message: Option<f64>,
    /// The same for the programs beside the server (a Redis).
    pub beside_cpu_us_per_message: Option<f64>,
    pub server_cores: f64,
    pub client_cores: f64,
    /// What else ran on the machine; above some tenths the figures are of little worth.
    pub other_cores: f64,
    pub switches_voluntary_per_message: f64,
    pub switches_involuntary_per_message: f64,
    pub calls: Option<Calling>,
    /// From the moment a message was due (rate) or sent (window) until a listener has read it.
    pub latency_p50_us: f64,
    pub latency_p99_us: f64,
    pub latency_p999_us: f64,
    pub latency_max_us: f64,
    pub latency_samples: u64,
    /// How late the schedule itself was at its worst.
    pub lag_max_us: f64,
    pub messages_per_read: f64,
    pub bytes_per_delivery: f64,
    pub rss_samples: Vec<u64>,
    pub faults: Faults,
    pub told_gaps: u64,
    pub stalled_closed: u64,
    pub stalled_heard: u64,
    /// The first thing that looked wrong.
    pub complaint: Option<String>,
    #[serde(skip)]
    pub window: Option<Window>,
}

/// System calls of the server per delivery, and who counted them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Calling {
    pub counted_by: &'static str,
    pub writes_per_delivery: f64,
    #[serde(flatten)]
    pub traced: Option<Traced>,
}

/// What only trace points can tell.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Traced {
    pub reads_per_delivery: f64,
    pub waits_per_delivery: f64,
    pub futexes_per_delivery: f64,
    pub syncs_per_delivery: f64,
}

impl Calling {
    pub fn traced(before: Calls, after: Calls, delivered: u64) -> Self {
        let per = |before: u64, after: u64| ratio(after.saturating_sub(before) as f64, delivered as f64);
        Self {
            counted_by: "kernel trace points",
            writes_per_delivery: per(before.writes, after.writes),
            traced: Some(Traced {
                reads_per_delivery: per(before.reads, after.reads),
                waits_per_delivery: per(before.waits, after.waits),
                futexes_per_delivery: per(before.futexes, after.futexes),
                syncs_per_delivery: per(before.syncs, after.syncs),
            }),
        }
    }

    pub fn told(writes: f64, delivered: f64) -> Self {
        Self {
            counted_by: "the server's metrics",
            writes_per_delivery: ratio(writes, delivered),
            traced: None,
        }
    }
}

impl Figures {
    pub fn connected(&mut self, took: Duration, cpu_s: f64) {
        self.connections_per_s = ratio(self.connections as f64, took.as_secs_f64());
        self.connect_cpu_us = ratio(cpu_s * 1e6, self.connections as f64);
    }

    pub fn latency(&mut self, histogram: &Histogram) {
        let us = |ns: u64| ns as f64 / 1e3;
        self.latency_samples = histogram.total();
        self.latency_p50_us = us(histogram.quantile(0.5));
        self.latency_p99_us = us(histogram.quantile(0.99));
        self.latency_p999_us = us(histogram.quantile(0.999));
        self.latency_max_us = us(histogram.max());
    }

    /// Works out what follows from the measured window.
    pub fn sum_up(&mut self) {
        let Some(Window { start, end }) = self.window else {
            return;
        };
        let seconds = (end.client.at_ns - start.client.at_ns) as f64 / 1e9;
        let deliveries = (end.client.delivered - start.client.delivered) as f64;
        let messages = (end.client.sent - start.client.sent) as f64;
        self.measured_s = seconds;
        self.deliveries = deliveries as u64;
        self.deliveries_per_s = ratio(deliveries, seconds);
        self.messages_per_s = ratio(messages, seconds);
        self.messages_per_read = ratio(deliveries, (end.client.reads - start.client.reads) as f64);
        self.bytes_per_delivery = ratio((end.client.bytes - start.client.bytes) as f64, deliveries);

        let server = end.server.since(&start.server);
        let beside = end.beside.since(&start.beside);
        if server.cpu_s() > 0.0 {
            self.cpu_us_per_delivery = Some(ratio(server.cpu_s() * 1e6, deliveries));
            self.user_us_per_delivery = Some(ratio(server.user_s * 1e6, deliveries));
            self.system_us_per_delivery = Some(ratio(server.system_s * 1e6, deliveries));
            self.cpu_us_per_message = Some(ratio(server.cpu_s() * 1e6, messages));
        }
        if beside.cpu_s() > 0.0 {
            self.beside_cpu_us_per_message = Some(ratio(beside.cpu_s() * 1e6, messages));
        }
        let client_cpu_s = end.client_cpu_s - start.client_cpu_s;
        let all_s = end.machine_busy_s - start.machine_busy_s;
        self.server_cores = ratio(server.cpu_s(), seconds);
        self.client_cores = ratio(client_cpu_s, seconds);
        // The three clocks tick in hundredths of a second, so an idle machine may come out below zero.
        self.other_cores = ratio((all_s - server.cpu_s() - beside.cpu_s() - client_cpu_s).max(0.0), seconds);
        self.switches_voluntary_per_message = ratio(server.switches_voluntary as f64, messages);
        self.switches_involuntary_per_message = ratio(server.switches_involuntary as f64, messages);
    }

    /// First, highest and last RSS of the measured time.
    pub fn rss(&self) -> Option<(u64, u64, u64)> {
        let (first, last) = (self.rss_samples.first()?, self.rss_samples.last()?);
        Some((*first, *self.rss_samples.iter().max()?, *last))
    }
}

/// `part / whole`, 0 when there is no whole: a run without deliveries has no cost for each.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Moment;
    use crate::measure::Sight;
    use crate::server::procfs::Cost;

    fn sight(at_ns: u64, delivered: u64, user_s: f64, busy_s: f64) -> Sight {
        Sight {
            client: Moment {
                at_ns,
                delivered,
                sent: delivered / 10,
                reads: delivered / 2,
                bytes: delivered * 200,
            },
            server: Cost { user_s, system_s: user_s * 3.0, ..Cost::default() },
            beside: Cost::default(),
            client_cpu_s: user_s,
            machine_busy_s: busy_s,
        }
    }

    #[test]
    fn costs_are_divided_by_what_the_window_saw() {
        let window =
            Window { start: sight(0, 1000, 1.0, 10.0), end: sight(2_000_000_000, 1_001_000, 1.5, 13.0) };
        let mut figures = Figures { window: Some(window), ..Figures::default() };
        figures.sum_up();
        assert_eq!(figures.deliveries_per_s, 500_000.0);
        assert_eq!(figures.cpu_us_per_delivery, Some(2.0));
        assert_eq!(figures.cpu_us_per_message, Some(20.0));
        assert_eq!(figures.server_cores, 1.0);
        assert_eq!(figures.client_cores, 0.25);
        assert_eq!(figures.other_cores, 0.25);
        assert_eq!(figures.beside_cpu_us_per_message, None);
    }
}

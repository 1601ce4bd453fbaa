//! A sheet of figures for one scrape: families in the order they are shown, each with a name, a help text
//! and one number or several told apart by a label. Filled by the table and by whoever counts elsewhere.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The families of one scrape.
#[derive(Debug, Default)]
pub struct Sheet {
    families: Vec<Family>,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    grows: bool,
    label: &'static str,
    samples: Vec<(Cow<'static, str>, Figure)>,
}

/// Whole numbers stay whole: a float shows no more than 15 digits exactly.
#[derive(Debug, Clone, Copy)]
enum Figure {
    Whole(u64),
    Fraction(f64),
}

/// The label of a family that has one number only.
const ALONE: &str = "";

impl Sheet {
    /// A number that only grows. `name` without `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.counters(name, help, ALONE, [("", value)]);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.gauges(name, help, ALONE, [("", value)]);
    }

    /// Numbers that only grow, told apart by a label. `name` without `_total`.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (impl Into<Cow<'static, str>>, u64)>,
    ) {
        let samples = values.into_iter().map(|(value, n)| (value.into(), Figure::Whole(n))).collect();
        self.push(Family { name, help, grows: true, label, samples });
    }

    /// Numbers that go up and down, told apart by a label.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (impl Into<Cow<'static, str>>, u64)>,
    ) {
        let samples = values.into_iter().map(|(value, n)| (value.into(), Figure::Whole(n))).collect();
        self.push(Family { name, help, grows: false, label, samples });
    }

    /// Seconds with a fraction: counted ones, or (`grows` false) a moment.
    pub fn seconds(&mut self, name: &'static str, help: &'static str, grows: bool, value: f64) {
        let samples = vec![("".into(), Figure::Fraction(value))];
        self.push(Family { name, help, grows, label: ALONE, samples });
    }

    fn push(&mut self, family: Family) {
        let name = family.name;
        debug_assert!(!name.ends_with("_total"), "{name}: the ending is added when it is written");
        debug_assert!(self.families.iter().all(|other| other.name != name), "{name} is there twice");
        self.families.push(family);
    }

    /// Writes all families out.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.families.iter().try_for_each(|family| family.encode(encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = if self.grows { MetricType::Counter } else { MetricType::Gauge };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        if self.label == ALONE {
            return self.samples.iter().try_for_each(|(_, figure)| figure.encode(self.grows, &mut metric));
        }
        self.samples.iter().try_for_each(|(value, figure)| {
            let labels = [(self.label, &**value)];
            let mut labelled = metric.encode_family(&labels)?;
            figure.encode(self.grows, &mut labelled)
        })
    }
}

impl Figure {
    fn encode(self, grows: bool, metric: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match (self, grows) {
            (Figure::Whole(n), true) => metric.encode_counter::<NoLabelSet, _, u64>(&n, None),
            (Figure::Whole(n), false) => metric.encode_gauge(&n),
            (Figure::Fraction(n), true) => metric.encode_counter::<NoLabelSet, _, u64>(&n, None),
            (Figure::Fraction(n), false) => metric.encode_gauge(&n),
        }
    }
}

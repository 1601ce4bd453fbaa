//! Counts durations in buckets that grow with the value, so that a quantile is exact within 1 %. Filled by the client
//! loops, read by the report. Knows no unit; the callers use nanoseconds.

/// Buckets per power of two, as a power of two: 128 buckets keep the error under 1/128.
const FINE_BITS: u32 = 7;
const FINE: u64 = 1 << FINE_BITS;
/// One group of `FINE` buckets for the values below `FINE`, then one for each further power of two of a u64.
const BUCKETS: usize = (65 - FINE_BITS as usize) << FINE_BITS;

/// A histogram of fixed size (about 60 KB) for any u64.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        self.counts[bucket_of(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Adds all that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value, exactly. 0 when nothing was counted.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that a share of `quantile` (0 to 1) of all values does not exceed, rounded up to its bucket's end
    /// and never above the maximum. 0 when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total.max(1));
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= wanted {
                return last_of(bucket).min(self.max);
            }
        }
        self.max
    }
}

fn bucket_of(value: u64) -> usize {
    if value < FINE {
        return value as usize;
    }
    let shift = value.ilog2() - FINE_BITS;
    (((shift as usize) + 1) << FINE_BITS) + ((value >> shift) - FINE) as usize
}

/// The largest value that falls into `bucket`.
fn last_of(bucket: usize) -> u64 {
    let (group, place) = (bucket >> FINE_BITS, bucket as u64 & (FINE - 1));
    match group {
        0 => place,
        _ => {
            let shift = group as u32 - 1;
            ((FINE + place) << shift) + ((1 << shift) - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_holds_exactly_the_values_up_to_its_end() {
        for bucket in 0..BUCKETS {
            let last = last_of(bucket);
            assert_eq!(bucket_of(last), bucket);
            if last < u64::MAX {
                assert_eq!(bucket_of(last + 1), bucket + 1);
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        let mut histogram = Histogram::default();
        (1..=100_000).for_each(|value| histogram.add(value));
        for (quantile, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let found = histogram.quantile(quantile) as f64;
            assert!((found - exact).abs() <= exact / 100.0, "{quantile}: {found} instead of {exact}");
        }
        assert_eq!(histogram.quantile(1.0), 100_000);
    }

    #[test]
    fn merging_is_the_same_as_counting_together() {
        let (mut left, mut right, mut both) = Default::default();
        for value in [0, 1, 127, 128, 5_000, 1 << 40] {
            Histogram::add(if value % 2 == 0 { &mut left } else { &mut right }, value);
            Histogram::add(&mut both, value);
        }
        left.merge(&right);
        assert_eq!(left.counts, both.counts);
        assert_eq!((left.total(), left.max()), (6, 1 << 40));
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }
}

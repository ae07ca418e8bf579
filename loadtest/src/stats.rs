//! Medians, spreads and latency percentiles: how repeated rounds become one line of a table.
//!
//! Called by `compare` and `run`. No sockets, no clock.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency that is told apart from longer ones: 60 s, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// The middle of several rounds and how far they lay apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median; the mean of the middle two if their number is even.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing. Values that are no number are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }
}

/// Latencies in nanoseconds, three significant digits, counted by HdrHistogram.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty one.
    ///
    /// # Panics
    /// Never: the bounds are constants that HdrHistogram accepts.
    pub fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3)
                .expect("1 µs to 60 s at 3 digits are valid bounds"),
        )
    }

    /// Counts one; what is longer than 60 s counts as 60 s.
    pub fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Counts all of another one too.
    ///
    /// # Panics
    /// Never: all have the same bounds.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// The latency, in microseconds, that the fraction `quantile` (0 to 1) of all did not exceed.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { f64::NAN } else { self.0.value_at_quantile(quantile) as f64 / 1e3 }
    }

    /// The usual percentiles.
    pub fn summary(&self) -> LatencySummary {
        LatencySummary {
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            max_us: if self.0.is_empty() { f64::NAN } else { self.0.max() as f64 / 1e3 },
        }
    }

    /// Points (fraction at or below, microseconds) of the whole distribution, for a plot on a logarithmic axis.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let quantiles = (0..=50).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 10.0)).take_while(|q| {
            // Beyond one sample there is nothing to see.
            (1.0 - q) * self.0.len() as f64 >= 1.0
        });
        quantiles.map(|q| (q, self.quantile_us(q))).collect()
    }
}

/// Percentiles in microseconds. NaN (null in JSON) if nothing was counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencySummary {
    /// Half of all were no slower.
    pub p50_us: f64,
    /// Nine in ten.
    pub p90_us: f64,
    /// Ninety-nine in a hundred.
    pub p99_us: f64,
    /// Nine hundred and ninety-nine in a thousand.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_one_and_none() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN, 2.0]).unwrap().median, 2.0);
    }

    #[test]
    fn quantiles_are_within_three_digits() {
        let mut latencies = Latencies::new();
        for us in 1..=10_000u64 {
            latencies.record(us * 1_000);
        }
        let summary = latencies.summary();
        for (found, wanted) in [
            (summary.p50_us, 5_000.0),
            (summary.p99_us, 9_900.0),
            (summary.p999_us, 9_990.0),
            (summary.max_us, 10_000.0),
        ] {
            assert!((found / wanted - 1.0f64).abs() < 0.002, "{found} {wanted}");
        }
    }

    #[test]
    fn too_long_is_counted_as_the_longest_and_an_empty_one_has_no_numbers() {
        let mut latencies = Latencies::new();
        assert!(latencies.quantile_us(0.5).is_nan());
        assert!(latencies.curve().is_empty());
        latencies.record(u64::MAX);
        assert!(latencies.quantile_us(0.5) >= 59e6);
    }

    #[test]
    fn curve_rises_and_stops_where_samples_end() {
        let mut latencies = Latencies::new();
        for us in 1..=1_000u64 {
            latencies.record(us * 1_000);
        }
        let curve = latencies.curve();
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert!(curve.last().unwrap().0 <= 0.999_000_1);
    }
}

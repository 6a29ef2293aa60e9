//! How long a peer takes to answer a heartbeat: a histogram per link.
//!
//! Buckets grow by a fifth to a quarter, four to each power of two microseconds. What is long ago fades: once there are
//! many samples all counts are halved.

/// Four to each of 32 powers of two: from 1 µs to more than an hour.
const BUCKETS: usize = 128;
/// Beyond so many samples older ones count half.
const MANY: u64 = 4_096;

/// Of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundTrips {
    counts: [u64; BUCKETS],
    samples: u64,
}

/// What a histogram says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    /// Half of the samples took no longer, microseconds.
    pub p50_us: u64,
    /// 99 of a hundred took no longer.
    pub p99_us: u64,
    /// Samples that count.
    pub samples: u64,
}

impl Default for RoundTrips {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], samples: 0 }
    }
}

fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let power = us.ilog2() as usize;
    // The two bits behind the leading one.
    let quarter = if power >= 2 { (us >> (power - 2)) & 3 } else { (us << (2 - power)) & 3 };
    (4 * power + quarter as usize).min(BUCKETS - 1)
}

/// The longest time that falls into a bucket, microseconds.
fn upper_us(bucket: usize) -> u64 {
    let (power, quarter) = (bucket / 4, bucket as u64 % 4);
    (((5 + quarter) << power) / 4).max(1)
}

impl RoundTrips {
    /// A heartbeat was answered after so many microseconds.
    pub fn record(&mut self, us: u64) {
        if self.samples >= MANY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.samples = self.counts.iter().sum();
        }
        self.counts[bucket(us)] += 1;
        self.samples += 1;
    }

    /// What it says now.
    pub fn summary(&self) -> RoundTrip {
        let quantile_us = |percent: u64| {
            let rank = (self.samples * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let reached = |count: &u64| {
                seen += count;
                seen >= rank
            };
            self.counts.iter().position(reached).map_or(0, upper_us)
        };
        RoundTrip { p50_us: quantile_us(50), p99_us: quantile_us(99), samples: self.samples }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_no_shorter_and_little_longer_than_it_was() {
        for us in (1..2_000).chain([5_000, 20_300, 41_000, 1_000_000, 59_000_000]) {
            let told = upper_us(bucket(us));
            assert!(told >= us && told <= us + us / 4 + 1, "{us} is told as {told}");
        }
        let mut all = RoundTrips::default();
        all.record(u64::MAX);
        assert_eq!(all.summary().samples, 1);
    }

    #[test]
    fn quantiles_are_those_of_the_samples_and_what_is_long_ago_fades() {
        let mut all = RoundTrips::default();
        assert_eq!(all.summary(), RoundTrip::default());
        for sample in 1..=100 {
            all.record(if sample <= 98 { 1_000 } else { 40_000 });
        }
        let told = all.summary();
        assert!((1_000..1_250).contains(&told.p50_us) && (40_000..50_000).contains(&told.p99_us), "{told:?}");
        for _ in 0..30_000 {
            all.record(1_000);
        }
        let later = all.summary();
        assert!(later.p99_us < 1_250 && later.samples <= MANY, "{later:?}");
    }
}

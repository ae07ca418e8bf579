//! A little chance, so that what was configured together does not happen together.
//!
//! Not for anything that must not be guessed. Called by `names` and `health`.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Times by chance, one after the other.
#[derive(Debug, Default)]
pub(super) struct Jitter {
    random: RandomState,
    round: u64,
}

impl Jitter {
    /// From nothing to `most`, evenly.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        self.round += 1;
        most.mul_f64((self.random.hash_one(self.round) >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_within_their_bound_and_all_over_it() {
        let mut jitter = Jitter::default();
        let most = Duration::from_secs(1);
        let times: Vec<Duration> = (0..200).map(|_| jitter.up_to(most)).collect();
        assert!(times.iter().all(|time| *time < most));
        for tenth in 0..10 {
            let from = most / 10 * tenth;
            assert!(times.iter().any(|time| (from..from + most / 10).contains(time)), "{tenth}");
        }
    }
}

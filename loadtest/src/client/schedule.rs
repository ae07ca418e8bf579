//! When requests are due: as soon as the last one is answered (closed loop), or at a constant rate (open loop).
//!
//! In the open loop a request's latency runs from when it was due, not from when a connection was free to carry it, so
//! that a stall of the server is seen by every request that should have been sent meanwhile (no coordinated omission).

/// The load's shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each connection sends its next request when the last one is answered.
    Closed,
    /// Requests a second over all connections, evenly spaced.
    Open(f64),
}

/// The due times of an open loop that began at `start_ns`.
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    rate: f64,
    issued: u64,
}

impl Schedule {
    /// `rate` in requests a second; what is not above zero never becomes due.
    pub fn new(start_ns: u64, rate: f64) -> Self {
        Self { start_ns, rate, issued: 0 }
    }

    /// When the next request that was not taken yet is due. Computed from its number, so that nothing drifts.
    pub fn next_ns(&self) -> u64 {
        if self.rate > 0.0 {
            // A f64 holds whole nanoseconds exactly for 104 days.
            self.start_ns.saturating_add((self.issued as f64 * 1e9 / self.rate) as u64)
        } else {
            u64::MAX
        }
    }

    /// Takes the next request if it is due at `now_ns`; answers when it was due.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_ns();
        (due_ns <= now_ns).then(|| {
            self.issued += 1;
            due_ns
        })
    }

    /// How many were due by `now_ns` and not taken.
    pub fn overdue(&self, now_ns: u64) -> u64 {
        if self.rate > 0.0 && now_ns >= self.start_ns {
            let due = ((now_ns - self.start_ns) as f64 * self.rate / 1e9) as u64 + 1;
            due.saturating_sub(self.issued)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_due_evenly_and_do_not_drift() {
        let mut schedule = Schedule::new(1_000, 3.0);
        assert_eq!(schedule.take(999), None);
        assert_eq!(schedule.take(1_000), Some(1_000));
        assert_eq!(schedule.take(1_000), None);
        assert_eq!(schedule.next_ns(), 333_334_333);
        for _ in 1..3_000_000u64 {
            assert!(schedule.take(u64::MAX).is_some());
        }
        assert_eq!(schedule.next_ns(), 1_000 + 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn after_a_stall_each_missed_request_keeps_its_own_due_time() {
        let mut schedule = Schedule::new(0, 1_000.0);
        assert_eq!(schedule.take(0), Some(0));
        assert_eq!(schedule.overdue(5_000_000), 5);
        let late: Vec<u64> = std::iter::from_fn(|| schedule.take(5_000_000)).collect();
        assert_eq!(late, [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]);
        assert_eq!(schedule.overdue(5_000_000), 0);
    }

    #[test]
    fn no_rate_is_never_due() {
        let mut schedule = Schedule::new(0, 0.0);
        assert_eq!(schedule.take(u64::MAX - 1), None);
        assert_eq!(schedule.overdue(u64::MAX - 1), 0);
    }
}

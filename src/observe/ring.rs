//! A bounded single-producer single-consumer ring of 64-bit words, in safe code.
//!
//! For: variable-length records from one data thread to the writer thread. Not for: waking anybody; the consumer
//! polls. Used by `record` (producer) and `writer` (consumer).
//!
//! Layout: a power-of-two array of `AtomicU64`, written and read with relaxed plain moves; the only ordering is one
//! release store of `head` per record and one of `tail` per batch. A record is contiguous: where it would cross the
//! end, a skip word fills the rest. Each side keeps the other's position cached, so that in steady state a push
//! touches no cache line that the consumer writes. Memory: `bytes` rounded up to a power of two, allocated once.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// A record's first word carries its length in words in the low 16 bits; zero means "skip to the end".
const LENGTH_MASK: u64 = 0xffff;

/// The longest record, in words, header included.
pub(super) const RECORD_WORDS_MAX: usize = 1024;

/// Batches of this many records give their room back to the producer at once.
const RELEASE_EVERY: usize = 32;

struct Shared {
    words: Box<[AtomicU64]>,
    /// Words ever written; moved only by the producer.
    head: CachePadded<AtomicU64>,
    /// Words ever consumed; moved only by the consumer.
    tail: CachePadded<AtomicU64>,
    /// Records that found no room; moved only by the producer.
    lost: CachePadded<AtomicU64>,
}

/// The writing end: one per data thread, not shared.
pub(super) struct Producer {
    shared: Arc<Shared>,
    head: Cell<u64>,
    tail_seen: Cell<u64>,
}

/// The reading end, on the writer thread.
pub(super) struct Consumer {
    shared: Arc<Shared>,
    tail: u64,
    scratch: Box<[u64; RECORD_WORDS_MAX]>,
}

/// A view on the loss counter for metrics.
#[derive(Clone)]
pub(super) struct LossCounter(Arc<Shared>);

impl LossCounter {
    pub(super) fn load(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

/// A ring of at least `bytes` bytes (rounded up to a power of two, at least four of the longest records).
pub(super) fn ring(bytes: usize) -> (Producer, Consumer) {
    let words = (bytes / 8).max(4 * RECORD_WORDS_MAX).next_power_of_two();
    let shared = Arc::new(Shared {
        words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        head: CachePadded::new(AtomicU64::new(0)),
        tail: CachePadded::new(AtomicU64::new(0)),
        lost: CachePadded::new(AtomicU64::new(0)),
    });
    let producer = Producer { shared: Arc::clone(&shared), head: Cell::new(0), tail_seen: Cell::new(0) };
    (producer, Consumer { shared, tail: 0, scratch: Box::new([0; RECORD_WORDS_MAX]) })
}

impl Producer {
    /// Writes one record of `count` words through `fill`, or counts a loss and returns false; never waits.
    ///
    /// `fill` gets exactly `count` slots, must store all of them, and must put `count` into the low 16 bits of the
    /// first.
    #[inline]
    pub(super) fn push(&self, count: usize, fill: impl FnOnce(&[AtomicU64])) -> bool {
        debug_assert!((1..=RECORD_WORDS_MAX).contains(&count), "a record has a header and a bound");
        let words = &self.shared.words;
        let head = self.head.get();
        let at = (head & (words.len() as u64 - 1)) as usize;
        let to_end = words.len() - at;
        let crossing = count > to_end;
        let need = if crossing { to_end + count } else { count } as u64;
        let room = words.len() as u64;
        if head + need - self.tail_seen.get() > room {
            self.tail_seen.set(self.shared.tail.load(Ordering::Acquire));
            if head + need - self.tail_seen.get() > room {
                self.lose();
                return false;
            }
        }
        let start = if crossing {
            words[at].store(0, Ordering::Relaxed);
            0
        } else {
            at
        };
        fill(&words[start..start + count]);
        self.head.set(head + need);
        self.shared.head.store(head + need, Ordering::Release);
        true
    }

    /// Counts one lost record.
    #[cold]
    pub(super) fn lose(&self) {
        let lost = &self.shared.lost;
        lost.store(lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl Consumer {
    /// Hands each waiting record to `take` until none is left or `take` says stop (false). Returns the number taken.
    pub(super) fn drain(&mut self, mut take: impl FnMut(&[u64]) -> bool) -> usize {
        let words = &self.shared.words;
        let head = self.shared.head.load(Ordering::Acquire);
        let mut taken = 0;
        while self.tail != head {
            let at = (self.tail & (words.len() as u64 - 1)) as usize;
            let count = (words[at].load(Ordering::Relaxed) & LENGTH_MASK) as usize;
            if count == 0 {
                self.tail += (words.len() - at) as u64;
                continue;
            }
            let Some(slots) = words.get(at..at + count).filter(|_| count <= RECORD_WORDS_MAX) else {
                debug_assert!(false, "the only writer of this ring keeps its records whole");
                self.tail = head;
                break;
            };
            for (word, slot) in self.scratch.iter_mut().zip(slots) {
                *word = slot.load(Ordering::Relaxed);
            }
            let more = take(&self.scratch[..count]);
            self.tail += count as u64;
            taken += 1;
            if taken % RELEASE_EVERY == 0 {
                self.shared.tail.store(self.tail, Ordering::Release);
            }
            if !more {
                break;
            }
        }
        self.shared.tail.store(self.tail, Ordering::Release);
        taken
    }

    /// How full the ring is, 0.0 to 1.0.
    pub(super) fn fill_ratio(&self) -> f64 {
        let waiting = self.shared.head.load(Ordering::Relaxed).saturating_sub(self.tail);
        waiting as f64 / self.shared.words.len() as f64
    }

    pub(super) fn losses(&self) -> LossCounter {
        LossCounter(Arc::clone(&self.shared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(producer: &Producer, count: usize, value: u64) -> bool {
        producer.push(count, |slots| {
            slots[0].store(count as u64 | value << 16, Ordering::Relaxed);
            for slot in &slots[1..] {
                slot.store(value, Ordering::Relaxed);
            }
        })
    }

    fn check(words: &[u64], value: u64) {
        assert_eq!(words[0], words.len() as u64 | value << 16);
        assert!(words[1..].iter().all(|word| *word == value), "record {value} is torn");
    }

    #[test]
    fn records_come_out_in_order_over_many_wraps() {
        let (producer, mut consumer) = ring(0);
        let mut expected = 0;
        for value in 0..20_000 {
            assert!(push(&producer, 1 + (value as usize * 7) % RECORD_WORDS_MAX, value));
            if value % 3 == 2 {
                consumer.drain(|words| {
                    check(words, expected);
                    expected += 1;
                    true
                });
            }
        }
        consumer.drain(|words| {
            check(words, expected);
            expected += 1;
            true
        });
        assert_eq!(expected, 20_000);
    }

    #[test]
    fn a_full_ring_counts_losses_and_keeps_what_it_has() {
        let (producer, mut consumer) = ring(0);
        let room = 4 * RECORD_WORDS_MAX / 16;
        for value in 0..room as u64 + 10 {
            assert_eq!(push(&producer, 16, value), value < room as u64);
        }
        assert_eq!(consumer.losses().load(), 10);
        assert!((consumer.fill_ratio() - 1.0).abs() < 1e-9);
        let mut next = 0;
        consumer.drain(|words| {
            check(words, next);
            next += 1;
            true
        });
        assert_eq!(next, room as u64);
        assert!(push(&producer, 16, 7), "room came back");
    }

    #[test]
    fn a_consumer_that_stops_goes_on_where_it_stopped() {
        let (producer, mut consumer) = ring(0);
        for value in 0..10 {
            assert!(push(&producer, 3, value));
        }
        assert_eq!(consumer.drain(|words| words[1] != 3), 4);
        let mut rest = Vec::new();
        consumer.drain(|words| {
            rest.push(words[1]);
            true
        });
        assert_eq!(rest, [4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn two_threads_lose_nothing_silently() {
        let (producer, mut consumer) = ring(0);
        const PUSHES: u64 = 200_000;
        let counter = consumer.losses();
        let pusher = std::thread::spawn(move || {
            for value in 0..PUSHES {
                push(&producer, 1 + (value % 61) as usize, value);
            }
        });
        let (mut seen, mut last) = (0u64, None);
        loop {
            let finished = pusher.is_finished();
            consumer.drain(|words| {
                let value = words[0] >> 16;
                check(words, value);
                assert!(last < Some(value), "order is kept");
                last = Some(value);
                seen += 1;
                true
            });
            if finished {
                break;
            }
        }
        pusher.join().expect("the producer ends");
        assert_eq!(seen + counter.load(), PUSHES);
    }
}

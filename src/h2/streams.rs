//! The streams of one connection: who is alive, who was, and whose turn it is to send.
//!
//! For: [`super::connection`], which knows the protocol; here are only tables. A stream is a slot of a slab, found by its
//! number through an open-addressing index (frames name numbers) or by its [`StreamKey`] (callers keep keys). Nothing is
//! allocated until the first stream comes, and nothing per stream once the slab has grown to what is used at once.
//!
//! Memory: 40 bytes a slot and 4 to 8 of index, at most `streams_max` slots and [`LINGERING_MAX`] more.

use std::hash::{BuildHasher, RandomState};

use super::flow::{ReceiveWindow, SendWindow, WINDOW_MOST};
use super::frame::StreamId;
use super::priority::{Priority, URGENCIES};

/// Streams that are over but of which the caller still holds bytes may occupy so many slots beyond those that are open.
pub const LINGERING_MAX: u32 = 32;
/// The last streams that the peer ended, so that a frame behind the end is told from one in flight.
const ENDED_KEPT: usize = 16;
/// The last streams that we reset while the peer could be sending on them.
const RESET_KEPT: usize = 256;
/// Priorities that came before their streams (RFC 9218 §7.1 wants them kept, and bounded).
const EARLY_KEPT: usize = 4;
/// One turn in so many goes to a stream that is not first by urgency, so that nobody starves.
const FAIR_TURN: u8 = 8;

const NO_SLOT: u16 = u16::MAX;
const NO_LENGTH: u64 = u64::MAX;

/// A stream, as callers name it: its number and its slot. Numbers are never used twice on a connection, so that a key is stale
/// for ever once its stream is over. The slot is small and stable: a caller can keep a slab of its own by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    id: u32,
    slot: u16,
}

impl StreamKey {
    /// Its number.
    pub fn id(self) -> StreamId {
        StreamId(self.id)
    }

    /// Its place in the slab, below `streams_max` + [`LINGERING_MAX`].
    pub fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// What has happened on a stream; which of the states of RFC 9113 §5.1 it is in follows.
pub(super) mod state {
    /// The peer's head came (the final one).
    pub const HEAD_RECEIVED: u8 = 0x01;
    /// The peer is done: half-closed (remote).
    pub const END_RECEIVED: u8 = 0x02;
    /// Our head went (the final one).
    pub const HEAD_SENT: u8 = 0x04;
    /// We are done: half-closed (local).
    pub const END_SENT: u8 = 0x08;
    /// The caller has something to send.
    pub const WANTS: u8 = 0x10;
    /// It is in the ring of its urgency.
    pub const READY: u8 = 0x20;
    /// It is over, but bytes of it are held.
    pub const LINGERS: u8 = 0x40;
    /// The request was HEAD: the response has no body, whatever its fields say.
    pub const HEAD_REQUEST: u8 = 0x80;
}

/// One stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Its number; 0 in a free slot.
    id: u32,
    /// Bits of [`state`].
    state: u8,
    priority: Priority,
    /// Neighbours in the ring of its urgency; in a free slot `next` is the next free one.
    next: u16,
    previous: u16,
    pub(super) receive: ReceiveWindow,
    pub(super) send: SendWindow,
    /// What Content-Length promises and DATA has not brought.
    content_left: u64,
}

impl Stream {
    pub(super) fn is(&self, bits: u8) -> bool {
        self.state & bits == bits
    }

    pub(super) fn bits(&self) -> u8 {
        self.state
    }

    pub(super) fn set(&mut self, bits: u8) {
        self.state |= bits;
    }

    pub(super) fn flip(&mut self, bits: u8) {
        self.state ^= bits;
    }

    /// Whether bytes of a body can be sent.
    pub(super) fn can_send(&self) -> bool {
        self.state & (state::HEAD_SENT | state::END_SENT) == state::HEAD_SENT
    }

    /// Whether bytes of a body are still to come.
    pub(super) fn wants_more(&self) -> bool {
        !self.is(state::END_RECEIVED) && self.content_left != 0
    }

    /// What the body will be, if it is known.
    pub(super) fn expect(&mut self, length: Option<u64>) {
        self.content_left = length.map_or(NO_LENGTH, |length| length.min(NO_LENGTH - 1));
    }

    /// So much of the body comes, and perhaps its end. `false`: not what was promised (RFC 9113 §8.1.1).
    #[must_use]
    pub(super) fn bring(&mut self, bytes: u32, end: bool) -> bool {
        if self.content_left == NO_LENGTH {
            return true;
        }
        match self.content_left.checked_sub(u64::from(bytes)) {
            Some(left) if left == 0 || !end => {
                self.content_left = left;
                true
            }
            _ => false,
        }
    }
}

/// What a number stands for that is of no live stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The peer ended it, a moment ago.
    Ended,
    /// We reset it, a moment ago, and frames may be in flight.
    Reset,
    /// It was long ago.
    Forgotten,
}

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    free: u16,
    /// Slots that may be in use.
    slots_max: u32,
    open: u32,
    lingering: u32,
    /// Open addressing with linear probing: a slot's number plus one, or 0. A power of two, or empty.
    index: Vec<u16>,
    /// Odd, and nobody else's to know: who chooses the numbers cannot choose those that share a home.
    spread: u32,
    /// A member of the ring of each urgency: who sends next.
    ready: [u16; URGENCIES],
    /// Bit n: the ring of urgency n has members.
    ready_set: u8,
    turn: u8,
    ended: [u32; ENDED_KEPT],
    ended_at: u8,
    reset: Vec<u32>,
    reset_at: usize,
    early: [(u32, Priority); EARLY_KEPT],
    early_at: u8,
}

impl Streams {
    pub(super) fn new(streams_max: u32) -> Streams {
        Streams {
            slots: Vec::new(),
            free: NO_SLOT,
            slots_max: (streams_max + LINGERING_MAX).min(u32::from(NO_SLOT) - 1),
            open: 0,
            lingering: 0,
            index: Vec::new(),
            spread: RandomState::new().hash_one(0_u8) as u32 | 1,
            ready: [NO_SLOT; URGENCIES],
            ready_set: 0,
            turn: 0,
            ended: [0; ENDED_KEPT],
            ended_at: 0,
            reset: Vec::new(),
            reset_at: 0,
            early: [(0, Priority::UNSAID); EARLY_KEPT],
            early_at: 0,
        }
    }

    /// Streams that are open, or half-closed.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Whether there is no slot left.
    pub(super) fn is_full(&self) -> bool {
        self.open + self.lingering >= self.slots_max
    }

    /// Gives back memory, where nothing is open.
    pub(super) fn shrink(&mut self) {
        if self.open + self.lingering == 0 {
            self.slots = Vec::new();
            self.free = NO_SLOT;
            self.index = Vec::new();
        }
        self.reset.shrink_to_fit();
    }

    /// Bytes of memory that they hold.
    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>()
            + self.index.capacity() * size_of::<u16>()
            + self.reset.capacity() * size_of::<u32>()
    }

    /// A new stream, whose number is in use by none; there must be a slot left.
    pub(super) fn insert(&mut self, id: StreamId, receive: u32, send: u32) -> Option<StreamKey> {
        debug_assert!(!id.is_connection() && self.find(id).is_none());
        if self.is_full() {
            return None;
        }
        let mut priority = Priority::UNSAID;
        if let Some(early) = self.early.iter_mut().find(|(early, _)| *early == id.0) {
            priority = early.1;
            early.0 = 0;
        }
        let stream = Stream {
            id: id.0,
            state: 0,
            priority,
            next: NO_SLOT,
            previous: NO_SLOT,
            receive: ReceiveWindow::new(receive),
            send: SendWindow::new(send),
            content_left: NO_LENGTH,
        };
        let slot = if let Some(free) = self.slots.get_mut(usize::from(self.free)) {
            let slot = self.free;
            self.free = free.next;
            *free = stream;
            slot
        } else {
            self.slots.push(stream);
            (self.slots.len() - 1) as u16
        };
        self.open += 1;
        self.index_insert(id.0, slot);
        Some(StreamKey { id: id.0, slot })
    }

    /// The live stream of that number.
    pub(super) fn find(&self, id: StreamId) -> Option<StreamKey> {
        let mask = self.index.len().checked_sub(1)?;
        let mut at = self.home(id.0);
        // There is always an empty entry: the index is at most half full.
        loop {
            let slot = self.index[at].checked_sub(1)?;
            if self.slots[usize::from(slot)].id == id.0 {
                return Some(StreamKey { id: id.0, slot });
            }
            at = (at + 1) & mask;
        }
    }

    /// The stream of a key, if it is alive.
    pub(super) fn live(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.held(key).filter(|stream| !stream.is(state::LINGERS))
    }

    /// The stream of a key, if it is alive or bytes of it are held.
    pub(super) fn held(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slots.get_mut(key.slot()).filter(|stream| stream.id == key.id)
    }

    /// The stream of a key, to be looked at.
    pub(super) fn look(&self, key: StreamKey) -> Option<&Stream> {
        self.slots.get(key.slot()).filter(|stream| stream.id == key.id && !stream.is(state::LINGERS))
    }

    /// The first live stream from this slot on with a number beyond `last`.
    pub(super) fn beyond(&self, last: StreamId, from: usize) -> Option<StreamKey> {
        (from..self.slots.len()).filter_map(|slot| self.key_of(slot)).find(|key| key.id() > last)
    }

    /// The live stream in a slot.
    fn key_of(&self, slot: usize) -> Option<StreamKey> {
        let stream = self.slots.get(slot)?;
        let live = stream.id != 0 && !stream.is(state::LINGERS);
        live.then_some(StreamKey { id: stream.id, slot: slot as u16 })
    }

    /// A live stream is over: its number means nothing any more. With `linger` its slot stays while bytes of it are held.
    /// Says how many held bytes were let go of.
    pub(super) fn close(&mut self, key: StreamKey, linger: bool) -> u32 {
        let Some(stream) = self.live(key) else { return 0 };
        stream.state &= !state::WANTS;
        let held = stream.receive.held();
        let ended = stream.is(state::END_RECEIVED);
        self.leave_ring(key.slot);
        self.index_remove(key.id);
        self.open -= 1;
        if ended {
            self.note_ended(key.id());
        }
        if linger && held != 0 {
            self.slots[key.slot()].set(state::LINGERS);
            self.lingering += 1;
            return 0;
        }
        self.give_back(key.slot);
        held
    }

    /// What lingers and is held no longer.
    pub(super) fn free(&mut self, key: StreamKey) {
        if self.held(key).is_some_and(|stream| stream.is(state::LINGERS)) {
            self.lingering -= 1;
            self.give_back(key.slot);
        }
    }

    fn give_back(&mut self, slot: u16) {
        let stream = &mut self.slots[usize::from(slot)];
        stream.id = 0;
        stream.state = 0;
        stream.next = self.free;
        self.free = slot;
    }

    // What was.

    /// The peer ended a stream.
    pub(super) fn note_ended(&mut self, id: StreamId) {
        self.ended[usize::from(self.ended_at)] = id.0;
        self.ended_at = (self.ended_at + 1) % ENDED_KEPT as u8;
    }

    /// We reset a stream on which the peer may be sending.
    pub(super) fn note_reset(&mut self, id: StreamId) {
        if self.reset.len() < RESET_KEPT {
            self.reset.push(id.0);
        } else {
            self.reset[self.reset_at] = id.0;
            self.reset_at = (self.reset_at + 1) % RESET_KEPT;
        }
    }

    /// What became of a stream that is over.
    pub(super) fn past(&self, id: StreamId) -> Past {
        if self.reset.contains(&id.0) {
            Past::Reset
        } else if self.ended.contains(&id.0) {
            Past::Ended
        } else {
            Past::Forgotten
        }
    }

    // Whose turn it is.

    /// The priority of a stream, or of one that may come.
    pub(super) fn prioritise(&mut self, key: StreamKey, priority: Priority) {
        let Some(stream) = self.live(key) else { return };
        if stream.priority == priority {
            return;
        }
        self.leave_ring(key.slot);
        self.slots[key.slot()].priority = Priority { urgency: priority.urgency.min(7), ..priority };
        self.arm(key);
    }

    /// The priority of a stream that has not been opened.
    pub(super) fn prioritise_early(&mut self, id: StreamId, priority: Priority) {
        let at = match self.early.iter().position(|(early, _)| *early == id.0) {
            Some(at) => at,
            None => {
                self.early_at = (self.early_at + 1) % EARLY_KEPT as u8;
                usize::from(self.early_at)
            }
        };
        self.early[at] = (id.0, priority);
    }

    /// Puts a stream that wants to send into the ring of its urgency, if its window lets it, or takes it out.
    pub(super) fn arm(&mut self, key: StreamKey) {
        let Some(stream) = self.live(key) else { return };
        if stream.is(state::WANTS) && stream.can_send() && stream.send.left() != 0 {
            self.join_ring(key.slot);
        } else {
            self.leave_ring(key.slot);
        }
    }

    /// Who sends next: the most urgent; among those of one urgency the incremental ones by turns, the others one after another.
    /// Every eighth turn is another's, by turns too.
    pub(super) fn next_ready(&mut self) -> Option<StreamKey> {
        if self.ready_set == 0 {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let fair = self.turn.is_multiple_of(FAIR_TURN);
        // From some urgency on, and round: 0 on most turns.
        let from = if fair { u32::from(self.turn / FAIR_TURN) % URGENCIES as u32 } else { 0 };
        let urgency = (self.ready_set.rotate_right(from).trailing_zeros() + from) as usize % URGENCIES;
        let slot = self.ready[urgency];
        let stream = &self.slots[usize::from(slot)];
        if stream.priority.incremental || fair {
            self.ready[urgency] = stream.next;
        }
        Some(StreamKey { id: stream.id, slot })
    }

    fn join_ring(&mut self, slot: u16) {
        let stream = &self.slots[usize::from(slot)];
        if stream.is(state::READY) {
            return;
        }
        let urgency = usize::from(stream.priority.urgency);
        let first = self.ready[urgency];
        let (next, previous) = if first == NO_SLOT {
            self.ready[urgency] = slot;
            self.ready_set |= 1 << urgency;
            (slot, slot)
        } else {
            let last = self.slots[usize::from(first)].previous;
            self.slots[usize::from(first)].previous = slot;
            self.slots[usize::from(last)].next = slot;
            (first, last)
        };
        let stream = &mut self.slots[usize::from(slot)];
        stream.next = next;
        stream.previous = previous;
        stream.set(state::READY);
    }

    fn leave_ring(&mut self, slot: u16) {
        let stream = &mut self.slots[usize::from(slot)];
        if !stream.is(state::READY) {
            return;
        }
        stream.state &= !state::READY;
        let (urgency, next, previous) = (usize::from(stream.priority.urgency), stream.next, stream.previous);
        if next == slot {
            self.ready[urgency] = NO_SLOT;
            self.ready_set &= !(1 << urgency);
            return;
        }
        self.slots[usize::from(next)].previous = previous;
        self.slots[usize::from(previous)].next = next;
        if self.ready[urgency] == slot {
            self.ready[urgency] = next;
        }
    }

    // The index.

    /// Where a number is looked for first.
    fn home(&self, id: u32) -> usize {
        let bits = self.index.len().trailing_zeros();
        (u64::from(id.wrapping_mul(self.spread)) >> (32 - bits)) as usize
    }

    fn index_insert(&mut self, id: u32, slot: u16) {
        if (self.open as usize) * 2 > self.index.len() {
            let old = std::mem::take(&mut self.index);
            self.index = vec![0; (old.len() * 2).max(16)];
            for entry in old.into_iter().filter(|entry| *entry != 0) {
                self.index_put(self.slots[usize::from(entry - 1)].id, entry);
            }
        }
        self.index_put(id, slot + 1);
    }

    fn index_put(&mut self, id: u32, entry: u16) {
        let mask = self.index.len() - 1;
        let mut at = self.home(id);
        while self.index[at] != 0 {
            at = (at + 1) & mask;
        }
        self.index[at] = entry;
    }

    /// Takes an entry out and moves those behind it up, so that no probe ends early.
    fn index_remove(&mut self, id: u32) {
        let Some(mask) = self.index.len().checked_sub(1) else { return };
        let mut at = self.home(id);
        loop {
            let Some(slot) = self.index[at].checked_sub(1) else { return };
            if self.slots[usize::from(slot)].id == id {
                break;
            }
            at = (at + 1) & mask;
        }
        let mut hole = at;
        loop {
            at = (at + 1) & mask;
            let Some(slot) = self.index[at].checked_sub(1) else { break };
            let home = self.home(self.slots[usize::from(slot)].id);
            // It may move up unless its home lies behind the hole.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = self.index[at];
                hole = at;
            }
        }
        self.index[hole] = 0;
    }

    /// The windows of all live streams begin with another number now. `false`: one went beyond its bound.
    #[must_use]
    pub(super) fn shift_windows(&mut self, delta: i64) -> bool {
        for slot in 0..self.slots.len() {
            let Some(key) = self.key_of(slot) else { continue };
            if !self.slots[slot].send.shift(delta) {
                return false;
            }
            self.arm(key);
        }
        true
    }
}

const _: () = assert!(WINDOW_MOST as u64 <= i32::MAX as u64);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn filled(count: u32) -> (Streams, Vec<StreamKey>) {
        let mut streams = Streams::new(count);
        let keys = (0..count).map(|n| streams.insert(StreamId(2 * n + 1), 65_535, 65_535).unwrap()).collect();
        (streams, keys)
    }

    fn want(streams: &mut Streams, key: StreamKey) {
        streams.live(key).unwrap().set(state::HEAD_SENT | state::WANTS);
        streams.arm(key);
    }

    #[test]
    fn a_slot_is_40_bytes() {
        assert!(size_of::<Stream>() <= 40, "{}", size_of::<Stream>());
    }

    #[test]
    fn the_index_agrees_with_a_map() {
        let mut streams = Streams::new(200);
        let mut model: BTreeMap<u32, StreamKey> = BTreeMap::new();
        let mut seed = 0x1234_5678_u32;
        let mut id = 1;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if seed >> 31 == 0 && model.len() < 200 {
                // Numbers that share a home come too.
                id += if seed & 0x100 == 0 { 2 } else { 512 };
                let key = streams.insert(StreamId(id), 1, 1).unwrap();
                assert!(model.values().all(|other| other.slot() != key.slot()));
                model.insert(id, key);
            } else if !model.is_empty() {
                let at = (seed >> 8) as usize % model.len();
                let (&id, &key) = model.iter().nth(at).unwrap();
                model.remove(&id);
                streams.close(key, false);
                assert!(streams.live(key).is_none());
                assert_eq!(streams.find(StreamId(id)), None);
            }
            assert_eq!(streams.open() as usize, model.len());
            for (&id, &key) in model.iter().take(5).chain(model.iter().rev().take(5)) {
                assert_eq!(streams.find(StreamId(id)), Some(key));
            }
        }
    }

    #[test]
    fn a_key_is_stale_once_its_stream_is_over() {
        let (mut streams, keys) = filled(1);
        streams.close(keys[0], false);
        let next = streams.insert(StreamId(3), 1, 1).unwrap();
        assert_eq!(next.slot(), keys[0].slot());
        assert!(streams.live(keys[0]).is_none() && streams.live(next).is_some());
    }

    #[test]
    fn what_is_held_lingers_and_has_a_bound() {
        let mut streams = Streams::new(1);
        let mut lingering = Vec::new();
        for n in 0..=LINGERING_MAX {
            let key = streams.insert(StreamId(2 * n + 1), 10, 10).unwrap();
            assert!(streams.live(key).unwrap().receive.receive(3));
            assert_eq!(streams.close(key, true), 0);
            assert!(streams.live(key).is_none() && streams.held(key).is_some());
            lingering.push(key);
        }
        assert!(streams.is_full());
        assert_eq!(streams.insert(StreamId(999), 1, 1), None);
        streams.free(lingering[5]);
        assert!(streams.insert(StreamId(999), 1, 1).is_some());
    }

    #[test]
    fn incremental_streams_take_turns() {
        let (mut streams, keys) = filled(3);
        for key in &keys {
            want(&mut streams, *key);
        }
        let order: Vec<u32> = (0..6).map(|_| streams.next_ready().unwrap().id().0).collect();
        assert_eq!(order, [1, 3, 5, 1, 3, 5]);
        streams.close(keys[1], false);
        let order: Vec<u32> = (0..4).map(|_| streams.next_ready().unwrap().id().0).collect();
        assert_eq!(order, [1, 5, 1, 5]);
    }

    #[test]
    fn the_urgent_go_first_and_nobody_starves() {
        let (mut streams, keys) = filled(4);
        for (key, (urgency, incremental)) in keys.iter().zip([(3, false), (0, false), (7, true), (0, false)])
        {
            streams.prioritise(*key, Priority { urgency, incremental });
            want(&mut streams, *key);
        }
        let mut turns: BTreeMap<u32, usize> = BTreeMap::new();
        for _ in 0..800 {
            *turns.entry(streams.next_ready().unwrap().id().0).or_default() += 1;
        }
        assert!(turns[&3] + turns[&7] >= 700, "{turns:?}");
        assert!(turns[&1] >= 10 && turns[&5] >= 10, "{turns:?}");
        // One of two equal ones comes whole, but not for ever before the other.
        let first: Vec<u32> = (0..7).map(|_| streams.next_ready().unwrap().id().0).collect();
        assert!(first.windows(2).all(|pair| pair[0] == pair[1]), "{first:?}");
    }

    #[test]
    fn a_stream_without_window_has_no_turn() {
        let (mut streams, keys) = filled(2);
        for key in &keys {
            want(&mut streams, *key);
        }
        streams.live(keys[0]).unwrap().send.take(65_535);
        streams.arm(keys[0]);
        assert_eq!(streams.next_ready(), Some(keys[1]));
        assert_eq!(streams.next_ready(), Some(keys[1]));
        assert!(streams.shift_windows(10));
        assert!([streams.next_ready(), streams.next_ready()].contains(&Some(keys[0])));
        assert!(!streams.shift_windows(i64::from(WINDOW_MOST)));
    }

    #[test]
    fn a_priority_can_come_before_its_stream() {
        let mut streams = Streams::new(8);
        let urgent = Priority { urgency: 1, incremental: false };
        streams.prioritise_early(StreamId(5), urgent);
        for n in 0..2 {
            streams.prioritise_early(StreamId(100 + n), Priority::UNSAID);
        }
        let key = streams.insert(StreamId(5), 1, 1).unwrap();
        assert_eq!(streams.live(key).unwrap().priority, urgent);
        let key = streams.insert(StreamId(7), 1, 1).unwrap();
        assert_eq!(streams.live(key).unwrap().priority, Priority::UNSAID);
    }
}

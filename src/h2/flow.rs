//! Flow control (RFC 9113 §5.2, §6.9): how much we may send, and how much we let be sent.
//!
//! For: [`super::connection`], once for the connection and once for each stream. The law that bounds memory: what was received
//! and not consumed is never more than the window that was granted.

/// The largest window (RFC 9113 §6.9.1).
pub const WINDOW_MOST: u32 = 0x7fff_ffff;
/// The window of a stream and of a connection before anybody says otherwise (RFC 9113 §6.9.2).
pub const WINDOW_DEFAULT: u32 = 65_535;

/// What we may still send. A smaller SETTINGS_INITIAL_WINDOW_SIZE can make it negative (RFC 9113 §6.9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendWindow {
    left: i32,
}

impl SendWindow {
    /// A window of so many bytes, at most [`WINDOW_MOST`].
    pub fn new(bytes: u32) -> SendWindow {
        SendWindow { left: bytes.min(WINDOW_MOST) as i32 }
    }

    /// Bytes that may be sent now.
    pub fn left(&self) -> usize {
        self.left.max(0) as usize
    }

    /// So many bytes are sent; at most [`SendWindow::left`].
    pub fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.left());
        self.left = self.left.saturating_sub(bytes.min(self.left()) as i32);
    }

    /// The peer grants more. `false`: beyond 2^31 − 1, which is an error (RFC 9113 §6.9.1).
    #[must_use]
    pub fn widen(&mut self, increment: u32) -> bool {
        self.shift(i64::from(increment))
    }

    /// The peer changed the window that streams begin with. `false`: beyond 2^31 − 1 (RFC 9113 §6.9.2).
    #[must_use]
    pub fn shift(&mut self, delta: i64) -> bool {
        // Two windows of at most 2^31 − 1 are never further apart than an i32 holds below zero.
        match i32::try_from(i64::from(self.left) + delta) {
            Ok(left) => {
                self.left = left;
                true
            }
            Err(_) => false,
        }
    }
}

/// What the peer may still send, and what of it was received. At all times `left + held + returned = target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveWindow {
    /// What the peer may send.
    left: u32,
    /// Received and not consumed.
    held: u32,
    /// Consumed, and not granted again.
    returned: u32,
    target: u32,
}

impl ReceiveWindow {
    /// A window of so many bytes, all of which the peer knows of.
    pub fn new(bytes: u32) -> ReceiveWindow {
        let bytes = bytes.min(WINDOW_MOST);
        ReceiveWindow { left: bytes, held: 0, returned: 0, target: bytes }
    }

    /// Received and not consumed.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Whether half of the window, or more, is held.
    pub fn is_half_held(&self) -> bool {
        self.held >= self.target / 2
    }

    /// Makes the window twice as large, but no larger than `most`; the increment that is to be granted for that.
    pub fn double(&mut self, most: u32) -> Option<u32> {
        let increment = self.target.min(most.min(WINDOW_MOST).checked_sub(self.target)?);
        self.target += increment;
        self.left += increment;
        (increment > 0).then_some(increment)
    }

    /// So many bytes came; they are held until they are consumed. `false`: more than may be sent.
    #[must_use]
    pub fn receive(&mut self, bytes: u32) -> bool {
        let Some(left) = self.left.checked_sub(bytes) else { return false };
        self.left = left;
        self.held += bytes;
        true
    }

    /// So many of the held bytes are no longer; says how many that were.
    pub fn consume(&mut self, bytes: usize) -> u32 {
        debug_assert!(bytes <= self.held as usize, "consumed what never came");
        let bytes = bytes.min(self.held as usize) as u32;
        self.held -= bytes;
        self.returned += bytes;
        bytes
    }

    /// The increment to be granted now, if one is due: when half of the window waits to be granted again, so that updates
    /// are few and a sender whose bytes are consumed never stands still. Where everything that came has been consumed, the
    /// window grows, to `most` at last: the sender, not the receiver, is what is slow.
    pub fn grant(&mut self, most: u32) -> Option<u32> {
        if self.returned == 0 || self.returned < self.target / 2 {
            return None;
        }
        let mut increment = self.returned;
        if self.held == 0 && self.target < most {
            let growth = self.target.min(most - self.target).min(WINDOW_MOST - self.target);
            self.target += growth;
            increment += growth;
        }
        self.left += increment;
        self.returned = 0;
        debug_assert_eq!(u64::from(self.left) + u64::from(self.held), u64::from(self.target));
        Some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_6_9_1_a_window_beyond_its_bound_is_an_error() {
        let mut window = SendWindow::new(WINDOW_MOST - 5);
        assert!(window.widen(5));
        assert!(!window.widen(1));
        assert_eq!(window.left(), WINDOW_MOST as usize);
    }

    #[test]
    fn section_6_9_2_a_window_can_be_negative() {
        let mut window = SendWindow::new(65_535);
        window.take(65_535);
        assert!(window.shift(16_384 - 65_535));
        assert_eq!(window.left(), 0);
        assert!(window.widen(49_151));
        assert_eq!(window.left(), 0);
        assert!(window.widen(1));
        assert_eq!(window.left(), 1);
        let mut least = SendWindow::new(WINDOW_MOST);
        least.take(WINDOW_MOST as usize);
        assert!(least.shift(-i64::from(WINDOW_MOST)));
        assert_eq!(least.left(), 0);
    }

    #[test]
    fn a_window_is_granted_again_by_halves() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.receive(60));
        assert_eq!(window.consume(49), 49);
        assert_eq!(window.grant(100), None);
        assert_eq!(window.consume(1), 1);
        assert_eq!(window.grant(100), Some(50));
        assert_eq!(window.held(), 10);
        assert!(window.receive(90));
        assert!(!window.receive(1));
    }

    #[test]
    fn a_window_of_which_half_is_held_can_be_doubled_up_to_its_bound() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.receive(49) && !window.is_half_held());
        assert!(window.receive(1) && window.is_half_held());
        assert_eq!((window.double(250), window.double(250), window.double(250)), (Some(100), Some(50), None));
        assert!(window.receive(200) && !window.receive(1));
        assert_eq!(window.double(100), None, "it is larger already");
        assert_eq!((window.consume(250), window.grant(250)), (250, Some(250)));
    }

    #[test]
    fn a_window_grows_while_everything_is_consumed() {
        let mut window = ReceiveWindow::new(100);
        let mut granted = Vec::new();
        for _ in 0..5 {
            let all = window.left;
            assert!(window.receive(all));
            window.consume(all as usize);
            granted.push(window.grant(350).unwrap());
        }
        assert_eq!(granted, [200, 350, 350, 350, 350]);
        assert!(window.receive(300));
        window.consume(299);
        assert_eq!(window.grant(1000), Some(299), "one byte is held: no growth");
    }
}

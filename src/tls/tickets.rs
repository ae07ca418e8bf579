//! Session tickets: one key set per profile, shared by the cores, without a lock.
//!
//! A ticket is sealed with AES-256-GCM under the current key of its profile and opened with that or the one before.
//! Tickets of one profile mean nothing to another: a session of an open port can never be resumed on one that asks for
//! more. Keys live in memory only and are changed every six hours by the control thread.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

/// Seconds after which a key no longer seals; it opens for as long again.
pub const KEY_LIFE_S: u64 = 6 * 3600;
/// Bytes of a key's name at the start of a ticket.
const NAME_LEN: usize = 16;

struct Key {
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

struct Keys {
    current: Arc<Key>,
    before: Option<Arc<Key>>,
}

/// The tickets of one profile.
pub struct Tickets {
    keys: ArcSwap<Keys>,
    random: SystemRandom,
}

impl Tickets {
    /// A fresh key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Tickets, ring::error::Unspecified> {
        let random = SystemRandom::new();
        let current = Arc::new(Key::new(&random)?);
        Ok(Tickets { keys: ArcSwap::from_pointee(Keys { current, before: None }), random })
    }

    /// Puts a new key in the place of the current one, which goes on opening.
    ///
    /// # Errors
    /// The system has no randomness; the old keys stay.
    pub fn rotate(&self) -> Result<(), ring::error::Unspecified> {
        let current = Arc::new(Key::new(&self.random)?);
        let before = Some(Arc::clone(&self.keys.load().current));
        self.keys.store(Arc::new(Keys { current, before }));
        Ok(())
    }
}

impl Key {
    fn new(random: &SystemRandom) -> Result<Key, ring::error::Unspecified> {
        let (mut name, mut bytes) = ([0; NAME_LEN], [0; 32]);
        random.fill(&mut name)?;
        random.fill(&mut bytes)?;
        Ok(Key { name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes)?) })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        KEY_LIFE_S as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(keys.current.name);
        keys.current
            .key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        Some([&keys.current.name, &nonce[..], &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys.load();
        // The name is public: it tells keys apart and opens nothing.
        let key = [Some(&keys.current), keys.before.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| key.name == *name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = key.key.open_in_place(nonce, Aad::from(key.name), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_under_its_own_profile_and_one_rotation_long() {
        let (ours, other) = (Tickets::new().expect("random"), Tickets::new().expect("random"));
        let ticket = ours.encrypt(b"state").expect("sealed");
        assert_eq!(ours.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(other.decrypt(&ticket), None);
        ours.rotate().expect("random");
        assert_eq!(ours.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        ours.rotate().expect("random");
        assert_eq!(ours.decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_or_cut_ticket_opens_nothing() {
        let tickets = Tickets::new().expect("random");
        let ticket = tickets.encrypt(b"state").expect("sealed");
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {index}");
            assert_eq!(tickets.decrypt(&ticket[..index]), None, "cut at {index}");
        }
    }
}

//! Session tickets: one key set per profile, shared by the cores, without a lock.
//!
//! A ticket is sealed with AES-256-GCM under the current key of its profile and opened with that or the one before.
//! Tickets of one profile mean nothing to another: a session of an open port can never be resumed on one that asks for
//! more. Keys live in memory only and are changed every six hours, on the supervisor's time ([`Tickets::tend`]).

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
    /// When `current` began to seal, in seconds of the caller's clock.
    since_s: u64,
}

/// The tickets of one profile.
pub struct Tickets {
    keys: ArcSwap<Keys>,
    random: SystemRandom,
}

impl Tickets {
    /// A fresh key at `now_s`, seconds of any clock that does not step back.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(now_s: u64) -> Result<Tickets, ring::error::Unspecified> {
        let random = SystemRandom::new();
        let current = Arc::new(Key::new(&random)?);
        let keys = Keys { current, before: None, since_s: now_s };
        Ok(Tickets { keys: ArcSwap::from_pointee(keys), random })
    }

    /// Changes keys when it is time: after [`KEY_LIFE_S`] a new one takes the place of the current, which goes on opening as
    /// long as tickets that it sealed last. Says whether it did. Called every second or so, by one thread.
    ///
    /// # Errors
    /// The system has no randomness; the old keys stay, and the next call tries again.
    pub fn tend(&self, now_s: u64) -> Result<bool, ring::error::Unspecified> {
        let keys = self.keys.load();
        let age_s = now_s.saturating_sub(keys.since_s);
        if age_s < KEY_LIFE_S {
            return Ok(false);
        }
        let current = Arc::new(Key::new(&self.random)?);
        // Whoever slept through the change finds a key whose tickets have all ended.
        let before = (age_s < 2 * KEY_LIFE_S).then(|| Arc::clone(&keys.current));
        self.keys.store(Arc::new(Keys { current, before, since_s: now_s }));
        Ok(true)
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
    fn a_ticket_opens_under_its_own_profile_and_as_long_as_it_lives() {
        let born_s = 1_000;
        let (ours, other) = (Tickets::new(born_s).expect("random"), Tickets::new(born_s).expect("random"));
        let opens = |ticket: &[u8]| ours.decrypt(ticket).as_deref() == Some(&b"state"[..]);
        let first = ours.encrypt(b"state").expect("sealed");
        assert!(opens(&first));
        assert_eq!(other.decrypt(&first), None);

        let change_s = born_s + KEY_LIFE_S;
        assert_eq!(ours.tend(change_s - 1), Ok(false));
        let last = ours.encrypt(b"state").expect("sealed");
        assert_eq!(ours.tend(change_s), Ok(true));
        assert_eq!(ours.tend(change_s), Ok(false));
        let next = ours.encrypt(b"state").expect("sealed");
        assert_ne!(next[..NAME_LEN], last[..NAME_LEN], "a new key seals");
        // The last ticket of the old key lives for `lifetime` seconds from its second on.
        assert_eq!(u64::from(ours.lifetime()), KEY_LIFE_S);
        assert_eq!(ours.tend(change_s + KEY_LIFE_S - 1), Ok(false));
        assert!(opens(&first) && opens(&last) && opens(&next));
        assert_eq!(ours.tend(change_s + KEY_LIFE_S), Ok(true));
        assert!(!opens(&first) && !opens(&last) && opens(&next));
    }

    #[test]
    fn a_key_that_outlived_all_its_tickets_opens_nothing() {
        let tickets = Tickets::new(0).expect("random");
        let ticket = tickets.encrypt(b"state").expect("sealed");
        assert_eq!(tickets.tend(2 * KEY_LIFE_S), Ok(true));
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    /// What a client learns: a session resumes under the key before, and no longer under the one before that.
    #[test]
    fn a_session_resumes_across_one_change_of_keys() {
        use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

        let tickets = Arc::new(Tickets::new(0).expect("random"));
        let names = vec!["a.test".to_owned()];
        let certificate = crate::tls::certificate::self_signed(&names).expect("made");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.key.cert[0].clone()).expect("a root");
        let protocols = crate::http::Protocols::HTTP1;
        let profile = crate::tls::ServerProfile::new(&[certificate], &names, protocols, Arc::clone(&tickets))
            .expect("a profile");
        let config = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        let connect = || {
            let name = "a.test".try_into().expect("a name");
            let mut client = ClientConnection::new(Arc::clone(&config), name).expect("a client");
            let mut server = profile.session().expect("a session");
            // Until neither has anything to say: the ticket comes after the handshake.
            while client.wants_write() || server.wants_write() {
                let mut wire = Vec::with_capacity(16 * 1024);
                while client.wants_write() {
                    client.write_tls(&mut wire).expect("to memory");
                }
                server.feed(&mut wire, |_| 0).expect("understood");
                let mut wire = Vec::with_capacity(16 * 1024);
                server.take_wire(&mut wire);
                let mut wire = &wire[..];
                while !wire.is_empty() {
                    client.read_tls(&mut wire).expect("from memory");
                    client.process_new_packets().expect("understood");
                }
            }
            client.handshake_kind()
        };
        assert_eq!(connect(), Some(HandshakeKind::Full));
        assert_eq!(connect(), Some(HandshakeKind::Resumed));
        tickets.tend(KEY_LIFE_S).expect("random");
        assert_eq!(connect(), Some(HandshakeKind::Resumed));
        // That one brought a ticket of the new key, which is the one before after the next change.
        tickets.tend(2 * KEY_LIFE_S).expect("random");
        assert_eq!(connect(), Some(HandshakeKind::Resumed));
        tickets.tend(4 * KEY_LIFE_S).expect("random");
        assert_eq!(connect(), Some(HandshakeKind::Full));
    }

    #[test]
    fn a_changed_or_cut_ticket_opens_nothing() {
        let tickets = Tickets::new(0).expect("random");
        let ticket = tickets.encrypt(b"state").expect("sealed");
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {index}");
            assert_eq!(tickets.decrypt(&ticket[..index]), None, "cut at {index}");
        }
    }
}

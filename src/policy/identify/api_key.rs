//! `login.X: { api_key: FIELD, store, pepper }`: which application presents a key.
//!
//! # What it does
//! Takes the key from its field, finds its record by the public prefix and compares the whole by its hash
//! ([`KeyStore::find`]). The store is watched: a key that was revoked or added takes effect without a reload.
//!
//! # Configuration
//! `{ api_key: X-API-Key, store: partners.keys, pepper: "secret:file:/etc/ringwall/pepper" }`;
//! `passthrough: true` forwards the key. `ringwall keys` edits the store.
//!
//! # Answers
//! 401 with `WWW-Authenticate: ApiKey field="X-API-Key"` and `api_key_malformed`, `api_key_unknown` or
//! `api_key_expired`.
//!
//! # Cost
//! One hash-table probe and one HMAC over 62 bytes, about 0.6 µs, for every request: verified keys are not
//! remembered, so no usable key stays in memory, and there is no budget of failures, because a wrong key costs
//! us no more than a right one and 256 bits are not guessed. The identity is built once per core and key.
//!
//! # References
//! OWASP API2; RFC 2104.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::key_store::{API_KEY_UNKNOWN, KeyRecord, KeyStore, Pepper, Prefix, STORE_BYTES_MAX, prefix_of};
use super::{Identity, LoginId, Now, PerCore, Told};
use crate::control::private_file::read_private;
use crate::http::Reason;

/// How many identities of keys a core keeps at hand.
const IDENTITIES: usize = 4096;

/// How often a store has been read again: who may have lost a key asks when this has changed.
static RENEWALS: AtomicU64 = AtomicU64::new(0);

/// Counts how often the stores have changed.
#[inline]
pub fn renewals() -> u64 {
    RENEWALS.load(Ordering::Acquire)
}

/// A store as the data threads see it: the last one that was whole.
#[derive(Debug)]
pub struct StoreCell(ArcSwap<KeyStore>);

impl StoreCell {
    /// A cell with a store.
    pub fn new(store: KeyStore) -> StoreCell {
        StoreCell(ArcSwap::from_pointee(store))
    }

    /// Reads the store at `path`. For the compiler and the control thread: it reads a file.
    ///
    /// # Errors
    /// Why it cannot be used, for the operator.
    pub fn read(path: &Path) -> Result<KeyStore, String> {
        let text = read_private(path, STORE_BYTES_MAX as u64).map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(&text).map_err(|_| "it is not UTF-8".to_owned())?;
        KeyStore::parse(text).map_err(|errors| {
            let shown: Vec<String> = errors.iter().take(3).map(ToString::to_string).collect();
            let more = if errors.len() > 3 {
                format!(" and {} more lines", errors.len() - 3)
            } else {
                String::new()
            };
            format!("{}{more}", shown.join("; "))
        })
    }

    /// Reads the store at `path` again. One that cannot be used does not replace one that could.
    ///
    /// # Errors
    /// Why it cannot be used, for the operator.
    pub fn renew(&self, path: &Path) -> Result<(), String> {
        self.0.store(Arc::new(StoreCell::read(path)?));
        RENEWALS.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

/// A login by keys, compiled.
#[derive(Debug)]
pub struct ApiKey {
    id: LoginId,
    name: Box<str>,
    store: Arc<StoreCell>,
    pepper: Pepper,
    /// Of all logins ever compiled by this process, which.
    serial: u64,
}

impl ApiKey {
    /// The login `name` with the index `id`.
    pub fn new(id: LoginId, name: &str, store: Arc<StoreCell>, pepper: Pepper) -> ApiKey {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed) + 1;
        ApiKey { id, name: name.into(), store, pepper, serial }
    }

    /// Who presents `key`; `None` if the store knows no key with its prefix.
    pub(super) fn find(
        &self,
        key: &[u8],
        core: &mut PerCore,
        now: Now,
    ) -> Result<Option<Rc<Identity>>, &'static Reason> {
        let prefix = prefix_of(key)?;
        let store = self.store.0.load();
        match store.find(key, &self.pepper, now.s) {
            Ok(record) => {
                let build = || self.identity(record);
                Ok(Some(core.keys.identity(self.serial, store.generation(), prefix, build)))
            }
            Err(reason) if reason == &API_KEY_UNKNOWN && store.record(prefix).is_none() => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    fn identity(&self, record: &KeyRecord) -> Identity {
        Identity {
            login: self.id,
            login_name: self.name.clone(),
            kind: "api_key",
            subject: record.identity.as_str().into(),
            issuer: Box::default(),
            key_id: record.id.as_str().into(),
            scopes: record.scopes.iter().map(|scope| scope.as_str().into()).collect(),
            roles: record.roles.iter().map(|role| role.as_str().into()).collect(),
            expires_s: record.expires_s.unwrap_or(0),
            kept: Box::default(),
            told: Told::default(),
        }
        .told()
    }
}

/// The identities of keys that were presented of late, so that none is built twice. Direct-mapped: two keys that
/// fall on one place take turns, at the cost of an allocation.
#[derive(Default)]
pub(super) struct KeyIdentities(Vec<Option<Kept>>);

struct Kept {
    serial: u64,
    store: u64,
    prefix: Prefix,
    identity: Rc<Identity>,
}

impl KeyIdentities {
    /// The identity of a record of a store, both named for good by their numbers.
    fn identity(
        &mut self,
        serial: u64,
        store: u64,
        prefix: Prefix,
        build: impl FnOnce() -> Identity,
    ) -> Rc<Identity> {
        if self.0.is_empty() {
            self.0.resize_with(IDENTITIES, || None);
        }
        let place = (prefix.number() ^ serial.wrapping_mul(0x9e37_79b9_7f4a_7c15)) as usize % IDENTITIES;
        match &mut self.0[place] {
            Some(kept) if (kept.serial, kept.store, kept.prefix) == (serial, store, prefix) => {
                Rc::clone(&kept.identity)
            }
            other => {
                let identity = Rc::new(build());
                *other = Some(Kept { serial, store, prefix, identity: Rc::clone(&identity) });
                identity
            }
        }
    }
}

impl std::fmt::Debug for KeyIdentities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyIdentities").field(&self.0.iter().flatten().count()).finish()
    }
}

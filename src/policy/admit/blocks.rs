//! Emergency blocks: addresses, identities, keys and operations that are refused at once, on every core.
//!
//! # What it does
//! Refuses what `ringwall block add` named. An address is looked at when its connection comes, before anything is done for it, and
//! again with each request, as whom trusted proxies name; an operation when it has been found; an identity and a key when a
//! login has proven them. Connections that a blocked address holds are ended (see `worker::visitors`).
//!
//! # Configuration
//! None: blocks come over the control socket ([`crate::control::block`]) and survive a restart.
//!
//! # Answers
//! 403 with `address_blocked`, `operation_blocked`, `identity_blocked`, `key_blocked`.
//!
//! # Cost
//! Nothing blocked: one load and one branch a request. Else one look into a set of prefixes, and a hash of each name that is
//! judged. No allocation.
//!
//! # References
//! NIST SP 800-204, incident response; features TP-19.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};

use crate::accept::prefixes::{AddressSet, Network, Prefixes, Verdict};
use crate::http::Reason;
use crate::pipeline::exchange::Exchange;
use crate::policy::identify::Identity;
use crate::snapshot::{Operation, Snapshot};

/// The address is blocked.
pub const ADDRESS_BLOCKED: Reason = Reason::client("address_blocked", 2250, 403, "This address is blocked");
/// The identity is blocked.
pub const IDENTITY_BLOCKED: Reason =
    Reason::client("identity_blocked", 2251, 403, "This identity is blocked");
/// The key is blocked.
pub const KEY_BLOCKED: Reason = Reason::client("key_blocked", 2252, 403, "This key is blocked");
/// The operation is blocked.
pub const OPERATION_BLOCKED: Reason =
    Reason::client("operation_blocked", 2253, 403, "This operation is blocked for now");

/// What is blocked, compiled.
#[derive(Debug)]
pub struct Blocks {
    addresses: AddressSet,
    /// Subjects, by login.
    identities: HashMap<Box<str>, HashSet<Box<str>>>,
    keys: HashSet<Box<str>>,
    /// Operations, by API; `None` is all of them.
    operations: HashMap<Box<str>, Option<HashSet<Box<str>>>>,
    count: usize,
}

/// One thing that is blocked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The addresses of a network.
    Address(Network),
    /// What a login calls a caller.
    Identity {
        /// The login.
        login: Box<str>,
        /// The subject.
        subject: Box<str>,
    },
    /// The id of an API key, or the `kid` of a token's key: all that it signed.
    Key(Box<str>),
    /// An operation, or all of an API.
    Operation {
        /// The API.
        api: Box<str>,
        /// The operation; `None` is all.
        operation: Option<Box<str>>,
    },
}

impl Blocks {
    /// From what is blocked.
    pub fn new<'w>(all: impl Iterator<Item = &'w What>) -> Blocks {
        let mut prefixes = Prefixes::new();
        let mut blocks = Blocks {
            addresses: Prefixes::new().compile(Verdict::Out),
            identities: HashMap::new(),
            keys: HashSet::new(),
            operations: HashMap::new(),
            count: 0,
        };
        for what in all {
            blocks.count += 1;
            match what {
                What::Address(network) => prefixes.add(*network, Verdict::In),
                What::Identity { login, subject } => {
                    blocks.identities.entry(login.clone()).or_default().insert(subject.clone());
                }
                What::Key(id) => {
                    blocks.keys.insert(id.clone());
                }
                What::Operation { api, operation: None } => {
                    blocks.operations.insert(api.clone(), None);
                }
                What::Operation { api, operation: Some(operation) } => {
                    if let Some(named) =
                        blocks.operations.entry(api.clone()).or_insert_with(|| Some(HashSet::new()))
                    {
                        named.insert(operation.clone());
                    }
                }
            }
        }
        blocks.addresses = prefixes.compile(Verdict::Out);
        blocks
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether an address is blocked.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.addresses.contains(address)
    }

    fn operation(&self, api: &str, operation: &str) -> bool {
        match self.operations.get(api) {
            None => false,
            Some(None) => true,
            Some(Some(named)) => named.contains(operation),
        }
    }

    fn identity(&self, identity: &Identity) -> Result<(), Reason> {
        if self
            .identities
            .get(&*identity.login_name)
            .is_some_and(|subjects| subjects.contains(&*identity.subject))
        {
            return Err(IDENTITY_BLOCKED);
        }
        if !identity.key_id.is_empty() && self.keys.contains(&*identity.key_id) {
            return Err(KEY_BLOCKED);
        }
        Ok(())
    }
}

/// What is blocked now, on all cores.
#[derive(Debug)]
pub struct BlockCell {
    /// Counts what was published; 0 is that nothing is blocked.
    number: AtomicU64,
    current: ArcSwap<Blocks>,
}

impl Default for BlockCell {
    fn default() -> BlockCell {
        BlockCell { number: AtomicU64::new(0), current: ArcSwap::from_pointee(Blocks::new([].iter())) }
    }
}

impl BlockCell {
    /// Which blocks these are; 0: there are none. One load.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Puts blocks in force, of a number greater than those before. Gives the old ones, which a core may still be looking at.
    /// Not on a data thread.
    #[must_use = "the last one who holds blocks frees them, and that is not to be a core"]
    pub fn publish(&self, blocks: Blocks, number: u64) -> Arc<Blocks> {
        let number = if blocks.is_empty() { 0 } else { number };
        let before = self.current.swap(Arc::new(blocks));
        self.number.store(number, Ordering::Release);
        before
    }

    /// Looks at what is in force.
    pub fn look<T>(&self, at: impl FnOnce(&Blocks) -> T) -> T {
        at(&self.current.load())
    }

    /// Judges where a connection comes from, or a request.
    ///
    /// # Errors
    /// [`ADDRESS_BLOCKED`].
    #[inline]
    pub fn address(&self, address: IpAddr) -> Result<(), Reason> {
        match self.number() {
            0 => Ok(()),
            _ if self.look(|blocks| blocks.holds(address)) => Err(ADDRESS_BLOCKED),
            _ => Ok(()),
        }
    }

    /// Judges a request: its client, where it comes from, and what it means, if that was found.
    ///
    /// # Errors
    /// [`ADDRESS_BLOCKED`], [`OPERATION_BLOCKED`].
    #[cold]
    pub fn request(
        &self,
        x: &Exchange,
        operation: Option<&Operation>,
        snapshot: &Snapshot,
    ) -> Result<(), Reason> {
        self.look(|blocks| {
            if blocks.holds(x.client) || blocks.holds(x.source.ip()) {
                return Err(ADDRESS_BLOCKED);
            }
            let Some(operation) = operation else { return Ok(()) };
            let api = snapshot.apis.get(operation.api as usize).map_or("", |api| &*api.name);
            if blocks.operation(api, &operation.name) { Err(OPERATION_BLOCKED) } else { Ok(()) }
        })
    }

    /// Judges whose a request is, once a login has proven it.
    ///
    /// # Errors
    /// [`IDENTITY_BLOCKED`], [`KEY_BLOCKED`].
    #[cold]
    pub fn identity(&self, x: &Exchange) -> Result<(), Reason> {
        x.identity.as_deref().map_or(Ok(()), |identity| self.look(|blocks| blocks.identity(identity)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> What {
        What::Address(Network::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_named_is_blocked_and_nothing_beside_it() {
        let operation = |api: &str, operation: Option<&str>| What::Operation {
            api: api.into(),
            operation: operation.map(Box::from),
        };
        let identity =
            |login: &str, subject: &str| What::Identity { login: login.into(), subject: subject.into() };
        let all = [
            address("192.0.2.0/24"),
            address("2001:db8::1"),
            identity("people", "alice"),
            What::Key("k1".into()),
            operation("orders", Some("create")),
            operation("shop", Some("one")),
            operation("shop", None),
            operation("shop", Some("two")),
        ];
        let blocks = Blocks::new(all.iter());
        assert_eq!(blocks.len(), 8);
        for (address, expected) in [
            ("192.0.2.9", true),
            ("::ffff:192.0.2.9", true),
            ("192.0.3.1", false),
            ("2001:db8::1", true),
            ("::", false),
        ] {
            assert_eq!(blocks.holds(address.parse().unwrap()), expected, "{address}");
        }
        assert!(blocks.operation("orders", "create") && !blocks.operation("orders", "list"));
        assert!(blocks.operation("shop", "three") && !blocks.operation("create", "orders"));
        let who = |login: &str, subject: &str, key: &str| Identity {
            login_name: login.into(),
            subject: subject.into(),
            key_id: key.into(),
            ..Identity::default()
        };
        assert_eq!(blocks.identity(&who("people", "alice", "")), Err(IDENTITY_BLOCKED));
        assert_eq!(blocks.identity(&who("partners", "alice", "k1")), Err(KEY_BLOCKED));
        assert_eq!(blocks.identity(&who("partners", "alice", "k2")), Ok(()));
        assert_eq!(blocks.identity(&who("people", "k1", "")), Ok(()));
    }

    #[test]
    fn nothing_blocked_is_number_0() {
        let cell = BlockCell::default();
        let somebody = "192.0.2.1".parse().unwrap();
        assert_eq!((cell.number(), cell.address(somebody)), (0, Ok(())));
        drop(cell.publish(Blocks::new([address("192.0.2.1")].iter()), 1));
        assert_eq!((cell.number(), cell.address(somebody)), (1, Err(ADDRESS_BLOCKED)));
        drop(cell.publish(Blocks::new([].iter()), 2));
        assert_eq!((cell.number(), cell.address(somebody)), (0, Ok(())));
    }
}

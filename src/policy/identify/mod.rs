//! Who is it?

pub mod credential;
pub mod failures;
pub mod key_store;

use crate::pipeline::exchange::Exchange;
use crate::policy::{Policy, Verdict};
use crate::worker::state::CoreState;

/// A login, by its index in the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoginId(pub u16);

/// Who is calling, as a login has proven it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The login that proved it.
    pub login: LoginId,
    /// The name of that login.
    pub login_name: Box<str>,
    /// `jwt` or `api_key`.
    pub kind: &'static str,
    /// The subject: `sub` of a token, `identity` of a key.
    pub subject: Box<str>,
    /// The issuer, of a token.
    pub issuer: Box<str>,
    /// `kid` of a token, `id` of a key.
    pub key_id: Box<str>,
    /// Scopes.
    pub scopes: Vec<Box<str>>,
    /// Roles.
    pub roles: Vec<Box<str>>,
    /// Unix seconds at which the credential ends; 0 is never.
    pub expires_s: u64,
    /// The claims of a token as JSON text; empty for a key.
    pub claims: Box<str>,
}

impl Identity {
    /// Whether the identity holds a role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| **held == *role)
    }

    /// Whether the identity holds a scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| **held == *scope)
    }
}

/// Per core: verified tokens and keys, budgets for failed ones.
#[derive(Debug, Default)]
pub struct PerCore {}

/// The logins that an API accepts.
#[derive(Debug, Default)]
pub struct Logins {}

impl Policy for Logins {
    const NAME: &'static str = "login";

    fn apply(&self, _x: &mut Exchange, _core: &mut CoreState) -> Verdict {
        Verdict::Continue
    }
}

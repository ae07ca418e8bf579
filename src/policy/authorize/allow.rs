//! `allow`: who may do what.
//!
//! # What it does
//! Admits a request when one grant of its operation fits: `who` is the login that proved the identity (or `anyone`), and
//! one `role` of those the grant names and every `scope` is held. Grants only add; there is no order and no "last match". An operation
//! without a grant, and an API that is `closed`, refuse everybody.
//!
//! # Configuration
//! `allow: [{ who: partners, role: reseller, scope: orders.write, do: [createOrder] }]`; no `do` is every operation of
//! the API. `mode: {observe: {reason, until}}` opens the gate, and says so.
//!
//! # Answers
//! 401 `credential_missing` when nobody has said who they are and `anyone` is not admitted; 403 `login_not_granted`,
//! `role_missing`, `scope_missing` or `operation_closed`.
//!
//! # Cost
//! A walk over the grants of one operation; no allocation.
//!
//! # References
//! RFC 9110 §11.6.1, §15.5.2, §15.5.4; OWASP API5.

use crate::http::Reason;
use crate::pipeline::exchange::Exchange;
use crate::policy::identify::{Identity, LoginId};
use crate::policy::{Policy, Verdict};
use crate::worker::state::CoreState;

/// Nobody has said who they are, and the operation is not for `anyone`.
pub const CREDENTIAL_MISSING: Reason =
    Reason::client("credential_missing", 3000, 401, "This needs a credential and the request has none");
/// The identity's login has no grant on the operation.
pub const LOGIN_NOT_GRANTED: Reason = Reason::client("login_not_granted", 3101, 403, "Not allowed");
/// A grant fits but for a role.
pub const ROLE_MISSING: Reason = Reason::client("role_missing", 3106, 403, "Not allowed");
/// A grant fits but for a scope.
pub const SCOPE_MISSING: Reason = Reason::client("scope_missing", 3107, 403, "Not allowed");
/// The API or operation is closed to everybody.
pub const OPERATION_CLOSED: Reason = Reason::client("operation_closed", 3108, 403, "Closed");

/// Whom a grant admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody, with or without an identity.
    Anyone,
    /// Identities that this login has proven.
    Login(LoginId),
}

/// One line of `allow`, for one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whom it admits.
    pub who: Who,
    /// Roles of which one must be held; none asks for none.
    pub roles: Vec<Box<str>>,
    /// Scopes that must all be held.
    pub scopes: Vec<Box<str>>,
}

/// The grants of one operation.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    /// No grant is closed to everybody.
    pub grants: Vec<Grant>,
}

impl Allow {
    /// Judges an identity, or the lack of one. A pure function: the same for every protocol.
    ///
    /// # Errors
    /// The reason of the refusal: of all grants, the one that came closest.
    pub fn judge(&self, identity: Option<&Identity>) -> Result<(), &'static Reason> {
        if self.grants.is_empty() {
            return Err(&OPERATION_CLOSED);
        }
        let mut closest = if identity.is_some() { &LOGIN_NOT_GRANTED } else { &CREDENTIAL_MISSING };
        for grant in &self.grants {
            match (grant.who, identity) {
                (Who::Anyone, _) => return Ok(()),
                (Who::Login(login), Some(identity)) if identity.login == login => {
                    if !grant.roles.is_empty() && !grant.roles.iter().any(|role| identity.has_role(role)) {
                        closest = &ROLE_MISSING;
                    } else if !grant.scopes.iter().all(|scope| identity.has_scope(scope)) {
                        closest = &SCOPE_MISSING;
                    } else {
                        return Ok(());
                    }
                }
                (Who::Login(_), _) => {}
            }
        }
        Err(closest)
    }
}

impl Policy for Allow {
    const NAME: &'static str = "allow";

    fn apply(&self, x: &mut Exchange, _core: &mut CoreState) -> Verdict {
        match self.judge(x.identity.as_deref()) {
            Ok(()) => Verdict::Continue,
            Err(reason) => Verdict::Refuse(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(login: u16, roles: &[&str], scopes: &[&str]) -> Identity {
        Identity {
            login: LoginId(login),
            roles: roles.iter().map(|&role| role.into()).collect(),
            scopes: scopes.iter().map(|&scope| scope.into()).collect(),
            ..Identity::default()
        }
    }

    fn grant(who: Who, roles: &[&str], scopes: &[&str]) -> Grant {
        Grant {
            who,
            roles: roles.iter().map(|&role| role.into()).collect(),
            scopes: scopes.iter().map(|&scope| scope.into()).collect(),
        }
    }

    #[test]
    fn no_grant_refuses_everybody() {
        let closed = Allow::default();
        assert_eq!(closed.judge(None), Err(&OPERATION_CLOSED));
        assert_eq!(closed.judge(Some(&identity(0, &["admin"], &["all"]))), Err(&OPERATION_CLOSED));
    }

    #[test]
    fn anyone_must_be_named() {
        let people = Allow { grants: vec![grant(Who::Login(LoginId(0)), &[], &[])] };
        assert_eq!(people.judge(None), Err(&CREDENTIAL_MISSING));
        let anyone = Allow { grants: vec![grant(Who::Anyone, &[], &[])] };
        assert_eq!(anyone.judge(None), Ok(()));
        assert_eq!(anyone.judge(Some(&identity(3, &[], &[]))), Ok(()));
    }

    #[test]
    fn one_role_and_every_scope_of_a_grant_are_needed() {
        let allow = Allow { grants: vec![grant(Who::Login(LoginId(1)), &["reseller"], &["read", "write"])] };
        assert_eq!(
            allow.judge(Some(&identity(0, &["reseller"], &["read", "write"]))),
            Err(&LOGIN_NOT_GRANTED)
        );
        assert_eq!(allow.judge(Some(&identity(1, &[], &["read", "write"]))), Err(&ROLE_MISSING));
        assert_eq!(allow.judge(Some(&identity(1, &["reseller"], &["read"]))), Err(&SCOPE_MISSING));
        assert_eq!(allow.judge(Some(&identity(1, &["reseller"], &["write", "read"]))), Ok(()));
        let either = Allow { grants: vec![grant(Who::Login(LoginId(1)), &["reseller", "admin"], &[])] };
        assert_eq!(either.judge(Some(&identity(1, &["admin"], &[]))), Ok(()));
        assert_eq!(either.judge(Some(&identity(1, &["clerk"], &[]))), Err(&ROLE_MISSING));
    }

    #[test]
    fn a_grant_can_only_add_its_own_line() {
        let subjects = [None, Some(identity(0, &[], &["read"])), Some(identity(1, &["admin"], &[]))];
        let grants = [
            grant(Who::Login(LoginId(0)), &[], &["read"]),
            grant(Who::Login(LoginId(1)), &["admin"], &[]),
            grant(Who::Login(LoginId(1)), &["other"], &[]),
        ];
        for mask in 0..1 << grants.len() {
            let chosen: Vec<Grant> = grants
                .iter()
                .enumerate()
                .filter(|(bit, _)| mask >> bit & 1 == 1)
                .map(|(_, g)| g.clone())
                .collect();
            for subject in &subjects {
                let together = Allow { grants: chosen.clone() }.judge(subject.as_ref()).is_ok();
                let alone = chosen
                    .iter()
                    .any(|one| Allow { grants: vec![one.clone()] }.judge(subject.as_ref()).is_ok());
                assert_eq!(together, alone);
            }
        }
    }
}

//! Rules for `limits`, of an API and of its operations.

use std::collections::HashMap;

use super::super::bind::{Bind, Named};
use super::super::error::{Code, ConfigError};
use super::super::model::login::Method;
use super::super::model::{Api, Draft, Limit, LimitKey, Surface, Who};
use super::super::shape::nearest;
use super::super::source::Span;
use super::api::name_list;

/// Two limits have one id.
pub const ID_TWICE: Code = Code::new(1603);
/// A limit counts identities where nobody has one.
pub const NO_IDENTITY: Code = Code::new(1605);
/// A limit names a login that is not there.
pub const WHO_UNKNOWN: Code = Code::new(1606);
/// A limit names an operation that is not there.
pub const DO_UNKNOWN: Code = Code::new(1607);
/// A limit of an operation says again which operation.
pub const DO_REPEATED: Code = Code::new(1608);
/// A limit counts a claim where nobody has one.
pub const NO_CLAIM: Code = Code::new(1610);

pub(super) fn check(draft: &Draft, api: &Api, bind: &mut Bind<'_>) {
    let mut ids: HashMap<String, Span> = HashMap::new();
    for limit in &api.limits {
        one(draft, api, limit, bind);
        for name in limit.operations.iter().flatten() {
            if matches!(api.surface, Some(Surface::Raw(_))) {
                bind.error(
                    ConfigError::new(DO_UNKNOWN, "a raw API has no operations to name", name.span)
                        .fix("delete `do`, or list the operations instead of `raw`"),
                );
            }
            if let Some(operations) = api.operations()
                && !operations.knows(&name.value)
            {
                let known: Vec<&str> = operations.names().collect();
                bind.error(unknown(DO_UNKNOWN, "operation", &name.value, name.span, &known));
            }
        }
        unique(&mut ids, limit, None, bind);
    }
    let Some(Surface::Operations(operations)) = &api.surface else { return };
    for (name, operation) in operations.iter() {
        for limit in operation.limits.iter().flat_map(|limits| &limits.value) {
            one(draft, api, limit, bind);
            if let Some(first) = limit.operations.iter().flatten().next() {
                bind.error(
                    ConfigError::new(DO_REPEATED, "the limit stands in its operation already", first.span)
                        .fix("delete `do`, or move the limit to the API"),
                );
            }
            unique(&mut ids, limit, Some(&name.value), bind);
        }
    }
}

fn unique(ids: &mut HashMap<String, Span>, limit: &Limit, within: Option<&str>, bind: &mut Bind<'_>) {
    let span = limit.name.as_ref().map_or(limit.span, |name| name.span);
    let id = limit.id(within);
    match ids.get(&id) {
        Some(first) => bind.error(
            ConfigError::new(ID_TWICE, format!("two limits count the same thing (`{id}`)"), span)
                .label("again here")
                .also(*first, "first here")
                .fix("keep the stricter one, or give each a `name` of its own")
                .why("counters are kept under this id over a reload, so two limits cannot share it"),
        ),
        None => {
            ids.insert(id, span);
        }
    }
}

fn one(draft: &Draft, api: &Api, limit: &Limit, bind: &mut Bind<'_>) {
    if let Some(logins) = &draft.login {
        for who in &limit.who {
            if let Who::Login(name) = &who.value
                && !logins.knows(name)
            {
                let known: Vec<&str> = logins.names().chain(["anyone"]).collect();
                bind.error(unknown(WHO_UNKNOWN, "login", name, who.span, &known));
            }
        }
    }
    for key in &limit.per {
        match &key.value {
            LimitKey::Identity if only_anyone(api) => bind.error(
                ConfigError::new(NO_IDENTITY, "nobody who is admitted here has an identity", key.span)
                    .expected("`address`, `operation`, `api` or `all`")
                    .why("a limit that never counts anybody protects nothing"),
            ),
            LimitKey::Claim(_) if draft.login.as_ref().is_some_and(no_tokens) => bind.error(
                ConfigError::new(NO_CLAIM, "no login has tokens, so nobody has claims", key.span)
                    .expected("`identity`, `address`, `operation`, `api` or `all`"),
            ),
            _ => {}
        }
    }
}

fn only_anyone(api: &Api) -> bool {
    let Some(allow) = &api.allow else { return false };
    let mut who = allow.grants.iter().flat_map(|grant| &grant.who).peekable();
    who.peek().is_some() && who.all(|who| who.value == Who::Anyone)
}

fn no_tokens(logins: &Named<super::super::model::Login>) -> bool {
    logins.len() == logins.names().count()
        && logins.iter().all(|(_, login)| !matches!(login.method, Method::Jwt(_)))
}

/// The error for a name that refers to nothing.
pub(super) fn unknown(code: Code, what: &str, name: &str, span: Span, known: &[&str]) -> ConfigError {
    let error = ConfigError::new(code, format!("there is no {what} `{}`", shortened(name)), span)
        .found(format!("`{}`", shortened(name)))
        .expected(name_list(what, known));
    match nearest(name, known.iter().copied()) {
        Some(near) => error.suggest(near),
        None => error,
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(60).collect()
}

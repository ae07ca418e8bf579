//! Rules for `apis`: what is served, where it goes, who may.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use jiff::civil::Date;

use super::super::bind::{Bind, Named, Spanned};
use super::super::error::{Code, ConfigError};
use super::super::model::policy::How;
use super::super::model::{
    Allow, Api, Draft, Edits, Grant, HeaderEdits, Maintenance, Operation, Route, Scoped, Surface, Who,
};
use super::super::source::Span;
use super::fields::{forbidden_edit, refuses_identity};
use super::limit;
use super::limit::unknown;

/// Requests have nowhere to go.
pub const TO_MISSING: Code = Code::new(1402);
/// There is no such upstream.
pub const TO_UNKNOWN: Code = Code::new(1403);
/// Two APIs live at the same place.
pub const PLACE_TWICE: Code = Code::new(1404);
/// Two operations match the same requests.
pub const OPERATION_TWICE: Code = Code::new(1405);
/// A tail without its reason.
pub const TAIL: Code = Code::new(1406);
/// An upstream for an API that forwards nothing.
pub const TO_UNUSED: Code = Code::new(1410);
/// A host that no listener serves.
pub const HOST_UNSERVED: Code = Code::new(1412);
/// A key that means nothing in a closed API.
pub const CLOSED_KEYS: Code = Code::new(1415);
/// A host stands twice.
pub const HOST_TWICE: Code = Code::new(1417);
/// A reason for a tail that is not there.
pub const RAW_UNUSED: Code = Code::new(1418);
/// An inner policy does not say how it relates to the outer one.
pub const INNER: Code = Code::new(1422);
/// A schema cannot be extended.
pub const BODY_EXTENDED: Code = Code::new(1423);
/// A field that only Ringwall writes.
pub const FIELD: Code = Code::new(1424);
/// A field that cannot hold an identity.
pub const IDENTITY_FIELD: Code = Code::new(1425);
/// Nobody is allowed, and nothing says that this is meant.
pub const ALLOW_MISSING: Code = Code::new(1501);
/// There is no such login.
pub const WHO_UNKNOWN: Code = Code::new(1502);
/// There is no such operation.
pub const DO_UNKNOWN: Code = Code::new(1503);
/// A role or scope asked of everybody.
pub const ANYONE_WITH: Code = Code::new(1504);
/// `do` in an API without operations.
pub const DO_WITHOUT: Code = Code::new(1507);
/// A grant stands twice.
pub const GRANT_TWICE: Code = Code::new(1508);
/// `allow` in a closed API.
pub const ALLOW_CLOSED: Code = Code::new(1509);
/// Methods are listed where operations name theirs.
pub const METHODS_WITHOUT: Code = Code::new(1440);
/// A maintenance that is over.
pub const MAINTENANCE_OVER: Code = Code::new(1441);
/// Large bodies that are held in memory.
pub const BODY_HELD: Code = Code::new(1442);
/// A WebSocket that nothing can open.
pub const WEBSOCKET_PLACE: Code = Code::new(1445);
/// Nobody may call an operation.
pub const NOBODY: Code = Code::new(1510);

/// `encoded_slash` where no request is forwarded.
pub const SLASH_UNUSED: Code = Code::new(1430);

pub(super) fn check(draft: &Draft, bind: &mut Bind<'_>, today: Date) {
    over(draft.node.maintenance.as_ref(), bind, today);
    let Some(apis) = &draft.apis else { return };
    for (name, api) in apis.iter() {
        destination(draft, api, name, bind);
        hosts(draft, api, bind);
        if let Some(operations) = api.operations() {
            operations_differ(operations, bind);
            for (_, operation) in operations.iter() {
                one_operation(api, operation, bind);
            }
        }
        if !matches!(api.surface, Some(Surface::Operations(_))) {
            held(api, None, bind);
        }
        closed(api, bind);
        methods(api, bind);
        websocket(api, bind);
        over(api.maintenance.as_ref(), bind, today);
        allow(draft, api, name, bind);
        limit::check(draft, api, bind);
        identity(api, bind);
        if let Some(edits) = &api.headers {
            fields(api, edits, bind);
        }
    }
    places(apis, bind);
}

fn destination(draft: &Draft, api: &Api, name: &Spanned<String>, bind: &mut Bind<'_>) {
    let forwards = match &api.surface {
        Some(Surface::Raw(_)) => true,
        Some(Surface::Operations(operations)) => {
            operations.iter().any(|(_, operation)| matches!(operation.route, Route::Forward))
        }
        Some(Surface::Closed(_)) | None => false,
    };
    match &api.to {
        None if forwards && !api.written.to => {
            let mut error =
                ConfigError::new(TO_MISSING, "the requests of this API have nowhere to go", name.span)
                    .expected("`to: NAME`, an upstream");
            if let Some(upstreams) = &draft.upstreams {
                error = error.fix(match upstreams.names().next() {
                    Some(first) => format!("add `to: {first}` below it"),
                    None => "add the section `upstreams`, and `to` below this".to_owned(),
                });
            }
            bind.error(error);
        }
        Some(to) => {
            if let Some(upstreams) = &draft.upstreams
                && !upstreams.knows(&to.upstream)
            {
                let known: Vec<&str> = upstreams.names().collect();
                bind.error(unknown(TO_UNKNOWN, "upstream", &to.upstream, to.upstream.span, &known));
            }
            if !forwards
                && matches!(&api.surface, Some(Surface::Operations(all)) if all.len() == all.names().count())
            {
                bind.note(ConfigError::note(
                    TO_UNUSED,
                    "no operation of this API is forwarded",
                    to.upstream.span,
                ));
            }
        }
        None => {}
    }
}

fn hosts(draft: &Draft, api: &Api, bind: &mut Bind<'_>) {
    for (at, host) in api.host.iter().enumerate() {
        if let Some(first) = api.host[..at].iter().find(|first| first.value == host.value) {
            bind.error(
                ConfigError::new(HOST_TWICE, format!("`{}` stands twice", host.value), host.span)
                    .also(first.span, "first here"),
            );
        }
    }
    let Some(listeners) = &draft.listen else { return };
    let serving: Vec<_> = listeners.iter().filter(|listener| listener.redirect.is_none()).collect();
    // A listener without domains serves any host; one that was refused may have named it.
    if serving.is_empty()
        || serving.iter().any(|listener| listener.domains.is_empty())
        || bind.error_count() > 0
    {
        return;
    }
    let domains: Vec<&str> =
        serving.iter().flat_map(|listener| &listener.domains).map(|domain| domain.as_str()).collect();
    for host in api.host.iter().filter(|host| !domains.contains(&host.as_str())) {
        bind.error(unknown(HOST_UNSERVED, "listener with the domain", host.as_str(), host.span, &domains));
    }
}

fn operations_differ(operations: &Named<Operation>, bind: &mut Bind<'_>) {
    let mut seen: HashMap<(String, String), (&str, Span)> = HashMap::new();
    for (name, operation) in operations.iter() {
        let matches = &operation.matches.value;
        let key = (matches.method.as_str().to_owned(), matches.template.shape());
        match seen.get(&key) {
            Some((first, span)) => bind.error(
                ConfigError::new(
                    OPERATION_TWICE,
                    format!("`{first}` and `{}` match the same requests", name.value),
                    operation.matches.span,
                )
                .label("again here")
                .also(*span, "first here")
                .why("it would be chance, or the order of lines, which one decides"),
            ),
            None => {
                seen.insert(key, (&name.value, operation.matches.span));
            }
        }
    }
}

fn one_operation(api: &Api, operation: &Operation, bind: &mut Bind<'_>) {
    match (&operation.raw, operation.matches.template.has_tail()) {
        (None, true) => bind.error(
            ConfigError::new(TAIL, "a tail takes every path below it", operation.matches.span)
                .expected("the operation's own `raw: \"why\"`, or the paths one by one")
                .why("paths that nobody listed are served too, those that are added later as well"),
        ),
        (Some(raw), false) => bind.error(
            ConfigError::new(RAW_UNUSED, "there is no tail that this reason is for", raw.span)
                .also(operation.matches.span, "this matches its own path only")
                .fix("delete `raw`"),
        ),
        _ => {}
    }
    if let (Some(slash), false) = (operation.encoded_slash, matches!(operation.route, Route::Forward)) {
        bind.error(
            ConfigError::new(SLASH_UNUSED, "this operation is not forwarded", slash.span)
                .why("an encoded slash is kept only where an upstream needs it")
                .fix("delete `encoded_slash`"),
        );
    }
    if let Some(websocket) = &operation.websocket {
        one_websocket(operation, websocket.span, bind);
    }
    inner(&operation.limits, (!api.limits.is_empty()).then(|| api.limits[0].span), "limits", bind);
    inner(&operation.sizes, api.sizes.map(|_| api.span), "sizes", bind);
    inner(&operation.timeouts, api.timeouts.map(|_| api.span), "timeouts", bind);
    inner(&operation.headers, api.headers.as_ref().map(|_| api.span), "headers", bind);
    inner(&operation.body, api.body.as_ref().map(|body| body.span), "body", bind);
    if let Some(Scoped { how: How::Extend, span, .. }) = &operation.body {
        bind.error(
            ConfigError::new(BODY_EXTENDED, "a body has one schema", *span)
                .expected("`replace`")
                .fix("combine schemas in the schema itself, with `allOf`"),
        );
    }
    held(api, Some(operation), bind);
    if let Some(edits) = &operation.headers {
        fields(api, &edits.value, bind);
    }
}

/// Bodies that are held up to this size are nothing to remark.
const HELD_BYTES_MAX: u64 = 16 << 20;

fn held(api: &Api, operation: Option<&Operation>, bind: &mut Bind<'_>) {
    let bytes_max = api.sizes_of(operation).in_force().body_bytes_max;
    if let Some(schema) = api.body_of(operation).and_then(|body| body.schema.as_ref())
        && bytes_max > HELD_BYTES_MAX
    {
        bind.note(
            ConfigError::note(
                BODY_HELD,
                "large bodies are held in memory, each request its own",
                schema.span,
            )
            .found(format!("`sizes.body` of {} bytes", bytes_max))
            .expected("16MiB or less where a schema judges the body")
            .fix("give operations with a schema a smaller `sizes: { body: … }`"),
        );
    }
}

fn inner<T>(policy: &Option<Scoped<T>>, outer: Option<Span>, kind: &str, bind: &mut Bind<'_>) {
    let (Some(Scoped { how: How::Alone, span, .. }), Some(outer)) = (policy, outer) else { return };
    let mut error = ConfigError::new(INNER, format!("the API has `{kind}` too"), *span)
        .expected(format!("`{kind}: {{ extend: … }}` or `{kind}: {{ replace: … }}`"))
        .why("an inner policy that silently replaced the outer one would drop a protection");
    if outer != *span && kind == "limits" {
        error = error.also(outer, "those of the API");
    }
    bind.error(error);
}

fn closed(api: &Api, bind: &mut Bind<'_>) {
    let Some(Surface::Closed(closed)) = &api.surface else { return };
    let mut unused: Vec<(&str, Span)> = Vec::new();
    unused.extend(api.to.as_ref().map(|to| ("to", to.upstream.span)));
    unused.extend(api.limits.first().map(|limit| ("limits", limit.span)));
    unused.extend(api.body.as_ref().map(|body| ("body", body.span)));
    unused.extend(api.encoded_slash.map(|slash| ("encoded_slash", slash.span)));
    unused.extend(api.identity.first().map(|(name, _)| ("identity", name.span)));
    unused.extend(api.methods.first().map(|method| ("methods", method.span)));
    unused.extend(api.maintenance.as_ref().map(|maintenance| ("maintenance", maintenance.span)));
    unused.extend(api.websocket.as_ref().map(|websocket| ("websocket", websocket.span)));
    for (key, span) in unused {
        bind.error(
            ConfigError::new(CLOSED_KEYS, format!("`{key}` means nothing in a closed API"), span)
                .also(*closed, "closed here")
                .fix("delete it"),
        );
    }
    if let Some(allow) = &api.allow {
        bind.error(
            ConfigError::new(ALLOW_CLOSED, "a closed API admits nobody", allow.span)
                .also(*closed, "closed here")
                .fix("delete `allow`, or `closed`"),
        );
    }
}

fn methods(api: &Api, bind: &mut Bind<'_>) {
    if let (Some(Surface::Operations(operations)), Some(first)) = (&api.surface, api.methods.first()) {
        bind.error(
            ConfigError::new(METHODS_WITHOUT, "operations name their methods themselves", first.span)
                .also(operations.span, "these operations")
                .fix("delete `methods`"),
        );
    }
}

fn websocket(api: &Api, bind: &mut Bind<'_>) {
    let Some(websocket) = &api.websocket else { return };
    match &api.surface {
        Some(Surface::Operations(operations)) => bind.error(
            ConfigError::new(
                WEBSOCKET_PLACE,
                "operations say themselves that they are WebSockets",
                websocket.span,
            )
            .also(operations.span, "these operations")
            .fix("move `websocket` below the operation that is one"),
        ),
        Some(Surface::Raw(_)) if !api.methods.is_empty() && !serves_get(api) => bind.error(
            ConfigError::new(
                WEBSOCKET_PLACE,
                "a WebSocket is opened by GET, which is not served",
                websocket.span,
            )
            .also(api.methods[0].span, "the methods that are")
            .fix("add GET to `methods`, or delete `websocket`"),
        ),
        // A closed API says so itself.
        _ => {}
    }
}

fn serves_get(api: &Api) -> bool {
    api.methods.iter().any(|method| method.value.0 == crate::http::Method::Get)
}

fn one_websocket(operation: &Operation, span: Span, bind: &mut Bind<'_>) {
    if operation.matches.value.method.as_str() != "GET" {
        bind.error(
            ConfigError::new(WEBSOCKET_PLACE, "a WebSocket is opened by GET", span)
                .also(operation.matches.span, "this operation is not")
                .fix("write `match: GET …`, over HTTP/2 as well"),
        );
    }
    if !matches!(operation.route, Route::Forward) {
        bind.error(
            ConfigError::new(WEBSOCKET_PLACE, "this operation is not forwarded", span)
                .why("a WebSocket needs an upstream at its other end")
                .fix("delete `websocket`"),
        );
    }
    if let Some(body) = &operation.body {
        bind.error(
            ConfigError::new(WEBSOCKET_PLACE, "a WebSocket is opened without a body", body.span)
                .fix("say what its messages must be: `websocket: { schema: … }`"),
        );
    }
}

fn over(maintenance: Option<&Maintenance>, bind: &mut Bind<'_>, today: Date) {
    if let Some(until) = maintenance.and_then(|maintenance| maintenance.until.as_ref())
        && until.value.is_before(today)
    {
        bind.note(
            ConfigError::note(MAINTENANCE_OVER, "this maintenance is over", until.span)
                .fix("delete `maintenance`, so that nobody wonders"),
        );
    }
}

fn allow(draft: &Draft, api: &Api, name: &Spanned<String>, bind: &mut Bind<'_>) {
    let Some(allow) = &api.allow else {
        if !api.written.allow && !api.written.closed {
            bind.error(
                ConfigError::new(ALLOW_MISSING, format!("nobody is allowed to call `{}`", name.value), name.span)
                    .expected("`allow`, or `closed: true`")
                    .fix("add grants such as `allow: [{ who: people, do: [listOrders] }]`; `who: anyone` opens it to all")
                    .why("what is not granted is refused, so an API without grants is one that was forgotten"),
            );
        }
        return;
    };
    let mut seen: HashMap<String, Span> = HashMap::new();
    for grant in &allow.grants {
        one_grant(draft, api, grant, bind);
        match seen.entry(canonical(grant)) {
            Entry::Occupied(first) => bind.note(
                ConfigError::note(GRANT_TWICE, "this grant stands twice", grant.span)
                    .also(*first.get(), "first here"),
            ),
            Entry::Vacant(place) => {
                place.insert(grant.span);
            }
        }
    }
    nobody(api, allow, bind);
}

fn one_grant(draft: &Draft, api: &Api, grant: &Grant, bind: &mut Bind<'_>) {
    for who in &grant.who {
        match &who.value {
            Who::Login(name) => {
                if let Some(logins) = &draft.login
                    && !logins.knows(name)
                {
                    let known: Vec<&str> = logins.names().chain(["anyone"]).collect();
                    bind.error(unknown(WHO_UNKNOWN, "login", name, who.span, &known));
                }
            }
            Who::Anyone => {
                for asked in grant.role.iter().chain(&grant.scope) {
                    bind.error(
                        ConfigError::new(
                            ANYONE_WITH,
                            "`anyone` includes callers without roles and scopes",
                            asked.span,
                        )
                        .also(who.span, "everybody, with or without login")
                        .fix("name a login instead of `anyone`"),
                    );
                }
            }
        }
    }
    for name in grant.operations.iter().flatten() {
        match api.operations() {
            Some(operations) if !operations.knows(&name.value) => {
                let known: Vec<&str> = operations.names().collect();
                bind.error(unknown(DO_UNKNOWN, "operation", &name.value, name.span, &known));
            }
            None if matches!(api.surface, Some(Surface::Raw(_))) => bind.error(
                ConfigError::new(DO_WITHOUT, "a raw API has no operations to name", name.span)
                    .fix("delete `do`, or list the operations instead of `raw`"),
            ),
            _ => {}
        }
    }
}

/// The grant with its lists in order: equal for grants that say the same.
fn canonical(grant: &Grant) -> String {
    let words = |list: &[Spanned<String>]| {
        let mut words: Vec<&str> = list.iter().map(|word| word.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        format!("{words:?}")
    };
    let mut who: Vec<&Who> = grant.who.iter().map(|who| &who.value).collect();
    who.sort_unstable();
    let operations = grant.operations.as_deref().map_or("all".to_owned(), words);
    format!("{who:?} {} {} {operations}", words(&grant.role), words(&grant.scope))
}

fn nobody(api: &Api, allow: &Allow, bind: &mut Bind<'_>) {
    let Some(operations) = api.operations() else { return };
    if allow.mode.exception().is_some() || allow.grants.iter().any(|grant| grant.operations.is_none()) {
        return;
    }
    let granted: HashSet<&str> = allow
        .grants
        .iter()
        .flat_map(|grant| grant.operations.iter().flatten())
        .map(|name| name.as_str())
        .collect();
    for (name, _) in operations.iter() {
        if !granted.contains(name.as_str()) {
            bind.note(
                ConfigError::note(NOBODY, format!("nobody may call `{}`", name.value), name.span)
                    .also(allow.span, "no grant names it"),
            );
        }
    }
}

fn identity(api: &Api, bind: &mut Bind<'_>) {
    for (at, (name, field)) in api.identity.iter().enumerate() {
        if let Some(why) = refuses_identity(name) {
            bind.error(
                ConfigError::new(
                    IDENTITY_FIELD,
                    format!("`{}` cannot hold an identity", name.as_str()),
                    name.span,
                )
                .expected("a field of its own such as `X-User`")
                .why(why),
            );
        }
        if let Some((_, first)) = api.identity[..at].iter().find(|(_, first)| first.value == field.value) {
            bind.error(
                ConfigError::new(IDENTITY_FIELD, "one thing has two names", field.span)
                    .also(first.span, "first here"),
            );
        }
    }
}

fn fields(api: &Api, edits: &HeaderEdits, bind: &mut Bind<'_>) {
    let mut one = |edits: &Edits, request: bool| {
        for name in edits.set.iter().map(|(name, _)| name).chain(&edits.remove) {
            let renamed = api.identity.iter().any(|(other, _)| other.value == name.value);
            let why = match renamed && request {
                true => Some("it holds the caller's identity in this API"),
                false => forbidden_edit(name, request),
            };
            if let Some(why) = why {
                bind.error(
                    ConfigError::new(
                        FIELD,
                        format!("`{}` cannot be set or removed", name.as_str()),
                        name.span,
                    )
                    .fix("delete it")
                    .why(why),
                );
            }
        }
    };
    one(&edits.request, true);
    one(&edits.response, false);
}

/// The longest `base` wins, and a named host before all hosts; two APIs with the same host and base are a tie.
fn places(apis: &Named<Api>, bind: &mut Bind<'_>) {
    let mut seen: HashMap<(Option<&str>, &str), (&str, Span)> = HashMap::new();
    for (name, api) in apis.iter() {
        let base = api.base.value.as_str();
        let hosts: Vec<Option<&str>> = match api.host.is_empty() {
            true => vec![None],
            false => api.host.iter().map(|host| Some(host.as_str())).collect(),
        };
        for host in hosts {
            match seen.get(&(host, base)) {
                Some((first, _)) if *first == name.value => {}
                Some((first, span)) => {
                    let on = host.map_or(String::new(), |host| format!(" of `{host}`"));
                    bind.error(
                        ConfigError::new(
                            PLACE_TWICE,
                            format!(
                                "`{first}` and `{}` live at the same place: `{}`{on}",
                                name.value, api.base.value
                            ),
                            name.span,
                        )
                        .also(*span, "the other one")
                        .expected("another `base`, or another `host`")
                        .why("it would be chance which of the two decides"),
                    );
                    break;
                }
                None => {
                    seen.insert((host, base), (&name.value, name.span));
                }
            }
        }
    }
}

/// The names that there are, in words.
pub(super) fn name_list(what: &str, known: &[&str]) -> String {
    const SHOWN: usize = 8;
    match known {
        [] => format!("there is no {what} at all"),
        _ if known.len() <= SHOWN => format!("one of `{}`", known.join("`, `")),
        _ => format!("one of `{}` and {} more", known[..SHOWN].join("`, `"), known.len() - SHOWN),
    }
}

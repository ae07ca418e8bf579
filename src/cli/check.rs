//! `ringwall check`: every error of a configuration in one run, or what it amounts to.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::config::model::{Api, Bound, GateMode, Limit, Listener, Maintenance, Mode, Surface, Tls};
use crate::config::{self, Code, Config, ConfigError, Errors, Loaded};
use crate::schema::{Options, Program};
use crate::snapshot::compile::{Kept, compile};

/// A keyword of a schema is accepted but judges nothing.
pub const SCHEMA_REMARK: Code = Code::new(1703);

/// The arguments of `check`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The configuration [default: $RINGWALL_CONFIG, ringwall.yaml here, then in /etc/ringwall]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Checks, and says how it went. Exit 0: it would run; 1: it would not.
pub fn run(arguments: &Arguments) -> ExitCode {
    let path = match super::config_path(arguments.config.as_deref()) {
        Ok(path) => path,
        Err(problem) => {
            match arguments.json {
                true => {
                    super::say(&format!("{}\n", json!({ "ok": false, "errors": [{ "title": problem }] })))
                }
                false => eprintln!("{problem}"),
            }
            return ExitCode::FAILURE;
        }
    };
    let name = path.display().to_string();
    match (config::load(&path).and_then(Loaded::refuse_expired).and_then(compiled), arguments.json) {
        (Ok(loaded), false) => {
            if !loaded.notes.is_empty() {
                eprint!("{}", loaded.notes.render(super::colour()));
            }
            super::say(&summary(&name, &loaded.config));
            ExitCode::SUCCESS
        }
        (Ok(loaded), true) => {
            let mut object = summary_json(&loaded.config);
            object["ok"] = json!(true);
            object["file"] = json!(name);
            object["notes"] = loaded.notes.to_json();
            super::say(&format!("{object}\n"));
            ExitCode::SUCCESS
        }
        (Err(errors), false) => {
            eprint!("{}", errors.render(super::colour()));
            ExitCode::FAILURE
        }
        (Err(errors), true) => {
            super::say(&format!("{}\n", errors_json(&name, &errors)));
            ExitCode::FAILURE
        }
    }
}

/// What only compiling shows: certificates, key files, schemas, routes. Nothing is opened to the network.
fn compiled(mut loaded: Loaded) -> Result<Loaded, Errors> {
    let refuse = |loaded: &Loaded, list: Vec<ConfigError>| {
        let mut errors = Errors::new(Arc::clone(&loaded.sources), Vec::new());
        errors.extend(list);
        errors
    };
    let mut kept = Kept::default();
    compile(&loaded.config, 0, &mut kept, None).map_err(|list| refuse(&loaded, list))?;
    let notes = schema_notes(&loaded.config);
    loaded.notes.extend(kept.take_notes().into_iter().chain(notes));
    Ok(loaded)
}

/// Keywords of schemas that are accepted but judge nothing.
fn schema_notes(config: &Config) -> Vec<ConfigError> {
    let mut notes = Vec::new();
    for (_, api) in config.apis.iter() {
        let operations = api.operations().into_iter().flat_map(|operations| operations.iter());
        let inner = operations.filter_map(|(_, operation)| operation.body.as_ref()).map(|body| &body.value);
        for schema in api.body.iter().chain(inner).filter_map(|body| body.schema.as_ref()) {
            let path = &schema.value.0;
            // It was read and compiled a moment ago; if it is gone now, there is nothing to remark.
            let Ok(text) = std::fs::read_to_string(path) else { continue };
            let Ok(compiled) = Program::compile(&text, Options::default()) else { continue };
            notes.extend(compiled.notes.into_iter().map(|note| {
                let place = format!("{}:{}:{}", path.display(), note.line, note.column);
                ConfigError::note(
                    SCHEMA_REMARK,
                    format!("{place}: `{}`: {}", note.keyword, note.message),
                    schema.span,
                )
            }));
        }
    }
    notes
}

fn errors_json(name: &str, errors: &Errors) -> Value {
    json!({ "ok": false, "file": name, "errors": errors.to_json(), "beyond": errors.beyond() })
}

/// What a configuration amounts to, in words.
pub fn summary(name: &str, config: &Config) -> String {
    let mut out = format!("{name} is ok\n");
    let mut line =
        |indent: usize, text: String| out.push_str(&format!("{:indent$}{text}\n", "", indent = 2 * indent));
    for listener in &config.listen {
        line(1, format!("listens on {}", listener_words(listener)));
    }
    line(1, format!("{}, {}", count(config.upstreams.len(), "upstream"), count(config.login.len(), "login")));
    if let Some(maintenance) = &config.node.maintenance {
        line(1, format!("everything is {}", maintenance.words()));
    }
    for (name, api) in config.apis.iter() {
        line(1, format!("{} at {}{}: {}", name.value, api.base.value, hosts(api), surface_words(api)));
        if let Some(maintenance) = &api.maintenance {
            line(2, maintenance.words());
        }
        for (within, limit) in limits(api) {
            line(2, limit_words(within, limit));
        }
    }
    out
}

fn listener_words(listener: &Listener) -> String {
    let domains: Vec<&str> = listener.domains.iter().map(|domain| domain.as_str()).collect();
    let privacy = match (&listener.tls, listener.redirect) {
        (_, Some(_)) => "redirects to https",
        (Some(tls), None) => match tls.value {
            Tls::Files(_) => "TLS",
            Tls::SelfSigned => "TLS with a certificate that nobody trusts",
            Tls::None => "without TLS",
        },
        (None, None) => "without TLS",
    };
    match domains.is_empty() {
        true => format!("{}, {privacy}, any host", listener.address.value),
        false => format!("{}, {privacy}, {}", listener.address.value, domains.join(" ")),
    }
}

fn hosts(api: &Api) -> String {
    let hosts: Vec<&str> = api.host.iter().map(|host| host.as_str()).collect();
    if hosts.is_empty() { String::new() } else { format!(" of {}", hosts.join(" ")) }
}

fn surface_words(api: &Api) -> String {
    let grants = api.allow.as_ref().map_or(0, |allow| allow.grants.len());
    let what = match &api.surface {
        Some(Surface::Operations(operations)) => count(operations.len(), "operation"),
        Some(Surface::Raw(reason)) if api.methods.is_empty() => format!("raw (\"{}\")", reason.value),
        Some(Surface::Raw(reason)) => {
            let methods: Vec<&str> = api.methods.iter().map(|method| method.value.0.name()).collect();
            format!("raw (\"{}\") for {}", reason.value, methods.join(" "))
        }
        Some(Surface::Closed(_)) | None => return "closed to everybody".to_owned(),
    };
    let gate = match api.allow.as_ref().map(|allow| &allow.mode) {
        Some(GateMode::Observe(_)) => ", only observed: everybody is admitted",
        Some(GateMode::Off(_)) => ", off: everybody is admitted",
        _ => "",
    };
    format!("{what}, {}{gate}", count(grants, "grant"))
}

/// The limits of an API and of its operations.
fn limits(api: &Api) -> impl Iterator<Item = (Option<&str>, &Limit)> {
    let inner = api.operations().into_iter().flat_map(|operations| operations.iter()).flat_map(
        |(name, operation)| {
            let limits = operation.limits.iter().flat_map(|limits| &limits.value);
            limits.map(move |limit| (Some(name.value.as_str()), limit))
        },
    );
    api.limits.iter().map(|limit| (None, limit)).chain(inner)
}

fn limit_words(within: Option<&str>, limit: &Limit) -> String {
    let mode = match limit.mode {
        Mode::Enforce => "",
        Mode::Observe => ", only observed",
        Mode::Off => ", off",
    };
    let id = limit.id(within);
    match &limit.bound {
        Bound::Frequency(frequency) => format!(
            "limit {id}: {} with a burst of {}, so at most {} in any one {}{mode}",
            frequency.rate.value,
            frequency.burst_in_force(),
            frequency.admitted_in_one_period(),
            frequency.rate.period.unit(),
        ),
        Bound::Concurrency(most) => format!("limit {id}: at most {} in flight{mode}", most.value),
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn summary_json(config: &Config) -> Value {
    let listeners: Vec<Value> = config
        .listen
        .iter()
        .map(|listener| {
            let domains: Vec<&str> = listener.domains.iter().map(|domain| domain.as_str()).collect();
            json!({ "address": listener.address.value.to_string(), "domains": domains })
        })
        .collect();
    let apis: Vec<Value> = config
        .apis
        .iter()
        .map(|(name, api)| {
            let limits: Vec<Value> = limits(api).map(|(within, limit)| limit_json(within, limit)).collect();
            json!({
                "name": name.value,
                "base": api.base.value.to_string(),
                "hosts": api.host.iter().map(|host| host.as_str()).collect::<Vec<_>>(),
                "kind": match &api.surface {
                    Some(Surface::Operations(_)) => "operations",
                    Some(Surface::Raw(_)) => "raw",
                    Some(Surface::Closed(_)) | None => "closed",
                },
                "operations": api.operations().map_or(0, |operations| operations.len()),
                "grants": api.allow.as_ref().map_or(0, |allow| allow.grants.len()),
                "limits": limits,
                "maintenance": api.maintenance.as_ref().map(maintenance_json),
            })
        })
        .collect();
    json!({
        "listeners": listeners,
        "upstreams": config.upstreams.names().collect::<Vec<_>>(),
        "logins": config.login.names().collect::<Vec<_>>(),
        "apis": apis,
        "maintenance": config.node.maintenance.as_ref().map(maintenance_json),
    })
}

fn maintenance_json(maintenance: &Maintenance) -> Value {
    json!({
        "reason": maintenance.reason.value,
        "until": maintenance.until.as_ref().map(|until| until.value.to_string()),
        "except": maintenance.except.iter().map(|network| network.value.to_string()).collect::<Vec<_>>(),
    })
}

fn limit_json(within: Option<&str>, limit: &Limit) -> Value {
    let (id, mode) = (
        limit.id(within),
        match limit.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
            Mode::Off => "off",
        },
    );
    match &limit.bound {
        Bound::Frequency(frequency) => json!({
            "id": id,
            "operation": within,
            "rate": frequency.rate.value.to_string(),
            "burst": frequency.burst_in_force(),
            "period_seconds": frequency.rate.period.seconds(),
            "most_in_one_period": frequency.admitted_in_one_period(),
            "mode": mode,
        }),
        Bound::Concurrency(most) => json!({
            "id": id,
            "operation": within,
            "concurrency": most.value,
            "mode": mode,
        }),
    }
}

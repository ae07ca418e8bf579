//! A file of targets: a list, in YAML or JSON, of what stands below `targets` of an upstream.
//!
//! Read with the configuration, and again by the control thread whenever the file changes; the rules for targets hold in it
//! as they do in the configuration. Called by the snapshot's compiler.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::bind::{Bind, FromNode, Spanned};
use super::check::target_error;
use super::error::{Code, ConfigError, Errors};
use super::model::{Host, Target, Upstream};
use super::node::NodeKind;
use super::read::{Environment, read};
use super::source::{FILE_BYTES_MAX, FILE_UNREADABLE, Source, Sources, Span, TOO_LARGE};

/// A file of targets holds no list of them.
pub const NO_LIST: Code = Code::new(1254);
/// A file of targets names another.
pub const NESTED: Code = Code::new(1255);

/// The most targets in one file.
pub const TARGETS_MAX: usize = 1_024;

/// Reads the file of targets at `path` for `upstream`, with this process's environment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_targets(path: &Path, upstream: &Upstream) -> Result<Vec<Spanned<Target>>, Errors> {
    let name = path.display().to_string();
    let alone = |error: ConfigError| {
        let mut errors = Errors::new(Arc::default(), Vec::new());
        errors.push(error);
        errors
    };
    let unreadable = |why: &dyn std::fmt::Display| {
        alone(ConfigError::new(FILE_UNREADABLE, format!("{name} cannot be read: {why}"), Span::default()))
    };
    let mut bytes = Vec::new();
    crate::sys::file::open_regular(path)
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8"))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let source = Source::new(&name, directory, &text).map_err(alone)?;
    let environment = |name: &str| std::env::var(name).ok();
    parse_targets(source, &environment, upstream)
}

/// As [`read_targets`], from a source.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_targets(
    source: Source,
    environment: Environment<'_>,
    upstream: &Upstream,
) -> Result<Vec<Spanned<Target>>, Errors> {
    let mut sources = Sources::default();
    let id = match sources.add(source) {
        Ok(id) => id,
        Err(error) => {
            let mut errors = Errors::new(Arc::default(), Vec::new());
            errors.push(error);
            return Err(errors);
        }
    };
    let Some(source) = sources.file(id) else { return Ok(Vec::new()) };
    let mut found = read(source, id, environment);
    let mut bind = Bind::new(&sources, &[]);
    let mut targets: Vec<Spanned<Target>> = Vec::new();
    match found.root.as_ref().map(|root| &root.kind) {
        Some(NodeKind::List(items)) => {
            if items.len() > TARGETS_MAX {
                let last = items.last().map_or(Span::new(id, 0, 0), |item| item.span);
                bind.error(
                    ConfigError::new(TOO_LARGE, "the file holds too many targets", last)
                        .found(items.len().to_string())
                        .expected(format!("at most {TARGETS_MAX}")),
                );
            }
            for item in items.iter().take(TARGETS_MAX) {
                let Some(target) = Spanned::<Target>::from_node(item, &mut bind) else { continue };
                if matches!(target.host, Host::File(_)) {
                    bind.error(
                        ConfigError::new(NESTED, "a file of targets names another", target.span)
                            .fix("name both below `targets` of the upstream"),
                    );
                }
                if let Some(error) = target_error(&target, upstream) {
                    bind.error(error);
                }
                targets.push(target);
            }
        }
        Some(NodeKind::Refused) => {}
        other if found.errors.is_empty() => bind.error(
            ConfigError::new(NO_LIST, "the file holds no list of targets", Span::new(id, 0, 0))
                .found(if other.is_none() { "nothing" } else { "something else" })
                .expected("a list such as `- https://10.0.3.11:8443`; `[]` for none")
                .why("a file that is empty by mistake would take every target away"),
        ),
        _ => {}
    }
    let (mut bound, _, blots) = bind.into_parts();
    found.errors.append(&mut bound);
    if found.errors.is_empty() {
        return Ok(targets);
    }
    let mut errors = Errors::new(Arc::new(sources), blots);
    errors.extend(found.errors);
    Err(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(text: &str) -> Upstream {
        let config = format!(
            "ringwall: 1\nlisten: {{ address: \"127.0.0.1:80\", tls: none }}\nupstreams: {{ a: {text} }}\n\
             apis: {{ a: {{ to: a, raw: \"a test\", allow: [{{ who: anyone }}] }} }}"
        );
        let loaded = crate::config::parse_str("a.yaml", &config).unwrap_or_else(|errors| panic!("{errors}"));
        loaded.config.upstreams.get("a").cloned().expect("an upstream")
    }

    /// The targets, or each error as `code line:column`.
    fn parsed(text: &str, of: &str) -> Result<Vec<String>, Vec<String>> {
        let source = Source::new("targets.yaml", Path::new("/etc/x"), text).expect("a source");
        parse_targets(source, &|_| None, &upstream(of))
            .map(|targets| targets.iter().map(|target| target.value.to_string()).collect())
            .map_err(|errors| {
                let place = |error: &ConfigError| {
                    let at = errors.sources().position(error.primary.span);
                    format!("{} {}:{}", error.code.number(), at.line, at.column)
                };
                errors.iter().map(place).collect()
            })
    }

    const PLAIN: &str = "{ targets: \"file:t.yaml\", insecure: { reason: \"a test\", until: 2099-12-31 } }";
    const TLS: &str = "\"file:t.yaml\"";

    fn refused(text: &str, of: &str, errors: &[&str]) {
        assert_eq!(parsed(text, of), Err(errors.iter().map(|error| (*error).to_owned()).collect()), "{text}");
    }

    #[test]
    fn a_list_in_yaml_or_json_is_read() {
        let all =
            ["https://a.example:443", "http://10.0.0.1:80", "unix:/run/a.sock", "srv+https://_a._tcp.b"];
        let all: Vec<String> = all.map(str::to_owned).to_vec();
        let yaml = "- https://a.example\n- http://10.0.0.1:80\n- unix:/run/a.sock\n- srv+https://_a._tcp.b\n";
        assert_eq!(parsed(yaml, PLAIN).as_ref(), Ok(&all));
        let json =
            r#"["https://a.example", "http://10.0.0.1:80", "unix:/run/a.sock", "srv+https://_a._tcp.b"]"#;
        assert_eq!(parsed(json, PLAIN), Ok(all));
        assert_eq!(parsed("[]", TLS), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_all_of_it() {
        refused("- https://a.example\n- http://10.0.0.1\n", TLS, &["1203 2:3"]);
        refused("- https://a.example/x\n-   nonsense\n", TLS, &["1202 1:3", "1201 2:5"]);
        refused("- file:other.yaml\n", TLS, &["1255 1:3"]);
        refused("- https://169.254.169.254\n", TLS, &["1252 1:3"]);
        refused("- https://[::ffff:169.254.169.254]\n", TLS, &["1252 1:3"]);
        refused("", TLS, &["1254 1:1"]);
        refused("# nothing\n", TLS, &["1254 1:1"]);
        refused("targets: [a]\n", TLS, &["1254 1:1"]);
        refused("https://a.example\n", TLS, &["1254 1:1"]);
        assert!(parsed("- https://a.example\n- [\n", TLS).is_err());
        let many = "- https://a.example\n".repeat(TARGETS_MAX + 1);
        refused(&many, TLS, &[&format!("1018 {}:3", TARGETS_MAX + 1)]);
    }

    #[test]
    fn addresses_that_are_listed_are_taken() {
        let listed = "{ targets: \"file:t.yaml\", addresses: [169.254.7.0/24] }";
        assert!(parsed("- https://169.254.7.1\n", listed).is_ok());
        refused("- https://169.254.8.1\n", listed, &["1252 1:3"]);
    }
}

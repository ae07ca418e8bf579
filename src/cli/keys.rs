//! `ringwall keys new|rotate|revoke|list`: edits a store of API keys.
//!
//! Not for checking keys: a running Ringwall watches the store and takes the edited one without a reload.
//! Edits are made under a lock on the store's directory and replace the file at once, so that neither a
//! second editor nor a reader sees half of one. A key is shown once, when it is made.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::bind::Bind;
use crate::config::source::{Source, Sources};
use crate::config::{FromNode, SecretRef, read};
use crate::policy::identify::key_store::{
    GRANTS_MAX, KeyRecord, KeyStore, LIVE_KEYS_MAX, NewKey, Pepper, Prefix, RECORDS_MAX, STORE_BYTES_MAX,
    is_kept_from_others, is_name,
};

/// Makes, rotates, revokes and lists API keys.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Make a key and show it, once
    New(New),
    /// Make a second key of the same id and let the first one end
    Rotate(Rotate),
    /// Take keys out of the store
    Revoke(Revoke),
    /// Show the keys of a store; none of them can be used from what is shown
    List(List),
}

#[derive(Args, Clone, Debug)]
struct New {
    /// The store, made if it is not there
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// Who presents the key
    #[arg(long, value_name = "NAME")]
    identity: String,
    /// The name of the key, kept when it is rotated [default: made from its prefix]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// A role of the key; may be given again
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A scope of the key; may be given again
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// When it ends: `90d`, `12h`, `2027-01-31` or `2027-01-31T12:00:00Z` [default: never]
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// The pepper of the login: `secret:file:PATH`, `secret:env:NAME` or `secret:systemd:NAME`
    #[arg(long, value_name = "SECRET")]
    pepper: String,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Rotate {
    /// The name of the key
    id: String,
    /// The store
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// How long the old key goes on
    #[arg(long, value_name = "TIME", default_value = "7d")]
    overlap: String,
    /// When the new key ends [default: as long after now as the old one's end was after its making]
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// The pepper of the login: `secret:file:PATH`, `secret:env:NAME` or `secret:systemd:NAME`
    #[arg(long, value_name = "SECRET")]
    pepper: String,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Revoke {
    /// The name of the key, or the prefix of one of its keys
    #[arg(value_name = "ID|PREFIX")]
    key: String,
    /// The store
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct List {
    /// The store
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb; 0 if it did what was asked, 1 if not.
pub fn run(arguments: &Arguments) -> ExitCode {
    let now_s = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
    let mut shown = Vec::new();
    let outcome = execute(arguments, now_s, &mut shown);
    // Written at once, after the store: a key that cannot be shown is still in the store, and the message
    // says how to take it out again.
    let outcome = outcome.and_then(|()| {
        let mut out = io::stdout().lock();
        let written = out.write_all(&shown).and_then(|()| out.flush());
        written.map_err(|error| format!("the store was changed, but the outcome could not be shown: {error}"))
    });
    zeroize::Zeroize::zeroize(&mut shown);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("ringwall keys: {what}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments, now_s: u64, out: &mut Vec<u8>) -> Result<(), String> {
    match &arguments.verb {
        Verb::New(arguments) => new(arguments, now_s, out),
        Verb::Rotate(arguments) => rotate(arguments, now_s, out),
        Verb::Revoke(arguments) => revoke(arguments, now_s, out),
        Verb::List(arguments) => list(arguments, now_s, out),
    }
}

fn new(arguments: &New, now_s: u64, out: &mut Vec<u8>) -> Result<(), String> {
    for name in
        arguments.id.iter().chain([&arguments.identity]).chain(&arguments.roles).chain(&arguments.scopes)
    {
        if !is_name(name) {
            return Err(format!("{name:?} cannot be a name: 1 to 256 bytes, no control characters"));
        }
    }
    if arguments.roles.len().max(arguments.scopes.len()) > GRANTS_MAX {
        return Err(format!("a key has at most {GRANTS_MAX} roles and as many scopes"));
    }
    let expires_s = arguments.expires.as_deref().map(|when| moment(when, now_s)).transpose()?;
    let pepper = read_pepper(&arguments.pepper)?;
    let mut edit = Edit::open(&arguments.store, true)?;
    let key = edit.generate()?;
    let id = arguments.id.clone().unwrap_or_else(|| format!("key-{}", key.prefix().as_str()));
    if edit.records.iter().any(|record| record.id == id) {
        return Err(format!(
            "the store has a key {id:?}; `ringwall keys rotate {id}` makes a second one for it"
        ));
    }
    edit.records.push(KeyRecord {
        id,
        prefix: key.prefix(),
        hash: pepper.hash(key.expose().as_bytes()),
        identity: arguments.identity.clone(),
        roles: arguments.roles.clone(),
        scopes: arguments.scopes.clone(),
        created_s: now_s,
        expires_s,
    });
    edit.write()?;
    show_key(&key, &edit.records[edit.records.len() - 1], None, arguments.json, out)
}

fn rotate(arguments: &Rotate, now_s: u64, out: &mut Vec<u8>) -> Result<(), String> {
    let overlap_s = span(&arguments.overlap)
        .ok_or_else(|| format!("{:?} is not a time such as 7d or 12h", arguments.overlap))?;
    let pepper = read_pepper(&arguments.pepper)?;
    let mut edit = Edit::open(&arguments.store, false)?;
    let is_live = |record: &&mut KeyRecord| record.id == arguments.id && record.is_live(now_s);
    let mut live: Vec<&mut KeyRecord> = edit.records.iter_mut().filter(is_live).collect();
    if live.len() >= LIVE_KEYS_MAX {
        let prefixes: Vec<&str> = live.iter().map(|record| record.prefix.as_str()).collect();
        return Err(format!(
            "{:?} is being rotated already: {} are valid; revoke one of them by its prefix first",
            arguments.id,
            prefixes.join(" and ")
        ));
    }
    let Some(old) = live.pop() else {
        return Err(format!("the store has no valid key {:?}", arguments.id));
    };
    let lifetime_s = old.expires_s.map(|expires_s| expires_s.saturating_sub(old.created_s));
    let expires_s = match &arguments.expires {
        Some(when) => Some(moment(when, now_s)?),
        None => lifetime_s.map(|lifetime_s| now_s + lifetime_s),
    };
    let old_ends_s = old.expires_s.unwrap_or(u64::MAX).min(now_s + overlap_s);
    old.expires_s = Some(old_ends_s);
    let template = old.clone();
    let key = edit.generate()?;
    let hash = pepper.hash(key.expose().as_bytes());
    edit.records.push(KeyRecord {
        prefix: key.prefix(),
        hash,
        created_s: now_s,
        expires_s,
        ..template.clone()
    });
    edit.write()?;
    show_key(
        &key,
        &edit.records[edit.records.len() - 1],
        Some((template.prefix, old_ends_s)),
        arguments.json,
        out,
    )
}

fn revoke(arguments: &Revoke, now_s: u64, out: &mut Vec<u8>) -> Result<(), String> {
    let mut edit = Edit::open(&arguments.store, false)?;
    let names_it = |record: &KeyRecord| record.id == arguments.key || record.prefix.as_str() == arguments.key;
    let revoked: Vec<KeyRecord> = edit.records.extract_if(.., |record| names_it(record)).collect();
    if revoked.is_empty() {
        return Err(format!("the store has no key with the id or the prefix {:?}", arguments.key));
    }
    edit.write()?;
    if arguments.json {
        let revoked: Vec<Value> = revoked.iter().map(|record| described(record, now_s)).collect();
        return write_json(out, &json!({ "revoked": revoked }));
    }
    for record in revoked {
        say(out, format_args!("revoked {} ({})", record.id, record.prefix.as_str()))?;
    }
    Ok(())
}

fn list(arguments: &List, now_s: u64, out: &mut Vec<u8>) -> Result<(), String> {
    let (text, _) = read_store(&arguments.store)?;
    let store = parse(&arguments.store, &text)?;
    if arguments.json {
        let keys: Vec<Value> = store.records().iter().map(|record| described(record, now_s)).collect();
        return write_json(out, &json!({ "keys": keys }));
    }
    let heads =
        ["ID", "PREFIX", "IDENTITY", "ROLES", "SCOPES", "CREATED", "EXPIRES", "STATE"].map(str::to_owned);
    let mut rows = vec![heads];
    for record in store.records() {
        rows.push([
            record.id.clone(),
            record.prefix.as_str().to_owned(),
            record.identity.clone(),
            record.roles.join(","),
            record.scopes.join(","),
            written(record.created_s),
            record.expires_s.map_or_else(|| "never".into(), written),
            state(record, now_s).to_owned(),
        ]);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(out, format_args!("{}", cells.join("  ").trim_end()))?;
    }
    Ok(())
}

fn show_key(
    key: &NewKey,
    record: &KeyRecord,
    old: Option<(Prefix, u64)>,
    as_json: bool,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if as_json {
        let mut shown = described(record, record.created_s);
        shown["key"] = json!(key.expose());
        if let Some((prefix, ends_s)) = old {
            shown["replaces"] = json!({ "prefix": prefix.as_str(), "expires": written(ends_s) });
        }
        return write_json(out, &shown);
    }
    say(out, format_args!("{}", key.expose()))?;
    let ends =
        record.expires_s.map_or_else(|| "never ends".into(), |ends_s| format!("ends {}", written(ends_s)));
    eprintln!(
        "{}: key of {}, {ends}. It is shown this once; only its hash is kept.",
        record.id, record.identity
    );
    if let Some((prefix, ends_s)) = old {
        eprintln!("The key before it ({}) goes on until {}.", prefix.as_str(), written(ends_s));
    }
    Ok(())
}

/// A record for machines. Its hash is left out: nobody needs it but the store.
fn described(record: &KeyRecord, now_s: u64) -> Value {
    json!({
        "id": record.id,
        "prefix": record.prefix.as_str(),
        "identity": record.identity,
        "roles": record.roles,
        "scopes": record.scopes,
        "created": written(record.created_s),
        "expires": record.expires_s.map(written),
        "state": state(record, now_s),
    })
}

fn state(record: &KeyRecord, now_s: u64) -> &'static str {
    if record.is_live(now_s) { "valid" } else { "expired" }
}

fn say(out: &mut Vec<u8>, line: std::fmt::Arguments<'_>) -> Result<(), String> {
    writeln!(out, "{line}").map_err(|error| error.to_string())
}

fn write_json(out: &mut Vec<u8>, value: &Value) -> Result<(), String> {
    say(out, format_args!("{value}"))
}

/// A store that is being changed: nobody else changes it until this is dropped.
struct Edit {
    path: PathBuf,
    records: Vec<KeyRecord>,
    /// Mode, user and group of the file there was.
    before: Option<(u32, u32, u32)>,
    /// The directory, locked. The store itself is replaced, so a lock on it would be one on the old file.
    directory: File,
}

impl Edit {
    fn open(path: &Path, may_be_new: bool) -> Result<Edit, String> {
        // A link is followed once, here, so that the file it leads to is replaced and not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let shown = parent.display();
        if may_be_new && !parent.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&parent);
            made.map_err(|error| format!("{shown} cannot be made: {error}"))?;
        }
        let directory = File::open(&parent).map_err(|error| format!("{shown} cannot be opened: {error}"))?;
        directory.lock().map_err(|error| format!("{shown} cannot be locked: {error}"))?;
        let (text, before) = match read_store(&path) {
            Ok((text, metadata)) => (text, Some((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()))),
            Err(_) if may_be_new && !path.exists() => (String::new(), None),
            Err(what) => return Err(what),
        };
        let records = parse(&path, &text)?.records().to_vec();
        Ok(Edit { path, records, before, directory })
    }

    /// A key whose prefix no other key of the store has.
    fn generate(&self) -> Result<NewKey, String> {
        if self.records.len() >= RECORDS_MAX {
            return Err(format!("the store is full: it holds {RECORDS_MAX} keys"));
        }
        loop {
            let key = NewKey::generate().ok_or("the system's random generator fails")?;
            if self.records.iter().all(|record| record.prefix != key.prefix()) {
                return Ok(key);
            }
        }
    }

    /// Replaces the store: a complete new file beside it, on the disk, then renamed over it.
    fn write(&self) -> Result<(), String> {
        let name = self.path.file_name().ok_or("the store has no file name")?.to_string_lossy().into_owned();
        let beside = self.path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let written = self.write_to(&beside).and_then(|()| fs::rename(&beside, &self.path));
        if written.is_err() {
            // The error that counts is the first.
            let _ = fs::remove_file(&beside);
        }
        written
            .and_then(|()| self.directory.sync_all())
            .map_err(|error| format!("{} cannot be written: {error}", self.path.display()))
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        // What an editor that died left there: we hold the lock, so nobody is writing it.
        let _ = fs::remove_file(path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let text: String = self.records.iter().map(line).collect();
        file.write_all(text.as_bytes())?;
        if let Some((mode, user, group)) = self.before {
            // Who edits as root leaves the file with the service that reads it.
            let now = file.metadata()?;
            if (now.uid(), now.gid()) != (user, group) {
                fchown(&file, Some(user), Some(group))?;
            }
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.sync_all()
    }
}

/// A record as a line of a store.
pub(super) fn line(record: &KeyRecord) -> String {
    let hash: String = record.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    // Written member by member: the order is for people.
    let mut line = format!(
        r#"{{"id":{},"prefix":{},"hash":"{hash}","identity":{},"roles":{},"scopes":{},"created":"{}""#,
        json!(record.id),
        json!(record.prefix.as_str()),
        json!(record.identity),
        json!(record.roles),
        json!(record.scopes),
        written(record.created_s),
    );
    if let Some(expires_s) = record.expires_s {
        line.push_str(&format!(r#","expires":"{}""#, written(expires_s)));
    }
    line.push_str("}\n");
    line
}

fn parse(path: &Path, text: &str) -> Result<KeyStore, String> {
    KeyStore::parse(text).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
        format!("{} is damaged and is left as it is:{}", path.display(), errors.concat())
    })
}

fn read_store(path: &Path) -> Result<(String, fs::Metadata), String> {
    let shown = path.display();
    let problem = |error: io::Error| format!("{shown} cannot be read: {error}");
    let file = File::open(path).map_err(problem)?;
    let metadata = file.metadata().map_err(problem)?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if !is_kept_from_others(metadata.mode()) {
        return Err(format!(
            "others can use {shown} (mode {:04o}): chmod g-w,o= {shown}",
            metadata.mode() & 0o7777
        ));
    }
    let mut text = String::new();
    file.take(STORE_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(problem)?;
    Ok((text, metadata))
}

/// The pepper, by the rules a configuration has for secrets.
fn read_pepper(reference: &str) -> Result<Pepper, String> {
    let directory = std::env::current_dir().map_err(|error| error.to_string())?;
    let mut sources = Sources::default();
    let first = |errors: Vec<crate::config::ConfigError>| match errors.into_iter().next() {
        Some(error) => {
            let more = error.fix.or(error.expected).map(|more| format!(": {more}")).unwrap_or_default();
            format!("--pepper: {}{more}", error.title)
        }
        None => "--pepper: `secret:file:PATH`, `secret:env:NAME` or `secret:systemd:NAME` is expected".into(),
    };
    // Quoted, so that no character of it means anything to the reader.
    let source = Source::new("--pepper", &directory, &json!(reference).to_string());
    let source = source.map_err(|error| first(vec![error]))?;
    let file = sources.add(source).map_err(|error| first(vec![error]))?;
    let Some(source) = sources.file(file) else { return Err(first(Vec::new())) };
    let tree = read::read(source, file, &|_| None);
    let Some(node) = tree.root.filter(|_| tree.errors.is_empty()) else { return Err(first(tree.errors)) };
    let mut bind = Bind::new(&sources, &[]);
    let Some(reference) = SecretRef::from_node(&node, &mut bind) else {
        return Err(first(bind.into_parts().0));
    };
    let secret = reference.read().map_err(|error| first(vec![error]))?;
    Pepper::new(secret.expose()).ok_or_else(|| "--pepper: a pepper has at least 16 bytes".into())
}

/// A moment: a time from now, a day, or a moment as RFC 3339 writes it. Not in the past.
fn moment(when: &str, now_s: u64) -> Result<u64, String> {
    let at_s = match span(when) {
        Some(span_s) => now_s.checked_add(span_s),
        None => {
            let moment: Option<Timestamp> =
                when.parse().ok().or_else(|| format!("{when}T00:00:00Z").parse().ok());
            let moment = moment.ok_or_else(|| {
                format!("{when:?} is neither a time such as 90d nor a day such as 2027-01-31")
            })?;
            u64::try_from(moment.as_second()).ok()
        }
    };
    match at_s {
        // The last moment that can be written.
        Some(at_s) if at_s > now_s && at_s <= 253_402_207_200 => Ok(at_s),
        _ => Err(format!("{when:?} is not a moment in the future")),
    }
}

/// A time such as `90d`, in seconds.
fn span(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_s = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" | "day" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_s).filter(|span_s| *span_s <= 100 * 366 * 86_400)
}

/// A moment as RFC 3339 writes it.
fn written(at_s: u64) -> String {
    let moment = i64::try_from(at_s).ok().and_then(|at_s| Timestamp::from_second(at_s).ok());
    moment.unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use clap::Parser;

    use super::*;
    use crate::policy::identify::key_store::API_KEY_EXPIRED;

    const NOW_S: u64 = 1_800_000_000;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// A directory of its own, removed when dropped.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Place {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name =
                format!("ringwall-keys-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let place = Place(std::env::temp_dir().join(name));
            DirBuilder::new().mode(0o700).create(&place.0).unwrap();
            fs::write(place.file("pepper"), "a pepper of some length\n").unwrap();
            fs::set_permissions(place.file("pepper"), fs::Permissions::from_mode(0o600)).unwrap();
            place
        }

        fn file(&self, name: &str) -> String {
            self.0.join(name).display().to_string()
        }

        fn keys(&self, now_s: u64, line: &str) -> Result<String, String> {
            let line = line.replace("STORE", &self.file("keys.jsonl"));
            let line = line.replace("PEPPER", &format!("secret:file:{}", self.file("pepper")));
            let words = ["keys"].into_iter().chain(line.split_whitespace());
            let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
            let mut out = Vec::new();
            execute(&line.arguments, now_s, &mut out)?;
            Ok(String::from_utf8(out).unwrap())
        }

        fn store(&self) -> KeyStore {
            KeyStore::parse(&fs::read_to_string(self.file("keys.jsonl")).unwrap()).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pepper() -> Pepper {
        Pepper::new(b"a pepper of some length").unwrap()
    }

    #[test]
    fn a_new_key_works_and_is_nowhere_in_the_store() {
        let place = Place::new();
        let key = place
            .keys(
                NOW_S,
                "new --store STORE --identity shop --role a --role b --scope s --expires 90d --pepper PEPPER",
            )
            .unwrap();
        let key = key.trim();
        let store = place.store();
        let record = store.find(key.as_bytes(), &pepper(), NOW_S).unwrap();
        assert_eq!((record.identity.as_str(), record.roles.len(), record.scopes.len()), ("shop", 2, 1));
        assert_eq!(record.expires_s, Some(NOW_S + 90 * 86_400));
        let text = fs::read_to_string(place.file("keys.jsonl")).unwrap();
        assert!(!text.contains(&key[13..]) && text.lines().count() == 1);
        assert_eq!(fs::metadata(place.file("keys.jsonl")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 2, "nothing is left beside the store");
    }

    #[test]
    fn rotation_overlaps_and_then_ends_the_old_key() {
        let place = Place::new();
        let old = place
            .keys(NOW_S, "new --store STORE --id one --identity shop --expires 30d --pepper PEPPER")
            .unwrap();
        let later_s = NOW_S + 86_400;
        let new = place.keys(later_s, "rotate one --store STORE --overlap 2h --pepper PEPPER").unwrap();
        let store = place.store();
        let find = |key: &str, at_s| {
            store.find(key.trim().as_bytes(), &pepper(), at_s).map(|record| record.id.clone())
        };
        assert_eq!(
            (find(&old, later_s + 7199), find(&new, later_s + 7199)),
            (Ok("one".into()), Ok("one".into()))
        );
        assert_eq!(
            (find(&old, later_s + 7200), find(&new, later_s + 7200)),
            (Err(&API_KEY_EXPIRED), Ok("one".into()))
        );
        assert_eq!(store.records()[1].expires_s, Some(later_s + 30 * 86_400));

        let third = place.keys(later_s, "rotate one --store STORE --pepper PEPPER").unwrap_err();
        assert!(third.contains("being rotated already"), "{third}");
        assert!(place.keys(later_s + 7200, "rotate one --store STORE --pepper PEPPER").is_ok());
        assert!(place.keys(later_s, "rotate two --store STORE --pepper PEPPER").is_err());
    }

    #[test]
    fn keys_are_revoked_by_id_or_by_prefix() {
        let place = Place::new();
        let make = |id: &str| {
            place.keys(NOW_S, &format!("new --store STORE --id {id} --identity i --pepper PEPPER")).unwrap()
        };
        make("one");
        let two = make("two");
        place.keys(NOW_S, "rotate one --store STORE --pepper PEPPER").unwrap();
        let revoked = place.keys(NOW_S, "revoke one --store STORE --json").unwrap();
        assert_eq!(serde_json::from_str::<Value>(&revoked).unwrap()["revoked"].as_array().unwrap().len(), 2);
        assert_eq!(place.store().records().len(), 1);
        place.keys(NOW_S, &format!("revoke {} --store STORE", &two[4..12])).unwrap();
        assert!(place.store().records().is_empty());
        assert!(place.keys(NOW_S, "revoke two --store STORE").is_err());
    }

    #[test]
    fn lists_show_no_hash_and_no_key() {
        let place = Place::new();
        let made = place
            .keys(NOW_S, "new --store STORE --identity shop --expires 1h --pepper PEPPER --json")
            .unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        let key = made["key"].as_str().unwrap();
        for (line, at_s, state) in
            [("list --store STORE", NOW_S, "valid"), ("list --store STORE --json", NOW_S + 3600, "expired")]
        {
            let shown = place.keys(at_s, line).unwrap();
            assert!(shown.contains(state) && shown.contains(made["prefix"].as_str().unwrap()), "{shown}");
            assert!(!shown.contains(&key[13..20]) && !shown.contains("hash"), "{shown}");
        }
    }

    #[test]
    fn what_is_not_private_or_not_whole_is_refused() {
        let place = Place::new();
        place.keys(NOW_S, "new --store STORE --id one --identity i --pepper PEPPER").unwrap();
        let store = place.file("keys.jsonl");
        fs::set_permissions(&store, fs::Permissions::from_mode(0o644)).unwrap();
        let open = place.keys(NOW_S, "list --store STORE").unwrap_err();
        assert!(open.contains("others can use"), "{open}");
        // Its group may read it, and keeps that right.
        fs::set_permissions(&store, fs::Permissions::from_mode(0o640)).unwrap();
        place.keys(NOW_S, "new --store STORE --id two --identity i --pepper PEPPER").unwrap();
        assert_eq!(fs::metadata(&store).unwrap().mode() & 0o7777, 0o640);

        let before = fs::read_to_string(&store).unwrap();
        fs::write(&store, format!("{before}half a line")).unwrap();
        let damaged =
            place.keys(NOW_S, "new --store STORE --id three --identity i --pepper PEPPER").unwrap_err();
        assert!(damaged.contains("line 3"), "{damaged}");

        fs::set_permissions(place.file("pepper"), fs::Permissions::from_mode(0o604)).unwrap();
        fs::write(&store, before).unwrap();
        assert!(place.keys(NOW_S, "new --store STORE --id three --identity i --pepper PEPPER").is_err());
        assert!(
            place
                .keys(NOW_S, "new --store STORE --id three --identity i --pepper hunter2hunter2hunter2")
                .is_err()
        );
        assert!(place.keys(NOW_S, "list --store STORE.none").is_err());
    }

    #[test]
    fn editors_at_the_same_time_lose_nothing() {
        let place = Place::new();
        std::thread::scope(|scope| {
            for editor in 0..8 {
                let place = &place;
                scope.spawn(move || {
                    for _ in 0..4 {
                        place
                            .keys(NOW_S, &format!("new --store STORE --identity i{editor} --pepper PEPPER"))
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(place.store().records().len(), 32);
    }

    #[test]
    fn moments_are_read() {
        assert_eq!(moment("90d", NOW_S), Ok(NOW_S + 90 * 86_400));
        assert_eq!(moment("12h", NOW_S), Ok(NOW_S + 43_200));
        assert_eq!(moment("2027-01-31", NOW_S), Ok(1_801_353_600));
        assert_eq!(moment("2027-01-31T00:00:01Z", NOW_S), Ok(1_801_353_601));
        for wrong in [
            "",
            "90",
            "d",
            "-1d",
            "2020-01-01",
            "0s",
            "tomorrow",
            "99999999999999999999d",
            "1e9d",
            "9999999d",
        ] {
            assert!(moment(wrong, NOW_S).is_err(), "{wrong}");
        }
    }
}

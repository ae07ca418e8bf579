//! `listen[].tls.client_ca`: from what is written to a [`ClientTrust`], and its revocation lists for as long as it is in force.
//!
//! A list that changes counts as soon as its file has been quiet for a moment, without a reload; one that cannot be used does
//! not replace one that could. That a list is about to pass its next update is said while there is time, because from then on it
//! refuses everybody.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Compiler, Kept};
use crate::config::error::{Code, ConfigError};
use crate::config::model::ClientCa;
use crate::control::process_log::{Code as LogCode, Line};
use crate::policy::identify::compile::{AUTHORITIES_BYTES_MAX, read_bounded};
use crate::tls::client_certificates::{Authority, ClientTrust, LISTS_BYTES_MAX, Lists};

/// The authorities of clients cannot be used.
pub const CLIENT_CA: Code = Code::new(1152);
/// A revocation list cannot be used.
pub const CRL: Code = Code::new(1153);
/// A revocation list is past its next update.
pub const CRL_ENDED: Code = Code::new(1154);
/// Revocation lists are so long that they slow handshakes down.
pub const CRL_LONG: Code = Code::new(1155);

/// An authority of the file has no revocation list.
pub const CRL_OF_NONE: Code = Code::new(1157);

/// Revocation lists that changed are in force.
pub const CRL_TAKEN: LogCode = LogCode::new(6100, "changed revocation lists are in force");
/// Revocation lists that changed cannot be used; the last good ones stay.
pub const CRL_REFUSED: LogCode =
    LogCode::new(6101, "changed revocation lists are refused, the last good ones stay");
/// A revocation list will soon be past its next update.
pub const CRL_ENDS: LogCode =
    LogCode::new(6102, "a revocation list ends soon, and then refuses every client");
/// A revocation list is past its next update.
pub const CRL_HAS_ENDED: LogCode =
    LogCode::new(6103, "a revocation list has ended: clients that it speaks of are refused");

/// How long before its next update a list is warned of, in seconds.
const WARN_S: u64 = 24 * 3600;
/// Lists past this size are remarked: each handshake hashes what it is judged by.
const CRL_QUICK_BYTES: usize = 512 * 1024;

/// The revocation lists in force, and what has been said of them.
#[derive(Debug, Default)]
pub(super) struct Revocation {
    asking: Vec<Arc<ClientTrust>>,
    /// What was told, by the number of the trust.
    told: RefCell<Vec<(u64, State)>>,
}

/// Where a list stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ends,
    HasEnded,
}

impl Revocation {
    /// These are in force from now on.
    pub(super) fn keep(&mut self, asking: Vec<Arc<ClientTrust>>) {
        self.asking = asking;
    }

    /// Says which lists end soon, and which have ended, each once. Called every second or so.
    pub(super) fn tend(&self, now_s: u64) {
        let mut told = self.told.borrow_mut();
        // Lists that were replaced are forgotten.
        told.retain(|(number, _)| self.asking.iter().any(|trust| trust.number() == *number));
        for trust in &self.asking {
            let Some(lists) = trust.lists() else { continue };
            let state = match lists.next_update_s.saturating_sub(now_s) {
                0 => State::HasEnded,
                1..=WARN_S => State::Ends,
                _ => continue,
            };
            let number = trust.number();
            if told.iter().any(|(known, before)| *known == number && *before >= state) {
                continue;
            }
            told.push((number, state));
            let at =
                i64::try_from(lists.next_update_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            let at = at.map(|at| at.to_string()).unwrap_or_default();
            match state {
                State::Ends => Line::warn(CRL_ENDS).with("next_update", at).emit(),
                State::HasEnded => Line::error(CRL_HAS_ENDED).with("next_update", at).emit(),
            }
        }
    }
}

/// What a listener asks of its clients; watched from now on where there is somebody to watch.
pub(super) fn trust(
    asked: &crate::config::Spanned<ClientCa>,
    compiler: &mut Compiler<'_>,
    kept: &mut Kept,
) -> Option<Arc<ClientTrust>> {
    let paths: Vec<PathBuf> = asked.crl.iter().map(|path| path.value.0.clone()).collect();
    let names = asked.names.iter().map(|name| name.value.0.clone()).collect();
    let depth = usize::try_from(asked.depth).unwrap_or(0);
    let path = &asked.file.value.0;
    let authority =
        read_bounded(path, AUTHORITIES_BYTES_MAX)
            .and_then(|pem| Authority::new(&pem, depth, names))
            .map_err(|why| {
                let what = format!("the authorities {} of clients cannot be used: {why}", path.display());
                compiler.errors.push(ConfigError::new(CLIENT_CA, what, asked.file.span).expected(
                    "a PEM file with the certificates of the authorities that issue clients theirs",
                ));
            })
            .ok()?;
    // Empty lists that are exchanged at once: the watch begins before the files are read, so that no change falls between.
    let lists = match paths.is_empty() {
        true => None,
        false => Some(Lists::new([]).map_err(|_| ()).ok()?),
    };
    let trust = Arc::new(ClientTrust::new(authority, asked.required, lists));
    if paths.is_empty() {
        return Some(trust);
    }
    if let Some(parts) = compiler.parts {
        let (watched, paths) = (Arc::clone(&trust), paths.clone());
        compiler.watched.push(parts.watcher.subscribe(paths.clone(), move |_| match read(&paths) {
            Ok((lists, _)) => match newly_without(&watched, &lists) {
                // The list of another authority in the wrong place would turn everybody away.
                Some(name) => {
                    let why = "no list speaks for this authority any more";
                    Line::error(CRL_REFUSED).with("authority", name).with("why", why).emit();
                }
                None if watched.renew(lists) => Line::info(CRL_TAKEN).with("files", paths.len()).emit(),
                None => {}
            },
            Err((at, why)) => {
                let path = paths.get(at).map(|path| path.display().to_string()).unwrap_or_default();
                Line::error(CRL_REFUSED).with("file", path).with("why", why).emit();
            }
        }));
    }
    match read(&paths) {
        Ok((lists, bytes)) => {
            let span = asked.crl.first().map_or(asked.span, |first| first.span);
            if lists.next_update_s <= crate::worker::clock::unix_ms() / 1_000 {
                kept.notes.push(
                    ConfigError::note(CRL_ENDED, "a revocation list is past its next update", span)
                        .fix("fetch the list of the authority anew, and see that this happens before each next update")
                        .why("what was revoked since is not known, so clients that it speaks of are refused"),
                );
            }
            if bytes > CRL_QUICK_BYTES {
                let kib = bytes / 1024;
                kept.notes.push(
                    ConfigError::note(CRL_LONG, format!("the revocation lists have {kib} KiB"), span)
                        .fix("let certificates live so short that few have to be revoked, or let the authority split its lists")
                        .why("each handshake of a client hashes the lists that speak of it, on a data thread"),
                );
            }
            for name in trust.without(&lists) {
                kept.notes.push(
                    ConfigError::note(CRL_OF_NONE, format!("no revocation list speaks for the authority `{name}`"), span)
                        .also(asked.file.span, "it is in this file")
                        .fix("add its list, or take the authority out of the file")
                        .why("where there are lists every certificate needs one, so all that it has issued are refused"),
                );
            }
            trust.renew(lists);
            Some(trust)
        }
        Err((at, why)) => {
            let crl = asked.crl.get(at)?;
            let what = format!("the revocation list {} cannot be used: {why}", crl.value.0.display());
            compiler.errors.push(ConfigError::new(CRL, what, crl.span).expected(
                "a list of version 2 with its next update, neither delta nor indirect, in PEM or DER",
            ));
            None
        }
    }
}

/// The first authority that the lists in force speak for, and `lists` do not.
fn newly_without(trust: &ClientTrust, lists: &Lists) -> Option<String> {
    let before = trust.lists().map(|before| trust.without(&before)).unwrap_or_default();
    trust.without(lists).into_iter().find(|name| !before.contains(name))
}

/// Reads all lists; gives their bytes, too.
fn read(paths: &[PathBuf]) -> Result<(Lists, usize), (usize, String)> {
    let mut files = Vec::new();
    let mut bytes = 0;
    for (at, path) in paths.iter().enumerate() {
        let file = read_bounded(path, LISTS_BYTES_MAX as u64).map_err(|why| (at, why))?;
        bytes += file.len();
        if bytes > LISTS_BYTES_MAX {
            return Err((at, format!("all lists together are larger than {} MiB", LISTS_BYTES_MAX >> 20)));
        }
        files.push(file);
    }
    Lists::new(files.iter().map(Vec::as_slice)).map(|lists| (lists, bytes))
}

//! Secrets: only ever a reference in the configuration, only ever in memory as long as needed, never printed.
//!
//! A [`SecretRef`] says where a secret is; [`SecretRef::read`] fetches it when a policy is compiled. Values that look
//! like the secret itself are refused, and blotted out of the message that refuses them.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use zeroize::{Zeroize, Zeroizing};

use super::bind::{Bind, FromNode};
use super::error::{Code, ConfigError};
use super::node::Node;
use super::shape::Shape;
use super::source::Span;

/// `${NAME}` in the place of a secret.
pub const SECRET_VARIABLE: Code = Code::new(1903);
/// A secret itself in the place of a reference to it.
pub const SECRET_LITERAL: Code = Code::new(1904);
/// Not a reference to a secret.
pub const SECRET_REFERENCE: Code = Code::new(1906);
/// The secret that is referred to cannot be read.
pub const SECRET_UNREADABLE: Code = Code::new(1911);
/// The file of a secret can be read by others.
pub const SECRET_EXPOSED: Code = Code::new(1912);

/// The longest secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Where a secret is.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRef {
    place: Place,
    span: Span,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Environment(String),
    Systemd(String),
}

/// The bytes of a secret; overwritten when dropped, never printed.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes, for the moment in which they are needed.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// A secret from bytes that are no longer needed elsewhere.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretRef {
    /// Stands for a reference that was refused, so that what is beside it can be checked; never in a `Config`.
    pub(super) fn refused(span: Span) -> SecretRef {
        SecretRef { place: Place::Environment(String::new()), span }
    }

    /// Where the reference was written.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The file to watch for a new secret, if it is in one.
    pub fn file(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::Environment(_) | Place::Systemd(_) => None,
        }
    }

    /// Fetches the secret; one line break at its end is dropped.
    ///
    /// # Errors
    /// [`SECRET_UNREADABLE`] if it is not there, empty or beyond [`SECRET_BYTES_MAX`]; [`SECRET_EXPOSED`] if others
    /// than owner and group can read its file. Neither shows any of it.
    pub fn read(&self) -> Result<Secret, ConfigError> {
        let problem = |title: String| ConfigError::new(SECRET_UNREADABLE, title, self.span);
        let mut bytes = match &self.place {
            Place::File(path) => self.read_file(path)?,
            Place::Environment(name) => match std::env::var_os(name) {
                Some(value) => Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value)),
                None => {
                    return Err(problem(format!("the variable `{name}` that holds the secret is not set"))
                        .fix(format!("set {name} in the environment of the process")));
                }
            },
            Place::Systemd(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(directory) => self.read_file(&PathBuf::from(directory).join(name))?,
                None => {
                    return Err(problem("the service manager passed no credentials".into())
                        .fix(format!("add `LoadCredential={name}:/path` to the unit")));
                }
            },
        };
        if bytes.ends_with(b"\n") {
            let end = bytes.len() - if bytes.ends_with(b"\r\n") { 2 } else { 1 };
            bytes.truncate(end);
        }
        match bytes.len() {
            0 => Err(problem("the secret is empty".into())),
            1..=SECRET_BYTES_MAX => Ok(Secret(bytes)),
            _ => Err(problem("the secret is larger than 64 KiB".into())),
        }
    }

    fn read_file(&self, path: &std::path::Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
        let shown = path.display();
        let problem = |error: std::io::Error| {
            ConfigError::new(
                SECRET_UNREADABLE,
                format!("the secret in {shown} cannot be read: {error}"),
                self.span,
            )
        };
        let mut file = crate::sys::file::open_regular(path).map_err(problem)?;
        let metadata = file.metadata().map_err(problem)?;
        if metadata.mode() & 0o007 != 0 {
            return Err(ConfigError::new(
                SECRET_EXPOSED,
                format!("everybody on this machine can use {shown}"),
                self.span,
            )
            .found(format!("mode {:04o}", metadata.mode() & 0o7777))
            .expected("no permissions for others")
            .fix(format!("chmod o= {shown}"))
            .why("a secret that others can read is not one"));
        }
        // One allocation, so that no copy is left behind by growth.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 3));
        file.by_ref().take(SECRET_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(problem)?;
        Ok(bytes)
    }
}

/// Says of which kind it is, no more.
impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.place {
            Place::File(_) => "SecretRef(file)",
            Place::Environment(_) => "SecretRef(env)",
            Place::Systemd(_) => "SecretRef(systemd)",
        })
    }
}

impl Drop for SecretRef {
    fn drop(&mut self) {
        // A name is not a secret, but what stands in a place for secrets is treated as one.
        if let Place::Environment(name) | Place::Systemd(name) = &mut self.place {
            name.zeroize();
        }
    }
}

impl FromNode for SecretRef {
    const SHAPE: Shape = Shape::Pattern(
        "^secret:(file:.+|env:[A-Za-z_][A-Za-z0-9_]*|systemd:[A-Za-z0-9_.-]+)$",
        "secret:file:/etc/ringwall/pepper",
    );

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "`secret:file:PATH`, `secret:env:NAME` or `secret:systemd:NAME`";
        let scalar = match node.scalar() {
            Some(scalar) if !node.is_null() => scalar,
            _ => return bind.mismatch(node, EXPECTED),
        };
        if scalar.substituted {
            bind.error(
                ConfigError::new(SECRET_VARIABLE, "`${…}` is not for secrets", node.span)
                    .expected(EXPECTED)
                    .fix("write `secret:env:NAME`")
                    .why(
                        "a substituted value is text of the configuration, and shows wherever that is shown",
                    ),
            );
            return None;
        }
        let Some(reference) = scalar.text.strip_prefix("secret:") else {
            bind.blot(node.span);
            bind.error(
                ConfigError::new(SECRET_LITERAL, "a secret stands in the configuration", node.span)
                    .expected(EXPECTED)
                    .fix("put it into a file of mode 0600 and name that; the one that stood here is no longer secret")
                    .why("configurations are copied, committed and shown"),
            );
            return None;
        };
        let name = |text: &str, odd: &[u8]| {
            !text.is_empty()
                && text.len() <= 255
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || odd.contains(&b))
                && !text.starts_with('.')
        };
        let place = match reference.split_once(':') {
            Some(("file", path)) if !path.is_empty() && !path.contains('\0') && !path.ends_with('/') => {
                Some(Place::File(bind.sources().resolve(node.span, path)))
            }
            Some(("env", variable)) if name(variable, b"_") => Some(Place::Environment(variable.to_owned())),
            Some(("systemd", credential)) if name(credential, b"_.-") => {
                Some(Place::Systemd(credential.to_owned()))
            }
            _ => None,
        };
        let Some(place) = place else {
            // What follows `secret:` may well be the secret.
            bind.blot(node.span);
            bind.error(
                ConfigError::new(SECRET_REFERENCE, "this does not say where the secret is", node.span)
                    .expected(EXPECTED),
            );
            return None;
        };
        Some(SecretRef { place, span: node.span })
    }
}

//! Files that hold secrets: read only if nobody else can.
//!
//! Private keys, peppers and shared secrets go through [`read_private`]. What is judged is the opened file, not
//! the path, so that it cannot be exchanged in between. Called by the snapshot's compiler.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::sys::privileges::effective_user;

/// Why a secret's file is not taken.
#[derive(Debug)]
pub enum PrivateFileError {
    /// It cannot be read.
    Io(io::Error),
    /// It is a directory, a pipe, a device.
    NotAFile,
    /// Others than its owner have rights on it: the mode's last nine bits.
    Mode(u32),
    /// It belongs to a user that is neither root nor the one that Ringwall runs as.
    Owner(u32),
    /// It is longer than the bound in bytes.
    TooLong(u64),
}

impl fmt::Display for PrivateFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivateFileError::Io(error) => write!(f, "{error}"),
            PrivateFileError::NotAFile => f.write_str("it is not a regular file"),
            PrivateFileError::Mode(mode) => {
                write!(f, "its mode is {mode:04o}: others can use it; `chmod 0600` it")
            }
            PrivateFileError::Owner(user) => {
                write!(f, "it belongs to user {user}, who is neither root nor the user of this process")
            }
            PrivateFileError::TooLong(bytes_max) => write!(f, "it is longer than {bytes_max} bytes"),
        }
    }
}

/// Reads a secret of at most `bytes_max` bytes. The bytes are wiped when dropped.
///
/// The file is regular, owned by root or by this process's user, and has no rights for others. Its group may
/// read it only if root owns it (`root:ringwall 0640`: root decided who is in that group).
///
/// # Errors
/// See [`PrivateFileError`].
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    // Without waiting, if it is a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(PrivateFileError::Io)?;
    let bytes = check(&file)?;
    if bytes > bytes_max {
        return Err(PrivateFileError::TooLong(bytes_max));
    }
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(bytes_max.min(bytes + 1) as usize + 1));
    file.take(bytes_max + 1).read_to_end(&mut secret).map_err(PrivateFileError::Io)?;
    if secret.len() as u64 > bytes_max {
        return Err(PrivateFileError::TooLong(bytes_max));
    }
    Ok(secret)
}

/// Judges an opened file; its length.
fn check(file: &File) -> Result<u64, PrivateFileError> {
    let metadata = file.metadata().map_err(PrivateFileError::Io)?;
    if !metadata.is_file() {
        return Err(PrivateFileError::NotAFile);
    }
    judge(metadata.mode() & 0o777, metadata.uid(), effective_user())?;
    Ok(metadata.len())
}

fn judge(mode: u32, owner: u32, own: u32) -> Result<(), PrivateFileError> {
    if owner != 0 && owner != own {
        return Err(PrivateFileError::Owner(owner));
    }
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(PrivateFileError::Mode(mode));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_of_others_are_refused() {
        for (mode, owner, good) in [
            (0o600, 1000, true),
            (0o400, 1000, true),
            (0o640, 1000, false),
            (0o604, 1000, false),
            (0o644, 0, false),
            (0o640, 0, true),
            (0o660, 0, false),
            (0o400, 0, true),
            (0o600, 1001, false),
        ] {
            assert_eq!(judge(mode, owner, 1000).is_ok(), good, "{mode:o} {owner}");
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for_and_a_directory_is_refused() {
        assert!(matches!(read_private(Path::new("/tmp"), 10), Err(PrivateFileError::NotAFile)));
        assert!(matches!(read_private(Path::new("/dev/null"), 10), Err(PrivateFileError::NotAFile)));
        assert!(matches!(read_private(Path::new("/nowhere"), 10), Err(PrivateFileError::Io(_))));
    }
}

//! Files that the operator names, read without waiting for anybody.
//!
//! Opening a pipe waits for its writer, and whoever reads configuration while the node runs has no time to give: on the control
//! thread probes, metrics and signals would wait as well. So what is opened is judged, not the path, and a file that is none
//! (a pipe, a device, a directory) is refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a regular file for reading. Never waits.
///
/// # Errors
/// Those of `open`; it is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Nothing to a regular file; a pipe is opened at once, and a terminal does not become ours.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Reads a regular file of at most `bytes_max` bytes.
///
/// # Errors
/// As [`open_regular`]; those of `read`; it is larger.
pub fn read_regular(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(io::Error::other(format!("it is larger than {} KiB", bytes_max >> 10))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_the_writer_of_a_pipe() {
        let directory = std::env::temp_dir().join(format!("ringwall-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let pipe = directory.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        for path in [&*pipe, &*directory, Path::new("/dev/zero")] {
            let error = open_regular(path).expect_err("no file");
            assert_eq!(error.to_string(), "it is not a regular file", "{}", path.display());
        }
        std::fs::remove_dir_all(&directory).expect("removed");
    }

    #[test]
    fn the_bound_is_exact() {
        let path = std::env::temp_dir().join(format!("ringwall-bound-{}", std::process::id()));
        std::fs::write(&path, vec![7; 1 << 20]).expect("a file");
        assert_eq!(read_regular(&path, 1 << 20).expect("read").len(), 1 << 20);
        let error = read_regular(&path, (1 << 20) - 1).expect_err("too large");
        assert_eq!(error.to_string(), "it is larger than 1023 KiB");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(read_regular(&path, 1).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }
}

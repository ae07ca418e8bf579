//! What origins saw, written so that `kill -9` takes nothing away: 16 bytes a record, appended by one `write` each.
//!
//! Called by `origin` (writes) and `measure` (reads). Bounds: as many records as requests and tries of them.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::fate::Fate;

/// Bytes of a record: id, what, origin, method, fate, four that are zero.
const RECORD_BYTES: usize = 16;

/// What was seen of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its head: it may have been acted upon from here on.
    Begun,
    /// Its last byte.
    Received,
    /// The answer was handed to the kernel.
    Answered,
}

/// An origin's file.
pub struct Writer(File);

impl Writer {
    /// Opens it, keeping what an earlier process wrote.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// Writes one record.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, id: u64, step: Step, post: bool, fate: Fate) -> io::Result<()> {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&id.to_le_bytes());
        record[8] = match step {
            Step::Begun => 0,
            Step::Received => 1,
            Step::Answered => 2,
        };
        record[9] = u8::from(post);
        record[10] = fate.number();
        self.0.write_all(&record)
    }
}

/// What all origins together saw of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How often its head arrived.
    pub begun: u32,
    /// How often its last byte arrived.
    pub received: u32,
    /// How often it was answered.
    pub answered: u32,
    /// An origin did something else than answering it.
    pub unkind: bool,
    /// An origin lied.
    pub lied: bool,
}

/// By request id.
#[derive(Debug, Default)]
pub struct Ledger(HashMap<u64, Seen>);

impl Ledger {
    /// Adds the file of one origin; a file that does not exist holds nothing.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, path: &Path) -> io::Result<()> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        for record in bytes.chunks_exact(RECORD_BYTES) {
            let mut id = [0; 8];
            id.copy_from_slice(&record[..8]);
            let seen = self.0.entry(u64::from_le_bytes(id)).or_default();
            match record[8] {
                0 => seen.begun += 1,
                1 => seen.received += 1,
                _ => seen.answered += 1,
            }
            seen.unkind |= record[10] != Fate::Answer.number();
            seen.lied |= record[10] == Fate::Lie.number();
        }
        Ok(())
    }

    /// What was seen of a request.
    pub fn of(&self, id: u64) -> Seen {
        self.0.get(&id).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_two_processes_add_up() {
        let path = std::env::temp_dir().join(format!("ringwall-loadtest-ledger-{}", std::process::id()));
        for process in 0..2 {
            let mut writer = Writer::open(&path).unwrap();
            writer.write(7, Step::Begun, true, Fate::Answer).unwrap();
            writer
                .write(7, Step::Received, true, if process == 0 { Fate::Answer } else { Fate::Lie })
                .unwrap();
        }
        let mut ledger = Ledger::default();
        ledger.read(&path).unwrap();
        ledger.read(Path::new("/no/such/file")).unwrap();
        let seen = ledger.of(7);
        assert_eq!((seen.begun, seen.received, seen.answered), (2, 2, 0));
        assert!(seen.unkind && seen.lied);
        assert_eq!(ledger.of(8), Seen::default());
        std::fs::remove_file(path).unwrap();
    }
}

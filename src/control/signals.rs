//! Unix signals, as what they mean to Ringwall.
//!
//! HUP reload · USR1 reopen logs · USR2 upgrade · TERM and QUIT drain with a deadline · a second TERM, or INT, at once. Each
//! signal writes a byte into a socket of its own (async-signal-safe, by signal-hook), which the control thread
//! reads. Registered before the data threads start, so that none of them is ever interrupted by a default
//! action. Called by the supervisor.

use std::io;
use std::os::unix::net::UnixStream as StdStream;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::{pipe, unregister};
use tokio::net::UnixStream;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Read the configuration again (HUP).
    Reload,
    /// Open the log files again (USR1), after a rotation.
    ReopenLogs,
    /// Hand over to a new process (USR2).
    Upgrade,
    /// Take no new connection, finish what runs, within the deadline (TERM, QUIT).
    Drain,
    /// End now (INT, or TERM while draining).
    Stop,
}

/// The raw signals' order of importance is the order of this table: what ends us is looked at first.
const LISTENED: [i32; 6] = [SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];

/// Registered signals. Dropping it leaves the signals ignored, not lethal: signal-hook keeps its handler.
pub struct Signals {
    streams: [StdStream; LISTENED.len()],
    ids: [SigId; LISTENED.len()],
}

impl Signals {
    /// Takes the signals over. Works on any thread, before the runtime exists.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn register() -> io::Result<Signals> {
        let mut streams = Vec::with_capacity(LISTENED.len());
        let mut ids = Vec::with_capacity(LISTENED.len());
        for signal in LISTENED {
            let (reading, writing) = StdStream::pair()?;
            reading.set_nonblocking(true)?;
            ids.push(pipe::register(signal, writing)?);
            streams.push(reading);
        }
        match (streams.try_into(), ids.try_into()) {
            (Ok(streams), Ok(ids)) => Ok(Signals { streams, ids }),
            _ => Err(io::ErrorKind::Other.into()),
        }
    }

    /// Hands each signal's meaning to `on_signal`, for ever. Runs on the control thread.
    ///
    /// # Errors
    /// The runtime does not take the descriptors.
    pub async fn listen(self, mut on_signal: impl FnMut(Signal)) -> io::Result<()> {
        let mut streams = Vec::with_capacity(LISTENED.len());
        for stream in &self.streams {
            streams.push(UnixStream::from_std(stream.try_clone()?)?);
        }
        let mut escalation = Escalation::default();
        let [int, term, quit, hup, usr1, usr2] = streams.as_slice() else { return Ok(()) };
        loop {
            let (signal, count) = tokio::select! {
                biased;
                count = count(int) => (SIGINT, count?),
                count = count(term) => (SIGTERM, count?),
                count = count(quit) => (SIGQUIT, count?),
                count = count(hup) => (SIGHUP, count?),
                count = count(usr1) => (SIGUSR1, count?),
                count = count(usr2) => (SIGUSR2, count?),
            };
            // Ten HUPs in a row are one reload; two TERMs in a row are two.
            let count = if matches!(signal, SIGTERM) { count.min(2) } else { 1 };
            for _ in 0..count {
                if let Some(meaning) = escalation.meaning(signal) {
                    on_signal(meaning);
                }
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids {
            unregister(id);
        }
    }
}

/// How many bytes are there, at least one: waits.
async fn count(stream: &UnixStream) -> io::Result<usize> {
    let mut bytes = [0; 64];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut bytes) {
            Ok(0) => std::future::pending().await,
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Which signal means what, given those before it.
#[derive(Debug, Default)]
struct Escalation {
    draining: bool,
}

impl Escalation {
    fn meaning(&mut self, signal: i32) -> Option<Signal> {
        match signal {
            SIGHUP => Some(Signal::Reload),
            SIGUSR1 => Some(Signal::ReopenLogs),
            SIGUSR2 => Some(Signal::Upgrade),
            SIGINT => Some(Signal::Stop),
            SIGTERM if self.draining => Some(Signal::Stop),
            // QUIT asks for grace; asking twice does not take it back.
            SIGQUIT if self.draining => None,
            SIGTERM | SIGQUIT => {
                self.draining = true;
                Some(Signal::Drain)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_term_stops_a_second_quit_does_not() {
        let meanings = |signals: &[i32]| {
            let mut escalation = Escalation::default();
            signals.iter().map(|&signal| escalation.meaning(signal)).collect::<Vec<_>>()
        };
        use Signal::{Drain, Reload, ReopenLogs, Stop, Upgrade};
        assert_eq!(meanings(&[SIGHUP, SIGUSR1, SIGHUP]), [Some(Reload), Some(ReopenLogs), Some(Reload)]);
        assert_eq!(meanings(&[SIGUSR2, SIGUSR2]), [Some(Upgrade), Some(Upgrade)]);
        assert_eq!(meanings(&[SIGTERM, SIGTERM]), [Some(Drain), Some(Stop)]);
        assert_eq!(meanings(&[SIGQUIT, SIGQUIT, SIGTERM]), [Some(Drain), None, Some(Stop)]);
        assert_eq!(meanings(&[SIGINT]), [Some(Stop)]);
        assert_eq!(meanings(&[SIGTERM, SIGHUP, SIGINT]), [Some(Drain), Some(Reload), Some(Stop)]);
    }
}

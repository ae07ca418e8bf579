//! systemd's `Type=notify-reload`, its watchdog and its sockets: one datagram to `$NOTIFY_SOCKET` says what state we are in,
//! `$LISTEN_FDS` says what it listens on for us.
//!
//! Nothing happens where the variables are not set. Called by the supervisor.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::listeners::Lent;
use super::process_log::{Code, Line};
use crate::sys::descriptors::take_passed;
use crate::sys::privileges::monotonic_microseconds;
use crate::sys::socket::{adopt_listener, bound_address};

/// The service manager listens on something that is not in the configuration.
pub const SOCKET_UNWANTED: Code = Code::new(6078, "a socket that was passed to us is not used");

/// sd_listen_fds(3): the first descriptor that is passed.
const LISTEN_FDS_START: i32 = 3;
/// As many as the service manager may pass; it passes one for each `ListenStream=`.
const LISTEN_FDS_MAX: i32 = 1024;

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Start or reload is complete.
    Ready,
    /// A reload begins; `Ready` ends it, whether it took the new configuration or kept the old one.
    Reloading,
    /// The drain begins.
    Stopping,
    /// All is well (`WatchdogSec=`).
    Alive,
    /// This process is the service from now on.
    HandedOverTo(u32),
}

/// Tells the service manager, with a few words for `systemctl status`.
///
/// # Errors
/// The socket does not take the datagram. Not a reason to stop.
pub fn notify(state: State, status: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) => notify_at(path.as_bytes(), state, status),
        None => Ok(()),
    }
}

fn notify_at(path: &[u8], state: State, status: &str) -> io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message(state, status).as_bytes(), &address)?;
    Ok(())
}

fn message(state: State, status: &str) -> String {
    let state = match state {
        State::Ready => "READY=1".to_owned(),
        // sd_notify(3): RELOADING=1 counts only together with the time.
        State::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_microseconds()),
        State::Stopping => "STOPPING=1".to_owned(),
        State::Alive => return "WATCHDOG=1\n".to_owned(),
        State::HandedOverTo(process) => format!("MAINPID={process}"),
    };
    // A line break in the status would begin a variable of its own.
    let status: String = status.chars().filter(|character| !character.is_control()).collect();
    format!("{state}\nSTATUS={status}\n")
}

/// How often the service manager wants to hear that all is well; `None` where it does not watch. `successor`: this process
/// was started by the one that is watched, whose variables it has.
pub fn watchdog(successor: bool) -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours =
        successor || number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
    // sd_watchdog_enabled(3): half the time is what it recommends; a third leaves room for one that is late.
    number("WATCHDOG_USEC").filter(|&time| ours && time > 0).map(|time| Duration::from_micros(time) / 3)
}

/// The sockets that the service manager listens on for us (socket activation). Which listener each is for is told by its
/// address. To be called once, before anything else opens a descriptor.
pub fn passed_sockets() -> Vec<Lent> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, LISTEN_FDS_MAX);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    (LISTEN_FDS_START..LISTEN_FDS_START + count)
        .filter_map(|descriptor| {
            let name = names.next().unwrap_or_default();
            let lent = take_passed(descriptor).and_then(|owned| {
                let socket = TcpListener::from(owned);
                adopt_listener(&socket)?;
                let bound = bound_address(&socket)?;
                Ok(Lent { wanted: bound.clone(), bound, socket, by_manager: true })
            });
            lent.map_err(|error| {
                Line::warn(SOCKET_UNWANTED)
                    .with("descriptor", descriptor)
                    .with("name", name)
                    .with("why", error)
                    .emit();
            })
            .ok()
        })
        .collect()
}

/// Says which sockets nobody wants, and closes them.
pub fn refuse_sockets(rest: Vec<Lent>) {
    for lent in rest {
        let why = "no listener of the configuration has this address";
        Line::warn(SOCKET_UNWANTED).with("address", lent.bound).with("why", why).emit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_the_state_on_an_abstract_socket() {
        let name = format!("ringwall-test-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        notify_at(format!("@{name}").as_bytes(), State::Reloading, "generation 2\nREADY=1").expect("sent");
        let mut datagram = [0; 256];
        let bytes = manager.recv(&mut datagram).expect("a datagram");
        let text = String::from_utf8_lossy(&datagram[..bytes]).into_owned();
        assert!(text.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{text}");
        assert!(text.ends_with("\nSTATUS=generation 2READY=1\n"), "{text}");
    }
}

//! systemd's `Type=notify-reload`: one datagram to `$NOTIFY_SOCKET` says what state we are in.
//!
//! Nothing happens where the variable is not set. Called by the supervisor.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::sys::privileges::monotonic_microseconds;

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Start or reload is complete.
    Ready,
    /// A reload begins; `Ready` ends it, whether it took the new configuration or kept the old one.
    Reloading,
    /// The drain begins.
    Stopping,
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
    };
    // A line break in the status would begin a variable of its own.
    let status: String = status.chars().filter(|character| !character.is_control()).collect();
    format!("{state}\nSTATUS={status}\n")
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

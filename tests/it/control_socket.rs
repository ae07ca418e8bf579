//! The control socket: its file, its peers, its protocol, and the verb that uses it.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use ringwall::control::socket::{Complaint, ControlSocket, Response, SocketError, Verb, call};
use ringwall::control::{Control, Event, Faces, ReloadCause};

use crate::control_issuer::{Directory, control};

/// A control thread with a socket, and a supervisor that answers `count` events with `respond`.
fn serving(
    path: &Path,
    count: usize,
    respond: impl Fn(&str) -> Response + Send + 'static,
) -> (Control<Vec<String>>, std::thread::JoinHandle<()>) {
    let control = control();
    let socket = ControlSocket::bind(path, None).expect("bound");
    control.serve(Faces { socket: Some(socket), ..Faces::default() });
    let events = control.events().clone();
    let supervisor = std::thread::spawn(move || {
        for event in events.iter().take(count) {
            match event {
                Event::Reload(ReloadCause::Socket, reply) => reply.send(respond("reload")),
                Event::Status(reply) => reply.send(respond("status")),
                Event::ReopenLogs(reply) => reply.send(respond("reopen-logs")),
                Event::Drain(reply) => reply.send(respond("drain")),
                Event::Rollback(reply) => reply.send(respond("rollback")),
                Event::Upgrade(None, reply) => reply.send(respond("upgrade")),
                other => panic!("{other:?}"),
            }
        }
    });
    (control, supervisor)
}

fn talk(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("connected");
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn every_verb_reaches_the_supervisor_and_its_answer_comes_back() {
    let directory = Directory::new("verbs");
    let path = directory.path("control.sock");
    let (_control, supervisor) =
        serving(&path, 6, |verb| Response::done(serde_json::json!({ "verb": verb })));
    for (verb, name) in [
        (Verb::Reload, "reload"),
        (Verb::Status, "status"),
        (Verb::ReopenLogs, "reopen-logs"),
        (Verb::Drain, "drain"),
        (Verb::Rollback, "rollback"),
        (Verb::Upgrade, "upgrade"),
    ] {
        let response = call(&path, verb).expect("a response");
        assert!(response.ok);
        assert_eq!(response.result["verb"], name);
    }
    supervisor.join().expect("six events");
}

#[test]
fn the_errors_of_a_failed_reload_come_back_whole() {
    let directory = Directory::new("errors");
    let path = directory.path("control.sock");
    let errors: Vec<Complaint> = (1..=2000)
        .map(|line| Complaint {
            code: "RW-1001".to_owned(),
            message: format!("wrong \"{line}\"\n"),
            file: Some("ringwall.yaml".to_owned()),
            line: Some(line),
            column: Some(3),
            rendered: None,
        })
        .collect();
    let sent = errors.clone();
    let (_control, _supervisor) = serving(&path, 1, move |_| Response::failed(sent.clone()));
    let response = call(&path, Verb::Reload).expect("a response");
    assert!(!response.ok);
    assert_eq!(response.errors, errors);
}

#[test]
fn a_request_is_one_bounded_line_with_a_known_verb() {
    let directory = Directory::new("protocol");
    let path = directory.path("control.sock");
    let (_control, _supervisor) = serving(&path, 1, |_| Response::done(serde_json::Value::Null));
    for bad in [
        &b""[..],
        b"\n",
        b"reload\n",
        b"{\"verb\":\"reload\"}",
        b"{\"verb\":\"halt\"}\n",
        b"{\"verb\":\"reload\",\"more\":1}\n",
        b"{\"verb\":\"reload\",\"verb\":\"drain\"}\n",
        &[b'x'; 5000],
        &[b'['; 4096],
    ] {
        let answer = talk(&path, bad);
        let response: Response = serde_json::from_str(&answer).expect(&answer);
        assert!(!response.ok && !response.errors.is_empty(), "{answer}");
    }
    assert!(talk(&path, b"{\"verb\":\"status\"}\nignored").starts_with("{\"ok\":true"));
}

#[test]
fn the_file_is_for_its_owner_and_goes_with_its_process() {
    let directory = Directory::new("file");
    let path = directory.path("control.sock");
    let socket = ControlSocket::bind(&path, None).expect("bound");
    let metadata = std::fs::symlink_metadata(&path).expect("there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&directory.0).expect("listed").count(), 1, "no lock, no temporary name");
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_living_socket_is_left_alone_a_stale_one_is_replaced() {
    let directory = Directory::new("stale");
    let path = directory.path("control.sock");
    let living = UnixListener::bind(&path).expect("bound");
    assert!(matches!(ControlSocket::bind(&path, None), Err(SocketError::InUse(_))));
    drop(living);
    assert!(path.exists(), "a listener that died leaves its file");
    let first = ControlSocket::bind(&path, None).expect("replaced");
    assert!(matches!(ControlSocket::bind(&path, None), Err(SocketError::InUse(_))));
    // Somebody else's file in our place is not ours to remove.
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "not a socket").expect("written");
    drop(first);
    assert!(path.exists());
    assert!(matches!(ControlSocket::bind(&path, None), Err(SocketError::NotASocket(_))));
    let absent = ControlSocket::bind(&directory.path("no/such/control.sock"), None);
    assert!(matches!(absent, Err(SocketError::Io(..))));
}

#[test]
fn starters_at_the_same_time_do_not_take_the_socket_from_each_other() {
    let directory = Directory::new("race");
    let path = directory.path("control.sock");
    drop(UnixListener::bind(&path).expect("a stale file"));
    let bound: Vec<_> = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..8).map(|_| scope.spawn(|| ControlSocket::bind(&path, None))).collect();
        starters.into_iter().map(|starter| starter.join().expect("no panic")).collect()
    });
    assert_eq!(bound.iter().filter(|result| result.is_ok()).count(), 1);
}

#[test]
fn a_planted_link_is_not_followed() {
    let directory = Directory::new("planted");
    let path = directory.path("control.sock");
    let victim = directory.write("victim", "precious");
    std::os::unix::fs::symlink(&victim, directory.path("control.sock.lock")).expect("linked");
    assert!(matches!(ControlSocket::bind(&path, None), Err(SocketError::Io(..))));
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "precious");
}

#[test]
fn the_socket_belongs_to_the_user_that_will_run() {
    let directory = Directory::new("owner");
    let path = directory.path("control.sock");
    if ringwall::sys::privileges::effective_user() != 0 {
        println!("NOT RUN: only root can give a file away");
        return;
    }
    let _socket = ControlSocket::bind(&path, Some((65534, 65534))).expect("bound");
    let metadata = std::fs::symlink_metadata(&path).expect("there");
    assert_eq!((metadata.uid(), metadata.gid()), (65534, 65534));
}

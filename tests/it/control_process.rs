//! What belongs to a whole process: signals, privileges, the user behind a socket. Each test starts this very
//! test program again as a child that runs [`child`] and does one thing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use ringwall::control::signals::Signals;
use ringwall::control::socket::{ControlSocket, Response, Verb, call};
use ringwall::control::{Control, Event, Faces};
use ringwall::sys::privileges::{User, drop_to, effective_user, harden};

use crate::control_issuer::{Directory, control};

const ROLE: &str = "RINGWALL_TEST_CHILD";

fn start(role: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "control_process::child", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env("RINGWALL_TEST_ARGUMENT", argument);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Not a test of its own: what the children do.
#[test]
fn child() {
    let argument = std::env::var("RINGWALL_TEST_ARGUMENT").unwrap_or_default();
    match std::env::var(ROLE).as_deref() {
        Ok("signals") => report_signals(),
        Ok("drop") => report_dropped(),
        Ok("call") => {
            let response = call(argument.as_ref(), Verb::Status).expect("a response");
            println!("\nuser={} ok={}", effective_user(), response.ok);
        }
        _ => {}
    }
}

fn report_signals() {
    let signals = Signals::register().expect("registered");
    let control: Control<Vec<String>> = control();
    control.serve(Faces { signals: Some(signals), ..Faces::default() });
    println!("\nready");
    for event in control.events().iter() {
        match event {
            Event::Reload(..) => println!("reload"),
            Event::ReopenLogs(_) => println!("reopen"),
            Event::Drain(_) => println!("drain"),
            Event::Status(_) => println!("status"),
            Event::Upgrade(None, _) => println!("upgrade"),
            Event::Stop => {
                println!("stop");
                std::process::exit(0);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A line of a child's output that is not the test harness's.
fn line(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    loop {
        let line = lines.next().expect("a line").expect("text");
        if !line.is_empty() && !line.starts_with("running ") && !line.starts_with("test control_process") {
            return line;
        }
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success(), "{name}");
}

#[test]
fn each_signal_means_what_the_manual_says() {
    let mut child = start("signals", "").spawn().expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(line(&mut lines), "ready");
    for (name, meaning) in [
        ("HUP", "reload"),
        ("USR1", "reopen"),
        ("USR2", "upgrade"),
        ("HUP", "reload"),
        ("TERM", "drain"),
        ("HUP", "reload"),
        ("TERM", "stop"),
    ] {
        signal(&child, name);
        assert_eq!(line(&mut lines), meaning, "{name}");
    }
    assert!(child.wait().expect("ended").success());
}

#[test]
fn int_stops_at_once_and_a_second_quit_does_not() {
    for (names, meanings) in [(&["INT"][..], &["stop"][..]), (&["QUIT", "QUIT", "INT"], &["drain", "stop"])] {
        let mut child = start("signals", "").spawn().expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(line(&mut lines), "ready");
        let mut meanings = meanings.iter();
        for name in names {
            signal(&child, name);
            if *name != "QUIT" || meanings.len() == 2 {
                assert_eq!(Some(&line(&mut lines).as_str()), meanings.next(), "{name}");
            }
        }
        assert!(child.wait().expect("ended").success());
    }
}

fn report_dropped() {
    harden().expect("hardened");
    // A thread that exists before the drop must be dropped with the rest.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ = receiver.recv();
        std::fs::read_to_string("/proc/thread-self/status").expect("readable")
    });
    let user = User { user: 65534, group: 65534, groups: vec![65533] };
    println!("\ndropped={}", drop_to(&user).expect("dropped"));
    drop(sender);
    let of_thread = thread.join().expect("no panic");
    let own = std::fs::read_to_string("/proc/thread-self/status").expect("readable");
    for (who, status) in [("main", own), ("thread", of_thread)] {
        for line in status.lines() {
            if let Some((name, value)) = line.split_once(':')
                && ["Uid", "Gid", "Groups", "CapEff", "CapPrm", "NoNewPrivs"].contains(&name)
            {
                println!("{who}.{name}={}", value.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    println!("shadow={}", std::fs::read("/etc/shadow").is_ok());
    // A process that is not dumpable keeps its memory map from its own user.
    println!("environ={}", std::fs::read("/proc/self/environ").is_ok());
    println!("again={}", drop_to(&user).expect("nothing left to drop"));
}

#[test]
fn privileges_are_dropped_in_every_thread_for_good() {
    if effective_user() != 0 {
        println!("NOT RUN: only root has privileges to drop");
        return;
    }
    let output = start("drop", "").output().expect("a child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    for expected in ["dropped=true", "shadow=false", "environ=false", "again=false"] {
        assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
    }
    for who in ["main", "thread"] {
        for expected in [
            "Uid=65534 65534 65534 65534",
            "Gid=65534 65534 65534 65534",
            "Groups=65533",
            "CapEff=0000000000000000",
            "CapPrm=0000000000000000",
            "NoNewPrivs=1",
        ] {
            assert!(
                text.lines().any(|line| line == format!("{who}.{expected}")),
                "{who}.{expected} in {text}"
            );
        }
    }
}

#[test]
fn root_is_no_user_to_drop_to() {
    if effective_user() == 0 {
        assert!(drop_to(&User { user: 0, group: 0, groups: vec![] }).is_err());
    }
}

/// The file's mode is opened up on purpose, so that only the check of credentials stands in the way.
#[test]
fn a_peer_of_another_user_is_refused_and_of_the_own_user_is_heard() {
    if effective_user() != 0 {
        println!("NOT RUN: only root can become another user");
        return;
    }
    let directory = Directory::new("peer");
    let path = directory.path("control.sock");
    let control = control();
    control
        .serve(Faces { socket: Some(ControlSocket::bind(&path, None).expect("bound")), ..Faces::default() });
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("opened up");
    std::fs::set_permissions(&directory.0, std::fs::Permissions::from_mode(0o755)).expect("opened up");
    let events = control.events().clone();
    let heard = std::thread::spawn(move || match events.recv() {
        Ok(Event::Status(reply)) => reply.send(Response::done(serde_json::Value::Null)),
        other => panic!("{other:?}"),
    });
    let argument = path.to_string_lossy().into_owned();
    let stranger = match start("call", &argument).uid(65534).gid(65534).output() {
        Ok(output) => output,
        Err(error) => {
            println!("NOT RUN: another user cannot start this program: {error}");
            std::mem::drop(call(&path, Verb::Status));
            heard.join().expect("heard");
            return;
        }
    };
    let text = String::from_utf8_lossy(&stranger.stdout).into_owned();
    assert!(text.lines().any(|line| line == "user=65534 ok=false"), "{text}");
    let mut own = start("call", &argument).spawn().expect("a child");
    own.stdin.take().expect("piped").flush().expect("flushed");
    let mut text = String::new();
    own.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    own.wait().expect("ended");
    assert!(text.lines().any(|line| line == "user=0 ok=true"), "{text}");
    heard.join().expect("one event, of the own user");
}

//! The listener for metrics and health.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringwall::control::admin::{Admin, CONNECTIONS_MAX, Format, Pages};
use ringwall::control::{Control, Faces};

use crate::control_issuer::control;

fn serving(ready: Arc<AtomicBool>) -> (Control<Vec<String>>, SocketAddr) {
    let admin = Admin::bind(&"127.0.0.1:0".parse().expect("an address"), None).expect("bound");
    let address = admin.address().to_string().parse().expect("an IP address and a port");
    let pages = Pages {
        metrics: Arc::new(|format| match format {
            Format::Prometheus => "ringwall_up 1\n".to_owned(),
            Format::OpenMetrics => "ringwall_up 1\n# EOF\n".to_owned(),
        }),
        ready: Arc::new(move || match ready.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("draining".to_owned()),
        }),
    };
    let control = control();
    control.serve(Faces { admin: Some((admin, pages)), ..Faces::default() });
    (control, address)
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

fn get(address: SocketAddr, target: &str, more: &str) -> String {
    ask(address, &format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n"))
}

#[test]
fn pages_answer_and_everything_else_does_not() {
    let ready = Arc::new(AtomicBool::new(true));
    let (_control, address) = serving(ready.clone());
    let text = get(address, "/metrics", "");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nringwall_up 1\n"), "{text}");
    let text = get(address, "/metrics?name[]=x", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(
        text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(get(address, "/livez", "").ends_with("\r\n\r\nok\n"));
    assert!(get(address, "/readyz", "").starts_with("HTTP/1.1 200 "));
    ready.store(false, Ordering::Relaxed);
    let text = get(address, "/readyz", "");
    assert!(text.starts_with("HTTP/1.1 503 ") && text.ends_with("draining\n"), "{text}");
    assert!(get(address, "/livez", "").starts_with("HTTP/1.1 200 "), "a draining node is alive");
    for target in ["/", "/metrics/", "/Metrics", "/debug/pprof", "/livez/../metrics"] {
        assert!(get(address, target, "").starts_with("HTTP/1.1 404 "), "{target}");
    }
    let post = format!(
        "POST /metrics HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let text = ask(address, &post);
    assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("allow: GET, HEAD"), "{text}");
    let head = format!("HEAD /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let text = ask(address, &head);
    assert!(text.contains("content-length: 14\r\n") && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn a_web_page_cannot_read_them_through_a_name() {
    let (_control, address) = serving(Arc::new(AtomicBool::new(true)));
    for (host, good) in [
        ("localhost", true),
        ("localhost:9901", true),
        ("127.0.0.1", true),
        ("evil.test", false),
        ("evil.test:9901", false),
    ] {
        let text =
            ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        let expected = if good { "HTTP/1.1 200 " } else { "HTTP/1.1 421 " };
        assert!(text.starts_with(expected), "{host}: {text}");
    }
}

#[test]
fn idle_connections_past_the_bound_wait_and_are_served_when_others_go() {
    let (_control, address) = serving(Arc::new(AtomicBool::new(true)));
    let idle: Vec<_> =
        (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(address).expect("connected")).collect();
    let waiting = std::thread::spawn(move || get(address, "/livez", ""));
    drop(idle);
    assert!(waiting.join().expect("no panic").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_head_without_an_end_is_cut() {
    let (_control, address) = serving(Arc::new(AtomicBool::new(true)));
    let endless = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nX: {}", "x".repeat(64 * 1024));
    let mut stream = TcpStream::connect(address).expect("connected");
    let _ = stream.write_all(endless.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(!text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(get(address, "/livez", "").starts_with("HTTP/1.1 200 "));
}

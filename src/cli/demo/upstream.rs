//! The demo's upstream: a small HTTP/1.1 server on a thread of its own that tells what reached it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;

/// Connections that are served at once; the gateway keeps few.
const CONNECTIONS_MAX: usize = 64;
/// A request that is larger is cut off: the gateway's own bounds are tighter.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// A kept connection without a request ends after this.
const IDLE: Duration = Duration::from_secs(60);

/// Starts it on a free loopback port.
///
/// # Errors
/// No port or no thread is left.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("demo-upstream".to_owned()).spawn(move || {
        let open = std::sync::Arc::new(());
        for stream in listener.incoming().flatten() {
            if std::sync::Arc::strong_count(&open) > CONNECTIONS_MAX {
                continue;
            }
            let guard = std::sync::Arc::clone(&open);
            let _ = std::thread::Builder::new().name("demo-upstream".to_owned()).spawn(move || {
                // A connection that breaks is the gateway's to notice.
                let _ = serve(&stream);
                drop(guard);
            });
        }
    })?;
    Ok(address)
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        let mut length = 0u64;
        loop {
            let start = head.len();
            if (&mut reader).take(64 << 10).read_until(b'\n', &mut head)? == 0 || head.len() > 64 << 10 {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&head[start..]).trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line.is_empty() {
                break;
            }
        }
        if length > REQUEST_BYTES_MAX {
            return Ok(());
        }
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let request = lines.next().unwrap_or_default();
        let told: serde_json::Map<String, serde_json::Value> = lines
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-"))
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        let body = json!({ "upstream": "demo", "saw": request, "told_by_ringwall": told }).to_string();
        let created = request.starts_with("POST");
        let status = if created { "201 Created" } else { "200 OK" };
        let mut out = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len() + 1
        );
        if !request.starts_with("HEAD") {
            out.push_str(&body);
            out.push('\n');
        }
        (&mut &*stream).write_all(out.as_bytes())?;
    }
}

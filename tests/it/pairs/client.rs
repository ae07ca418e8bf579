//! A client that speaks either protocol and says what came in the same words. HTTP/2 is the `h2` crate's.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;

use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::http::{HeaderMap, Request};
use rustls::pki_types::{CertificateDer, ServerName};
use std::future::{Future, pending, poll_fn};
use std::task::Poll;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::wire::{Fields, Framing, Io, Reader, Writer, fields_of, split};
use super::{NAME, Speaks};

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub method: &'static str,
    pub path: String,
    pub fields: Vec<(&'static str, String)>,
    pub body: Option<Bytes>,
    /// Whether the length of the body is said before it.
    pub length: bool,
    pub trailers: Vec<(&'static str, &'static str)>,
}

impl Ask {
    pub fn get(path: impl Into<String>) -> Ask {
        Ask { method: "GET", path: path.into(), ..Ask::default() }
    }

    pub fn head(path: impl Into<String>) -> Ask {
        Ask { method: "HEAD", ..Ask::get(path) }
    }

    pub fn post(path: impl Into<String>, body: impl Into<Bytes>, length: bool) -> Ask {
        Ask { method: "POST", body: Some(body.into()), length, ..Ask::get(path) }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Ask {
        self.fields.push((name, value.into()));
        self
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Got {
    pub interim: Vec<(u16, Fields)>,
    /// 0: none.
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Whether the message came to its end.
    pub whole: bool,
    /// Whether another request may follow on the connection, as HTTP/1.1 says it.
    pub keeps: bool,
}

impl Got {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!((self.status, self.whole), (200, true), "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Status and reason of a refusal.
    pub fn refusal(&self) -> (u16, String) {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        (self.status, problem["reason"].as_str().unwrap_or_default().to_owned())
    }
}

/// A connection. One of HTTP/1.1 that has ended with an answer is made anew for the next request.
pub enum Client {
    Http1 {
        reader: Reader,
        writer: Writer,
        to: To,
        /// Whether another request may follow.
        keeps: bool,
    },
    Http2 {
        sender: SendRequest<Bytes>,
        driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
        to: To,
    },
}

/// Where clients connect to, and whether it is TLS.
#[derive(Clone)]
pub struct To {
    pub address: SocketAddr,
    pub trust: Option<CertificateDer<'static>>,
}

impl To {
    fn authority(&self) -> String {
        format!("{NAME}:{}", self.address.port())
    }

    async fn connect(&self, speaks: Speaks) -> Io {
        let socket = TcpStream::connect(self.address).await.expect("connected");
        socket.set_nodelay(true).expect("no delay");
        let Some(trust) = &self.trust else { return Box::new(socket) };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trust.clone()).expect("a root");
        let mut config = rustls::ClientConfig::builder_with_provider(ringwall::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![speaks.alpn().to_vec()];
        let name = ServerName::try_from(NAME).expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Box::new(connector.connect(name, socket).await.expect("a handshake"))
    }
}

impl Client {
    pub async fn connect(speaks: Speaks, to: &To) -> Client {
        let io = to.connect(speaks).await;
        match speaks {
            Speaks::Http1 => {
                let (reader, writer) = split(io);
                Client::Http1 { reader, writer, to: to.clone(), keeps: true }
            }
            Speaks::Http2 => {
                let mut builder = h2::client::Builder::new();
                builder
                    .initial_window_size(1 << 20)
                    .initial_connection_window_size(4 << 20)
                    .enable_push(false);
                let (sender, connection) = builder.handshake(io).await.expect("a handshake");
                let driver = tokio::spawn(connection);
                Client::Http2 { sender, driver, to: to.clone() }
            }
        }
    }

    /// Asks, and hears all of the answer.
    pub async fn ask(&mut self, ask: &Ask) -> Got {
        self.try_ask(ask).await.unwrap_or_default()
    }

    /// The same; `None`: the connection, or the stream, was ended without an answer.
    pub async fn try_ask(&mut self, ask: &Ask) -> Option<Got> {
        if let Client::Http1 { to, keeps: false, .. } = self {
            *self = Client::connect(Speaks::Http1, &to.clone()).await;
        }
        match self {
            Client::Http1 { reader, writer, to, keeps } => {
                let got = ask_http1(reader, writer, &to.authority(), ask).await;
                *keeps = got.as_ref().is_some_and(|got| got.keeps && got.whole);
                got
            }
            Client::Http2 { sender, to, .. } => {
                let (response, sink) = open(sender, to, ask).await?;
                hear(response, upload(sink, ask)).await
            }
        }
    }

    /// Begins to ask something, hears as much of a body as `bytes`, and goes: with RST_STREAM, or with the connection.
    pub async fn ask_and_leave(
        mut self,
        ask: &Ask,
        bytes: usize,
        mut until: impl Future<Output = ()> + Unpin,
    ) -> Client {
        match &mut self {
            Client::Http1 { reader, writer, to, .. } => {
                writer.write_all(&head_of(&to.authority(), ask)).await.expect("sent");
                if bytes > 0 {
                    let (_, fields) = reader.head().await.expect("a head").expect("one");
                    let mut framing = Framing::of(&fields, true);
                    let mut heard = 0;
                    while heard < bytes {
                        heard += reader.piece(&mut framing).await.expect("a piece").expect("more").len();
                    }
                }
                until.await;
            }
            Client::Http2 { sender, to, .. } => {
                let (response, mut sink) = open(sender, to, ask).await.expect("a stream");
                let mut response = Box::pin(response);
                if bytes > 0 {
                    let mut body = response.as_mut().await.expect("a head").into_body();
                    let mut heard = 0;
                    while heard < bytes {
                        let piece = body.data().await.expect("more").expect("a piece");
                        heard += piece.len();
                        body.flow_control().release_capacity(piece.len()).expect("granted");
                    }
                    until.await;
                    sink.send_reset(h2::Reason::CANCEL);
                } else {
                    tokio::select! {
                        () = &mut until => {}
                        answer = response => panic!("{answer:?}"),
                    }
                    sink.send_reset(h2::Reason::CANCEL);
                }
            }
        }
        self
    }

    /// Whether the other side has told that it ends the connection, and does: by GOAWAY, or by a close.
    pub async fn ends(self) -> bool {
        match self {
            Client::Http1 { mut reader, .. } => matches!(reader.head().await, Ok(None) | Err(_)),
            Client::Http2 { sender, driver, .. } => {
                let ended = driver.await.expect("it runs");
                drop(sender);
                ended.map_or_else(|error| error.reason() == Some(h2::Reason::NO_ERROR), |()| true)
            }
        }
    }
}

fn head_of(authority: &str, ask: &Ask) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\n", ask.method, ask.path);
    if !ask.fields.iter().any(|(name, _)| *name == "host") {
        head += &format!("Host: {authority}\r\n");
    }
    for (name, value) in &ask.fields {
        // What RFC 9110 §7.6.1 has in Connection is of this connection.
        if *name == "te" {
            head += "Connection: te\r\n";
        }
        head += &format!("{name}: {value}\r\n");
    }
    match (&ask.body, ask.length) {
        (Some(body), true) => head += &format!("Content-Length: {}\r\n", body.len()),
        (Some(_), false) => head += "Transfer-Encoding: chunked\r\n",
        (None, _) => {}
    }
    (head + "\r\n").into_bytes()
}

async fn ask_http1(reader: &mut Reader, writer: &mut Writer, authority: &str, ask: &Ask) -> Option<Got> {
    let sending = async {
        writer.write_all(&head_of(authority, ask)).await?;
        if let Some(body) = &ask.body {
            for piece in body.chunks(50_000) {
                match ask.length {
                    true => writer.write_all(piece).await?,
                    false => {
                        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                        chunk.extend_from_slice(piece);
                        chunk.extend_from_slice(b"\r\n");
                        writer.write_all(&chunk).await?;
                    }
                }
            }
            if !ask.length {
                let lines = ask.trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
                writer.write_all(format!("0\r\n{}\r\n", lines.collect::<String>()).as_bytes()).await?;
            }
        }
        writer.flush().await
    };
    tokio::select! {
        got = receive_http1(reader, ask.method == "HEAD") => got,
        // Who cannot send any more may still be answered.
        never = async { let _ = sending.await; pending().await } => never,
    }
}

async fn receive_http1(reader: &mut Reader, bodiless: bool) -> Option<Got> {
    let mut got = Got::default();
    loop {
        let (line, fields) = reader.head().await.ok()??;
        let status: u16 = line[9..12].parse().expect("a status");
        if status < 200 {
            got.interim.push((status, fields));
            continue;
        }
        (got.status, got.fields) = (status, fields);
        break;
    }
    got.keeps = got.field("connection") != Some("close");
    let mut framing = match bodiless || got.status == 204 || got.status == 304 {
        true => Framing::None,
        false => Framing::of(&got.fields, true),
    };
    loop {
        match reader.piece(&mut framing).await {
            Ok(Some(piece)) => got.body.extend_from_slice(&piece),
            Ok(None) => break,
            Err(_) => return Some(got),
        }
    }
    if let Framing::Over(trailers) = framing {
        got.trailers = trailers;
    }
    got.whole = true;
    Some(got)
}

async fn open(
    sender: &SendRequest<Bytes>,
    to: &To,
    ask: &Ask,
) -> Option<(h2::client::ResponseFuture, SendStream<Bytes>)> {
    let mut sender = sender.clone().ready().await.ok()?;
    let scheme = if to.trust.is_some() { "https" } else { "http" };
    let authority = to.authority();
    let mut request =
        Request::builder().method(ask.method).uri(format!("{scheme}://{authority}{}", ask.path));
    for (name, value) in &ask.fields {
        request = request.header(*name, value);
    }
    if let (Some(body), true) = (&ask.body, ask.length) {
        request = request.header("content-length", body.len());
    }
    sender.send_request(request.body(()).expect("a request"), ask.body.is_none()).ok()
}

async fn upload(mut sink: SendStream<Bytes>, ask: &Ask) -> Option<SendStream<Bytes>> {
    let Some(mut rest) = ask.body.clone() else { return Some(sink) };
    let trailers = !ask.trailers.is_empty();
    while !rest.is_empty() {
        let room = room(&mut sink, rest.len()).await?;
        let piece = rest.split_to(room.min(rest.len()));
        let last = rest.is_empty() && !trailers;
        sink.send_data(piece, last).ok()?;
    }
    if trailers {
        let fields = ask
            .trailers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        sink.send_trailers(fields.collect::<HeaderMap>()).ok()?;
    } else if ask.body.as_ref().is_some_and(Bytes::is_empty) {
        sink.send_data(Bytes::new(), true).ok()?;
    }
    Some(sink)
}

/// Waits for a window, for up to so many bytes.
pub async fn room(sink: &mut SendStream<Bytes>, bytes: usize) -> Option<usize> {
    sink.reserve_capacity(bytes.min(60_000));
    loop {
        match poll_fn(|context| sink.poll_capacity(context)).await? {
            Ok(0) => {}
            Ok(room) => return Some(room),
            Err(_) => return None,
        }
    }
}

async fn hear(
    mut response: h2::client::ResponseFuture,
    sending: impl Future<Output = Option<SendStream<Bytes>>>,
) -> Option<Got> {
    let mut got = Got::default();
    let receiving = async move {
        let head = poll_fn(|context| {
            while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(context) {
                got.interim.push((interim.status().as_u16(), fields_of(interim.headers())));
            }
            Pin::new(&mut response).poll(context)
        })
        .await
        .ok()?;
        (got.status, got.fields) = (head.status().as_u16(), fields_of(head.headers()));
        got.keeps = true;
        got.whole = take(head.into_body(), &mut got).await.is_ok();
        Some(got)
    };
    let mut sending = pin!(sending);
    let mut kept = None;
    let mut receiving = pin!(receiving);
    poll_fn(|context| {
        if kept.is_none()
            && let Poll::Ready(sink) = sending.as_mut().poll(context)
        {
            kept = Some(sink);
        }
        receiving.as_mut().poll(context)
    })
    .await
}

async fn take(mut body: RecvStream, got: &mut Got) -> Result<(), h2::Error> {
    while let Some(piece) = body.data().await {
        let piece = piece?;
        got.body.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len())?;
    }
    if let Some(trailers) = body.trailers().await? {
        got.trailers = fields_of(&trailers);
    }
    Ok(())
}

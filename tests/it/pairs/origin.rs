//! An origin that speaks either protocol and does what the path says, the same in both; HTTP/2 is the `h2` crate's.
//!
//! | last words of the path | what it does |
//! |---|---|
//! | `echo` | 200, the body as it comes, its end after that of the request |
//! | `seen` | 200, what was seen of the request, in JSON |
//! | `size/N`, `stream/N` | 200, N bytes, with or without their length said before |
//! | `bare/N` | the status N with `Content-Length: 10`, and no content |
//! | `trailers` | 200, and trailers behind its body |
//! | `hints` | 103, then 200 |
//! | `early` | 413, and no more of the request is read |
//! | `hold` | nothing; says when it is told to stop |
//! | `flood` | 200, and bytes without end until it is told to stop |
//! | `reset` | the end of the stream, or of the connection, instead of an answer |
//! | `cut/size`, `cut/stream` | the same behind a part of an answer |
//! | `short` | 200 that says 10 bytes, ends well after 5 |

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::http::{HeaderMap, Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::client::room;
use super::wire::{Fields, Framing, Io, Reader, Writer, fields_of, split};
use super::{Speaks, pattern};

/// How much of an answer comes before it is cut.
pub const CUT_BYTES: usize = 600_000;

/// A request, without its body.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// `:authority` is `host` here.
    pub fields: Fields,
    /// Which connection it came over.
    pub connection: usize,
}

/// What an origin has to say of a request.
#[derive(Clone, Debug)]
pub enum Event {
    Came(Asked),
    /// Somebody has told it to stop, at this path.
    Stopped(String),
}

pub struct Origin {
    pub address: SocketAddr,
    pub events: UnboundedReceiver<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub async fn start(speaks: Speaks, tls: Option<Arc<rustls::ServerConfig>>) -> Origin {
        Origin::start_with(speaks, tls, h2::server::Builder::new()).await
    }

    pub async fn start_with(
        speaks: Speaks,
        tls: Option<Arc<rustls::ServerConfig>>,
        builder: h2::server::Builder,
    ) -> Origin {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, events) = unbounded_channel();
        let task = tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).expect("no delay");
                let (sender, tls, builder) = (sender.clone(), tls.clone(), builder.clone());
                tokio::spawn(async move {
                    let io: Io = match tls {
                        None => Box::new(socket),
                        Some(config) => match tokio_rustls::TlsAcceptor::from(config).accept(socket).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    match speaks {
                        Speaks::Http1 => serve_http1(io, connection, sender).await,
                        Speaks::Http2 => serve_http2(io, connection, sender, builder).await,
                    }
                });
                connection += 1;
            }
        });
        Origin { address, events, task }
    }

    /// The next request.
    pub async fn next(&mut self) -> Asked {
        loop {
            if let Event::Came(asked) = self.events.recv().await.expect("an event") {
                return asked;
            }
        }
    }

    /// Waits until the request to `path` has been told to stop.
    pub async fn stopped(&mut self, path: &str) {
        loop {
            match self.events.recv().await.expect("an event") {
                Event::Stopped(found) if found == path => return,
                _ => {}
            }
        }
    }

    /// Requests that have come and nobody has looked at.
    pub fn came(&mut self) -> Vec<Asked> {
        let events = std::iter::from_fn(|| self.events.try_recv().ok());
        events.filter_map(|event| if let Event::Came(asked) = event { Some(asked) } else { None }).collect()
    }
}

/// The peer does not listen any more.
struct Gone;

/// One exchange, whatever is spoken.
enum Side<'a> {
    Http1 {
        reader: &'a mut Reader,
        writer: &'a mut Writer,
        framing: &'a mut Framing,
        chunked: bool,
        closes: &'a mut bool,
    },
    Http2 {
        body: RecvStream,
        respond: SendResponse<Bytes>,
        sink: Option<SendStream<Bytes>>,
    },
}

async fn serve_http1(io: Io, connection: usize, events: UnboundedSender<Event>) {
    let (mut reader, mut writer) = split(io);
    while let Ok(Some((line, fields))) = reader.head().await {
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
        let asked = Asked { method, path, fields, connection };
        let mut framing = Framing::of(&asked.fields, false);
        let mut closes = false;
        let side = Side::Http1 {
            reader: &mut reader,
            writer: &mut writer,
            framing: &mut framing,
            chunked: false,
            closes: &mut closes,
        };
        let done = act(&asked, side, &events).await.is_ok();
        if closes || !done {
            return;
        }
        while let Ok(Some(_)) = reader.piece(&mut framing).await {}
    }
}

async fn serve_http2(
    io: Io,
    connection: usize,
    events: UnboundedSender<Event>,
    builder: h2::server::Builder,
) {
    let Ok(mut server) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, respond))) = server.accept().await {
        let events = events.clone();
        tokio::spawn(async move {
            let (asked, body) = asked_of(request, connection);
            let _ = act(&asked, Side::Http2 { body, respond, sink: None }, &events).await;
        });
    }
}

pub fn asked_of(request: Request<RecvStream>, connection: usize) -> (Asked, RecvStream) {
    let (head, body) = request.into_parts();
    let mut fields = fields_of(&head.headers);
    if let Some(authority) = head.uri.authority() {
        fields.push(("host".to_owned(), authority.to_string()));
    }
    let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    (Asked { method: head.method.to_string(), path, fields, connection }, body)
}

async fn act(asked: &Asked, mut side: Side<'_>, events: &UnboundedSender<Event>) -> Result<(), Gone> {
    let _ = events.send(Event::Came(asked.clone()));
    let words: Vec<&str> = asked.path.split('?').next().unwrap_or_default().split('/').skip(2).collect();
    let number = || words.get(1).and_then(|word| word.parse::<usize>().ok()).unwrap_or_default();
    let bodiless = asked.method == "HEAD";
    match words[0] {
        "echo" => {
            side.head(200, &[], None, false).await?;
            while let Some(piece) = side.receive().await? {
                side.data(piece).await?;
            }
            side.end(&[]).await
        }
        "seen" => {
            let mut bytes = 0;
            while let Some(piece) = side.receive().await? {
                bytes += piece.len();
            }
            let seen = serde_json::json!({
                "method": asked.method, "path": asked.path, "fields": asked.fields, "bytes": bytes,
                "trailers": side.trailers().await, "connection": asked.connection,
            });
            let body = seen.to_string();
            side.head(200, &[("content-type", "application/json")], Some(body.len()), false).await?;
            side.data(body.into()).await?;
            side.end(&[]).await
        }
        word @ ("size" | "stream") => {
            while side.receive().await?.is_some() {}
            let body = Bytes::from(pattern(number()));
            let length = (word == "size").then_some(body.len());
            side.head(200, &[], length, bodiless || length == Some(0)).await?;
            if bodiless || length == Some(0) {
                return Ok(());
            }
            side.data(body).await?;
            side.end(&[]).await
        }
        "bare" => {
            let length = (number() != 204).then_some(10);
            side.head(number() as u16, &[("x-bare", "yes")], length, true).await
        }
        "trailers" => {
            side.head(200, &[("trailer", "x-sum")], None, false).await?;
            side.data(Bytes::from_static(b"with trailers")).await?;
            side.end(&[("x-sum", "12")]).await
        }
        "hints" => {
            side.interim(103, &[("link", "</style.css>; rel=preload")]).await?;
            side.head(200, &[], Some(6), false).await?;
            side.data(Bytes::from_static(b"hinted")).await?;
            side.end(&[]).await
        }
        "early" => {
            side.head(413, &[], Some(6), false).await?;
            side.data(Bytes::from_static(b"enough")).await?;
            side.end(&[]).await?;
            side.take_no_more().await;
            Ok(())
        }
        "hold" => {
            side.gone().await;
            let _ = events.send(Event::Stopped(asked.path.clone()));
            Err(Gone)
        }
        "flood" => {
            side.head(200, &[], None, false).await?;
            while side.data(Bytes::from(vec![b'a'; 10_000])).await.is_ok() {}
            let _ = events.send(Event::Stopped(asked.path.clone()));
            Err(Gone)
        }
        "reset" => {
            side.reset();
            Err(Gone)
        }
        "cut" => {
            // More than what the crate holds back: some of it has left before the end is said, which drops what has not.
            side.head(200, &[], (words[1] == "size").then_some(CUT_BYTES * 2), false).await?;
            side.data(Bytes::from(pattern(CUT_BYTES))).await?;
            side.reset();
            Err(Gone)
        }
        "short" => {
            side.head(200, &[], Some(10), false).await?;
            side.data(Bytes::from_static(b"short")).await?;
            side.end(&[]).await?;
            // Over HTTP/1.1 the connection ends with it.
            Err(Gone)
        }
        other => panic!("{other} in {}", asked.path),
    }
}

impl Side<'_> {
    async fn interim(&mut self, status: u16, fields: &[(&str, &str)]) -> Result<(), Gone> {
        match self {
            Side::Http1 { writer, .. } => write(writer, head_of(status, fields, "").as_bytes()).await,
            Side::Http2 { respond, .. } => {
                let response = response_of(status, fields, None);
                respond.send_informational(response).map_err(|_| Gone)
            }
        }
    }

    /// `last`: and nothing follows.
    async fn head(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        length: Option<usize>,
        last: bool,
    ) -> Result<(), Gone> {
        match self {
            Side::Http1 { writer, chunked, .. } => {
                let framing = match length {
                    Some(length) => format!("Content-Length: {length}\r\n"),
                    None if last => String::new(),
                    None => "Transfer-Encoding: chunked\r\n".to_owned(),
                };
                *chunked = length.is_none() && !last;
                write(writer, head_of(status, fields, &framing).as_bytes()).await
            }
            Side::Http2 { respond, sink, .. } => {
                let sent =
                    respond.send_response(response_of(status, fields, length), last).map_err(|_| Gone)?;
                *sink = Some(sent);
                Ok(())
            }
        }
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Side::Http1 { writer, chunked: false, .. } => write(writer, &bytes).await,
            Side::Http1 { writer, .. } => {
                for piece in bytes.chunks(60_000) {
                    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                    chunk.extend_from_slice(piece);
                    chunk.extend_from_slice(b"\r\n");
                    write(writer, &chunk).await?;
                }
                Ok(())
            }
            Side::Http2 { sink, .. } => {
                let sink = sink.as_mut().ok_or(Gone)?;
                let mut rest = bytes;
                while !rest.is_empty() {
                    let room = room(sink, rest.len()).await.ok_or(Gone)?;
                    sink.send_data(rest.split_to(room.min(rest.len())), false).map_err(|_| Gone)?;
                }
                Ok(())
            }
        }
    }

    async fn end(&mut self, trailers: &[(&str, &str)]) -> Result<(), Gone> {
        match self {
            Side::Http1 { chunked: false, .. } => Ok(()),
            Side::Http1 { writer, .. } => {
                let lines: String =
                    trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                write(writer, format!("0\r\n{lines}\r\n").as_bytes()).await
            }
            Side::Http2 { sink, .. } => {
                let sink = sink.as_mut().ok_or(Gone)?;
                if trailers.is_empty() {
                    return sink.send_data(Bytes::new(), true).map_err(|_| Gone);
                }
                let fields = trailers
                    .iter()
                    .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
                sink.send_trailers(fields.collect::<HeaderMap>()).map_err(|_| Gone)
            }
        }
    }

    /// Some of the request's body, or its end.
    async fn receive(&mut self) -> Result<Option<Bytes>, Gone> {
        match self {
            Side::Http1 { reader, framing, .. } => match reader.piece(framing).await {
                Ok(piece) => Ok(piece.map(Bytes::from)),
                Err(_) => Err(Gone),
            },
            Side::Http2 { body, .. } => match body.data().await {
                None => Ok(None),
                Some(Err(_)) => Err(Gone),
                Some(Ok(piece)) => {
                    body.flow_control().release_capacity(piece.len()).map_err(|_| Gone)?;
                    Ok(Some(piece))
                }
            },
        }
    }

    async fn trailers(&mut self) -> Fields {
        match self {
            Side::Http1 { framing: Framing::Over(trailers), .. } => trailers.clone(),
            Side::Http1 { .. } => Vec::new(),
            Side::Http2 { body, .. } => match body.trailers().await {
                Ok(Some(trailers)) => fields_of(&trailers),
                _ => Vec::new(),
            },
        }
    }

    /// Waits until the other side wants nothing more of it.
    async fn gone(&mut self) {
        match self {
            Side::Http1 { reader, .. } => reader.gone().await,
            Side::Http2 { respond, .. } => {
                let _ = poll_fn(|context| respond.poll_reset(context)).await;
            }
        }
    }

    /// Has answered, and reads no more of the request.
    async fn take_no_more(&mut self) {
        match self {
            Side::Http1 { reader, writer, closes, .. } => {
                **closes = true;
                // RFC 9112 §9.6: a close with bytes that nobody has read would take the answer back.
                let _ = writer.shutdown().await;
                reader.gone().await;
            }
            // The crate says so, with NO_ERROR, when nobody holds the stream any more.
            Side::Http2 { .. } => {}
        }
    }

    fn reset(&mut self) {
        match self {
            Side::Http1 { closes, .. } => **closes = true,
            Side::Http2 { respond, sink, .. } => match sink {
                Some(sink) => sink.send_reset(Reason::INTERNAL_ERROR),
                None => respond.send_reset(Reason::INTERNAL_ERROR),
            },
        }
    }
}

async fn write(writer: &mut Writer, bytes: &[u8]) -> Result<(), Gone> {
    writer.write_all(bytes).await.map_err(|_| Gone)?;
    writer.flush().await.map_err(|_| Gone)
}

fn head_of(status: u16, fields: &[(&str, &str)], framing: &str) -> String {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Text\r\n{lines}{framing}\r\n")
}

fn response_of(status: u16, fields: &[(&str, &str)], length: Option<usize>) -> Response<()> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    if let Some(length) = length {
        response = response.header("content-length", length);
    }
    response.body(()).expect("a response")
}

//! What the tests of the control thread share: an issuer on loopback that does as it is told, a resolver that
//! says what a table says, and a control thread whose key sets are lists of key ids.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ringwall::control::address_guard::AddressGuard;
use ringwall::control::dns::{Answer, Resolve, Resolving};
use ringwall::control::exchange::{tls_config, trust_roots};
use ringwall::control::fetch::{Client, FetchLimits};
use ringwall::control::keys::ParseKeys;
use ringwall::control::{Control, Options};
use rustls::RootCertStore;

/// What the issuer answers.
#[derive(Clone)]
pub enum Page {
    /// Status, fields, body with its length.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Status 200 and this many bytes in chunks, without a length.
    Chunks(usize),
    /// Nothing, ever.
    Silence,
}

impl Page {
    /// A 200 with a JSON body.
    pub fn json(body: &str) -> Page {
        Page::Whole(200, vec![("content-type", "application/json".to_owned())], body.as_bytes().to_vec())
    }
}

type Answering = Box<dyn Fn(&str) -> Page + Send>;

struct State {
    answering: Mutex<Answering>,
    asked: Mutex<Vec<String>>,
    changed: Condvar,
}

/// A server on a loopback port, on a thread of its own.
pub struct Issuer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Issuer {
    /// A plain server.
    pub fn start(answering: impl Fn(&str) -> Page + Send + 'static) -> Issuer {
        Issuer::start_with(None, answering)
    }

    /// A server behind TLS.
    pub fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        answering: impl Fn(&str) -> Page + Send + 'static,
    ) -> Issuer {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            answering: Mutex::new(Box::new(answering)),
            asked: Mutex::default(),
            changed: Condvar::new(),
        });
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let shared = state.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                loop {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        _ = &mut stopped => return,
                    };
                    let Ok((stream, _)) = accepted else { return };
                    let (state, tls) = (shared.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(TokioIo::new(stream), state).await,
                            Some(tls) => {
                                let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    serve(TokioIo::new(stream), state).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        Issuer { address, state, _stop: stop }
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers differently from now on.
    pub fn answer(&self, answering: impl Fn(&str) -> Page + Send + 'static) {
        *self.state.answering.lock().expect("not poisoned") = Box::new(answering);
    }

    /// The targets that were asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().expect("not poisoned").clone()
    }

    /// Waits until `count` requests came.
    pub fn wait_for(&self, count: usize) {
        let asked = self.state.asked.lock().expect("not poisoned");
        let waiting = self
            .state
            .changed
            .wait_timeout_while(asked, Duration::from_secs(20), |asked| asked.len() < count);
        let (asked, result) = waiting.expect("not poisoned");
        assert!(!result.timed_out(), "only {} of {count} requests came", asked.len());
    }
}

async fn serve<S>(io: TokioIo<S>, state: Arc<State>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let state = state.clone();
        async move {
            let target = request.uri().to_string();
            let page = (state.answering.lock().expect("not poisoned"))(&target);
            state.asked.lock().expect("not poisoned").push(target);
            state.changed.notify_all();
            Ok::<_, Infallible>(respond(page).await)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

async fn respond(page: Page) -> Response<BoxBody<Bytes, Infallible>> {
    match page {
        Page::Silence => std::future::pending().await,
        Page::Chunks(bytes) => Response::new(Spaces { left: bytes }.boxed()),
        Page::Whole(status, fields, body) => {
            let mut builder = Response::builder().status(status);
            for (name, value) in fields {
                builder = builder.header(name, value);
            }
            let body = match body.is_empty() {
                true => Empty::new().boxed(),
                false => Full::new(Bytes::from(body)).boxed(),
            };
            builder.body(body).expect("a response")
        }
    }
}

/// A body of spaces whose length is not told.
struct Spaces {
    left: usize,
}

impl Body for Spaces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.left.min(16 * 1024);
        self.left -= part;
        Poll::Ready((part > 0).then(|| Ok(Frame::data(Bytes::from(vec![b' '; part])))))
    }
}

/// A resolver that gives every name the same addresses.
pub fn resolver_of(addresses: &[&str]) -> Arc<dyn Resolve> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Arc::new(move |_: &str| -> Resolving {
        Box::pin(std::future::ready(Ok(Answer {
            addresses: addresses.clone(),
            ttl: Duration::from_secs(60),
            local: false,
        })))
    })
}

/// A client with these parts; `listed` are networks.
pub fn client(
    resolver: Arc<dyn Resolve>,
    listed: &[&str],
    roots: RootCertStore,
    limits: FetchLimits,
) -> Client {
    let listed = listed.iter().map(|text| text.parse().expect("a network")).collect();
    Client::new(resolver, AddressGuard::new(listed), tls_config(roots).expect("a config"), limits)
}

/// Key sets as lists of ids: `{"keys":[{"kid":"a"}]}`, empty ones refused.
pub fn parse_ids() -> ParseKeys<Vec<String>> {
    Arc::new(|document, _| {
        let value: serde_json::Value = serde_json::from_slice(document).map_err(|error| error.to_string())?;
        assert_ne!(value, "panic", "a parser with a bug");
        let keys = value.get("keys").and_then(|keys| keys.as_array()).ok_or("no keys")?;
        let ids: Vec<String> =
            keys.iter().filter_map(|key| key.get("kid")?.as_str().map(str::to_owned)).collect();
        if ids.is_empty() { Err("no usable key".to_owned()) } else { Ok(ids) }
    })
}

/// Options of a control thread that resolves nothing and trusts nobody.
pub fn options() -> Options<Vec<String>> {
    let roots = trust_roots(None).unwrap_or_else(|_| RootCertStore::empty());
    let mut options = Options::new(tls_config(roots).expect("a config"), parse_ids());
    options.resolver = Some(Arc::new(|_: &str| -> Resolving {
        Box::pin(std::future::ready(Err("this test resolves nothing".to_owned().into())))
    }));
    options
}

/// A control thread of [`options`].
pub fn control() -> Control<Vec<String>> {
    Control::start(options()).expect("a control thread")
}

/// Waits until `holds`, which something else brings about.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory of its own, removed at the end.
pub struct Directory(pub std::path::PathBuf);

impl Directory {
    /// A fresh one.
    pub fn new(name: &str) -> Directory {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringwall-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it, in place.
    pub fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        std::fs::write(self.path(name), text).expect("written");
        self.path(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

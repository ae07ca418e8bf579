//! Entry points for the fuzz targets, always compiled, so that tests replay the corpora.

/// A schema, a zero byte, a body: both runs agree, and neither panics.
pub fn json_schema(data: &[u8]) {
    crate::schema::replay(data);
}

/// HTTP/1 heads of both directions: see [`crate::h1::laws::heads`].
pub fn h1_head(data: &[u8]) {
    crate::h1::laws::heads(data);
}

/// HTTP/1 bodies: see [`crate::h1::laws::chunked`].
pub fn h1_chunked(data: &[u8]) {
    crate::h1::laws::chunked(data);
}

/// HTTP/1 parsed, forwarded, encoded and parsed again: see [`crate::h1::laws::round_trip`].
pub fn h1_roundtrip(data: &[u8]) {
    crate::h1::laws::round_trip(data);
}

/// HTTP/1 requests one behind another: see [`crate::h1::laws::stream`].
pub fn h1_stream(data: &[u8]) {
    crate::h1::laws::stream(data);
}

/// HTTP/2 frames, cut anywhere: see [`crate::h2::laws::frames`].
pub fn h2_frames(data: &[u8]) {
    crate::h2::laws::frames(data);
}

/// Operations on a pair of HTTP/2 connections: see [`crate::h2::laws::operations`].
pub fn h2_operations(data: &[u8]) {
    crate::h2::laws::operations(data);
}

/// Request targets: see [`crate::h1::laws::target`].
pub fn target(data: &[u8]) {
    crate::h1::laws::target(data);
}

/// The configuration: see [`crate::config::load::fuzz`].
pub fn config(data: &[u8]) {
    crate::config::load::fuzz(data);
}

/// A token, or a header and claims that are signed first.
pub fn jwt(data: &[u8]) {
    crate::jose::fuzz::jwt(data);
}

/// A key set.
pub fn jwks(data: &[u8]) {
    crate::jose::fuzz::jwks(data);
}

/// Log lines of both formats: see [`crate::observe::laws::log_line`].
pub fn log_line(data: &[u8]) {
    crate::observe::laws::log_line(data);
}

/// What a client sends first under TLS: see [`crate::tls::hello::client_hello`].
pub fn client_hello(data: &[u8]) {
    crate::tls::hello::client_hello(data);
}

/// A TLS session, fed in pieces: see [`crate::tls::laws::session`].
pub fn tls_session(data: &[u8]) {
    crate::tls::laws::session(data);
}

/// A file of prefixes, and addresses to ask for: see [`crate::accept::prefixes::laws::text`].
pub fn address_list(data: &[u8]) {
    crate::accept::prefixes::laws::text(data);
}

/// The value of `Content-Type`: see [`crate::http::media_type::law`].
pub fn media_type(data: &[u8]) {
    crate::http::media_type::law(data);
}

/// Names of certificates and patterns for them: see [`crate::tls::certificate_names::laws`].
pub fn certificate_names(data: &[u8]) {
    crate::tls::certificate_names::laws(data);
}

/// A PROXY header: see [`crate::accept::proxy_protocol::replay`].
pub fn proxy_protocol(data: &[u8]) {
    crate::accept::proxy_protocol::replay(data);
}

/// What a client sends before proxies add whom they saw: see [`crate::http::forwarded::replay`].
pub fn forwarded(data: &[u8]) {
    crate::http::forwarded::replay(data);
}

/// Header blocks of HTTP/2 against the oracle, and the heads that they are: see [`crate::h2::hpack::laws::blocks`].
pub fn hpack(data: &[u8]) {
    crate::h2::hpack::laws::blocks(data);
}

/// Fields encoded for HTTP/2 and decoded again: see [`crate::h2::hpack::laws::round_trip`].
pub fn hpack_roundtrip(data: &[u8]) {
    crate::h2::hpack::laws::round_trip(data);
}

/// The body of a call of gRPC or gRPC-Web: see [`crate::grpc::laws::messages`].
pub fn grpc_messages(data: &[u8]) {
    crate::grpc::laws::messages(data);
}

/// One direction of a call as it goes by: see [`crate::grpc::laws::filter`].
pub fn grpc_filter(data: &[u8]) {
    crate::grpc::laws::filter(data);
}

/// Frames of a WebSocket, and how they are cut: see [`crate::websocket::laws::frames`].
pub fn websocket_frames(data: &[u8]) {
    crate::websocket::laws::frames(data);
}

//! Fetching on our own account: bounds, redirects, addresses, certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringwall::control::address_guard::{AddressKind, Origin};
use ringwall::control::dns::{Answer, Resolve, Resolving};
use ringwall::control::exchange::{ExchangeError, trust_roots};
use ringwall::control::fetch::{Client, Document, FetchError, FetchLimits, Url};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;

use crate::control_issuer::{Directory, Issuer, Page, client, resolver_of};

fn plain(limits: FetchLimits) -> Client {
    client(resolver_of(&[]), &[], RootCertStore::empty(), limits)
}

fn fetch(client: &Client, url: &str, origin: Origin) -> Result<Document, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(client.fetch(&Url::parse(url).expect("a URL"), origin))
}

fn fetch_page(page: Page, limits: FetchLimits) -> Result<Document, FetchError> {
    let issuer = Issuer::start(move |_| page.clone());
    fetch(&plain(limits), &issuer.url("/keys?a=b"), Origin::Written)
}

#[test]
fn a_document_comes_with_its_age() {
    let fields = vec![("cache-control", "public, max-age=900".to_owned())];
    let page = Page::Whole(200, fields, b"{}".to_vec());
    let document = fetch_page(page, FetchLimits::default()).expect("a document");
    assert_eq!(document.body, b"{}");
    assert_eq!(document.max_age, Some(Duration::from_secs(900)));
}

#[test]
fn a_redirect_is_not_followed() {
    let inside = Issuer::start(|_| Page::json("{}"));
    for status in [301, 302, 303, 307, 308] {
        let page = Page::Whole(status, vec![("location", inside.url("/"))], Vec::new());
        let result = fetch_page(page, FetchLimits::default());
        assert!(matches!(result, Err(FetchError::Redirect(found)) if found.as_u16() == status), "{result:?}");
    }
    assert!(inside.asked().is_empty());
}

#[test]
fn only_200_is_a_document() {
    for status in [201, 204, 206, 400, 401, 403, 404, 429, 500, 503] {
        let result = fetch_page(Page::Whole(status, vec![], Vec::new()), FetchLimits::default());
        assert!(matches!(result, Err(FetchError::Status(found)) if found.as_u16() == status), "{result:?}");
    }
}

#[test]
fn an_encoding_that_was_not_asked_for_is_refused() {
    let page = Page::Whole(200, vec![("content-encoding", "gzip".to_owned())], b"x".to_vec());
    assert!(matches!(fetch_page(page, FetchLimits::default()), Err(FetchError::Encoding)));
}

#[test]
fn a_body_past_its_bound_is_refused_with_and_without_a_length() {
    let limits = FetchLimits { body_bytes_max: 40_000, ..FetchLimits::default() };
    for (bytes, fits) in [(39_999, true), (40_000, true), (40_001, false), (100_000_000, false)] {
        let whole = (bytes < 1_000_000).then(|| Page::Whole(200, vec![], vec![b' '; bytes]));
        for page in whole.into_iter().chain([Page::Chunks(bytes)]) {
            match fetch_page(page, limits) {
                Ok(document) => assert!(fits && document.body.len() == bytes, "{bytes}"),
                Err(FetchError::Exchange(ExchangeError::TooLarge { bytes_max })) => {
                    assert!(!fits && bytes_max == 40_000, "{bytes}");
                }
                Err(other) => panic!("{bytes}: {other}"),
            }
        }
    }
}

#[test]
fn a_silent_server_costs_the_total_time_and_no_more() {
    let limits = FetchLimits { total: Duration::from_millis(100), ..FetchLimits::default() };
    assert!(matches!(fetch_page(Page::Silence, limits), Err(FetchError::Timeout(_))));
}

#[test]
fn a_name_that_resolves_inside_is_refused_before_any_connection() {
    let issuer = Issuer::start(|_| Page::json("{}"));
    let port = issuer.address.port();
    for (addresses, refused) in [
        (&["127.0.0.1"][..], AddressKind::Loopback),
        (&["::ffff:127.0.0.1"], AddressKind::Loopback),
        (&["::1"], AddressKind::Loopback),
        (&["10.0.0.1"], AddressKind::Private),
        (&["169.254.169.254"], AddressKind::Metadata),
        (&["fd00:ec2::254"], AddressKind::Metadata),
        (&["0.0.0.0"], AddressKind::Unspecified),
        (&["64:ff9b::7f00:1"], AddressKind::Translated),
        (&["1.1.1.1", "127.0.0.1"], AddressKind::Loopback),
        (&["2606:4700::1111", "fe80::1"], AddressKind::LinkLocal),
    ] {
        let client = client(resolver_of(addresses), &[], RootCertStore::empty(), FetchLimits::default());
        for origin in [Origin::Written, Origin::Found] {
            let result = fetch(&client, &format!("https://inside.test:{port}/"), origin);
            assert!(
                matches!(result, Err(FetchError::Refused { kind, .. }) if kind == refused),
                "{addresses:?}"
            );
        }
    }
    assert!(issuer.asked().is_empty());
}

#[test]
fn an_address_in_somebody_elses_document_is_not_the_operators() {
    let issuer = Issuer::start(|_| Page::json("{}"));
    let client = plain(FetchLimits::default());
    for url in [issuer.url("/"), format!("http://localhost:{}/", issuer.address.port())] {
        assert!(matches!(fetch(&client, &url, Origin::Found), Err(FetchError::Refused { .. })), "{url}");
        assert!(fetch(&client, &url, Origin::Written).is_ok(), "{url}");
    }
    for url in ["https://169.254.169.254/", "https://[fd00:ec2::254]/", "https://[::ffff:169.254.169.254]/"] {
        assert!(matches!(fetch(&client, url, Origin::Written), Err(FetchError::Refused { .. })), "{url}");
    }
}

/// A resolver that says something public the first time and loopback afterwards, and the other way round.
#[test]
fn the_judged_address_is_the_connected_one() {
    let issuer = Issuer::start(|_| Page::json("{}"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rebinding: Arc<dyn Resolve> = Arc::new(move |_: &str| -> Resolving {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let address = if first { "127.0.0.1" } else { "10.0.0.1" };
        let addresses = vec![address.parse().expect("an address")];
        Box::pin(std::future::ready(Ok(Answer { addresses, ttl: Duration::ZERO, local: false })))
    });
    let (config, roots) = certificate_for("idp.test");
    drop(issuer);
    let issuer = Issuer::start_with(Some(config), |_| Page::json("{\"a\":1}"));
    let client = client(rebinding, &["127.0.0.0/8"], roots, FetchLimits::default());
    let document = fetch(&client, &format!("https://idp.test:{}/", issuer.address.port()), Origin::Found);
    assert_eq!(document.expect("the first address is listed and connected to").body, b"{\"a\":1}");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "resolved once");
}

#[test]
fn https_is_verified() {
    let (config, roots) = certificate_for("idp.test");
    let issuer = Issuer::start_with(Some(config), |_| Page::json("{}"));
    let resolver = || resolver_of(&["127.0.0.1"]);
    let listed = &["127.0.0.0/8"];
    let trusting = client(resolver(), listed, roots, FetchLimits::default());
    let port = issuer.address.port();
    assert!(fetch(&trusting, &format!("https://idp.test:{port}/"), Origin::Written).is_ok());
    let other_name = fetch(&trusting, &format!("https://other.test:{port}/"), Origin::Written);
    assert!(matches!(other_name, Err(FetchError::Exchange(ExchangeError::Tls(_)))), "{other_name:?}");
    let address = fetch(&trusting, &format!("https://127.0.0.1:{port}/"), Origin::Written);
    assert!(matches!(address, Err(FetchError::Exchange(ExchangeError::Tls(_)))), "{address:?}");
    let (_, other_roots) = certificate_for("idp.test");
    let distrusting = client(resolver(), listed, other_roots, FetchLimits::default());
    let unknown = fetch(&distrusting, &format!("https://idp.test:{port}/"), Origin::Written);
    assert!(matches!(unknown, Err(FetchError::Exchange(ExchangeError::Tls(_)))), "{unknown:?}");
    assert_eq!(issuer.asked().len(), 1);
}

#[test]
fn a_ca_file_replaces_the_systems_roots() {
    let directory = Directory::new("ca");
    let key = rcgen::generate_simple_self_signed(vec!["idp.test".to_owned()]).expect("a certificate");
    let file = directory.write("ca.pem", &key.cert.pem());
    assert_eq!(trust_roots(Some(&file)).expect("roots").len(), 1);
    let empty = directory.write("empty.pem", "nothing");
    assert!(trust_roots(Some(&empty)).is_err());
    assert!(trust_roots(Some(&directory.path("absent.pem"))).is_err());
}

/// A self-signed certificate for `name`: a server that shows it, and roots that trust it.
fn certificate_for(name: &str) -> (Arc<rustls::ServerConfig>, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a config");
    (Arc::new(config), roots)
}

//! Key sets: pre-fetched, rotated, kept through every kind of trouble. AN-02.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall::control::Control;
use ringwall::control::keys::{Keeper, KeySource, verification_keys};

use crate::control_issuer::{Directory, Issuer, Page, control, eventually, options};

type Ids = Vec<String>;

fn url(issuer: &Issuer, path: &str) -> KeySource {
    KeySource::url(&issuer.url(path)).expect("a source")
}

fn keeper(control: &Control<Ids>, source: KeySource) -> Arc<Keeper<Ids>> {
    control.parts().keys.keeper(source).expect("a keeper")
}

fn settled(control: &Control<Ids>, source: KeySource) -> Arc<Keeper<Ids>> {
    let keeper = keeper(control, source);
    control.block_on(keeper.settled());
    keeper
}

fn ids(keeper: &Keeper<Ids>) -> Ids {
    keeper.current().set.as_deref().cloned().unwrap_or_default()
}

const OLD: &str = r#"{"keys":[{"kid":"old"}]}"#;
const NEW: &str = r#"{"keys":[{"kid":"old"},{"kid":"new"}]}"#;

#[test]
fn keys_are_fetched_before_anybody_asks() {
    let issuer = Issuer::start(|_| Page::json(OLD));
    let control = control();
    let keeper = settled(&control, url(&issuer, "/keys"));
    assert_eq!(ids(&keeper), ["old"]);
    assert!(keeper.current().generation > 0 && keeper.current().fetched_at.is_some());
}

#[test]
fn a_rotated_key_is_there_within_a_second_of_its_first_use() {
    let issuer = Issuer::start(|_| Page::json(OLD));
    let control = control();
    let keeper = settled(&control, url(&issuer, "/keys"));
    let before = keeper.current().generation;
    issuer.answer(|_| Page::json(NEW));
    let first_use = Instant::now();
    keeper.ask();
    eventually("the new key", || ids(&keeper) == ["old", "new"]);
    assert!(first_use.elapsed() < Duration::from_secs(1), "{:?}", first_use.elapsed());
    assert!(keeper.current().generation > before);
}

#[test]
fn forged_ids_from_two_threads_cause_one_fetch_per_cool_down() {
    let issuer = Issuer::start(|_| Page::json(OLD));
    let control = control();
    let keeper = settled(&control, url(&issuer, "/keys"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..500_000).for_each(|_| keeper.ask()));
        }
    });
    issuer.wait_for(2);
    // Another keeper's whole life goes by on the same thread: had a third fetch been due, it would have come.
    let other = settled(&control, url(&issuer, "/other"));
    assert_eq!(ids(&other), ["old"]);
    (0..100_000).for_each(|_| keeper.ask());
    let another = settled(&control, url(&issuer, "/another"));
    assert_eq!(ids(&another), ["old"]);
    let fetches = issuer.asked().iter().filter(|target| *target == "/keys").count();
    assert_eq!(fetches, 2, "one at the start, one for a million forged ids");
}

#[test]
fn an_issuer_in_trouble_takes_no_key_away() {
    let issuer = Issuer::start(|_| Page::json(OLD));
    let mut options = options();
    options.key_times.cool_down = Duration::from_millis(5);
    let control = Control::start(options).expect("a control thread");
    let keeper = settled(&control, url(&issuer, "/keys"));
    let generation = keeper.current().generation;
    let troubles = [
        Page::Whole(500, vec![], b"no".to_vec()),
        Page::Whole(404, vec![], Vec::new()),
        Page::Whole(302, vec![("location", "http://127.0.0.1/".to_owned())], Vec::new()),
        Page::json(""),
        Page::json("{}"),
        Page::json("[]"),
        Page::json(r#"{"keys":[]}"#),
        Page::json(r#"{"keys":{"kid":"evil"}}"#),
        Page::json("<html>captive portal</html>"),
        Page::json("\"panic\""),
        Page::Whole(200, vec![], vec![0xff; 100]),
        Page::Chunks((1 << 20) + 1),
    ];
    for trouble in troubles {
        let before = keeper.counts().failures.load(std::sync::atomic::Ordering::Relaxed);
        issuer.answer(move |_| trouble.clone());
        eventually("a failure", || {
            keeper.ask();
            keeper.counts().failures.load(std::sync::atomic::Ordering::Relaxed) > before
        });
        assert_eq!(ids(&keeper), ["old"]);
        assert_eq!(keeper.current().generation, generation);
    }
    // The issuer dies: the port is closed.
    drop(issuer);
    let before = keeper.counts().failures.load(std::sync::atomic::Ordering::Relaxed);
    eventually("a failure", || {
        keeper.ask();
        keeper.counts().failures.load(std::sync::atomic::Ordering::Relaxed) > before
    });
    assert_eq!(ids(&keeper), ["old"]);
}

#[test]
fn the_same_document_again_is_the_same_generation() {
    let issuer = Issuer::start(|_| Page::json(OLD));
    let control = control();
    let keeper = settled(&control, url(&issuer, "/keys"));
    let (generation, at) = (keeper.current().generation, keeper.current().fetched_at);
    keeper.ask();
    eventually("a confirmation", || keeper.current().fetched_at > at);
    assert_eq!(keeper.current().generation, generation);
}

#[test]
fn a_slow_issuer_delays_no_other() {
    let slow = Issuer::start(|_| Page::Silence);
    let quick = Issuer::start(|_| Page::json(OLD));
    let control = control();
    let waiting: Vec<_> = (0..20).map(|n| keeper(&control, url(&slow, &format!("/{n}")))).collect();
    slow.wait_for(20);
    let start = Instant::now();
    let keeper = settled(&control, url(&quick, "/keys"));
    assert_eq!(ids(&keeper), ["old"]);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(waiting.iter().all(|keeper| keeper.current().generation == 0));
}

#[test]
fn discovery_leads_from_the_issuer_to_its_keys() {
    let issuer = Issuer::start(|_| Page::Silence);
    let name = issuer.url("/realm");
    let document = format!(r#"{{"issuer":"{name}","jwks_uri":"{}"}}"#, issuer.url("/realm/keys"));
    issuer.answer(move |target| match target {
        "/realm/.well-known/openid-configuration" => Page::json(&document),
        "/realm/keys" => Page::json(OLD),
        _ => Page::Whole(404, vec![], Vec::new()),
    });
    let control = control();
    let keeper = settled(&control, KeySource::issuer(&name).expect("an issuer"));
    assert_eq!(ids(&keeper), ["old"]);
    // An unknown id asks for the keys only: one fetch, not two.
    keeper.ask();
    issuer.wait_for(3);
    let well_known = "/realm/.well-known/openid-configuration";
    assert_eq!(issuer.asked(), [well_known, "/realm/keys", "/realm/keys"]);
}

#[test]
fn discovery_refuses_a_mix_up() {
    let other = Issuer::start(|_| Page::json(OLD));
    let issuer = Issuer::start(|_| Page::Silence);
    let name = issuer.url("");
    let keys = issuer.url("/keys");
    let control = control();
    for (path, document) in [
        ("/a", format!(r#"{{"issuer":"{name}/b","jwks_uri":"{keys}"}}"#)),
        ("/b", format!(r#"{{"issuer":"{name}/b/","jwks_uri":"{keys}"}}"#)),
        ("/c", format!(r#"{{"issuer":"{name}/c"}}"#)),
        ("/d", format!(r#"{{"issuer":"{name}/d","jwks_uri":"{}"}}"#, other.url("/keys"))),
        ("/e", format!(r#"{{"issuer":"{name}/e","jwks_uri":"https://169.254.169.254/keys"}}"#)),
        ("/f", format!(r#"{{"issuer":"{name}/f","jwks_uri":"file:///etc/passwd"}}"#)),
    ] {
        issuer.answer(move |target| match target.ends_with("openid-configuration") {
            true => Page::json(&document),
            false => Page::json(OLD),
        });
        let keeper = settled(&control, KeySource::issuer(&format!("{name}{path}")).expect("an issuer"));
        assert_eq!(keeper.current().generation, 0, "{path}");
    }
    assert!(other.asked().is_empty(), "a stranger's plain loopback address is not fetched");
}

#[test]
fn a_file_is_read_again_when_it_changes_and_kept_when_it_is_broken() {
    let directory = Directory::new("jwks");
    let file = directory.write("keys.json", OLD);
    let control = control();
    let keeper = settled(&control, KeySource::File(file));
    assert_eq!(ids(&keeper), ["old"]);
    let fresh = directory.write("keys.json.tmp", NEW);
    std::fs::rename(fresh, directory.path("keys.json")).expect("renamed");
    eventually("the new file", || ids(&keeper) == ["old", "new"]);
    let generation = keeper.current().generation;
    directory.write("keys.json", "{");
    let failures = || keeper.counts().failures.load(std::sync::atomic::Ordering::Relaxed);
    eventually("the broken file", || failures() > 0);
    assert_eq!((ids(&keeper).len(), keeper.current().generation), (2, generation));
}

#[test]
fn two_snapshots_share_a_keeper_and_the_last_one_ends_it() {
    let issuer = Issuer::start(|_| Page::json(OLD));
    let control = control();
    let first = settled(&control, url(&issuer, "/keys"));
    let generation = first.current().generation;
    let second = keeper(&control, url(&issuer, "/keys"));
    assert!(Arc::ptr_eq(&first, &second));
    drop(first);
    drop(second);
    let third = settled(&control, url(&issuer, "/keys"));
    assert!(third.current().generation > generation, "generations are never used twice");
    assert_eq!(issuer.asked().len(), 2);
}

#[test]
fn a_shared_secret_is_believed_from_a_file_and_not_from_a_url() {
    let secret = r#"{"keys":[{"kty":"oct","kid":"s","alg":"HS256","k":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#;
    let parse = verification_keys();
    let parsed = parse(secret.as_bytes(), &KeySource::File("keys.json".into()));
    assert!(parsed.expect("a set").key("s").is_some());
    let url = KeySource::url("https://idp.test/keys").expect("a source");
    let issuer = KeySource::issuer("https://idp.test").expect("a source");
    for source in [url, issuer] {
        assert!(parse(secret.as_bytes(), &source).is_err(), "{source}");
        assert!(parse(b"{\"keys\":[]}", &source).is_err(), "a set without a key is no set");
    }
}

/// A keeper that is dropped closes its bell, and the end of a stream is readable for ever: a task that listened
/// on would take the whole control thread with it.
#[test]
fn dropped_keepers_give_the_thread_back() {
    let directory = Directory::new("dropped");
    let file = directory.write("keys.json", OLD);
    let control = control();
    for round in 0..300 {
        let keeper = keeper(&control, KeySource::File(file.clone()));
        if round % 2 == 0 {
            control.block_on(keeper.settled());
            keeper.ask();
        }
        drop(keeper);
    }
    assert_eq!(ids(&settled(&control, KeySource::File(file))), ["old"]);
}

//! Names and health: what the control thread keeps telling the data threads about upstreams.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringwall::control::dns::{Answer, Resolve, Resolving, SystemResolver};
use ringwall::control::health::{Plan, Probe, Start};
use ringwall::control::names::LOOKUPS_MAX;
use ringwall::control::{Control, Options};
use ringwall::sys::address::Address;

use crate::control_issuer::{Issuer, Page, control, eventually, options};

type Script = Arc<Mutex<Result<Vec<IpAddr>, String>>>;

/// A control thread whose resolver says what the script says, counted.
fn scripted(script: &Script, asked: &Arc<AtomicUsize>, changes: &Arc<AtomicUsize>) -> Control<Vec<String>> {
    let (script, asked, changes) = (script.clone(), asked.clone(), changes.clone());
    let resolver: Arc<dyn Resolve> = Arc::new(move |_: &str| -> Resolving {
        asked.fetch_add(1, Ordering::Relaxed);
        let said = script.lock().expect("not poisoned").clone();
        let said = said.map(|addresses| Answer { addresses, ttl: Duration::ZERO, local: false });
        Box::pin(std::future::ready(said.map_err(Into::into)))
    });
    let on_publish: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        changes.fetch_add(1, Ordering::Relaxed);
    });
    Control::start(Options { resolver: Some(resolver), on_publish, ..options() }).expect("a control thread")
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

#[test]
fn addresses_follow_the_resolver_and_survive_its_failure() {
    let script: Script = Arc::new(Mutex::new(Ok(vec![address(2), address(1), address(2)])));
    let (asked, changes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let control = scripted(&script, &asked, &changes);
    let addresses = control.parts().names.addresses("db.internal");
    control.block_on(addresses.settled());
    assert_eq!(addresses.current().addresses, [address(1), address(2)], "sorted, each once");
    assert_eq!(changes.load(Ordering::Relaxed), 1);
    assert!(Arc::ptr_eq(&addresses, &control.parts().names.addresses("DB.internal")));

    // A TTL of zero counts as a second: no busy asking.
    *script.lock().expect("not poisoned") = Err("the resolver is gone".to_owned());
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(before, 1);
    eventually("a failed look", || asked.load(Ordering::Relaxed) > before);
    assert_eq!(addresses.current().addresses, [address(1), address(2)]);

    *script.lock().expect("not poisoned") = Ok(Vec::new());
    let before = asked.load(Ordering::Relaxed);
    eventually("an empty answer", || asked.load(Ordering::Relaxed) > before);
    assert_eq!(addresses.current().addresses, [address(1), address(2)], "an empty answer takes nothing away");

    *script.lock().expect("not poisoned") = Ok(vec![address(9)]);
    eventually("the new address", || addresses.current().addresses == [address(9)]);
    assert_eq!(changes.load(Ordering::Relaxed), 2);
}

/// hickory against a server of ours: one A record, TTL 7, nothing for AAAA.
#[test]
fn the_real_resolver_asks_the_servers_of_the_configuration() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let at = server.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((bytes, from)) = server.recv_from(&mut packet) {
            let _ = server.send_to(&dns_answer(&packet[..bytes]), from);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let answers = runtime.block_on(async {
        let resolver = SystemResolver::new(&[at]);
        (
            resolver.resolve("db.ringwall-test.example").await,
            resolver.resolve("localhost").await,
            resolver.resolve("a.localhost").await,
        )
    });
    let answer = answers.0.expect("an answer");
    assert_eq!(answer.addresses, [address(77)]);
    assert!(answer.ttl <= Duration::from_secs(7) && answer.ttl > Duration::from_secs(5), "{:?}", answer.ttl);
    for local in [answers.1, answers.2] {
        assert!(local.expect("without a server").addresses.iter().all(IpAddr::is_loopback));
    }
}

/// RFC 1035 §4: the question back, and one A record where A was asked.
fn dns_answer(query: &[u8]) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|&byte| byte == 0).expect("a name") + 1;
    let is_a = query[name_end..name_end + 2] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(&query[12..name_end + 4]);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 7, 0, 4, 10, 0, 0, 77]);
    }
    answer
}

#[test]
fn few_lookups_run_at_once() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, greatest) = (running.clone(), most.clone());
    let resolver: Arc<dyn Resolve> = Arc::new(move |_: &str| -> Resolving {
        let (now, greatest) = (now.clone(), greatest.clone());
        Box::pin(async move {
            greatest.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(30)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(Answer { addresses: vec![address(1)], ttl: Duration::from_secs(60), local: false })
        })
    });
    let control: Control<Vec<String>> =
        Control::start(Options { resolver: Some(resolver), ..options() }).expect("a control thread");
    let names: Vec<_> =
        (0..200).map(|number| control.parts().names.addresses(&format!("n{number}.internal"))).collect();
    control.block_on(control.parts().names.settled());
    assert!(names.iter().all(|name| name.current().addresses == [address(1)]));
    assert_eq!(most.load(Ordering::Relaxed), LOOKUPS_MAX);
}

fn probe(destination: Address, timeout: Duration) -> Probe {
    let plan = Plan { timeout, ..Plan::get("/healthz?deep=1", Duration::from_millis(20)) };
    Probe {
        upstream: "orders".to_owned(),
        destination,
        authority: "orders.test".to_owned(),
        plan: Arc::new(plan),
        tls_identity: 0,
    }
}

const LONG: Duration = Duration::from_millis(500);

#[test]
fn a_target_goes_down_after_two_failures_and_up_after_one_success() {
    let target = Issuer::start(|_| Page::Whole(200, vec![], Vec::new()));
    let control = control();
    let health = &control.parts().health;
    let probe = probe(target.address.into(), LONG);
    let kept = health.target(probe.clone(), None, Start::Up);
    assert!(kept.is_up(), "up until proven down");
    target.wait_for(2);
    assert!(kept.is_up());
    assert_eq!(target.asked()[0], "/healthz?deep=1");
    target.answer(|_| Page::Whole(503, vec![], Vec::new()));
    eventually("down", || !kept.is_up());
    assert!(kept.failures() >= 2);
    target.answer(|_| Page::Whole(204, vec![], Vec::new()));
    eventually("up", || kept.is_up());
    target.answer(|_| Page::Whole(302, vec![("location", "/".to_owned())], Vec::new()));
    eventually("down by a redirect", || !kept.is_up());
    assert!(Arc::ptr_eq(&kept, &health.target(probe, None, Start::Up)), "equal probes are one");
    assert!(!kept.is_up(), "a reload does not make a dead target look alive");
}

#[test]
fn silence_and_a_closed_port_are_down() {
    let silent = Issuer::start(|_| Page::Silence);
    let closed = Issuer::start(|_| Page::Silence).address;
    let control = control();
    let health = &control.parts().health;
    let target = |address: std::net::SocketAddr, timeout| {
        health.target(probe(address.into(), timeout), None, Start::Up)
    };
    let silent_target = target(silent.address, Duration::from_millis(30));
    let closed_target = target(closed, LONG);
    eventually("both down", || !silent_target.is_up() && !closed_target.is_up());
}

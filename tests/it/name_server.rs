//! An authoritative name server of the tests: UDP, one zone, told record by record what to say, or to say nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// What a name has. All of it has the TTL of the zone.
#[derive(Clone)]
pub enum Record {
    Address(IpAddr),
    Service { priority: u16, weight: u16, port: u16, host: &'static str },
}

/// What the server is like today.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// SERVFAIL.
    Fails,
    Silent,
}

struct Zone {
    records: HashMap<String, Vec<Record>>,
    ttl_s: u32,
    /// RFC 2308: how long "there is no such thing" counts.
    negative_s: u32,
    mood: Mood,
    asked: Vec<(String, u16, Instant)>,
}

pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl NameServer {
    pub fn start(ttl_s: u32, negative_s: u32) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let (records, asked) = (HashMap::new(), Vec::new());
        let zone = Arc::new(Mutex::new(Zone { records, ttl_s, negative_s, mood: Mood::Answers, asked }));
        let shared = Arc::clone(&zone);
        thread::spawn(move || {
            let mut packet = [0; 1024];
            while let Ok((bytes, from)) = socket.recv_from(&mut packet) {
                let answer = shared.lock().expect("not poisoned").answer(&packet[..bytes]);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        NameServer { address, zone }
    }

    /// From now on the name has these, and nothing else; with none it does not exist.
    pub fn set(&self, name: &str, records: &[Record]) {
        let mut zone = self.zone.lock().expect("not poisoned");
        match records {
            [] => zone.records.remove(name),
            records => zone.records.insert(name.to_owned(), records.to_vec()),
        };
    }

    pub fn addresses(&self, name: &str, addresses: &[&str]) {
        let records: Vec<Record> =
            addresses.iter().map(|ip| Record::Address(ip.parse().expect("an address"))).collect();
        self.set(name, &records);
    }

    pub fn be(&self, mood: Mood) {
        self.zone.lock().expect("not poisoned").mood = mood;
    }

    /// When A records of this name were asked for.
    pub fn asked(&self, name: &str) -> Vec<Instant> {
        let zone = self.zone.lock().expect("not poisoned");
        zone.asked.iter().filter(|(asked, of, _)| asked == name && *of == A).map(|(_, _, at)| *at).collect()
    }
}

impl Zone {
    /// RFC 1035 §4: the question back, and what there is to say.
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = name_at(query, 12)?;
        let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
        self.asked.push((name.clone(), kind, Instant::now()));
        if self.mood == Mood::Silent {
            return None;
        }
        let records = self.records.get(&name);
        let found: Vec<Vec<u8>> =
            records.into_iter().flatten().filter_map(|record| data(record, kind)).collect();
        let code = match (self.mood, records) {
            (Mood::Fails, _) => 2,
            (_, None) => 3,
            _ => 0,
        };
        let answers = if code == 2 { 0 } else { found.len() };
        let authorities = u8::from(code != 2 && answers == 0);
        let mut out = query[..2].to_vec();
        out.extend([0x85, 0x80 | code, 0, 1, 0, answers as u8, 0, authorities, 0, 0]);
        out.extend(&query[12..end + 4]);
        for data in &found[..answers] {
            out.extend([0xc0, 12]);
            out.extend(kind.to_be_bytes());
            out.extend([0, 1]);
            out.extend(self.ttl_s.to_be_bytes());
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(data);
        }
        if authorities == 1 {
            // RFC 2308 §3: the SOA of the zone tells how long a "no" counts.
            out.extend([0xc0, 12, 0, 6, 0, 1]);
            out.extend(self.negative_s.to_be_bytes());
            out.extend([0, 22, 0, 0]);
            out.extend([0; 16]);
            out.extend(self.negative_s.to_be_bytes());
        }
        Some(out)
    }
}

fn data(record: &Record, kind: u16) -> Option<Vec<u8>> {
    match record {
        Record::Address(IpAddr::V4(ip)) if kind == A => Some(ip.octets().to_vec()),
        Record::Address(IpAddr::V6(ip)) if kind == AAAA => Some(ip.octets().to_vec()),
        Record::Service { priority, weight, port, host } if kind == SRV => {
            let mut data = Vec::new();
            for number in [priority, weight, port] {
                data.extend(number.to_be_bytes());
            }
            for label in host.split('.').filter(|label| !label.is_empty()) {
                data.push(label.len() as u8);
                data.extend(label.as_bytes());
            }
            data.push(0);
            Some(data)
        }
        _ => None,
    }
}

fn name_at(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

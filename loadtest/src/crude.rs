//! Crude closed loop: throw-away.
use crate::sys;
use clap::Args;
use std::{
    io::{self, Read, Write},
    net::SocketAddrV4,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[arg(long)]
    url: SocketAddrV4,
    #[arg(long)]
    pid: Vec<u32>,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long)]
    backend: u32,
}
fn cpu_ns(pid: u32) -> u64 {
    let mut total = 0;
    let Ok(dir) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    for t in dir.flatten() {
        if let Ok(s) = std::fs::read_to_string(t.path().join("schedstat")) {
            total += s.split(' ').next().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        }
        if let Ok(s) = std::fs::read_to_string(t.path().join("children")) {
            for c in s.split_whitespace() {
                if let Ok(c) = c.parse() {
                    total += cpu_ns(c);
                }
            }
        }
    }
    total
}
pub fn run(o: &Options) -> io::Result<()> {
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    let mut ep = sys::Epoll::new(256)?;
    let mut c = vec![];
    let req = b"GET /v1/orders/42 HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: loadtest\r\nAccept: */*\r\n\r\n";
    for i in 0..o.connections {
        let s = sys::connect_now(o.url, None)?;
        s.set_nodelay(true)?;
        ep.add(s.as_raw_fd(), i as u64)?;
        c.push((s, false));
    }
    let mut buf = vec![0u8; 65536];
    let mut n = 0u64;
    let mut bad = 0u64;
    let start = Instant::now();
    let warm = Duration::from_millis(100);
    let mut base: Option<(u64, u64, u64, u64, Instant)> = None;
    loop {
        let now = Instant::now();
        if base.is_none() && now - start > warm {
            base = Some((
                n,
                o.pid.iter().map(|p| cpu_ns(*p)).sum(),
                cpu_ns(o.backend),
                cpu_ns(std::process::id()),
                now,
            ));
        }
        if let Some((n0, c0, b0, g0, t0)) = base
            && (now - t0).as_secs_f64() > o.seconds
        {
            let r = (n - n0) as f64;
            let d = (now - t0).as_secs_f64();
            let c1: u64 = o.pid.iter().map(|p| cpu_ns(*p)).sum();
            println!(
                "{:.3} {:.0} {:.2} {:.2} {:.2} {}",
                (c1 - c0) as f64 / 1e3 / r,
                r / d,
                (c1 - c0) as f64 / 1e9 / d,
                (cpu_ns(o.backend) - b0) as f64 / 1e3 / r,
                (cpu_ns(std::process::id()) - g0) as f64 / 1e3 / r,
                bad
            );
            return Ok(());
        }
        for i in 0..ep.wait(Some(100_000))? {
            let e = ep.event(i);
            let (s, started) = &mut c[e.token as usize];
            if !*started {
                if e.writable {
                    *started = true;
                    s.write_all(req)?;
                }
                continue;
            }
            if e.readable {
                match s.read(&mut buf) {
                    Ok(0) => return Err(io::Error::other("eof")),
                    Ok(k) => {
                        if !buf[..k].starts_with(b"HTTP/1.1 200")
                            || !buf[..k].ends_with(crate::backend::SMALL_BODY)
                        {
                            bad += 1;
                        }
                        n += 1;
                        s.write_all(req)?;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
}

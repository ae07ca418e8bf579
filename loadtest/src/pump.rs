//! An L4 byte pump on monoio: what it costs to move bytes between two sockets and do nothing else.
//!
//! For: the floor that `compare` measures every proxy against. Not for: production. Called by the `pump` subcommand.
//! Several ways of moving the bytes are kept ([`Way`]), because the floor must be the honest best of this machine.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use clap::{Args, ValueEnum};
use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use crate::sys;

/// How the event loop waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DriverChoice {
    /// The first of the others that this kernel offers.
    Auto,
    /// io_uring, SINGLE_ISSUER and COOP_TASKRUN.
    #[value(name = "io_uring")]
    IoUring,
    /// io_uring, additionally DEFER_TASKRUN.
    #[value(name = "io_uring-defer")]
    IoUringDefer,
    /// io_uring without flags.
    #[value(name = "io_uring-plain")]
    IoUringPlain,
    /// monoio's epoll driver.
    Epoll,
}

/// How the bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Receive and send through the driver, a buffer always armed.
    #[value(name = "ring-ring")]
    RingRing,
    /// Wait for readiness through the driver, then receive and send directly.
    #[value(name = "direct-direct")]
    DirectDirect,
    /// Receive through the driver, send directly.
    #[value(name = "ring-direct")]
    RingDirect,
    /// Wait for readiness through the driver, receive directly, send through the driver.
    #[value(name = "direct-ring")]
    DirectRing,
}

/// Options of the `pump` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Address to connect each accepted connection to.
    #[arg(long)]
    pub to: SocketAddr,
    /// Event loop.
    #[arg(long, value_enum, default_value = "auto")]
    pub driver: DriverChoice,
    /// Way of moving bytes.
    #[arg(long, value_enum, default_value = "ring-ring")]
    pub way: Way,
    /// KiB that one direction moves at a time.
    #[arg(long, default_value_t = 256)]
    pub buffer_kib: usize,
    /// Entries of the submission queue.
    #[arg(long, default_value_t = 1024)]
    pub entries: u32,
}

/// Serves until the process is ended.
///
/// # Errors
/// The listener cannot be bound, or the driver that was asked for does not exist here.
pub fn run(options: &Options) -> io::Result<()> {
    match options.driver {
        DriverChoice::Auto => {
            for driver in [DriverChoice::IoUring, DriverChoice::IoUringPlain] {
                match run(&Options { driver, ..options.clone() }) {
                    Err(error) => eprintln!("pump: {driver:?} not available: {error}"),
                    done => return done,
                }
            }
            run(&Options { driver: DriverChoice::Epoll, ..options.clone() })
        }
        DriverChoice::Epoll => {
            let mut runtime = RuntimeBuilder::<LegacyDriver>::new().build()?;
            announce(options, "epoll");
            runtime.block_on(serve(options.clone()))
        }
        DriverChoice::IoUring | DriverChoice::IoUringPlain | DriverChoice::IoUringDefer => {
            let mut ring = io_uring::IoUring::builder();
            if options.driver != DriverChoice::IoUringPlain {
                ring.setup_single_issuer().setup_cqsize(options.entries * 4);
            }
            if options.driver == DriverChoice::IoUring {
                ring.setup_coop_taskrun();
            }
            if options.driver == DriverChoice::IoUringDefer {
                ring.setup_defer_taskrun();
            }
            let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
                .uring_builder(ring)
                .with_entries(options.entries)
                .build()?;
            announce(options, "io_uring");
            runtime.block_on(serve(options.clone()))
        }
    }
}

fn announce(options: &Options, driver: &str) {
    eprintln!(
        "pump: {driver} ({:?}), {:?}, {} -> {}",
        options.driver, options.way, options.listen, options.to
    );
}

thread_local! {
    /// Buffers of directions that have ended, all of one length: short connections must not pay for fresh pages.
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

async fn serve(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    loop {
        let (downstream, _) = listener.accept().await?;
        let (to, way, buffer_bytes) = (options.to, options.way, options.buffer_kib.max(1) * 1024);
        monoio::spawn(async move {
            let Ok(upstream) = TcpStream::connect_addr(to).await else { return };
            let _ = downstream.set_nodelay(true);
            let _ = upstream.set_nodelay(true);
            let (down, up) = (downstream.as_raw_fd(), upstream.as_raw_fd());
            let (down_read, down_write) = downstream.into_split();
            let (up_read, up_write) = upstream.into_split();
            monoio::spawn(one_way(way, buffer_bytes, (up, up_read), (down, down_write)));
            one_way(way, buffer_bytes, (down, down_read), (up, up_write)).await;
        });
    }
}

/// Moves bytes from one socket to the other until the end of the stream, then ends the other's sending direction
/// (which dropping its half does).
async fn one_way(
    way: Way,
    buffer_bytes: usize,
    (from, mut read): (RawFd, OwnedReadHalf<TcpStream>),
    (to, mut write): (RawFd, OwnedWriteHalf<TcpStream>),
) {
    let mut buffer = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0u8; buffer_bytes]);
    loop {
        let received = match way {
            Way::RingRing | Way::RingDirect => {
                let (result, filled) = read.read(buffer).await;
                buffer = filled;
                result
            }
            Way::DirectDirect | Way::DirectRing => match sys::stream_of(&read).readable(false).await {
                Ok(()) => sys::receive_now(from, &mut buffer),
                Err(error) => Err(error),
            },
        };
        let received = match received {
            Ok(n) if n > 0 => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            _ => break,
        };
        let mut sent = 0;
        if matches!(way, Way::RingDirect | Way::DirectDirect) {
            match sys::send_now(to, &buffer[..received]) {
                Ok(n) => sent = n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        if sent < received {
            // Sending through the driver, or a socket that is full: the driver waits for room.
            let (result, slice) = write.write_all(buffer.slice(sent..received)).await;
            buffer = slice.into_inner();
            if result.is_err() {
                break;
            }
        }
    }
    POOL.with_borrow_mut(|pool| pool.push(buffer));
}

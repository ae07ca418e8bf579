//! The traps of the event loop, on a loop of our own: what our sockets, guards and turns promise whichever driver runs.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ringwall::control::doorbell::{Heard, doorbell};
use ringwall::sys::socket::{accept, listen, send_now};
use ringwall::sys::thread::monotonic_ns;
use ringwall::worker::core::{count_panic, panics};
use ringwall::worker::driver::Loop;
use ringwall::worker::guard::Guarded;
use ringwall::worker::{Buffer, Deadline, Driver, Socket, Sweep, Transport, Wanted, turn};

use crate::node::PATIENCE;

/// The driver that is tested: one named by the environment, else the best.
pub fn wanted() -> Wanted {
    let name = std::env::var("RINGWALL_TEST_DRIVER").unwrap_or_else(|_| "auto".to_owned());
    Wanted::parse(&name).expect("a driver")
}

/// Runs `work` on a loop of this thread.
pub fn on_loop<F: Future>(wanted: Wanted, work: impl FnOnce(Driver) -> F) -> F::Output {
    let (mut event_loop, choice) = Loop::build(wanted).expect("a driver");
    let output = event_loop.block_on(work(choice.driver));
    // As a core does it: there may be operations in flight.
    std::mem::forget(event_loop);
    output
}

/// Fails where `work` does not end. A timer would not do: some of these tests are about timers that never come.
pub fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = mpsc::channel();
    let thread = thread::spawn(move || {
        let output = work();
        let _ = done.send(());
        output
    });
    match end.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the loop hangs"),
        // Done, or it has panicked: joining tells.
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// An accepted socket on the loop, and its peer.
pub fn connected(driver: Driver) -> (Socket, TcpStream) {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 8).expect("a port");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (stream, _) = accept(listener.as_fd(), driver.wants_nonblocking()).expect("accepted");
    (Socket::new(stream, driver).expect("registered"), peer)
}

/// One byte there and back.
async fn echo_once(socket: &Socket, peer: &mut TcpStream) {
    peer.write_all(b"?").expect("sent");
    let mut buffer = Buffer::small();
    assert_eq!(socket.recv(&mut buffer).await.expect("received"), 1);
    socket.send(&mut buffer, 0..1).await.expect("sent");
    let mut answer = [0; 1];
    peer.read_exact(&mut answer).expect("received");
    assert_eq!(&answer, b"?");
}

// ---- the ladder

#[test]
fn every_step_of_the_ladder_carries_bytes_and_timers() {
    for wanted in [Driver::Tuned, Driver::Plain, Driver::Epoll] {
        if wanted != Driver::Epoll && Loop::build(Wanted::Only(wanted)).is_err() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have {wanted}");
            println!("NOT RUN: {wanted} (barred)");
            continue;
        }
        in_time(move || {
            on_loop(Wanted::Only(wanted), |driver| async move {
                assert_eq!(driver, wanted);
                let (socket, mut peer) = connected(driver);
                echo_once(&socket, &mut peer).await;
                monoio::time::sleep(Duration::from_millis(5)).await;
                echo_once(&socket, &mut peer).await;
            });
        });
    }
}

/// What `DEFER_TASKRUN` would break: completions must come in while there is always a task to run.
#[test]
fn completions_are_reaped_while_a_task_is_always_runnable() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, mut peer) = connected(driver);
            // Two tasks that wake each other: what no code of ours may do.
            let stop = Rc::new(Cell::new(false));
            let wakers: Rc<[RefCell<Option<Waker>>; 2]> = Rc::default();
            for own in 0..2 {
                let (stop, wakers) = (Rc::clone(&stop), Rc::clone(&wakers));
                monoio::spawn(poll_fn(move |context| {
                    *wakers[own].borrow_mut() = Some(context.waker().clone());
                    if let Some(other) = wakers[1 - own].borrow_mut().take() {
                        other.wake();
                    }
                    if stop.get() { Poll::Ready(()) } else { Poll::Pending }
                }));
            }
            let echo = monoio::spawn(async move {
                for _ in 0..100 {
                    let mut buffer = Buffer::small();
                    assert_eq!(socket.recv(&mut buffer).await.expect("received"), 1);
                    socket.send(&mut buffer, 0..1).await.expect("sent");
                }
            });
            let client = thread::spawn(move || {
                for _ in 0..100 {
                    peer.write_all(b"?").expect("sent");
                    peer.read_exact(&mut [0; 1]).expect("received");
                }
            });
            echo.await;
            stop.set(true);
            client.join().expect("the peer saw all echoes");
        });
    });
}

// ---- turns

#[test]
fn a_task_that_never_has_to_wait_lets_accept_io_and_timers_go_on() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let steps = Rc::new(Cell::new(0u64));
            let counted = Rc::clone(&steps);
            monoio::spawn(Guarded::new(
                async move {
                    loop {
                        turn::step().await;
                        counted.set(counted.get() + 1);
                    }
                },
                count_panic,
            ));
            for _ in 0..20 {
                let (socket, mut peer) = connected(driver);
                echo_once(&socket, &mut peer).await;
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(steps.get() > u64::from(turn::STEPS), "{} steps", steps.get());
        });
    });
}

#[test]
fn bytes_that_are_always_there_starve_nobody() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, mut peer) = connected(driver);
            let mut writer = peer.try_clone().expect("a second handle");
            thread::spawn(move || while writer.write_all(&[b'x'; 1 << 16]).is_ok() {});
            thread::spawn(move || while peer.read(&mut [0; 1 << 16]).is_ok_and(|count| count > 0) {});
            let moved = Rc::new(Cell::new(0usize));
            let counted = Rc::clone(&moved);
            monoio::spawn(Guarded::new(
                async move {
                    let mut buffer = Buffer::small();
                    loop {
                        turn::step().await;
                        buffer.clear();
                        let count = socket.recv(&mut buffer).await.expect("received");
                        socket.send(&mut buffer, 0..count).await.expect("sent");
                        counted.set(counted.get() + count);
                    }
                },
                count_panic,
            ));
            let begun = Instant::now();
            for _ in 0..20 {
                let (socket, mut peer) = connected(driver);
                echo_once(&socket, &mut peer).await;
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(moved.get() > 0, "nothing moved in {:?}", begun.elapsed());
        });
    });
}

// ---- readable is not data

/// [`Transport::is_quiet`], once the loop has had time to look.
async fn soon_quiet(transport: &Transport) -> bool {
    monoio::time::sleep(Duration::from_millis(5)).await;
    transport.is_quiet()
}

#[test]
fn the_end_and_a_reset_are_told_from_data() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, mut peer) = connected(driver);
            peer.write_all(b"data").expect("sent");
            socket.readable().await.expect("readable");
            let transport = Transport::Plain(socket);
            assert!(!soon_quiet(&transport).await);
            let mut buffer = Buffer::small();
            assert_eq!(transport.recv_announced(&mut buffer).await.expect("received"), 4);
            assert!(soon_quiet(&transport).await);

            // The end, announced in the same way.
            peer.shutdown(Shutdown::Write).expect("half closed");
            transport.readable().await.expect("readable");
            assert!(!soon_quiet(&transport).await);
            assert_eq!(transport.recv_announced(&mut buffer).await.expect("the end"), 0);

            // A reset: the peer closes with bytes unread.
            let (socket, peer) = connected(driver);
            let mut byte = Buffer::small();
            byte.push(b'x');
            socket.send(&mut byte, 0..1).await.expect("sent");
            while !matches!(peer.peek(&mut [0; 1]), Ok(1)) {
                thread::yield_now();
            }
            drop(peer);
            let _ = socket.readable().await;
            let mut buffer = Buffer::small();
            assert!(matches!(Transport::Plain(socket).recv_announced(&mut buffer).await, Ok(0) | Err(_)));
        });
    });
}

// ---- edges

#[test]
fn an_end_that_came_with_the_data_is_not_waited_for() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, mut peer) = connected(driver);
            let mut buffer = Buffer::small();
            // Entered into the set before anything is there.
            peer.write_all(b"first").expect("sent");
            assert_eq!(socket.recv(&mut buffer).await.expect("received"), 5);
            for _ in 0..2 {
                peer.write_all(b"more").expect("sent");
                socket.readable().await.expect("readable");
                assert_eq!(socket.recv(&mut buffer).await.expect("received"), 4);
            }
            peer.write_all(b"last").expect("sent");
            peer.shutdown(Shutdown::Write).expect("half closed");
            // Both are there when the kernel is asked, and are told as one.
            monoio::time::sleep(Duration::from_millis(5)).await;
            assert_eq!(socket.recv(&mut buffer).await.expect("received"), 4);
            assert_eq!(socket.recv(&mut buffer).await.expect("the end"), 0);
            assert_eq!(socket.recv(&mut buffer).await.expect("the end, again"), 0);
        });
    });
}

#[test]
fn what_did_not_fit_is_received_without_being_told_again() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, mut peer) = connected(driver);
            let mut buffer = Buffer::head();
            peer.write_all(b"x").expect("sent");
            assert_eq!(socket.recv(&mut buffer).await.expect("received"), 1);
            let total = 3 * buffer.capacity() + 7;
            peer.write_all(&vec![b'y'; total]).expect("sent");
            let mut received = 0;
            while received < total {
                buffer.clear();
                received += socket.recv(&mut buffer).await.expect("received");
                assert!(buffer.iter().all(|&byte| byte == b'y'));
            }
            assert_eq!(received, total);
            assert!(soon_quiet(&Transport::Plain(socket)).await);
        });
    });
}

#[test]
fn more_sockets_than_one_call_tells_of_are_all_told() {
    const SOCKETS: usize = 600;
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let told = Rc::new(Cell::new(0));
            let mut peers = Vec::new();
            for _ in 0..SOCKETS {
                let (socket, peer) = connected(driver);
                peers.push(peer);
                let told = Rc::clone(&told);
                monoio::spawn(async move {
                    let mut buffer = Buffer::head();
                    for _ in 0..3 {
                        buffer.clear();
                        assert_eq!(socket.recv(&mut buffer).await.expect("received"), 1);
                        told.set(told.get() + 1);
                    }
                });
            }
            for round in 1..=3 {
                // Everybody waits by now; then all of them are told at once.
                monoio::time::sleep(Duration::from_millis(5)).await;
                for peer in &mut peers {
                    peer.write_all(b"z").expect("sent");
                }
                while told.get() < round * SOCKETS {
                    monoio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    });
}

// ---- panics

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("in a drop");
    }
}

/// Does to the socket's task what `how` says.
async fn misbehave(how: u8, socket: Socket) {
    let mut buffer = Buffer::small();
    match how {
        // As a policy would: between two waits, with something borrowed.
        b'p' => {
            let state = RefCell::new(0);
            let _borrowed = state.borrow_mut();
            panic!("in a policy");
        }
        // As a codec would: inside the poll of something that others poll.
        b'c' => {
            let mut polled = 0;
            let codec = poll_fn(|_| {
                polled += 1;
                assert!(polled < 1, "in a codec");
                Poll::<()>::Pending
            });
            codec.await;
        }
        // When everything is done.
        b'd' => {
            let _last = PanicsInDrop;
            socket.send(&mut Buffer::small(), 0..0).await.expect("nothing to send");
        }
        // A receive is in flight, so the kernel may still touch what belongs to it.
        b'r' => {
            let mut receive = pin!(socket.recv(&mut buffer));
            poll_fn(|context| {
                assert!(receive.as_mut().poll(context).is_pending());
                panic!("with a receive in flight");
                #[expect(unreachable_code, reason = "the type of the poll")]
                Poll::Ready(())
            })
            .await;
        }
        // A send that cannot be complete: its buffer is the kernel's.
        b's' => {
            let mut large = Buffer::large();
            large.resize(32 << 20, b'x');
            let length = large.len();
            let mut send = pin!(socket.send(&mut large, 0..length));
            poll_fn(|context| {
                assert!(send.as_mut().poll(context).is_pending());
                panic!("with a send in flight");
                #[expect(unreachable_code, reason = "the type of the poll")]
                Poll::Ready(())
            })
            .await;
        }
        _ => {
            while let Ok(count @ 1..) = socket.recv(&mut buffer).await {
                socket.send(&mut buffer, 0..count).await.expect("sent");
                buffer.clear();
            }
        }
    }
}

#[test]
fn every_panic_ends_its_connection_is_counted_and_nothing_else() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (kept, mut kept_peer) = connected(driver);
            let spawn = |how, socket| {
                monoio::spawn(Guarded::new(misbehave(how, socket), count_panic));
            };
            spawn(b'e', kept);
            let mut wanted = 0;
            for _ in 0..3 {
                for how in *b"pcdrs" {
                    let (socket, mut peer) = connected(driver);
                    spawn(how, socket);
                    let closed = thread::spawn(move || {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(1..) = peer.read(&mut buffer) {}
                    });
                    wanted += 1;
                    while panics() < wanted {
                        monoio::time::sleep(Duration::from_millis(1)).await;
                    }
                    assert_eq!(panics(), wanted, "one for {}", how as char);
                    // Its descriptor is closed: the peer sees the end, which comes through the loop.
                    while !closed.is_finished() {
                        monoio::time::sleep(Duration::from_millis(1)).await;
                    }
                    closed.join().expect("the end was seen");
                    // The others go on.
                    let answered = thread::spawn(move || {
                        kept_peer.write_all(b"?").expect("sent");
                        kept_peer.read_exact(&mut [0; 1]).expect("received");
                        kept_peer
                    });
                    while !answered.is_finished() {
                        monoio::time::sleep(Duration::from_millis(1)).await;
                    }
                    kept_peer = answered.join().expect("answered");
                }
            }
        });
    });
}

#[test]
fn a_task_that_is_dropped_with_a_panic_in_it_is_counted_as_well() {
    let before = panics();
    let never = PanicsInDrop;
    drop(Guarded::new(
        async move {
            let _never = never;
            std::future::pending::<()>().await;
        },
        count_panic,
    ));
    assert_eq!(panics(), before + 1);
}

// ---- deadlines and dropped reads

#[test]
fn a_receive_that_is_dropped_loses_no_data() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            for waited_for_bytes in [false, true] {
                let (socket, mut peer) = connected(driver);
                let mut buffer = Buffer::small();
                {
                    let mut receive = pin!(socket.recv(&mut buffer));
                    poll_fn(|context| {
                        assert!(receive.as_mut().poll(context).is_pending());
                        Poll::Ready(())
                    })
                    .await;
                    if waited_for_bytes {
                        peer.write_all(b"first, ").expect("sent");
                        // The loop sees the bytes while the receive is in flight.
                        monoio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                let wanted: &[u8] = if waited_for_bytes { b"first, second" } else { b"second" };
                peer.write_all(b"second").expect("sent");
                let mut buffer = Buffer::small();
                while buffer.len() < wanted.len() {
                    assert!(socket.recv(&mut buffer).await.expect("received") > 0);
                }
                assert_eq!(&buffer[..], wanted);
            }
        });
    });
}

#[test]
fn a_deadline_ends_a_wait_and_keeps_what_has_arrived() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let now_ms = monotonic_ns() / 1_000_000;
            let sweep = Sweep::new(now_ms);
            // Nothing comes: the wait ends, and it is known why.
            let (idle, mut idle_peer) = connected(driver);
            idle.set_deadline(&sweep, Deadline::Idle, now_ms + 200);
            // Half a head has come: it can still be read, and answered.
            let (head, mut head_peer) = connected(driver);
            head_peer.write_all(b"GET / HT").expect("sent");
            head.readable().await.expect("readable");
            head.set_deadline(&sweep, Deadline::Head, now_ms + 200);
            let sweep = Rc::new(sweep);
            let swept = Rc::clone(&sweep);
            monoio::spawn(async move {
                monoio::time::sleep(Duration::from_millis(5)).await;
                swept.advance(now_ms + 400);
            });
            let _ = idle.readable().await;
            assert_eq!(idle.expired(), Some(Deadline::Idle));
            assert_eq!(idle_peer.read(&mut [0; 1]).expect("the end"), 0);
            let mut buffer = Buffer::small();
            assert_eq!(head.recv(&mut buffer).await.expect("received"), 8);
            assert_eq!(head.recv(&mut buffer).await.expect("the end"), 0);
            assert_eq!(head.expired(), Some(Deadline::Head));
            head.send(&mut buffer, 0..8).await.expect("the answer gets out");
            let mut answer = [0; 8];
            head_peer.read_exact(&mut answer).expect("received");
            assert_eq!(&answer, b"GET / HT");
        });
    });
}

/// How a client is while its upstream works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Waits,
    /// It has nothing more to ask, or has gone: only time tells.
    EndsItsSide,
    Resets,
}

#[test]
fn an_answer_that_nobody_waits_for_is_given_up() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            for (does, from_ms, until_ms) in [
                (Client::Waits, None, None),
                (Client::EndsItsSide, Some(3_000), Some(7_000)),
                (Client::Resets, Some(0), Some(3_300)),
            ] {
                let now_ms = monotonic_ns() / 1_000_000;
                let sweep = Sweep::new(now_ms);
                let (client, peer) = connected(driver);
                let (upstream, mut origin) = connected(driver);
                upstream.serve(&client);
                upstream.set_deadline(&sweep, Deadline::FirstByte, now_ms + 30_000);
                match does {
                    Client::Waits => {}
                    Client::EndsItsSide => peer.shutdown(Shutdown::Write).expect("shut down"),
                    Client::Resets => {
                        // What it has not read turns the close into a reset.
                        let mut buffer = Buffer::small();
                        buffer.extend_from_slice(b"?");
                        client.send(&mut buffer, 0..1).await.expect("sent");
                        peer.peek(&mut [0]).expect("it is there");
                        drop(peer);
                    }
                }
                let given_up_ms = (0..=29_000).step_by(100).find(|passed_ms| {
                    sweep.advance(now_ms + passed_ms);
                    upstream.expired().is_some()
                });
                match given_up_ms {
                    Some(passed_ms) => {
                        assert_eq!(upstream.expired(), Some(Deadline::Abandoned), "{does:?}");
                        assert!(
                            Some(passed_ms) >= from_ms && Some(passed_ms) <= until_ms,
                            "{does:?}: {passed_ms}"
                        );
                        assert_eq!(origin.read(&mut [0; 1]).expect("the end"), 0);
                    }
                    None => assert_eq!(does, Client::Waits),
                }
            }
        });
    });
}

// ---- partial writes

#[test]
fn a_send_larger_than_the_socket_takes_is_completed() {
    const SIZE: usize = 24 << 20;
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, mut peer) = connected(driver);
            let mut buffer = Buffer::large();
            buffer.extend((0..SIZE).map(|at| (at % 251) as u8));
            let reader = thread::spawn(move || {
                // Small reads at first, so that the window opens slowly.
                let mut all = vec![0; SIZE];
                let (slow, rest) = all.split_at_mut(100_000);
                slow.chunks_mut(1_000).for_each(|chunk| peer.read_exact(chunk).expect("received"));
                peer.read_exact(rest).expect("received");
                all
            });
            socket.send(&mut buffer, 0..SIZE).await.expect("sent");
            while !reader.is_finished() {
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(reader.join().expect("the peer") == **buffer);
        });
    });
    // Such a send is partial at first: otherwise this test says nothing.
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 8).expect("a port");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let taken = send_now(peer.as_fd(), &vec![0; SIZE], false).expect("some");
    assert!(taken < SIZE, "the socket takes {taken} bytes at once");
}

#[test]
fn what_is_posted_in_one_turn_leaves_in_order_also_for_more_sockets_than_one_call_serves() {
    const SOCKETS: usize = 600;
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let mut peers = Vec::new();
            for index in 0..SOCKETS {
                let (socket, peer) = connected(driver);
                peers.push(peer);
                let mut buffer = Buffer::head();
                for part in [format!("{index}: "), "first ".into(), "second ".into()] {
                    buffer.extend_from_slice(part.as_bytes());
                    socket.post(&mut buffer).await.expect("taken");
                    assert!(buffer.is_empty());
                }
                // Every other one has more to say at once; the rest are let go with what has not left yet.
                if index % 2 == 0 {
                    buffer.extend_from_slice(b"third");
                    socket.send(&mut buffer, 0..5).await.expect("sent");
                }
            }
            monoio::time::sleep(Duration::from_millis(1)).await;
            for (index, mut peer) in peers.into_iter().enumerate() {
                let mut text = String::new();
                peer.read_to_string(&mut text).expect("all, and the end");
                let third = if index % 2 == 0 { "third" } else { "" };
                assert_eq!(text, format!("{index}: first second {third}"));
            }
        });
    });
}

#[test]
fn what_a_full_socket_does_not_take_of_a_message_follows_before_the_next_one() {
    const BYTES: usize = 8 * 1024;
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, mut peer) = connected(driver);
            let (other, mut other_peer) = connected(driver);
            let mut buffer = Buffer::small();
            let mut posted = 0;
            let mut full = false;
            while !full {
                for socket in [&socket, &other] {
                    buffer.resize(BYTES, posted as u8);
                    socket.post(&mut buffer).await.expect("taken");
                }
                posted += 1;
                let mut seen = vec![0; BYTES];
                // The end of the turn; the other one is read from.
                monoio::time::sleep(Duration::from_millis(1)).await;
                other_peer.read_exact(&mut seen).expect("received");
                full = !socket.settled().expect("alive");
            }
            buffer.resize(BYTES, posted as u8);
            let reader = thread::spawn(move || {
                for message in 0..=posted {
                    let mut seen = vec![0; BYTES];
                    peer.read_exact(&mut seen).expect("received");
                    assert!(seen.iter().all(|byte| *byte == message as u8), "message {message}");
                }
            });
            socket.post(&mut buffer).await.expect("taken");
            socket.settle().await.expect("sent");
            assert_eq!(socket.settled().ok(), Some(true));
            while !reader.is_finished() {
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            reader.join().expect("the peer");
        });
    });
}

#[test]
fn a_message_that_could_not_leave_is_told_at_the_next_use() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (socket, peer) = connected(driver);
            drop(peer);
            let mut buffer = Buffer::head();
            // The first one is answered by a reset, one of the next finds it.
            while socket.settled().is_ok() {
                buffer.extend_from_slice(b"anybody there?");
                socket.post(&mut buffer).await.expect("taken");
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(socket.settle().await.is_err());
            buffer.extend_from_slice(b"and now?");
            assert!(socket.post(&mut buffer).await.is_err());
        });
    });
}

// ---- doorbells

#[test]
fn a_doorbell_is_heard_by_readiness_and_drained_beside_the_loop() {
    in_time(|| {
        on_loop(wanted(), |_| async {
            let (bell, ear) = doorbell().expect("a pair");
            let drain = ear.try_clone().expect("a second handle");
            let ear = monoio::net::UnixStream::from_std(ear.into_stream()).expect("registered");
            let (again, rung) = mpsc::channel();
            let ringer = thread::spawn(move || {
                for _ in 0..100 {
                    bell.ring();
                    bell.ring();
                    rung.recv().expect("heard");
                }
            });
            for _ in 0..100 {
                ear.readable(false).await.expect("readable");
                assert_eq!(drain.drain(), Heard::Ring);
                again.send(()).expect("the ringer waits");
            }
            while !ringer.is_finished() {
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            // The bell is gone: that is heard once, and whoever hears it stops.
            ear.readable(false).await.expect("readable");
            while drain.drain() != Heard::Gone {}
        });
    });
}

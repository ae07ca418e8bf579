//! The driver ladder: tuned io_uring → plain io_uring → epoll.
//!
//! monoio probes opcodes, not ring flags, and does not fall back by itself. The kernel of a container may lack
//! `SINGLE_ISSUER` or bar io_uring altogether; every step down is said with its reason and exported as
//! `ringwall_driver_info`.

use std::fmt;
use std::future::Future;
use std::io;

use monoio::time::TimeDriver;
use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};

/// Submission entries of a ring; the completion ring has four times as many.
const ENTRIES: u32 = 1024;

/// The driver that a core runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring with `SINGLE_ISSUER` and `COOP_TASKRUN`.
    Tuned,
    /// io_uring with default flags.
    Plain,
    /// epoll.
    Epoll,
}

impl Driver {
    /// The name in logs, metrics and `--driver`.
    pub const fn name(self) -> &'static str {
        match self {
            Driver::Tuned => "io_uring",
            Driver::Plain => "io_uring-plain",
            Driver::Epoll => "epoll",
        }
    }

    /// Whether sockets must be non-blocking: epoll wants that, the ring does not.
    pub const fn wants_nonblocking(self) -> bool {
        matches!(self, Driver::Epoll)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the operator asked for with `node.driver` or `--driver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The best that works here.
    #[default]
    Auto,
    /// This one or none: a start that cannot have it fails.
    Only(Driver),
}

impl Wanted {
    /// Reads `auto`, `io_uring`, `io_uring-plain` or `epoll`.
    pub fn parse(text: &str) -> Option<Wanted> {
        Some(match text {
            "auto" => Wanted::Auto,
            "io_uring" => Wanted::Only(Driver::Tuned),
            "io_uring-plain" => Wanted::Only(Driver::Plain),
            "epoll" => Wanted::Only(Driver::Epoll),
            _ => return None,
        })
    }
}

/// A driver, and why it is not a better one.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What runs.
    pub driver: Driver,
    /// Why the steps above it do not; empty when it is the first.
    pub reason: String,
}

/// The event loop of one core.
pub struct Loop {
    runtime: FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>,
}

impl Loop {
    /// Builds the loop for the calling thread, stepping down the ladder as `wanted` allows.
    ///
    /// # Errors
    /// When nothing that is wanted works; the message names each step that was tried.
    pub fn build(wanted: Wanted) -> io::Result<(Loop, Choice)> {
        let (runtime, choice) = descend(wanted, build_one)?;
        Ok((Loop { runtime }, choice))
    }

    /// Runs `future` and everything it spawns on this thread until it is done.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// The first step of the ladder that `build` can make, and why it is not a better one.
fn descend<T>(wanted: Wanted, mut build: impl FnMut(Driver) -> io::Result<T>) -> io::Result<(T, Choice)> {
    let steps: &[Driver] = match &wanted {
        Wanted::Auto => &[Driver::Tuned, Driver::Plain, Driver::Epoll],
        Wanted::Only(driver) => std::slice::from_ref(driver),
    };
    let mut reason = String::new();
    for &driver in steps {
        match build(driver) {
            Ok(built) => return Ok((built, Choice { driver, reason })),
            Err(error) => {
                if !reason.is_empty() {
                    reason.push_str("; ");
                }
                reason.push_str(&format!("{driver}: {error}"));
            }
        }
    }
    Err(io::Error::other(format!("no driver works here ({reason})")))
}

fn build_one(
    driver: Driver,
) -> io::Result<FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>> {
    match driver {
        Driver::Tuned => uring(true).map(FusionRuntime::from),
        Driver::Plain => uring(false).map(FusionRuntime::from),
        Driver::Epoll => {
            RuntimeBuilder::<LegacyDriver>::new().enable_timer().build().map(FusionRuntime::from)
        }
    }
}

fn uring(tuned: bool) -> io::Result<monoio::Runtime<TimeDriver<IoUringDriver>>> {
    let mut builder = io_uring::IoUring::builder();
    builder.setup_cqsize(ENTRIES * 4).setup_clamp();
    if tuned {
        // 20–30 % less CPU than the defaults: completions are reaped by this thread alone, and no interrupt is sent
        // to tell it what it will find when it looks.
        builder.setup_single_issuer().setup_coop_taskrun();
    }
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(builder).with_entries(ENTRIES).enable_timer().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds nothing above `lowest`, as a kernel or a container would not.
    fn only_from(lowest: Driver) -> impl FnMut(Driver) -> io::Result<Driver> {
        move |driver| match driver == lowest {
            true => Ok(driver),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    #[test]
    fn each_step_down_is_given_its_reason() {
        let invalid = io::Error::from_raw_os_error(libc::EINVAL);
        let table = [
            (Driver::Tuned, String::new()),
            (Driver::Plain, format!("io_uring: {invalid}")),
            (Driver::Epoll, format!("io_uring: {invalid}; io_uring-plain: {invalid}")),
        ];
        for (lowest, reason) in table {
            let (built, choice) = descend(Wanted::Auto, only_from(lowest)).expect("one works");
            assert_eq!((built, choice.driver, choice.reason), (lowest, lowest, reason));
        }
    }

    #[test]
    fn one_that_is_asked_for_is_had_or_nothing() {
        for driver in [Driver::Tuned, Driver::Plain, Driver::Epoll] {
            assert_eq!(Wanted::parse(driver.name()), Some(Wanted::Only(driver)));
            let (built, choice) = descend(Wanted::Only(driver), only_from(driver)).expect("it works");
            assert_eq!((built, choice.reason.as_str()), (driver, ""));
        }
        let error = descend(Wanted::Only(Driver::Tuned), only_from(Driver::Epoll)).expect_err("barred");
        assert!(error.to_string().contains("no driver works here (io_uring: "), "{error}");
    }
}

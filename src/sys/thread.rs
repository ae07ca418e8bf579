//! The CPU time and clocks of a thread, the affinity mask of the process.

use std::io;
use std::mem::MaybeUninit;

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` is writable; the clock ids used here exist on every Linux that has io_uring.
    let result = unsafe { libc::clock_gettime(id, time.as_mut_ptr()) };
    debug_assert_eq!(result, 0);
    // SAFETY: zeroed is a valid timespec, and the call has filled it.
    let time = unsafe { time.assume_init() };
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Monotonic nanoseconds, the same on all cores (`CLOCK_MONOTONIC`, read in the vDSO).
pub fn monotonic_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Unix time in nanoseconds (`CLOCK_REALTIME`, read in the vDSO).
pub fn unix_ns() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The CPUs that this process may run on, in order.
///
/// # Errors
/// Those of `sched_getaffinity`.
pub fn usable_cpus() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: `set` is writable for its size.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed is a valid set, and the call has filled it.
    let set = unsafe { set.assume_init() };
    // SAFETY: indices below CPU_SETSIZE are inside the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

//! What this process may do: users, groups, limits, and no way back.
//!
//! As root Ringwall binds its listeners, then calls [`drop_to`]. [`harden`] is called first thing in `main`,
//! while there is one thread: PR_SET_NO_NEW_PRIVS belongs to a thread and is inherited by those it starts.
#![expect(unsafe_code, reason = "system calls that the standard library does not wrap")]

use std::fmt;
use std::io;

/// prctl is variadic and reads `unsigned long`: an `int` would leave half of it to chance.
const ZERO: libc::c_ulong = 0;
const ONE: libc::c_ulong = 1;

/// Users and groups to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub user: u32,
    /// The primary group's number.
    pub group: u32,
    /// The other groups.
    pub groups: Vec<u32>,
}

/// Why privileges were not dropped. Whoever gets this must not serve.
#[derive(Debug)]
pub enum PrivilegeError {
    /// There is no such user.
    UserUnknown(String),
    /// The user is root: that drops nothing.
    UserIsRoot,
    /// A system call failed.
    Call(&'static str, io::Error),
    /// The call succeeded, but the old privileges could be had back.
    Regained(&'static str),
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivilegeError::UserUnknown(name) => {
                write!(f, "user {name:?} is not in /etc/passwd (`UID:GID` works without)")
            }
            PrivilegeError::UserIsRoot => f.write_str("node.user is root"),
            PrivilegeError::Call(call, error) => write!(f, "{call}: {error}"),
            PrivilegeError::Regained(call) => {
                write!(f, "{call} gave privileges back after they were dropped")
            }
        }
    }
}

impl User {
    /// Looks `name` up in `/etc/passwd` and `/etc/group`, or takes `UID:GID`. The name service switch is not
    /// asked: a static binary must not load its modules.
    ///
    /// # Errors
    /// [`PrivilegeError::UserUnknown`], or a file cannot be read.
    pub fn find(name: &str) -> Result<User, PrivilegeError> {
        if let Some((user, group)) = name.split_once(':')
            && let (Ok(user), Ok(group)) = (user.parse(), group.parse())
        {
            return Ok(User { user, group, groups: Vec::new() });
        }
        let read = |path| std::fs::read_to_string(path).map_err(|error| PrivilegeError::Call(path, error));
        let groups = read("/etc/group").unwrap_or_default();
        User::parse(name, &read("/etc/passwd")?, &groups)
            .ok_or_else(|| PrivilegeError::UserUnknown(name.to_owned()))
    }

    /// passwd(5) is `name:password:UID:GID:…`, group(5) `name:password:GID:member,member`.
    fn parse(name: &str, passwd: &str, group: &str) -> Option<User> {
        let (user, primary) = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then_some(())?;
            Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
        })?;
        let mut groups: Vec<u32> = group
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':').skip(2);
                let number = fields.next()?.parse().ok()?;
                fields.next()?.split(',').any(|member| member == name).then_some(number)
            })
            .collect();
        groups.retain(|&number| number != primary);
        Some(User { user, group: primary, groups })
    }
}

/// The effective user's number.
pub fn effective_user() -> u32 {
    // SAFETY: no argument, cannot fail.
    unsafe { libc::geteuid() }
}

/// Becomes `user` for good, in every thread of the process, and verifies that there is no way back.
///
/// Returns whether anything was dropped: a process that is not root has nothing to drop.
///
/// # Errors
/// See [`PrivilegeError`]. After an error the process is in no state to go on.
pub fn drop_to(user: &User) -> Result<bool, PrivilegeError> {
    if effective_user() != 0 {
        return Ok(false);
    }
    if user.user == 0 {
        return Err(PrivilegeError::UserIsRoot);
    }
    // Groups first: without root they cannot be changed. The C library's calls reach all threads.
    // SAFETY: the pointer and length describe `groups`, which outlives the call.
    let result = unsafe { libc::setgroups(user.groups.len(), user.groups.as_ptr()) };
    succeed("setgroups", result)?;
    // SAFETY: plain numbers.
    let result = unsafe { libc::setresgid(user.group, user.group, user.group) };
    succeed("setresgid", result)?;
    // SAFETY: plain numbers.
    let result = unsafe { libc::setresuid(user.user, user.user, user.user) };
    succeed("setresuid", result)?;

    // SAFETY: plain number; expected to fail.
    if unsafe { libc::setuid(0) } == 0 || effective_user() != user.user {
        return Err(PrivilegeError::Regained("setuid"));
    }
    // SAFETY: plain number; expected to fail.
    if user.group != 0 && unsafe { libc::setgid(0) } == 0 {
        return Err(PrivilegeError::Regained("setgid"));
    }
    // A change of user makes the process dumpable again (prctl(2), PR_SET_DUMPABLE).
    set_not_dumpable()?;
    Ok(true)
}

/// No core dump and no ptrace by others of the same user (keys are in memory), and no privilege by `exec`.
/// To be called while the process has one thread.
///
/// # Errors
/// A prctl failed; which one.
pub fn harden() -> Result<(), PrivilegeError> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes plain numbers, the unused ones zero.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, ONE, ZERO, ZERO, ZERO) };
    succeed("prctl(PR_SET_NO_NEW_PRIVS)", result)?;
    set_not_dumpable()
}

fn set_not_dumpable() -> Result<(), PrivilegeError> {
    // SAFETY: PR_SET_DUMPABLE takes plain numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, ZERO, ZERO, ZERO, ZERO) };
    succeed("prctl(PR_SET_DUMPABLE)", result)
}

/// Raises the limit of open descriptors to its hard limit; what it is now.
///
/// # Errors
/// The limit cannot be read or set.
pub fn raise_descriptor_limit() -> Result<u64, PrivilegeError> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place to write an rlimit.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    succeed("getrlimit", result)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a valid rlimit.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        succeed("setrlimit", result)?;
    }
    Ok(limit.rlim_cur)
}

/// CLOCK_MONOTONIC in microseconds, as sd_notify(3) wants it. 0 if there is no such clock.
pub fn monotonic_microseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write a timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    match result {
        0 => time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000,
        _ => 0,
    }
}

fn succeed(call: &'static str, result: i32) -> Result<(), PrivilegeError> {
    match result {
        0 => Ok(()),
        _ => Err(PrivilegeError::Call(call, io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nringwall:x:990:980::/:/usr/sbin/nologin\nbad:x:y:z\n";
    const GROUP: &str = "root:x:0:\nringwall:x:980:\nssl-cert:x:110:www,ringwall\nother:x:111:ringwall2\n";

    #[test]
    fn a_user_is_found_with_its_groups() {
        let expected = User { user: 990, group: 980, groups: vec![110] };
        assert_eq!(User::parse("ringwall", PASSWD, GROUP), Some(expected));
        for unknown in ["ringwal", "ringwall2", "", "bad", "x"] {
            assert_eq!(User::parse(unknown, PASSWD, GROUP), None, "{unknown:?}");
        }
        let numeric = User::find("990:980").expect("numbers need no file");
        assert_eq!(numeric, User { user: 990, group: 980, groups: vec![] });
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_one() {
        let raised = raise_descriptor_limit().expect("a limit");
        assert_eq!(raise_descriptor_limit().expect("again"), raised);
    }

    #[test]
    fn the_clock_runs() {
        assert!(monotonic_microseconds() > 0);
    }
}

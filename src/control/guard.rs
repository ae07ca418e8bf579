//! What the node uses of its memory and its descriptors, four times a second, and what is told of connections that came to
//! nothing.
//!
//! Memory is that of the process against `node.memory`, and that of its cgroup against the cgroup's own bound, where there
//! is one; the nearer of the two counts. Without either it is the process against the machine. What a cgroup could give back
//! at once (inactive pages of files) does not count. Descriptors are counted by the kernel against the limit of the process.
//!
//! Not for what is done about it: that is [`crate::accept::pressure`]'s, and the cores'. Never called by a data thread.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process_log::{Code, Line};
use crate::accept::pressure::Level;
use crate::worker::core::Node;

/// Client connections were turned away.
pub const CONNECTIONS_REFUSED: Code = Code::new(6150, "connections were turned away");
/// Connections came to nothing.
pub const CONNECTIONS_ENDED: Code = Code::new(6151, "connections ended without a request");
/// The node is short of something and accepts nobody.
pub const ACCEPTS_PAUSED: Code =
    Code::new(6152, "running short: nobody is accepted, idle connections are let go");
/// The node accepts again.
pub const ACCEPTS_GO_ON: Code = Code::new(6153, "no longer short: connections are accepted again");
/// How many connections there is room for.
pub const ROOM: Code = Code::new(6154, "room for connections");
/// The descriptors are too few for the connections that are wanted.
pub const ROOM_LESS: Code = Code::new(6155, "fewer descriptors than `node.connections.all` needs");

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(250);
/// Between two lines about connections that ended for one reason.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Addresses of one line.
const ADDRESSES_TOLD: usize = 4;
/// Addresses that are told apart between two lines.
const ADDRESSES_KEPT: usize = 256;

/// Looks after a node for ever. `descriptors` is the limit of the process.
///
/// # Errors
/// None.
pub async fn watch(node: Arc<Node>, descriptors: u64) -> io::Result<()> {
    let memory = Memory::of_this_process();
    let mut told = Told::default();
    let mut time = tokio::time::interval(EVERY);
    time.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        time.tick().await;
        measure(&node, &memory, descriptors);
        told.tell(&node, Instant::now());
    }
}

fn measure(node: &Node, memory: &Memory, descriptors: u64) {
    let pressure = &node.pressure;
    if let Some((used, bound)) = memory.read(pressure.memory_wanted()) {
        tell_change("memory", pressure.measure_memory(used, bound), used, bound);
    }
    if let Some(open) = open_descriptors() {
        let change = pressure.descriptors.measure(open, descriptors);
        tell_change("descriptors", change, open, descriptors);
    }
    pressure.decide(node.caps.open());
}

fn tell_change(what: &str, (before, now): (Level, Level), used: u64, bound: u64) {
    match (before, now) {
        (Level::Easy, Level::Short | Level::Critical) => {
            Line::warn(ACCEPTS_PAUSED).with("of", what).with("used", used).with("bound", bound).emit();
        }
        (Level::Short | Level::Critical, Level::Easy) => {
            Line::info(ACCEPTS_GO_ON).with("of", what).with("used", used).with("bound", bound).emit();
        }
        _ => {}
    }
}

/// The descriptors of this process. Kernels before 6.2 do not tell it without listing them, which takes too long.
fn open_descriptors() -> Option<u64> {
    std::fs::metadata("/proc/self/fd").ok().map(|folder| folder.len()).filter(|open| *open > 0)
}

/// Where the memory of this process is accounted for.
#[derive(Debug)]
struct Memory {
    cgroup: Option<Cgroup>,
    machine: u64,
}

/// A cgroup with a bound.
#[derive(Debug, PartialEq, Eq)]
struct Cgroup {
    used: PathBuf,
    stat: PathBuf,
    bound: u64,
}

impl Memory {
    fn of_this_process() -> Memory {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let machine = std::fs::read_to_string("/proc/meminfo").ok();
        Memory {
            cgroup: Cgroup::of(&groups, Path::new("/sys/fs/cgroup")),
            machine: machine.and_then(|text| kilobytes(&text, "MemTotal:")).unwrap_or(0),
        }
    }

    /// What is used and what there is, where that is nearest: of `wanted` bytes (0: none are named), of the cgroup, or of
    /// the machine.
    fn read(&self, wanted: u64) -> Option<(u64, u64)> {
        let resident = || kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:");
        let group = self.cgroup.as_ref().and_then(|group| Some((group.used()?, group.bound)));
        let own = match (wanted, &group) {
            (0, Some(_)) => None,
            (0, None) => Some((resident()?, self.machine)),
            (wanted, _) => Some((resident()?, wanted)),
        };
        let near = |(used, bound): &(u64, u64)| u128::from(*used) * 1_000 / u128::from((*bound).max(1));
        group.into_iter().chain(own).max_by_key(near)
    }
}

impl Cgroup {
    /// The one with the least bound among those that hold this process: `groups` is what `/proc/self/cgroup` says. In a
    /// container its own is the root of what can be seen.
    fn of(groups: &str, root: &Path) -> Option<Cgroup> {
        let mut found: Option<Cgroup> = None;
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let (root, names) = match controllers {
                "" => (root.to_owned(), ["memory.max", "memory.current"]),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes"])
                }
                _ => continue,
            };
            for folder in Path::new(path.trim_start_matches('/')).ancestors() {
                let folder = root.join(folder);
                let Some(bound) = number(&folder.join(names[0])) else { continue };
                // The first version of cgroups says "none" with a number near 2^63.
                if bound < 1 << 60 && found.as_ref().is_none_or(|found| bound < found.bound) {
                    found =
                        Some(Cgroup { used: folder.join(names[1]), stat: folder.join("memory.stat"), bound });
                }
            }
        }
        found
    }

    fn used(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(&self.stat).unwrap_or_default();
        let idle = stat.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            matches!(name, "inactive_file" | "total_inactive_file")
                .then(|| value.trim().parse::<u64>().ok())?
        });
        Some(number(&self.used)?.saturating_sub(idle.unwrap_or(0)))
    }
}

fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The bytes of a line `NAME  123 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|count| count * 1024)
}

/// What has been told of connections that came to nothing.
#[derive(Debug, Default)]
struct Told {
    by_code: HashMap<u16, Kind>,
}

/// One reason.
#[derive(Debug, Default)]
struct Kind {
    count: u64,
    at: Option<Instant>,
    token: &'static str,
    addresses: HashMap<IpAddr, u64>,
}

impl Told {
    /// At most one line for each reason in ten seconds; the first at once.
    fn tell(&mut self, node: &Node, now: Instant) {
        while let Some(notice) = node.ends.next_notice() {
            let kind = self.by_code.entry(notice.reason.code).or_default();
            kind.token = notice.reason.token;
            if kind.addresses.len() < ADDRESSES_KEPT || kind.addresses.contains_key(&notice.address) {
                *kind.addresses.entry(notice.address).or_default() += 1;
            }
        }
        for (code, count) in node.ends.counts() {
            let kind = self.by_code.entry(code).or_default();
            if count == kind.count || kind.at.is_some_and(|at| now.duration_since(at) < TELL_EVERY) {
                continue;
            }
            let line = match code {
                2205..=2207 | 2217 => Line::warn(CONNECTIONS_REFUSED),
                _ => Line::info(CONNECTIONS_ENDED),
            };
            line.with("reason", kind.token)
                .with("because", format!("RW-{code:04}"))
                .with("count", count - kind.count)
                .with("addresses", kind.most_frequent())
                .emit();
            *kind = Kind { count, at: Some(now), token: kind.token, addresses: HashMap::new() };
        }
    }
}

impl Kind {
    /// `192.0.2.1*12,2001:db8::1*3`, the most frequent first.
    fn most_frequent(&self) -> String {
        let mut addresses: Vec<_> = self.addresses.iter().collect();
        addresses.sort_by(|(a, x), (b, y)| y.cmp(x).then(a.cmp(b)));
        let mut text = String::new();
        for (address, count) in addresses.iter().take(ADDRESSES_TOLD) {
            let comma = if text.is_empty() { "" } else { "," };
            let _infallible = write!(text, "{comma}{address}*{count}");
        }
        if addresses.len() > ADDRESSES_TOLD {
            text.push_str(",…");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_descriptors() {
        let memory = Memory::of_this_process();
        let (used, bound) = memory.read(1 << 40).expect("accounts");
        assert!(used > 1 << 20 && bound > used, "{used} of {bound}");
        // Where the kernel tells them, an open file more is one more.
        if let Some(before) = open_descriptors() {
            let _file = std::fs::File::open("/proc/self/status").expect("a file");
            assert!(open_descriptors() >= Some(before.saturating_sub(8)));
        }
    }

    #[test]
    fn the_nearest_bound_of_a_cgroup_and_those_around_it_counts() {
        let root = std::env::temp_dir().join(format!("ringwall-cgroup-{}", std::process::id()));
        let inner = root.join("system.slice/ringwall.service");
        std::fs::create_dir_all(&inner).expect("folders");
        let write = |folder: &Path, name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("a file");
        };
        write(&inner, "memory.max", "max\n");
        assert_eq!(Cgroup::of("0::/system.slice/ringwall.service\n", &root), None);
        write(&root.join("system.slice"), "memory.max", "1000000\n");
        write(&root, "memory.max", "2000000\n");
        write(&root.join("system.slice"), "memory.current", "700000\n");
        write(&root.join("system.slice"), "memory.stat", "anon 5\ninactive_file 200000\nactive_file 7\n");
        let found = Cgroup::of("0::/system.slice/ringwall.service\n", &root).expect("a bound");
        assert_eq!((found.bound, found.used()), (1_000_000, Some(500_000)));
        // A container sees its own as the root.
        assert_eq!(Cgroup::of("0::/\n", &root).expect("a bound").bound, 2_000_000);
        // The first version: a folder of its own, and a huge number for none.
        std::fs::create_dir_all(root.join("memory/a")).expect("folders");
        write(&root.join("memory"), "memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(Cgroup::of("9:cpu:/a\n8:memory:/a\n", &root), None);
        write(&root.join("memory/a"), "memory.limit_in_bytes", "4096\n");
        assert_eq!(Cgroup::of("9:cpu:/a\n8:memory:/a\n", &root).expect("a bound").bound, 4_096);
        let memory = Memory { cgroup: Some(found), machine: 0 };
        // 50 % of the cgroup; of one byte, this process is far nearer.
        assert_eq!(memory.read(1 << 60), Some((500_000, 1_000_000)));
        assert_eq!(memory.read(1).expect("accounts").1, 1);
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn the_most_frequent_addresses_are_told() {
        let mut kind = Kind::default();
        for number in 1..=6u8 {
            kind.addresses.insert(IpAddr::from([192, 0, 2, number]), u64::from(number));
        }
        assert_eq!(kind.most_frequent(), "192.0.2.6*6,192.0.2.5*5,192.0.2.4*4,192.0.2.3*3,…");
    }
}

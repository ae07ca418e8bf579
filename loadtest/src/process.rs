//! What a process and its children cost: CPU time from `/proc/PID/task/*/schedstat`, memory from `smaps_rollup`.
//!
//! Called around every measured window. Not for: starting or ending processes (`contender` does).

use std::fs;

/// Of a page, on every machine that this is for.
const PAGE_BYTES: u64 = 4_096;

/// CPU time of a process tree so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Nanoseconds on a CPU, all threads of the process and of its descendants.
    pub total_ns: u64,
    /// Clock ticks in user space, for the share of it: too coarse to be more.
    pub user_ticks: u64,
    /// Clock ticks in the kernel.
    pub system_ticks: u64,
}

impl Cpu {
    /// Reads it; a process that is gone counts as zero.
    pub fn of(pid: u32) -> Self {
        let mut cpu = Self::default();
        for process in tree(pid) {
            for task in tasks(process) {
                cpu.total_ns += schedstat_ns(&format!("/proc/{process}/task/{task}/schedstat"));
            }
            if let Some((user, system)) =
                fs::read_to_string(format!("/proc/{process}/stat")).ok().and_then(|s| ticks(&s))
            {
                cpu.user_ticks += user;
                cpu.system_ticks += system;
            }
        }
        cpu
    }

    /// That of one process, without its children.
    pub fn alone(pid: u32) -> Self {
        let total_ns = tasks(pid)
            .into_iter()
            .map(|task| schedstat_ns(&format!("/proc/{pid}/task/{task}/schedstat")))
            .sum();
        Self { total_ns, ..Self::default() }
    }

    /// Nanoseconds of the calling thread alone.
    pub fn of_this_thread_ns() -> u64 {
        schedstat_ns("/proc/thread-self/schedstat")
    }

    /// What was spent since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }

    /// The part of the time spent in user space, 0 to 1.
    pub fn user_share(self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks == 0 { f64::NAN } else { self.user_ticks as f64 / ticks as f64 }
    }
}

/// What a thread had of its CPU so far, and how long it was ready to run and had none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turns {
    /// Nanoseconds on a CPU.
    pub ran_ns: u64,
    /// Nanoseconds in the queue of one.
    pub waited_ns: u64,
}

impl Turns {
    /// Those of the thread of a process tree that ran most.
    pub fn of_busiest(pid: u32) -> Self {
        let tasks = tree(pid).into_iter().flat_map(|process| {
            tasks(process).into_iter().map(move |task| format!("/proc/{process}/task/{task}/schedstat"))
        });
        tasks.filter_map(|path| Self::read(&path)).max().unwrap_or_default()
    }

    /// Those of the calling thread.
    pub fn of_this_thread() -> Self {
        Self::read("/proc/thread-self/schedstat").unwrap_or_default()
    }

    fn read(path: &str) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut fields = text.split_ascii_whitespace().map_while(|field| field.parse::<u64>().ok());
        Some(Self { ran_ns: fields.next()?, waited_ns: fields.next()? })
    }

    /// What came since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            ran_ns: self.ran_ns.saturating_sub(earlier.ran_ns),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
        }
    }

    /// How long it waited for others at least, where all that is its own side's on the same CPU ran `side_ns`, itself
    /// included: what it waited while its own side ran is nobody else's doing.
    pub fn waited_for_others_ns(self, side_ns: u64) -> u64 {
        self.waited_ns.saturating_sub(side_ns.saturating_sub(self.ran_ns))
    }
}

/// Nanoseconds in which a CPU of this virtual machine had something to run and its host ran something else.
pub fn stolen_ns(cpu: usize) -> u64 {
    const NS_PER_TICK: u64 = 10_000_000;
    stolen_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpu) * NS_PER_TICK
}

fn stolen_ticks(stat: &str, cpu: usize) -> u64 {
    let name = format!("cpu{cpu}");
    let mut lines = stat.lines().map(str::split_ascii_whitespace);
    let line = lines.find_map(|mut fields| (fields.next() == Some(&name)).then_some(fields));
    line.and_then(|mut fields| fields.nth(7)?.parse().ok()).unwrap_or(0)
}

/// Proportional set size of a process tree in bytes: its own memory, and its part of what it shares.
pub fn pss_bytes(pid: u32) -> u64 {
    tree(pid)
        .into_iter()
        .filter_map(|process| fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok())
        .filter_map(|rollup| pss_in(&rollup))
        .sum()
}

/// Resident memory of a process tree in bytes; what processes share counts for each. Cheap: `statm`.
pub fn rss_bytes(pid: u32) -> u64 {
    tree(pid)
        .into_iter()
        .filter_map(|process| fs::read_to_string(format!("/proc/{process}/statm")).ok())
        .filter_map(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .sum::<u64>()
        * PAGE_BYTES
}

/// A process and all its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&process) = found.get(next) {
        next += 1;
        for task in tasks(process) {
            let children =
                fs::read_to_string(format!("/proc/{process}/task/{task}/children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn schedstat_ns(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// utime and stime: the 14th and 15th field, counted after the name, which may hold spaces.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn pss_in(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_spaces_and_brackets() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 1 2 3";
        assert_eq!(ticks(stat), Some((12, 34)));
        assert_eq!(ticks("nothing"), None);
    }

    #[test]
    fn only_what_its_own_side_did_not_run_was_waited_for_others() {
        let turns = Turns { ran_ns: 300, waited_ns: 500 };
        assert_eq!(turns.waited_for_others_ns(300), 500);
        assert_eq!(turns.waited_for_others_ns(600), 200);
        assert_eq!(turns.waited_for_others_ns(900), 0);
        // What was read of an ended thread is missing in the sum.
        assert_eq!(turns.waited_for_others_ns(0), 500);
        // The kernel adds up at its ticks.
        let begun = std::time::Instant::now();
        while Turns::of_this_thread().ran_ns == 0 {
            assert!(begun.elapsed().as_secs() < 20);
        }
        assert!(Turns::of_busiest(std::process::id()).ran_ns > 0);
    }

    #[test]
    fn stolen_time_is_that_of_one_cpu() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 11 0 0\ncpu1 1 2 3 4 5 6 7 22 0 0\nintr 5\n";
        assert_eq!([0, 1, 2].map(|cpu| stolen_ticks(stat, cpu)), [11, 22, 0]);
        assert_eq!(stolen_ticks("", 0), 0);
    }

    #[test]
    fn pss_is_in_kib() {
        assert_eq!(pss_in("55d0-7ff [rollup]\nRss:  10 kB\nPss:   3 kB\nPss_Anon: 1 kB\n"), Some(3 * 1024));
        assert_eq!(pss_in(""), None);
    }

    #[test]
    fn this_process_costs_something() {
        assert!(Cpu::of(std::process::id()).total_ns > 0);
        assert!(pss_bytes(std::process::id()) > 0);
        assert!(rss_bytes(std::process::id()) > 0);
        assert_eq!(Cpu::of(u32::MAX).total_ns, 0);
    }
}

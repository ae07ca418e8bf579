//! The pages of this process.

// The allocator whose memory is given back: named, so that it is linked where nothing else names it.
use mimalloc as _;

/// Keeps this process in small pages from now on.
///
/// The allocator asks for huge pages where the system gives them on advice. They cost a proxy what they save others: a
/// connection's memory is a few hundred bytes among those of others that end sooner, so that hardly a huge page is ever
/// given back, and one byte makes it 2 MiB. A kernel that does not know the request changes nothing.
pub fn small_pages() {
    // SAFETY: PR_SET_THP_DISABLE takes plain numbers.
    let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, 0, 0, 0) };
}

unsafe extern "C" {
    /// `mi_collect` of mimalloc.
    fn mi_collect(force: bool);
}

/// Gives the memory that the calling thread has freed back to the system. Takes up to a few milliseconds; harmless where
/// another allocator is in use.
pub fn give_back() {
    // SAFETY: may be called at any time on any thread; it touches free memory only.
    unsafe { mi_collect(true) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn huge_pages_are_off_afterwards() {
        super::small_pages();
        let status = std::fs::read_to_string("/proc/self/status").expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
        // Kernels before 5.0 do not tell.
        assert!(line.is_none_or(|told| told.trim() == "0"), "{line:?}");
    }
}

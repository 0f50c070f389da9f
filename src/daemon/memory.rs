//! How the C library keeps memory that was freed: for a daemon, as little as it can.
//!
//! Promises nothing but less; with another C library it does nothing. The only unsafe calls of the daemon.

/// Freed memory at the end of a heap that is worth keeping.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;

/// For the whole process, before it has threads: large buffers and the ends of heaps go back at once. Left
/// to itself the library learns from the first large buffer to keep tens of megabytes per thread.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number; no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// What large work freed goes back to the system; the next large work may be a day away.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

//! A line between two sockets that is slow, and is cut now and then.
//!
//! Promises that bytes arrive in order, so much later as the line is long, and that after a cut neither
//! side gets anything more. Knows no protocol.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_send_buffer_size;

/// Bytes read at once.
const PIECE: usize = 64 << 10;
/// Pieces on the way: enough for 128 MiB in each direction, so that only the delay counts.
const ON_THE_WAY: usize = 2048;

/// How a line behaves; may be shared by many connections.
pub struct Line {
    delay: Duration,
    /// Bytes in both directions until the next cut.
    left: AtomicI64,
    /// Mean distance between cuts and the state of the dice, if it is cut again and again.
    again: Mutex<Option<(u64, u64)>>,
    up: AtomicU64,
    down: AtomicU64,
    cuts: AtomicU64,
}

/// The next number of a sequence.
pub fn dice(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Line {
    /// Never cut; each byte takes `delay` in each direction.
    pub fn new(delay: Duration) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            delay,
            left: AtomicI64::new(i64::MAX),
            again: Mutex::new(None),
            up: zero(),
            down: zero(),
            cuts: zero(),
        }
    }

    /// Cut at a random byte, `mean` bytes after the last cut on average.
    pub fn cut_every(self, mean: u64, seed: u64) -> Self {
        self.cut_again(mean, seed);
        self
    }

    /// The same from now on.
    pub fn cut_again(&self, mean: u64, seed: u64) {
        *self.again.lock().unwrap() = Some((mean, seed));
        self.roll();
    }

    /// Never cut from now on.
    pub fn mend(&self) {
        *self.again.lock().unwrap() = None;
        self.roll();
    }

    /// Cuts once, after so many more bytes.
    pub fn cut_after(&self, bytes: u64) {
        self.left.store(bytes as i64, Ordering::SeqCst);
    }

    /// Bytes that went up, from those who dialled, and down.
    pub fn passed(&self) -> (u64, u64) {
        (self.up.load(Ordering::SeqCst), self.down.load(Ordering::SeqCst))
    }

    /// How often it was cut.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    fn roll(&self) {
        let next = match &mut *self.again.lock().unwrap() {
            Some((mean, state)) => (dice(state) % (2 * *mean)) as i64 + 1,
            None => i64::MAX,
        };
        self.left.store(next, Ordering::SeqCst);
    }

    /// How many of these bytes still pass; fewer than all if the line is cut among them.
    fn take(&self, len: usize) -> usize {
        let before = self.left.fetch_sub(len as i64, Ordering::SeqCst);
        if before > len as i64 {
            return len;
        }
        if before > 0 {
            self.cuts.fetch_add(1, Ordering::SeqCst);
            self.roll();
            return before as usize;
        }
        // Another direction is being cut this very moment.
        len
    }

    /// Connects two sockets: `near` is that of the one who dialled.
    pub fn join(self: &Arc<Self>, near: OwnedFd, far: OwnedFd) {
        let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
        let dead = Arc::new(AtomicBool::new(false));
        for (from, to, is_up) in [(copy(&near), copy(&far), true), (far, near, false)] {
            let (line, dead) = (Arc::clone(self), Arc::clone(&dead));
            std::thread::spawn(move || line.pump(from, to, is_up, &dead));
        }
    }

    fn pump(&self, from: OwnedFd, to: OwnedFd, is_up: bool, dead: &AtomicBool) {
        use rustix::net::{Shutdown, shutdown};
        let (tx, rx) = crossbeam_channel::bounded::<(Instant, Vec<u8>)>(ON_THE_WAY);
        let mut reader = File::from(from.try_clone().unwrap());
        let delay = self.delay;
        std::thread::spawn(move || {
            let mut buffer = vec![0; PIECE];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if tx.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
                    break;
                }
            }
        });
        let mut writer = File::from(to.try_clone().unwrap());
        let passed = if is_up { &self.up } else { &self.down };
        for (due, bytes) in rx.iter() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let n = self.take(bytes.len());
            let is_dead = dead.load(Ordering::SeqCst);
            if is_dead || writer.write_all(&bytes[..n]).is_err() {
                break;
            }
            passed.fetch_add(n as u64, Ordering::SeqCst);
            if n < bytes.len() {
                dead.store(true, Ordering::SeqCst);
                // Whatever is still open of either.
                let _ = (shutdown(&from, Shutdown::Both), shutdown(&to, Shutdown::Both));
                return;
            }
        }
        let _ = (shutdown(&to, Shutdown::Write), shutdown(&from, Shutdown::Read));
    }
}

/// A port on loopback that leads to another one over a line.
pub struct TcpProxy {
    /// Where to dial.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TcpProxy {
    /// Listens from now on.
    pub fn new(line: Arc<Line>, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(far) = TcpStream::connect(target) {
                    // Only a matter of speed.
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    // What lies in a socket here when the line is cut never passed it, but is counted.
                    let _ = [&near, &far].map(|s| set_socket_send_buffer_size(s, PIECE));
                    line.join(near.into(), far.into());
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread; if that fails it has ended already.
        let _ = TcpStream::connect(self.address);
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
    }
}

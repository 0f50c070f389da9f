//! Stubs whose content lies at the other end of a long line.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::content::noise;
use crate::support::guarded::{Guarded, is_stub, obstacle};
use crate::support::proxy::{Line, TcpProxy};
use crate::support::say;
use crate::support::sshd::Sshd;

/// Half a round trip.
const DELAY: Duration = Duration::from_millis(25);
const SIZE: u64 = 64 << 10;
const FILES: u64 = 12;

/// How long the first bytes of stubs took, shortest first, over a line of this length.
fn first_bytes(transport: &str, delay: Duration) -> Option<Vec<Duration>> {
    let mut guarded = Guarded::unguarded("ext4", 2 << 30).unwrap_or_else(|e| panic!("{e}"));
    let sshd = Sshd::start(&guarded.sandbox.root().join("ssh"))?;
    let proxy = TcpProxy::new(Arc::new(Line::new(delay)), sshd.address());
    sshd.configure_port(proxy.address.port(), "").expect("own file");
    guarded.sandbox.ok(&["remote", "remove", "disk2"]).unwrap();
    let url = format!("ssh://nas{}", guarded.sandbox.root().join("nas").display());
    let words = ["remote", "add", "nas", &url, "--init", "--same-disk", "--transport", transport];
    guarded.sandbox.ok(&words).unwrap();
    (0..FILES).for_each(|i| guarded.write(i.to_string(), &noise(i, SIZE)));
    guarded.stash();
    guarded.start(&[]);
    // The first of them brings the session up.
    assert!(std::fs::read(guarded.at("0")).unwrap() == noise(0, SIZE));
    let mut times = Vec::new();
    for i in 1..FILES {
        let path = guarded.at(i.to_string());
        assert!(is_stub(&path));
        let (start, mut byte) = (Instant::now(), [0u8]);
        std::fs::File::open(&path).unwrap().read_exact(&mut byte).unwrap();
        times.push(start.elapsed());
        assert!(std::fs::read(&path).unwrap() == noise(i, SIZE));
    }
    times.sort_unstable();
    Some(times)
}

#[test]
fn a_stub_comes_over_a_long_line_in_one_round_trip() {
    if let Some(why) = obstacle(&["ext4"]) {
        return say(&format!("recalls over a long line were passed over: {why}"));
    }
    for transport in ["ssh2", "openssh"] {
        let Some(near) = first_bytes(transport, Duration::ZERO) else { return };
        let Some(far) = first_bytes(transport, DELAY) else { return };
        let trips = far[0].saturating_sub(near[0]).as_secs_f64() / (2 * DELAY).as_secs_f64();
        say(&format!(
            "first byte of a 64 KiB stub by {transport}: best {:?}, median {:?}; over a line of 50 ms {:?}, {:?}: {trips:.2} round trips",
            near[0],
            near[near.len() / 2],
            far[0],
            far[far.len() / 2],
        ));
        assert!(trips < 2.5, "{near:?} {far:?}");
    }
}

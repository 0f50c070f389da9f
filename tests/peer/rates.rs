//! How fast: over a long line always, over a local one by hand
//! (`DDR_MEASURE=DIR cargo test --release --test all peer::rates -- --nocapture`, 4 GiB below DIR).

use std::sync::Arc;
use std::time::{Duration, Instant};

use ddr::peer::bucket::RemoteBucket;
use ddr::peer::stream::ChildDial;
use ddr::store::Bucket;

use super::{far, noise};
use crate::support::peers::QUICK;
use crate::support::program;
use crate::support::proxy::{Line, TcpProxy};

const MIB: u64 = 1 << 20;
/// Half a round trip.
const DELAY: Duration = Duration::from_millis(25);
/// What one window of libssh2 lets through in a round trip.
const WINDOW: u64 = 2 * MIB;

fn trips(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / (took.as_secs_f64() / 0.05)
}

#[test]
fn a_long_line_is_filled_in_both_directions() {
    let far = far(Line::new(DELAY), 1);
    far.far.ping().unwrap();
    let packs: Vec<Vec<u8>> = (0..4).map(|n| noise(n, 32 << 20)).collect();
    let since = Instant::now();
    std::thread::scope(|s| {
        for pair in packs.chunks(2).enumerate() {
            let bucket = &far.far;
            s.spawn(move || {
                for (n, pack) in pair.1.iter().enumerate() {
                    bucket.put(&format!("data/{}-{n}", pair.0), &[pack]).unwrap();
                }
            });
        }
    });
    let up = trips(128 * MIB, since.elapsed());
    let since = Instant::now();
    let wanted: Vec<_> = (0..16u64)
        .map(|n| (format!("data/{}-{}", n / 8, n / 4 % 2), n % 4 * 8 * MIB..(n % 4 + 1) * 8 * MIB))
        .collect();
    let mut bytes = 0;
    far.far
        .get_all(&wanted, &mut |_, got| {
            bytes += got.unwrap().len() as u64;
            Ok(())
        })
        .unwrap();
    assert_eq!(bytes, 128 * MIB);
    let down = trips(bytes, since.elapsed());
    println!("per round trip of 50 ms: {:.1} MiB up, {:.1} MiB down", up / MIB as f64, down / MIB as f64);
    // A debug build on a busy machine is the limit here, not the line.
    assert!(up > WINDOW as f64 && down > WINDOW as f64, "{up} up, {down} down");
}

#[test]
fn small_objects_cost_few_round_trips() {
    let far = far(Line::new(DELAY), 1);
    far.far.ping().unwrap();
    let since = Instant::now();
    let objects: Vec<_> = (0..60).map(|n| (format!("log/a/{n:03}"), noise(n, 2000))).collect();
    far.far.put_all(&objects).unwrap();
    let put = since.elapsed();
    let since = Instant::now();
    let wanted: Vec<_> = objects.iter().map(|(name, _)| (name.clone(), 0..u64::MAX)).collect();
    far.far
        .get_all(&wanted, &mut |i, got| {
            assert_eq!(got?, objects[i].1);
            Ok(())
        })
        .unwrap();
    let read = since.elapsed();
    let since = Instant::now();
    let names: Vec<String> = objects.into_iter().map(|(name, _)| name).collect();
    far.far.delete_all(&names).unwrap();
    let deleted = since.elapsed();
    far.near.list("log/", &mut |name, _| panic!("{name} is still there")).unwrap();
    println!("60 objects: put in {put:.0?}, read in {read:.0?}, deleted in {deleted:.0?}");
    assert!(put.max(read).max(deleted) < Duration::from_secs(1));
}

#[test]
fn the_line_itself_is_long_and_can_be_cut() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let line = Arc::new(Line::new(DELAY));
    let proxy = TcpProxy::new(Arc::clone(&line), listener.local_addr().unwrap());
    let mut here = std::net::TcpStream::connect(proxy.address).unwrap();
    let (mut there, _) = listener.accept().unwrap();
    let since = Instant::now();
    let mut byte = [0];
    here.write_all(b"x").unwrap();
    there.read_exact(&mut byte).unwrap();
    there.write_all(b"y").unwrap();
    here.read_exact(&mut byte).unwrap();
    assert!(since.elapsed() >= 2 * DELAY);
    line.cut_after(10);
    here.write_all(&[1; 100]).unwrap();
    let mut rest = Vec::new();
    there.read_to_end(&mut rest).unwrap();
    assert_eq!((rest.len(), line.cuts(), line.passed()), (10, 1, (11, 1)));
}

#[test]
fn local() {
    let Ok(dir) = std::env::var("DDR_MEASURE") else { return };
    let dir = tempfile::Builder::new().prefix("rates").tempdir_in(dir).unwrap();
    let key = ddr::format::key::FolderKey([9; 32]);
    ddr::engine::init::make_bare(&dir.path().join("nas"), None, (ddr::base::id::FolderId([7; 16]), key))
        .unwrap();
    let words = [program().into_os_string(), "serve".into(), dir.path().join("nas").into()];
    let child = RemoteBucket::new("nas", Arc::new(ChildDial::new(words)), None, 1, QUICK);
    let pack = noise(1, 32 << 20);
    let rate = |what: &str, work: &(dyn Fn(u64) + Sync)| {
        let since = Instant::now();
        std::thread::scope(|s| {
            for half in 0..2 {
                s.spawn(move || (half..128).step_by(2).for_each(work));
            }
        });
        println!("{what}: {:.0} MB/s", 4294.967296 / since.elapsed().as_secs_f64());
    };
    for round in 0..3 {
        rate("put", &|n| child.put(&format!("quarantine/{round}-{n}"), &[&pack]).unwrap());
        let since = Instant::now();
        let wanted: Vec<_> = (0..512u64)
            .map(|n| (format!("quarantine/{round}-{}", n / 4), n % 4 * 8 * MIB..(n % 4 + 1) * 8 * MIB))
            .collect();
        child.get_all(&wanted, &mut |_, got| got.map(drop)).unwrap();
        println!("get: {:.0} MB/s", 4294.967296 / since.elapsed().as_secs_f64());
        (0..128).for_each(|n| child.delete(&format!("quarantine/{round}-{n}")).unwrap());
    }
}

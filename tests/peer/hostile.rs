//! Recorded sessions, mutated, against the server and against the client: no crash, no hang, nothing
//! outside the store, a clear error. `DDR_HOSTILE` says how many sessions (400 unless set).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ddr::base::cancel::Cancel;
use ddr::base::error::{Error, Result};
use ddr::format::frame::{HEAD_LEN, Head, MAGIC};
use ddr::peer::bucket::RemoteBucket;
use ddr::peer::link::Timing;
use ddr::peer::serve::{Offer, Source, serve};
use ddr::peer::stream::{Dial, Stream};
use ddr::store::Bucket;
use ddr::store::dir::DirBucket;

use super::noise;
use crate::support::peers::Socket;
use crate::support::proxy::dice;
use crate::support::{say, seed};

/// Given up at once: a replayed answer does not get better.
const HASTY: Timing = Timing {
    hello: Duration::from_secs(2),
    ping: Duration::from_secs(1),
    silence: Duration::from_secs(2),
    answer: Duration::from_secs(2),
    again: Duration::from_millis(1),
};

fn sessions() -> u64 {
    std::env::var("DDR_HOSTILE").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

/// What an honest client asks for, and whether it was answered right.
fn talk(bucket: &RemoteBucket, round: u64) -> Result<()> {
    let name = format!("gc/{round:08x}");
    bucket.put(&name, &[&noise(round, 9000)])?;
    bucket.put_all(&[(format!("{name}.a"), noise(1, 300)), (format!("{name}.b"), vec![])])?;
    let got = bucket.get(&name, 10..20_000)?;
    // Whose bytes they are is for those to check who know the hash.
    assert_eq!(got.len(), 8990);
    let mut count = 0;
    bucket.list("gc/", &mut |_, _| {
        count += 1;
        Ok(())
    })?;
    bucket.delete(&name)?;
    bucket.ping()?;
    Ok(())
}

/// What went each way in an honest session: frames.
struct Record {
    up: Vec<Vec<u8>>,
    down: Vec<Vec<u8>>,
}

fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut out = vec![bytes[..MAGIC.len()].to_vec()];
    bytes = &bytes[MAGIC.len()..];
    while !bytes.is_empty() {
        let head = Head::decode(bytes[..HEAD_LEN].try_into().unwrap()).unwrap();
        let (frame, rest) = bytes.split_at(HEAD_LEN + head.len as usize);
        out.push(frame.to_vec());
        bytes = rest;
    }
    out
}

/// Copies one way and keeps a copy.
fn tee(mut from: UnixStream, mut to: UnixStream, kept: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            kept.lock().unwrap().extend_from_slice(&buffer[..n]);
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        // It may be closed already.
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

/// Leads to a server and writes down what is said.
struct TeeDial {
    bucket: Arc<DirBucket>,
    said: [Arc<Mutex<Vec<u8>>>; 2],
}

impl Dial for TeeDial {
    fn dial(&self) -> Result<Stream> {
        let ((here, near), (far, there)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        crate::support::peers::serve_on_thread(there, Source::Bucket(Arc::clone(&self.bucket)));
        let copy = |s: &UnixStream| s.try_clone().unwrap();
        tee(copy(&near), copy(&far), Arc::clone(&self.said[0]));
        tee(far, near, Arc::clone(&self.said[1]));
        let end = Box::new(Socket(copy(&here)));
        Ok(Stream { reader: copy(&here).into(), writer: here.into(), end })
    }

    fn place(&self) -> String {
        "a recorder".into()
    }
}

fn record(dir: &Path) -> Record {
    let bucket = Arc::new(DirBucket::create(&dir.join("recorded")).unwrap());
    let said = [Arc::default(), Arc::default()];
    let dial = TeeDial { bucket, said: said.clone() };
    let far = RemoteBucket::new("nas", Arc::new(dial), None, 1, HASTY);
    talk(&far, 1).unwrap();
    drop(far);
    std::thread::sleep(Duration::from_millis(50));
    let [up, down] = said.map(|said| frames(&said.lock().unwrap()));
    Record { up, down }
}

/// A session that was tampered with.
fn mutate(frames: &[Vec<u8>], state: &mut u64) -> Vec<u8> {
    let mut frames = frames.to_vec();
    let pick = |state: &mut u64, n: usize| (dice(state) % n.max(1) as u64) as usize;
    for _ in 0..1 + dice(state) % 3 {
        // One that was truncated to nothing is none.
        frames.retain(|frame| !frame.is_empty());
        if frames.is_empty() {
            break;
        }
        let at = pick(state, frames.len());
        match dice(state) % 9 {
            // Bits, lengths, ids, kinds.
            0 | 1 => {
                let byte = pick(state, frames[at].len());
                frames[at][byte] ^= 1 << (dice(state) % 8);
            }
            2 => {
                let byte = pick(state, frames[at].len().min(HEAD_LEN));
                frames[at][byte] = dice(state) as u8;
            }
            // Order, repetition, omission.
            3 => {
                let other = pick(state, frames.len());
                frames.swap(at, other);
            }
            4 => {
                let frame = frames[at].clone();
                for _ in 0..dice(state) % 200 {
                    frames.insert(at, frame.clone());
                }
            }
            5 => drop(frames.remove(at)),
            // Truncation, and bytes that belong to nothing.
            6 => {
                let len = pick(state, frames[at].len());
                frames[at].truncate(len);
            }
            7 => {
                let bytes = noise(dice(state), pick(state, 5000));
                frames.insert(at, bytes);
            }
            // Bytes inside a message.
            _ => {
                let byte = HEAD_LEN.min(frames[at].len() - 1);
                let byte = byte + pick(state, frames[at].len() - byte);
                frames[at][byte] = dice(state) as u8;
            }
        }
    }
    frames.concat()
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// Names of everything below a directory.
fn tree(dir: &Path, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        out.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            tree(&entry.path(), out);
        }
    }
}

#[test]
fn mutated_requests_harm_no_server() {
    let dirs = tempfile::tempdir().unwrap();
    let record = record(dirs.path());
    let inner = dirs.path().join("served");
    let bucket = Arc::new(DirBucket::create(&inner.join("store")).unwrap());
    let mut state = seed() ^ 0x5e7e;
    let since = Instant::now();
    let mut ends = [0u64; 2];
    for n in 0..sessions() / 2 {
        let bytes = mutate(&record.up, &mut state);
        let (mut here, there) = UnixStream::pair().unwrap();
        let source = Source::Bucket(Arc::clone(&bucket));
        let thread = std::thread::spawn(move || {
            let offer = Offer {
                source,
                create: &|_, _| Err(Error::Refused("no".into())),
                silence: Duration::from_secs(5),
                cancel: Cancel::default(),
            };
            serve(there.try_clone().unwrap().into(), OwnedFd::from(there), &offer)
        });
        let mut answers = here.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            // It may be closed with bytes unread.
            let _ = answers.read_to_end(&mut said);
            said.len()
        });
        // It may be closed before all is written.
        let _ = here.write_all(&bytes);
        let _ = here.shutdown(std::net::Shutdown::Write);
        let result = thread.join().expect("a server does not panic");
        ends[usize::from(result.is_err())] += 1;
        drop(here);
        assert!(reader.join().unwrap() < 4 << 20, "session {n}");
        if n % 500 == 499 {
            // What was put in good sessions is not what is tested.
            let mut names = Vec::new();
            bucket
                .list("", &mut |name, _| {
                    names.push(name.to_string());
                    Ok(())
                })
                .unwrap();
            names.iter().for_each(|name| bucket.delete(name).unwrap());
        }
    }
    let mut names = Vec::new();
    tree(dirs.path(), &mut names);
    let strange = |name: &&String| !name.starts_with(inner.join("store").to_str().unwrap());
    let outside: Vec<_> = names.iter().filter(strange).filter(|n| !n.contains("/recorded")).collect();
    assert_eq!(outside, [inner.to_str().unwrap()]);
    say(&format!(
        "{} requests' sessions in {:.1?}: {} ended well, {} with an error; peak {} MiB",
        ends[0] + ends[1],
        since.elapsed(),
        ends[0],
        ends[1],
        peak_mib()
    ));
}

/// A peer that says what it was told to say, whatever it is asked.
struct Parrot {
    words: Vec<u8>,
}

impl Dial for Parrot {
    fn dial(&self) -> Result<Stream> {
        let (here, mut there) = UnixStream::pair().unwrap();
        let words = self.words.clone();
        let mut hears = there.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(1..) = hears.read(&mut buffer) {}
        });
        std::thread::spawn(move || {
            // The client may have hung up.
            let _ = there.write_all(&words);
            let _ = there.shutdown(std::net::Shutdown::Write);
        });
        let end = Box::new(Socket(here.try_clone().unwrap()));
        Ok(Stream { reader: here.try_clone().unwrap().into(), writer: here.into(), end })
    }

    fn place(&self) -> String {
        "a parrot".into()
    }
}

#[test]
fn mutated_answers_harm_no_client() {
    let dirs = tempfile::tempdir().unwrap();
    let record = record(dirs.path());
    let mut state = seed() ^ 0xc11e;
    let since = Instant::now();
    let mut ends = [0u64; 2];
    for n in 0..sessions() / 2 {
        let words = mutate(&record.down, &mut state);
        let far = RemoteBucket::new("nas", Arc::new(Parrot { words }), None, 1, HASTY);
        let begun = Instant::now();
        match talk(&far, 1) {
            Ok(()) => ends[0] += 1,
            Err(e) => {
                ends[1] += 1;
                assert!(!e.to_string().is_empty());
            }
        }
        drop(far);
        assert!(begun.elapsed() < Duration::from_secs(30), "session {n}");
    }
    say(&format!(
        "{} answers' sessions in {:.1?}: {} ended well, {} with an error; peak {} MiB",
        ends[0] + ends[1],
        since.elapsed(),
        ends[0],
        ends[1],
        peak_mib()
    ));
}

#[test]
fn endless_streams_end() {
    let dirs = tempfile::tempdir().unwrap();
    let record = record(dirs.path());
    let before = peak_mib();
    for frame in record.down.iter().skip(1) {
        // The same answer for ever.
        let mut words = record.down[..2].concat();
        words.extend(frame.repeat(((32 << 20) / frame.len()).min(100_000)));
        let far = RemoteBucket::new("nas", Arc::new(Parrot { words }), None, 1, HASTY);
        assert!(talk(&far, 1).is_err());
    }
    for frame in record.up.iter().skip(1) {
        let (mut here, there) = UnixStream::pair().unwrap();
        let bucket = Arc::new(DirBucket::create(&dirs.path().join("store")).unwrap());
        let server = crate::support::peers::serve_on_thread(there, Source::Bucket(bucket));
        let mut answers = here.try_clone().unwrap();
        std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        let mut words = record.up[..2].concat();
        words.extend(frame.repeat(((32 << 20) / frame.len()).min(20_000)));
        // It may hang up.
        let _ = here.write_all(&words);
        let _ = here.shutdown(std::net::Shutdown::Both);
        let _ = server.join().expect("a server does not panic");
    }
    say(&format!("endless streams: peak {} MiB, {before} before", peak_mib()));
}

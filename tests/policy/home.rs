//! A home directory made from a seed: names, sizes and ages as people have them.
//!
//! Promises the same files for the same seed and number. Files on disk have their room reserved but
//! nothing written into it, so that many of them are cheap.

use std::fs::{self, File};
use std::path::Path;

use ddr::base::path::RelPath;

const DAY: i64 = 86_400;

/// A file of the home.
#[derive(Clone, Debug)]
pub struct Made {
    /// Path below the home.
    pub path: RelPath,
    /// Bytes.
    pub size: u64,
    /// Seconds since its last use.
    pub idle: i64,
}

/// A kind of files: directory, extensions, size in KiB around which they lie, share of all files.
type Kind = (&'static str, &'static [&'static str], f64, f64);

const KINDS: [Kind; 9] = [
    ("Documents", &["pdf", "odt", "txt", "xlsx", "md"], 60.0, 0.16),
    ("Pictures", &["jpg", "CR3", "NEF", "xmp", "png"], 2500.0, 0.2),
    ("Videos", &["mp4", "mkv", "mov"], 40_000.0, 0.01),
    ("Music", &["flac", "mp3"], 6000.0, 0.06),
    ("Downloads", &["zip", "iso", "deb", "part", "pdf"], 900.0, 0.04),
    ("src", &["rs", "c", "h", "o", "json"], 9.0, 0.3),
    ("Mail", &["eml"], 20.0, 0.12),
    (".cache", &["bin", "db"], 30.0, 0.08),
    (".config", &["toml", "json"], 3.0, 0.03),
];

/// A small generator (xorshift), so that a home is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 up to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Around one, long-tailed: what file sizes and ages look like.
    fn tail(&mut self, spread: f64) -> f64 {
        let normal: f64 = (0..6).map(|_| self.unit()).sum::<f64>() - 3.0;
        (normal * spread).exp()
    }
}

/// Makes up so many files, in path order.
pub fn imagine(seed: u64, files: usize) -> Vec<Made> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut all = Vec::with_capacity(files);
    for n in 0..files {
        let mut pick = random.unit();
        let kind = KINDS.iter().find(|k| {
            pick -= k.3;
            pick < 0.0
        });
        let (dir, exts, kib, _) = kind.unwrap_or(&KINDS[0]);
        let ext = exts[random.next() as usize % exts.len()];
        let (year, group) = (2015 + random.next() % 12, random.next() % 40);
        // A tenth was used this week, a third within three months, the rest up to years ago.
        let days = match random.unit() {
            r if r < 0.1 => random.unit() * 7.0,
            r if r < 0.4 => random.unit() * 90.0,
            _ => 90.0 + 300.0 * random.tail(1.0),
        };
        all.push(Made {
            path: RelPath::new(format!("{dir}/{year}/{group:02}/{n:06}.{ext}")).expect("valid"),
            size: (kib * 1024.0 * random.tail(1.5)) as u64 + 1,
            idle: (days * DAY as f64) as i64,
        });
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

/// Puts files on the disk, `shrink` times as small.
pub fn build(root: &Path, files: &[Made], shrink: u64, now: i64) {
    let mut last = None;
    for made in files {
        let full = root.join(made.path.as_path());
        let dir = full.parent().expect("a path in the home").to_path_buf();
        if last.as_ref() != Some(&dir) {
            fs::create_dir_all(&dir).expect("directory");
            last = Some(dir);
        }
        let guard = crate::support::own_files();
        let file = File::create(&full).expect("file");
        let size = (made.size / shrink).max(1);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size).expect("fallocate");
        let time = filetime::FileTime::from_unix_time(now - made.idle, 0);
        filetime::set_file_handle_times(&file, Some(time), Some(time)).expect("times");
        drop(file);
        drop(guard);
    }
}

//! Random choices and file contents made from seeds: the same seed gives the same bytes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// SplitMix64: small, seedable, good enough to choose test data.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A number in a range.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Kinds of content that take different ways through ddr.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing.
    Empty,
    /// Too small for a stub.
    Small,
    /// One chunk that compresses.
    Text,
    /// Several chunks that do not compress.
    Noise,
    /// Data, a hole, data, and a hole at the end.
    Sparse,
}

const KINDS: [Kind; 5] = [Kind::Empty, Kind::Small, Kind::Text, Kind::Noise, Kind::Sparse];

/// Data at offsets; everything else is hole.
pub struct Content {
    /// File size.
    pub size: u64,
    /// Runs of data, in order.
    pub runs: Vec<(u64, Vec<u8>)>,
}

impl Content {
    /// Of a kind, most often one that can be stashed.
    pub fn random(random: &mut Random) -> Self {
        let kind = if random.below(3) > 0 { Kind::Text } else { *random.pick(&KINDS) };
        let kind = if random.below(4) == 0 { Kind::Noise } else { kind };
        Self::of(kind, random)
    }

    /// Of this kind.
    pub fn of(kind: Kind, random: &mut Random) -> Self {
        let size = match kind {
            Kind::Empty => 0,
            Kind::Small => random.between(1, 16_000),
            Kind::Text => random.between(16 << 10, 300 << 10),
            Kind::Noise => random.between(200 << 10, 3 << 20),
            Kind::Sparse => random.between(4 << 20, 8 << 20),
        };
        let seed = random.next();
        let runs = match kind {
            Kind::Empty => vec![],
            Kind::Small | Kind::Text => vec![(0, text(seed, size))],
            Kind::Noise => vec![(0, noise(seed, size))],
            Kind::Sparse => vec![(0, noise(seed, 100_000)), (2 << 20, text(seed, 300_000))],
        };
        Self { size, runs }
    }

    /// Writes it over a file, in place.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        for (at, bytes) in &self.runs {
            file.seek(SeekFrom::Start(*at))?;
            file.write_all(bytes)?;
        }
        file.set_len(self.size)
    }
}

/// Bytes that do not compress.
pub fn noise(seed: u64, size: u64) -> Vec<u8> {
    let mut out = vec![0; size as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Bytes that compress to about a half.
pub fn text(seed: u64, size: u64) -> Vec<u8> {
    let words = noise(seed, size / 4 + 1);
    let mut out = Vec::with_capacity(size as usize + 8);
    for pair in words.chunks(2) {
        out.extend_from_slice(b"line ");
        out.extend(pair.iter().map(|b| b'a' + b % 16));
        out.push(b'\n');
    }
    out.resize(size as usize, b'.');
    out
}

/// A file name: mostly plain, sometimes one that breaks careless programs.
pub fn name(random: &mut Random) -> Vec<u8> {
    let number = random.below(100_000);
    match random.below(12) {
        0 => format!("new\nline {number}").into_bytes(),
        1 => [b"invalid \xff\xfe ".as_slice(), number.to_string().as_bytes()].concat(),
        2 => format!("-dash {number} ").into_bytes(),
        3 => format!("\u{1f4a7} drop {number}").into_bytes(),
        4 => format!(".hidden {number}#1").into_bytes(),
        5 => format!("{number}{}", "n".repeat(245)).into_bytes(),
        _ => format!("file-{number}.dat").into_bytes(),
    }
}

#[test]
fn the_same_seed_makes_the_same_content() {
    for kind in KINDS {
        let make = || Content::of(kind, &mut Random::new(7));
        assert_eq!(make().size, make().size);
        assert!(make().runs == make().runs);
        assert!(make().runs.iter().all(|(at, bytes)| at + bytes.len() as u64 <= make().size));
    }
    assert_ne!(noise(1, 64), noise(2, 64));
}

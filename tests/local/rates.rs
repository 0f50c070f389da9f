//! Rates, by hand: `DDR_MEASURE=DIR cargo test --release --test all local::rates -- --nocapture`
//! makes 10,000 files of 16 KiB below DIR; `DDR_MEASURE_TREE` names a tree to scan.

use std::time::{Duration, Instant};

use ddr::base::path::RelPath;
use ddr::local::root::Root;
use ddr::local::scan::{Scan, ScanOptions};
use ddr::local::stub::{NewFile, create_stub};

use super::case::{Case, OLD, bytes, rel};

struct Begun(Instant, Duration);

impl Begun {
    fn now() -> Self {
        Self(Instant::now(), cpu())
    }

    /// Wall and processor time, since other work on the machine moves the former.
    fn rate(self, what: &str, count: usize) {
        let (took, busy) = (self.0.elapsed(), cpu() - self.1);
        let each = busy.as_secs_f64() * 1e6 / count as f64;
        println!("{what}: {count} in {took:.3?}, processor {each:.1} us each");
    }
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn scanning() {
    let Ok(tree) = std::env::var("DDR_MEASURE_TREE") else { return };
    let root = Root::open(tree.as_ref()).expect("root");
    for _ in 0..3 {
        let begun = Begun::now();
        let scan = Scan::new(&root, &RelPath::root(), ScanOptions::default()).expect("scan");
        begun.rate("scan", scan.inspect(|seen| assert!(seen.is_ok())).count());
    }
}

#[test]
fn converting_and_filling() {
    let Ok(dir) = std::env::var("DDR_MEASURE") else { return };
    let temp = tempfile::tempdir_in(dir).expect("temp dir");
    let case = Case::new(temp.path().to_path_buf());
    const FILES: usize = 10_000;
    let content = bytes(16 << 10, 1);
    let names: Vec<String> = (0..FILES).map(|i| format!("d{}/f{i}", i / 100)).collect();
    (0..FILES / 100).for_each(|i| std::fs::create_dir(case.dir.join(format!("d{i}"))).expect("dir"));

    let begun = Begun::now();
    for name in &names {
        let path = rel(name);
        let mut file = NewFile::begin(&case.root, &path, 16 << 10).expect("begun");
        file.write_at(&content, 0).expect("written");
        file.appear(0o644, OLD).expect("made");
    }
    begun.rate("NewFile", FILES);
    rustix::fs::sync();

    let begun = Begun::now();
    let placed: Vec<_> = names.iter().map(|name| case.place(name)).collect();
    begun.rate("reading and hashing", FILES);

    let begun = Begun::now();
    for (name, (head, proof)) in names.iter().zip(&placed) {
        case.convert(name, head, &proof.stat.fingerprint()).expect("converted");
    }
    begun.rate("convert", FILES);
    rustix::fs::sync();

    let begun = Begun::now();
    for (name, (head, _)) in names.iter().zip(&placed) {
        let filling = case.begin(name, head).expect("begin");
        filling.write_at(&content, 0).expect("write");
        filling.finish(&[]).expect("filled");
    }
    begun.rate("fill", FILES);

    let begun = Begun::now();
    for (i, (head, _)) in placed.iter().enumerate() {
        create_stub(&case.target(&rel(&format!("d{}/s{i}", i / 100)), head), 0o644).expect("made");
    }
    begun.rate("create_stub", FILES);
}

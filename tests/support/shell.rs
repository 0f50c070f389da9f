//! A sandbox driven by shell lines, whose answers read as a transcript.
//!
//! Promises that a transcript of the same lines is the same every time: contents and dates are
//! fixed, and what is random or depends on the clock or the file system (ids, times now, room on
//! the disk) is replaced by a word that says what stood there.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ddr::base::cancel::Cancel;
use ddr::base::progress::Recorder;
use ddr::engine::folder::{Access, Context, Folder};

use super::{Output, Running, Sandbox, own_files, program};

/// A machine of its own with a prompt.
pub struct Shell {
    /// The machine.
    pub sandbox: Sandbox,
    /// Content ids that stay readable in transcripts.
    known: RefCell<Vec<String>>,
}

impl Shell {
    /// In an empty folder that is not ddr's yet.
    pub fn new() -> Self {
        Self::on(Sandbox::new())
    }

    /// On a machine that is there.
    pub fn on(sandbox: Sandbox) -> Self {
        let bin = sandbox.root().join("bin");
        fs::create_dir_all(&bin).expect("sandbox directory");
        if !bin.join("ddr").exists() {
            symlink(program(), bin.join("ddr")).expect("sandbox symlink");
        }
        Self { sandbox, known: RefCell::default() }
    }

    /// With the sample tree: a report, a note, a photo, a link, an empty directory.
    pub fn with_files() -> Self {
        let shell = Self::new();
        let report: String = (1..=5000).map(|i| format!("{i:04} of a report\n")).collect();
        shell.write("report.txt", report.as_bytes());
        shell.write("note.txt", b"buy milk\n");
        shell.write("photos/beach.raw", &super::content::noise(1, 300_000));
        shell.ok("mkdir empty; ln -s report.txt link");
        shell.date_all();
        shell
    }

    /// The sample tree, looked after, with one store.
    pub fn with_store() -> Self {
        let shell = Self::with_files();
        shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
        shell
    }

    /// The sample tree, stashed.
    pub fn stashed() -> Self {
        let shell = Self::with_store();
        shell.ok("ddr stash .");
        shell
    }

    /// Another machine that can reach the same store.
    pub fn other(&self, name: &str) -> Self {
        Self { known: self.known.clone(), ..Self::on(self.sandbox.other_machine(name)) }
    }

    /// The folder, opened in this process.
    pub fn open(&self) -> Folder {
        let home = self.sandbox.home();
        let context = Context {
            cache_dir: home.join("cache/ddr"),
            state_dir: home.join("state/ddr"),
            wait: Duration::ZERO,
            progress: Arc::new(Recorder::default()),
            cancel: Cancel::default(),
            login: Default::default(),
        };
        Folder::find(&self.sandbox.folder(), Access::Write, context).unwrap()
    }

    /// A path in the folder.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.sandbox.folder().join(path)
    }

    /// Writes a file of the folder, with its directories.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let full = self.at(path);
        let parent = full.parent().expect("a path in the folder");
        fs::create_dir_all(parent).expect("sandbox directory");
        let guard = own_files();
        fs::write(&full, bytes).expect("sandbox file");
        drop(guard);
        self.known.borrow_mut().push(blake3::hash(bytes).to_string());
    }

    /// What a file holds.
    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let full = self.at(path);
        fs::read(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
    }

    /// Gives everything in the folder the date of the sample tree.
    pub fn date_all(&self) {
        self.ok("find . -name .ddr -prune -o -exec touch -h -d @1704164645 {} +");
    }

    /// Starts one line of shell in the folder.
    pub fn start(&self, line: &str) -> Running {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line);
        self.sandbox.settle(&mut command);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let bin = self.sandbox.root().join("bin").into_os_string();
        command.env("PATH", [bin.as_os_str(), OsStr::new(":"), &path].join(OsStr::new("")));
        Running::spawn(command, line.to_string())
    }

    /// Runs one line of shell in the folder.
    pub fn run(&self, line: &str) -> Output {
        self.start(line).wait()
    }

    /// Runs a line that must end with 0; what it printed.
    pub fn ok(&self, line: &str) -> String {
        self.code(line, 0)
    }

    /// Runs a line that must end with this code; what it printed, errors last.
    pub fn code(&self, line: &str, code: i32) -> String {
        let output = self.run(line).expect(&[code]).unwrap_or_else(|e| panic!("{e}"));
        output.stdout + &output.stderr
    }

    /// Runs lines one by one and writes down what a person would see: `!` marks standard error.
    pub fn transcript(&self, lines: &str) -> String {
        let mut out = String::new();
        for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let output = self.run(line);
            out += &format!("$ {line}\n{}", output.stdout);
            out.extend(in_order(&output.stderr).iter().map(|l| format!("! {l}\n")));
            match output.code {
                Some(0) => {}
                Some(code) => out += &format!("[exit {code}]\n"),
                None => out += "[killed]\n",
            }
        }
        self.plain(&out)
    }

    /// Text without what differs between two runs.
    pub fn plain(&self, text: &str) -> String {
        let root = self.sandbox.root().to_string_lossy().into_owned();
        let text = text.replace(&root, "/r");
        let text: String = text.split_inclusive('\n').map(figures).collect();
        self.ids(&text)
    }

    /// Random ids become `<id>`; those of known contents stay.
    fn ids(&self, text: &str) -> String {
        let known = self.known.borrow();
        let hex = |run: &str| run.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let random = |run: &str| {
            matches!(run.len(), 8 | 16 | 32 | 64) && hex(run) && !known.iter().any(|k| k.starts_with(run))
        };
        let mut out = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let (run, tail) = rest.split_at(end);
            out += if random(run) { "<id>" } else { run };
            let mut chars = tail.chars();
            out.extend(chars.next());
            rest = chars.as_str();
        }
        out
    }
}

/// Lines about single files come from several threads, in any order, before the last word.
fn in_order(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    let end = lines.iter().position(|l| l.starts_with("ddr: ")).unwrap_or(0);
    lines[..end].sort_unstable();
    lines
}

/// JSON fields whose value depends on the clock or the file system.
const FIELDS: [&str; 9] = [
    "time",
    "free_bytes",
    "local_bytes",
    "freed_bytes",
    "stored_bytes",
    "read_bytes",
    "domain",
    "verified",
    "latency_us",
];

/// A line without times and without what depends on the file system.
fn figures(line: &str) -> String {
    let mut line = line.to_string();
    for field in FIELDS {
        let key = format!("\"{field}\":");
        if let Some(at) = line.find(&key).map(|at| at + key.len()) {
            let end = line[at..].find([',', '}']).map_or(line.len(), |n| at + n);
            line.replace_range(at..end, "<n>");
        }
    }
    if let Some(at) = line.find("pid ") {
        let end = line[at + 4..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |n| at + 4 + n);
        line.replace_range(at + 4..end, "<n>");
    }
    sizes(&times(&line))
}

/// `2026-11-21 03:52` becomes as many characters that say "now"; the sample tree's date stays.
fn times(line: &str) -> String {
    const SHAPE: &[u8] = b"dddd-dd-dd dd:dd";
    let fits = |window: &[u8]| {
        window.iter().zip(SHAPE).all(|(b, s)| if *s == b'd' { b.is_ascii_digit() } else { b == s })
    };
    let mut bytes = line.as_bytes().to_vec();
    for at in 0..bytes.len().saturating_sub(SHAPE.len() - 1) {
        let window = &mut bytes[at..at + SHAPE.len()];
        if fits(window) && !window.starts_with(b"2024-01-02") {
            window.copy_from_slice(b"<----- now ---->");
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sizes that depend on the file system: room on a disk, blocks in use, bytes of objects.
fn sizes(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let is_size = |i: usize| {
        let number = words.get(i).is_some_and(|w| w.parse::<f64>().is_ok());
        let unit = words.get(i + 1).is_some_and(|w| w.trim_end_matches(['\n', ',', ';']).ends_with('B'));
        number && unit
    };
    let varies = |i: usize| {
        let after = words.get(i + 2).map_or("", |w| w.trim_end());
        let before = if i == 0 { "" } else { words[i - 1] };
        before == "freeing" || matches!(after, "free" | "of" | "stored") || after.starts_with("read")
    };
    let mut out: Vec<String> = Vec::new();
    let mut i = 0;
    while i < words.len() {
        if is_size(i) && varies(i) {
            out.push(format!("<n>{}", words[i + 1].trim_start_matches(char::is_alphanumeric)));
            i += 2;
        } else {
            out.push(words[i].to_string());
            i += 1;
        }
    }
    out.join(" ")
}

#[test]
fn transcripts_keep_what_is_fixed_and_replace_what_is_not() {
    let shell = Shell::new();
    shell.write("a", b"known");
    let known = blake3::hash(b"known").to_string();
    let text = format!(
        "{} {known} {} 0123456789abcdef0123456789abcdef 2026-11-21 03:52 2024-01-02 03:04 x\n\
         freeing 12.5 KiB; 3 B, 1.5 GiB free\n{{\"size\":9,\"time\":17}}\n",
        shell.at("b").display(),
        &known[..8],
    );
    let plain = shell.plain(&text);
    assert_eq!(
        plain,
        format!(
            "/r/one/folder/b {known} {} <id> <----- now ----> 2024-01-02 03:04 x\n\
             freeing <n>; 3 B, <n> free\n{{\"size\":9,\"time\":<n>}}\n",
            &known[..8]
        )
    );
}

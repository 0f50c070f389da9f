//! `ddr tour`: the main job, end to end, in a temporary folder.
//!
//! Every command is run as the user would run it, by this very program, and its real output shown.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::output::{BOLD, DIM, styled};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::{count, size};

/// Arguments of `ddr tour`.
#[derive(clap::Args, Debug)]
pub struct TourArgs {
    /// Work on a copy of this directory instead of a few made-up files
    pub dir: Option<PathBuf>,
    /// Keep the temporary folder
    #[arg(long)]
    pub keep: bool,
}

/// Where the tour happens.
struct Stage<'a> {
    session: &'a Session,
    home: PathBuf,
    folder: PathBuf,
}

/// Runs the tour.
pub fn run(session: &Session, args: &TourArgs) -> Result<()> {
    let home = std::env::temp_dir().join(format!("ddr-tour-{}", std::process::id()));
    let folder = home.join("docs");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("creating", &folder, e))?;
    let stage = Stage { session, home: home.clone(), folder };
    let result = stage.play(args);
    if !args.keep {
        std::fs::remove_dir_all(&home).map_err(|e| Error::io("removing", &home, e))?;
    }
    result
}

impl Stage<'_> {
    fn play(&self, args: &TourArgs) -> Result<()> {
        match &args.dir {
            Some(dir) => copy_tree(&self.session.cwd.join(dir), &self.folder)?,
            None => make_files(&self.folder)?,
        }
        self.say("A folder with real files:")?;
        let before = self.hashes()?;
        self.space()?;
        self.say("Let ddr look after it, with a second directory as store:")?;
        self.ddr(&["init", "."])?;
        let store = self.home.join("disk2").display().to_string();
        self.ddr(&["remote", "add", "disk2", &store, "--init", "--same-disk"])?;
        self.say("Stash everything: names, sizes and times stay, the bytes go to the store:")?;
        self.ddr(&["stash", "."])?;
        self.ddr(&["ls", "-l"])?;
        self.ddr(&["du"])?;
        self.space()?;
        self.say("Bring everything back:")?;
        self.ddr(&["checkout", "."])?;
        self.ddr(&["ls"])?;
        let after = self.hashes()?;
        let same = before == after;
        self.say(&format!(
            "{} compared: {}",
            count(before.len() as u64, "file hash"),
            if same { "identical" } else { "DIFFERENT" }
        ))?;
        self.say("And check that the store is whole:")?;
        self.ddr(&["fsck", "--read-data"])?;
        if same { Ok(()) } else { Err(Error::corrupt("tour", "files differ after checkout")) }
    }

    fn say(&self, text: &str) -> Result<()> {
        self.session.out.answer(format!("\n{}", styled(BOLD, text)))?;
        self.session.out.flush()
    }

    /// Runs this program in the folder, showing command and output.
    fn ddr(&self, args: &[&str]) -> Result<()> {
        let shown: Vec<String> =
            args.iter().map(|a| a.replace(&self.home.display().to_string(), "..")).collect();
        self.session.out.answer(styled(DIM, format!("$ ddr {}", shown.join(" "))))?;
        self.session.out.flush()?;
        let exe = std::env::current_exe().map_err(|e| Error::io("finding", "this program", e))?;
        let status = Command::new(&exe)
            .args(args)
            .current_dir(&self.folder)
            .env("XDG_CACHE_HOME", self.home.join("cache"))
            .env("XDG_STATE_HOME", self.home.join("state"))
            .stdin(Stdio::null())
            .status()
            .map_err(|e| Error::io("running", &exe, e))?;
        match status.code() {
            Some(0 | 3) => Ok(()),
            _ => Err(Error::Invalid(format!("`ddr {}` failed: {status}", shown.join(" ")))),
        }
    }

    /// What the files take on the disk.
    fn space(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let (mut local, mut logical) = (0, 0);
        each_file(&self.folder, &mut |path| {
            let meta = std::fs::symlink_metadata(path).map_err(|e| Error::io("reading", path, e))?;
            local += meta.blocks() * 512;
            logical += meta.len();
            Ok(())
        })?;
        self.session.out.answer(format!("{} of files take {} on this disk", size(logical), size(local)))
    }

    fn hashes(&self) -> Result<Vec<(PathBuf, blake3::Hash)>> {
        let mut all = Vec::new();
        each_file(&self.folder, &mut |path| {
            let mut hasher = blake3::Hasher::new();
            let file = std::fs::File::open(path).map_err(|e| Error::io("opening", path, e))?;
            hasher.update_reader(file).map_err(|e| Error::io("reading", path, e))?;
            all.push((path.to_path_buf(), hasher.finalize()));
            Ok(())
        })?;
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }
}

/// Regular files below `dir`, ddr's own left out.
fn each_file(dir: &Path, sink: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("reading", dir, e))? {
        let entry = entry.map_err(|e| Error::io("reading", dir, e))?;
        let kind = entry.file_type().map_err(|e| Error::io("reading", entry.path(), e))?;
        if kind.is_dir() && entry.file_name() != ".ddr" {
            each_file(&entry.path(), sink)?;
        } else if kind.is_file() {
            sink(&entry.path())?;
        }
    }
    Ok(())
}

/// Three files of different kinds: text, data that does not compress, and a small note.
fn make_files(dir: &Path) -> Result<()> {
    let photos = dir.join("photos");
    std::fs::create_dir_all(&photos).map_err(|e| Error::io("creating", &photos, e))?;
    let mut noise = vec![0u8; 6 << 20];
    blake3::Hasher::new().update(b"ddr tour").finalize_xof().fill(&mut noise);
    let text: String = (0..60_000).map(|i| format!("{i:06} a line of a long report\n")).collect();
    let files: [(PathBuf, &[u8]); 4] = [
        (dir.join("report.txt"), text.as_bytes()),
        (photos.join("beach.raw"), &noise),
        (photos.join("copy of beach.raw"), &noise),
        (dir.join("note.txt"), b"buy milk\n"),
    ];
    for (path, bytes) in files {
        std::fs::write(&path, bytes).map_err(|e| Error::io("writing", &path, e))?;
    }
    Ok(())
}

/// Copies a directory as `cp -a` does.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut source = from.as_os_str().to_owned();
    source.push("/.");
    let status = Command::new("cp")
        .arg("-a")
        .arg(source)
        .arg(to)
        .status()
        .map_err(|e| Error::io("running", "cp", e))?;
    // A copy of a folder must not pass for that folder.
    let own = to.join(".ddr");
    if own.exists() {
        std::fs::remove_dir_all(&own).map_err(|e| Error::io("removing", &own, e))?;
    }
    if status.success() { Ok(()) } else { Err(Error::Invalid(format!("copying {} failed", from.display()))) }
}

//! File systems on loop images: made, mounted, snapshotted, and cleaned up even when a test fails.
//!
//! Promises that whatever it mounts is unmounted and detached when its value goes. Finds out
//! whether the machine allows any of that, and says why not.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why loop mounts with these file systems cannot be used here, if so.
pub fn obstacle(kinds: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root for loop mounts".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".into());
    }
    for kind in kinds {
        let program = format!("mkfs.{kind}");
        if Command::new(&program).arg("-V").output().is_err() {
            return Some(format!("{program} is not installed"));
        }
        if let Err(why) = trial(kind) {
            return Some(format!("{kind} cannot be mounted: {why}"));
        }
    }
    None
}

fn trial(kind: &str) -> Result<(), String> {
    let temp = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (image, point) = (temp.path().join("image"), temp.path().join("point"));
    std::fs::create_dir(&point).map_err(|e| e.to_string())?;
    make(kind, &image, 512 << 20)?;
    Mounted::new(&image, &point, kind, None).map(drop)
}

/// Runs a program; its standard output, or an error with all it said.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let args: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    Err(format!("{program} {}: {}: {}", args.join(" "), output.status, text(&output.stderr)))
}

/// Makes a sparse image of this size with a file system in it.
pub fn make(kind: &str, image: &Path, size: u64) -> Result<(), String> {
    File::create(image).and_then(|f| f.set_len(size)).map_err(|e| format!("{}: {e}", image.display()))?;
    let flags: &[&str] = match kind {
        // No room that only root may use: what is full is full.
        "ext4" => &["-q", "-F", "-m", "0", "-E", "nodiscard"],
        "xfs" => &["-q", "-K", "-m", "reflink=1"],
        _ => &["-q", "-K"],
    };
    let mut args: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    args.push(image.as_os_str());
    run(&format!("mkfs.{kind}"), &args).map(drop)
}

/// A mounted loop image.
#[derive(Debug)]
pub struct Mounted {
    device: PathBuf,
    point: PathBuf,
    kind: String,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts an image; on the same loop device as before where it is still free, so that the file
    /// system's device number does not change, as it would not over a power cut.
    pub fn new(image: &Path, point: &Path, kind: &str, device: Option<&Path>) -> Result<Self, String> {
        let device = attach(image, device)?;
        let mut mounted = Self { device, point: point.into(), kind: kind.into(), is_mounted: false };
        // Metadata reaches the image often, data late: the worst that a file system may do.
        let options = match kind {
            "xfs" => "nodiscard",
            _ => "nodiscard,commit=1",
        };
        let args = [
            OsStr::new("-t"),
            OsStr::new(kind),
            OsStr::new("-o"),
            OsStr::new(options),
            mounted.device.as_os_str(),
            point.as_os_str(),
        ];
        run("mount", &args)?;
        mounted.is_mounted = true;
        Ok(mounted)
    }

    /// The loop device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Makes everything written to the file system so far durable, as the drill's own edits are.
    pub fn sync(&self) -> Result<(), String> {
        File::open(&self.point)
            .and_then(|dir| Ok(rustix::fs::syncfs(dir)?))
            .map_err(|e| format!("syncfs {}: {e}", self.point.display()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Best effort, in reverse order.
        if self.is_mounted && run("umount", &[&self.point]).is_err() {
            let _ = run("umount", &[OsStr::new("-l"), self.point.as_os_str()]);
        }
        let _ = run("losetup", &[OsStr::new("-d"), self.device.as_os_str()]);
        if self.kind == "btrfs" {
            // Or the kernel refuses an older snapshot of a file system it has seen.
            let _ = run("btrfs", &["device", "scan", "--forget"]);
        }
    }
}

/// Through the page cache of the image file, so that a clone of the file has every completed write.
fn attach(image: &Path, device: Option<&Path>) -> Result<PathBuf, String> {
    let image = image.as_os_str();
    let flag = OsStr::new("--direct-io=off");
    if let Some(device) = device
        && run("losetup", &[flag, device.as_os_str(), image]).is_ok()
    {
        return Ok(device.into());
    }
    run("losetup", &[flag, OsStr::new("--find"), OsStr::new("--show"), image]).map(PathBuf::from)
}

/// Copies an image as it is at this moment by sharing its blocks.
pub fn snapshot(image: &Path, to: &Path) -> Result<(), String> {
    run("cp", &[OsStr::new("--reflink=always"), image.as_os_str(), to.as_os_str()]).map(drop)
}

/// An inner file system whose image lies on an outer one that can clone files.
#[derive(Debug)]
pub struct Rig {
    /// The inner file system; `None` while a snapshot is mounted in its place.
    pub inner: Option<Mounted>,
    kind: String,
    // Fields are dropped in this order: inner, outer, directory.
    outer: Mounted,
    temp: tempfile::TempDir,
}

impl Rig {
    /// Makes both file systems.
    pub fn new(kind: &str) -> Result<Self, String> {
        let temp = tempfile::Builder::new().prefix("ddr-rig-").tempdir().map_err(|e| e.to_string())?;
        let at = |name: &str| temp.path().join(name);
        for dir in ["outer", "inner"] {
            std::fs::create_dir(at(dir)).map_err(|e| e.to_string())?;
        }
        make("xfs", &at("outer.img"), 8 << 30)?;
        let outer = Mounted::new(&at("outer.img"), &at("outer"), "xfs", None)?;
        make(kind, &at("outer/inner.img"), 1 << 30)?;
        let inner = Mounted::new(&at("outer/inner.img"), &at("inner"), kind, None)?;
        Ok(Self { inner: Some(inner), kind: kind.into(), outer, temp })
    }

    /// Where the inner file system is mounted.
    pub fn point(&self) -> PathBuf {
        self.temp.path().join("inner")
    }

    fn image(&self) -> PathBuf {
        self.outer.point.join("inner.img")
    }

    /// Takes the image as the power going out right now would leave it.
    pub fn cut(&self, number: usize) -> Result<PathBuf, String> {
        let to = self.outer.point.join(format!("cut-{number}.img"));
        snapshot(&self.image(), &to).map(|()| to)
    }

    /// Runs `check` with a snapshot mounted in place of the inner file system, then removes it.
    pub fn with_cut<T>(
        &mut self,
        cut: &Path,
        check: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let device = self.inner.take().map(|m| m.device().to_path_buf());
        let result = Mounted::new(cut, &self.point(), &self.kind, device.as_deref())
            .map_err(|e| format!("after the cut the file system does not mount: {e}"))
            .and_then(|_mounted| check());
        let back = Mounted::new(&self.image(), &self.point(), &self.kind, device.as_deref());
        self.inner = Some(back?);
        std::fs::remove_file(cut).map_err(|e| e.to_string())?;
        result
    }
}

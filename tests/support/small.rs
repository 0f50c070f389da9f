//! A small file system that can be filled up, unplugged, or made read-only.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::mount::{Mounted, make, run};

/// A mounted file system on a loop image.
pub struct Small {
    kind: &'static str,
    image: PathBuf,
    point: PathBuf,
    mounted: Option<Mounted>,
}

impl Small {
    /// Makes and mounts an ext4 of so many MiB at `point`; its image lies beside.
    pub fn new(point: &Path, mib: u64) -> Result<Self, String> {
        Self::of("ext4", point, mib)
    }

    /// The same with a file system of another kind.
    pub fn of(kind: &'static str, point: &Path, mib: u64) -> Result<Self, String> {
        let image = point.with_extension("img");
        std::fs::create_dir_all(point).map_err(|e| e.to_string())?;
        make(kind, &image, mib << 20)?;
        let mut small = Self { kind, image, point: point.into(), mounted: None };
        small.plug()?;
        Ok(small)
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    fn filler(&self) -> PathBuf {
        self.point.join("filler")
    }

    /// Fills it but for so many bytes.
    pub fn fill(&self, leave: u64) -> Result<(), String> {
        let told = |e: std::io::Error| format!("filler: {e}");
        let mut file = File::options().create(true).append(true).open(self.filler()).map_err(told)?;
        for block in [1 << 20, 64 << 10, 4 << 10] {
            let bytes = vec![1u8; block];
            while file.write_all(&bytes).and_then(|()| file.sync_data()).is_ok() {}
        }
        let len = file.metadata().map_err(told)?.len();
        file.set_len(len.saturating_sub(leave)).and_then(|()| file.sync_all()).map_err(told)
    }

    /// Makes the room free again.
    pub fn relieve(&self) -> Result<(), String> {
        std::fs::remove_file(self.filler()).map_err(|e| format!("filler: {e}"))
    }

    /// Makes it read-only, or writable again.
    pub fn read_only(&self, yes: bool) -> Result<(), String> {
        let how = if yes { "remount,ro" } else { "remount,rw" };
        run("mount", &[OsStr::new("-o"), OsStr::new(how), self.point.as_os_str()]).map(drop)
    }

    /// Takes it away, in use or not: its mount point is an empty directory.
    pub fn unplug(&mut self) -> Result<(), String> {
        run("umount", &[OsStr::new("-l"), self.point.as_os_str()])?;
        self.mounted = None;
        Ok(())
    }

    /// Puts it back.
    pub fn plug(&mut self) -> Result<(), String> {
        self.mounted = Some(Mounted::new(&self.image, &self.point, self.kind, None)?);
        Ok(())
    }
}

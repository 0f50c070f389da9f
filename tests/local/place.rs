//! A directory on a certain file system, and acting as an ordinary user.

use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Place {
    pub kind: &'static str,
    path: PathBuf,
    mounted: bool,
    _temp: tempfile::TempDir,
}

impl Place {
    pub fn temporary() -> Self {
        let temp = tempfile::tempdir().expect("temp dir");
        open_to_all(temp.path());
        Self { kind: "temporary directory", path: temp.path().to_path_buf(), mounted: false, _temp: temp }
    }

    /// A fresh file system in an image; `None`, with the reason printed, where that cannot be.
    pub fn mounted(kind: &'static str) -> Option<Self> {
        let temp = tempfile::tempdir().expect("temp dir");
        open_to_all(temp.path());
        let (image, path) = (temp.path().join("image"), temp.path().join("mnt"));
        std::fs::create_dir(&path).expect("mount point");
        std::fs::File::create(&image).and_then(|f| f.set_len(512 << 20)).expect("image");
        let steps = [
            vec![format!("mkfs.{kind}"), if kind == "ext4" { "-F" } else { "-f" }.into(), show(&image)],
            vec!["mount".into(), "-o".into(), "loop".into(), show(&image), show(&path)],
        ];
        for step in steps {
            let done = Command::new(&step[0]).args(&step[1..]).output();
            if !done.as_ref().is_ok_and(|o| o.status.success()) {
                println!("not tested on {kind}: {step:?} failed: {done:?}");
                return None;
            }
        }
        open_to_all(&path);
        Some(Self { kind, path, mounted: true, _temp: temp })
    }

    /// A new directory of this name.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path.join(name);
        std::fs::create_dir(&dir).expect("fresh directory");
        open_to_all(&dir);
        dir
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted {
            let done = Command::new("umount").arg(&self.path).status();
            if !done.is_ok_and(|s| s.success()) {
                let _ = Command::new("umount").arg("-l").arg(&self.path).status();
            }
        }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
}

/// Runs as a user without privileges: on a thread that gives up root, or right here.
pub fn as_ordinary_user<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    if !rustix::process::geteuid().is_root() {
        return run();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            const NOBODY: libc::c_long = 65534;
            for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
                // SAFETY: the bare system call changes this thread only, which ends soon.
                let done = unsafe { libc::syscall(call, NOBODY, NOBODY, NOBODY) };
                assert_eq!(done, 0, "giving up root");
            }
            run()
        });
        thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

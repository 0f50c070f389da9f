//! What every command needs: where it runs, how it prints, and the folder it works on.
//!
//! Promises that an interrupted earlier run is mended before a command that could be misled by it.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::output::Output;
use super::progress::Terminal;
use super::{Global, ask};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units;
use crate::engine::folder::{Access, Context, Folder, locate};
use crate::engine::mend;

/// One run of the program.
pub struct Session {
    /// Working directory, as the user sees it.
    pub cwd: PathBuf,
    /// Prints results.
    pub out: Output,
    /// Shows progress, counts problems.
    pub terminal: Arc<Terminal>,
    context: Context,
}

impl Session {
    /// Reads the environment.
    pub fn new(global: &Global, cancel: Cancel) -> Result<Self> {
        let cwd = std::env::current_dir().map_err(|e| Error::io("finding", "the working directory", e))?;
        let cwd = match &global.directory {
            Some(dir) => enter(&cwd.join(dir))?,
            None => cwd,
        };
        let out = Output::new(global.json, global.quiet);
        let terminal = Arc::new(Terminal::new(global.json, global.quiet));
        let dirs = xdg::BaseDirectories::with_prefix("ddr");
        let home = |dir: Option<PathBuf>, what: &str| {
            dir.ok_or_else(|| {
                Error::Invalid(format!("no {what} directory: set HOME or XDG_{}_HOME", what.to_uppercase()))
            })
        };
        let context = Context {
            cache_dir: home(dirs.get_cache_home(), "cache")?,
            state_dir: home(dirs.get_state_home(), "state")?,
            wait: units::parse_duration(&global.wait)?,
            progress: terminal.clone(),
            login: ask::login(&terminal, &cancel),
            cancel,
        };
        Ok(Self { cwd, out, terminal, context })
    }

    /// Directories and watchers for the engine.
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// The folder around the working directory, opened to change something.
    pub fn write(&self) -> Result<Folder> {
        self.open(&locate(&self.cwd)?, Access::Write)
    }

    /// The same for what frees room in the end, which works on a disk that is full; a dry run frees none, and
    /// gets nothing of what is set aside for that.
    pub fn relieve(&self, dry_run: bool) -> Result<Folder> {
        self.open(&locate(&self.cwd)?, if dry_run { Access::Write } else { Access::Relieve })
    }

    /// The folder around the working directory, opened to look.
    pub fn read(&self) -> Result<Folder> {
        self.open(&locate(&self.cwd)?, Access::Read)
    }

    /// Opens a peer, after mending what an interrupted run left.
    pub fn open(&self, dir: &Path, access: Access) -> Result<Folder> {
        let mut folder = Folder::open(dir, access, self.context())?;
        if !mend::is_needed(&folder)? {
            return Ok(folder);
        }
        if access != Access::Read {
            mend::mend(&mut folder)?;
            return Ok(folder);
        }
        // A command that only looks mends, too, unless another process is at work right now.
        let quick = Context { wait: std::time::Duration::ZERO, ..self.context() };
        match Folder::open(dir, Access::Write, quick) {
            Ok(mut writable) => {
                mend::mend(&mut writable)?;
                Folder::open(dir, Access::Read, self.context())
            }
            Err(_) => Ok(folder),
        }
    }

    /// Command-line paths, relative to the root.
    pub fn paths(&self, folder: &Folder, args: &[PathBuf]) -> Result<Vec<RelPath>> {
        folder.rel_paths(&self.cwd, args)
    }

    /// An error if files had problems, for the exit code.
    pub fn problems(&self) -> Result<()> {
        match self.terminal.problem_count() {
            0 => Ok(()),
            n => Err(Error::Problems(units::count(n, "file"))),
        }
    }

    /// Ends progress bars and flushes output.
    pub fn finish(&self) -> Result<()> {
        self.terminal.clear();
        self.out.flush()
    }

    /// Whether the reader of our output went away.
    pub fn is_pipe_closed(&self, error: &Error) -> bool {
        matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// The real directory behind `-C`.
fn enter(dir: &Path) -> Result<PathBuf> {
    let real = dir.canonicalize().map_err(|e| Error::io("entering", dir, e))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Error::Invalid(format!("{} is not a directory", dir.display()))),
    }
}

/// A path without links and `..`, as far as there is something to resolve.
pub fn resolve(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.components().next_back()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(Component::ParentDir)) => {
            let above = resolve(parent);
            above.parent().map_or(above.clone(), Path::to_path_buf)
        }
        (Err(_), Some(parent), Some(last)) => resolve(parent).join(last),
        _ => path.to_path_buf(),
    }
}

//! `ddr ls`

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::json;

use super::output::{BOLD, DIM, STUB, styled, table};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::size;
use crate::engine::folder::Folder;
use crate::engine::remotes::{Remote, Remotes};
use crate::engine::survey::{Change, as_it_is, differs, row_of};
use crate::history::LocalRow;
use crate::local::stat::{FileType, Stat};
use crate::model::residency::Residency;
use crate::store::Store;

/// Arguments of `ddr ls`.
#[derive(clap::Args, Debug)]
pub struct LsArgs {
    /// Files and directories (default: here)
    pub paths: Vec<PathBuf>,
    /// Also permissions, time and content id
    #[arg(short = 'l', long)]
    pub long: bool,
}

/// One line of the listing.
struct Line {
    path: RelPath,
    stat: Stat,
    row: Option<LocalRow>,
    copies: Option<usize>,
    pinned: bool,
}

impl Line {
    /// The row, if it still describes what is there.
    fn current(&self) -> Option<&LocalRow> {
        self.row
            .as_ref()
            .filter(|row| matches!(differs(&self.stat, row), Change::Same | Change::Mode | Change::Touched))
    }

    fn residency(&self) -> &'static str {
        match (self.stat.kind, self.current()) {
            (FileType::Dir, _) => "dir",
            (FileType::Symlink, _) => "link",
            (FileType::Other(what), _) => what,
            (FileType::File, None) => "new",
            (FileType::File, Some(row)) if row.residency == Residency::Stub => "stub",
            (FileType::File, Some(_)) => "full",
        }
    }
}

/// Lists each path, or what is in it.
pub fn run(session: &Session, args: &LsArgs) -> Result<()> {
    let folder = session.read()?;
    let tree = folder.tree()?;
    let remotes = Remotes::open_all(&folder)?;
    let pins = folder.config.pins()?;
    let paths = session.paths(&folder, &args.paths)?;
    for path in &paths {
        let is_dir = path.is_root() || tree.stat(path)?.is_some_and(|s| s.kind == FileType::Dir);
        let names = if is_dir { children(&folder, path)? } else { vec![path.clone()] };
        if is_dir && paths.len() > 1 {
            session.out.answer(styled(BOLD, format!("{path}:")))?;
        }
        let mut lines = Vec::with_capacity(names.len());
        for name in names {
            let Some(stat) = tree.stat(&name)? else {
                if !is_dir {
                    return Err(Error::Missing(name.to_string()));
                }
                continue;
            };
            let row = row_of(&folder, &name)?;
            let row = row.map(|row| as_it_is(&folder, &name, &stat, row)).transpose()?;
            let pinned = pins.cover(&name);
            lines.push(Line { path: name, stat, row, copies: None, pinned });
        }
        count_copies(&remotes.online, &mut lines)?;
        print(session, args, &lines)?;
    }
    Ok(())
}

/// Names in a directory, sorted; ddr's own left out.
fn children(folder: &Folder, dir: &RelPath) -> Result<Vec<RelPath>> {
    let full = folder.tree()?.full(dir);
    let entries = std::fs::read_dir(&full).map_err(|e| Error::io("reading", &full, e))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("reading", &full, e))?;
        // Names that ddr cannot record (its own, too long a path) are not listed.
        names.extend(dir.join(entry.file_name().as_bytes()).ok());
    }
    names.sort();
    Ok(names)
}

fn count_copies(stores: &[Remote], lines: &mut [Line]) -> Result<()> {
    let bodies: Vec<_> =
        lines.iter().enumerate().filter_map(|(i, l)| Some((i, l.current()?.body?))).collect();
    let ids: Vec<_> = bodies.iter().map(|(_, body)| body.id).collect();
    bodies.iter().for_each(|(i, _)| lines[*i].copies = Some(0));
    for store in stores {
        for ((i, _), has) in bodies.iter().zip(store.packs.has(&ids)?) {
            lines[*i].copies = lines[*i].copies.map(|n| n + usize::from(has));
        }
    }
    Ok(())
}

fn print(session: &Session, args: &LsArgs, lines: &[Line]) -> Result<()> {
    let mut rows = Vec::with_capacity(lines.len());
    for line in lines {
        let content = line.current().and_then(|r| r.content);
        let is_file = line.stat.kind == FileType::File;
        session.out.json(&json!({
            "type": "file", "path": line.path.to_string(), "residency": line.residency(), "copies": line.copies,
            "size": is_file.then_some(line.stat.size), "local_bytes": is_file.then_some(line.stat.blocks * 512), "mtime": line.stat.mtime.secs,
            "content": content.map(|c| c.to_string()), "pinned": line.pinned,
        }))?;
        let name = crate::base::path::escape(line.path.name());
        let (word, name) = match line.residency() {
            "stub" => (styled(STUB, "stub"), styled(STUB, name)),
            "dir" => ("dir".to_string(), styled(BOLD, format!("{name}/"))),
            word => (word.to_string(), name),
        };
        let copies = line.copies.map_or("-".to_string(), |n| n.to_string());
        let bytes = if is_file { size(line.stat.size) } else { "-".into() };
        let mut row = vec![word, copies, bytes];
        if args.long {
            row.push(format!("{:03o}", line.stat.mode));
            row.push(line.stat.mtime.to_string());
            row.push(content.map_or("-".into(), |c| c.short()));
        }
        row.push(if line.pinned { format!("{name} {}", styled(DIM, "(pinned)")) } else { name });
        rows.push(row);
    }
    table(&rows, &[1, 2]).into_iter().try_for_each(|line| session.out.answer(line))
}

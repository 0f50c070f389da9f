//! `ddr find`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::id::ContentId;

/// Arguments of `ddr find`.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub struct FindArgs {
    /// Paths with this content: what `b3sum` prints
    #[arg(long, value_name = "B3SUM")]
    pub content: Option<String>,
    /// Paths with the same content as this file
    #[arg(long, value_name = "PATH")]
    pub same: Option<PathBuf>,
}

/// Every path and version that has the content.
pub fn run(session: &Session, args: &FindArgs) -> Result<()> {
    let folder = session.read()?;
    let content = match (&args.content, &args.same) {
        (Some(hex), _) => ContentId::from_hex(hex)?,
        (None, Some(path)) => {
            let path = session.paths(&folder, std::slice::from_ref(path))?.remove(0);
            let row = folder.history.local(&path)?;
            let version = super::whereis::current(&folder, &path, row.as_ref())?;
            version.content.ok_or_else(|| Error::Invalid(format!("{path} is no regular file")))?
        }
        (None, None) => return Err(Error::Invalid("name --content or --same".into())),
    };
    let mut found = 0;
    folder.history.by_content(&content, &mut |path, _, version, current| {
        found += 1;
        session.out.json(&json!({
            "type": "found", "path": path.to_string(), "size": version.size, "current": current,
        }))?;
        session.out.answer(format!("{path}{}", if current { "" } else { "  (older version)" }))
    })?;
    if found == 0 { Err(Error::Missing(format!("content {}", content.short()))) } else { Ok(()) }
}

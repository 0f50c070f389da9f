//! `ddr recalls`

use serde_json::json;

use super::output::table;
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::size;
use crate::local::guard::{Frame, Guard};

/// Arguments of `ddr recalls`.
#[derive(clap::Args, Debug)]
pub struct RecallsArgs {
    /// Let this one wait no longer: it gets an error
    #[arg(long, value_name = "NUMBER")]
    pub cancel: Option<u64>,
}

/// Lists who waits, or ends one.
pub fn run(session: &Session, args: &RecallsArgs) -> Result<()> {
    let folder = session.read()?;
    let refusal = folder.guard.as_deref().and_then(|guard| guard.refusal());
    let off = || match refusal {
        Some(why) => Error::Refused(why.into()),
        None => Error::Unsupported("on-demand access is off here; start it with: sudo ddr guard DIR".into()),
    };
    let guard = folder.guard.as_deref().filter(|guard| guard.serves()).ok_or_else(off)?;
    match args.cancel {
        Some(number) => cancel(guard, number),
        None => {
            let (waiting, all) = guard.waiting()?;
            list(session, &waiting, all)
        }
    }
}

fn cancel(guard: &Guard, number: u64) -> Result<()> {
    guard.cancel(number).map_err(|_| Error::Missing(format!("recall {number}")))
}

fn list(session: &Session, waiting: &[Frame], all: u64) -> Result<()> {
    if waiting.is_empty() && !session.out.is_json() {
        return session.out.line("nobody waits for a stub");
    }
    let mut rows = vec![["NUMBER", "PROGRAM", "THREAD", "DONE", "FILE"].map(String::from).to_vec()];
    for frame in waiting {
        let text = String::from_utf8_lossy(&frame.text).into_owned();
        let (program, path) = text.split_once('\0').unwrap_or((&text, ""));
        session.out.json(&json!({
            "type": "recall",
            "number": frame.ticket,
            "thread": frame.code,
            "program": program,
            "path": path,
            "done": frame.number,
            "size": frame.other,
            "at_work": frame.flag == 1,
        }))?;
        let far = format!("{} of {}", size(frame.number), size(frame.other));
        rows.push(vec![frame.ticket.to_string(), program.into(), frame.code.to_string(), far, path.into()]);
    }
    table(&rows, &[0, 2]).into_iter().try_for_each(|line| session.out.answer(line))?;
    match all.saturating_sub(waiting.len() as u64) {
        0 => Ok(()),
        more => session.out.line(format!("and {more} more")),
    }
}

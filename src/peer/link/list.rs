//! Listing objects.
//!
//! Promises each name once, also after a cut; a slow receiver holds up nobody else.

use super::conn::Conn;
use super::slot::Slot;
use super::{Cuts, Link, Trouble};
use crate::base::error::{Error, Result};
use crate::format::message::{Answer, PAGES, Request};

/// Receives names and sizes.
type Sink<'a> = &'a mut dyn FnMut(&str, u64) -> Result<()>;

impl Link {
    /// Calls `sink` with name and size of every object below a prefix, in byte order.
    pub fn list(&self, prefix: &str, sink: Sink<'_>) -> Result<()> {
        let (mut last, mut count) = (None, 0);
        let mut cuts = Cuts::default();
        loop {
            let conn = self.conn()?;
            match self.list_once(&conn, prefix, &mut last, &mut count, sink) {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Cut(e)) => {
                    self.part(&conn);
                    cuts.count(e, count)?;
                }
            }
        }
    }

    fn list_once(
        &self,
        conn: &Conn,
        prefix: &str,
        last: &mut Option<String>,
        count: &mut u64,
        sink: Sink<'_>,
    ) -> Result<(), Trouble> {
        let request = Request::List { prefix: prefix.into(), after: last.clone() };
        let call = conn.call(Slot::list(PAGES), &request)?;
        let odd = |what: &str| Trouble::Final(Error::corrupt(self.dial.place(), what));
        loop {
            let (page, cost) = match call.slot.next(self.timing.answer)? {
                (Answer::Done, _) => return Ok(()),
                (Answer::Page(page), cost) => (page, cost),
                _ => return Err(odd("it did not answer what it was asked")),
            };
            for listed in page {
                if !listed.name.starts_with(prefix)
                    || last.as_ref().is_some_and(|last| *last >= listed.name)
                    || crate::store::names::check(&listed.name).is_err()
                {
                    return Err(odd("it listed names that were not asked for"));
                }
                sink(&listed.name, listed.size)?;
                *count += 1;
                *last = Some(listed.name);
            }
            call.slot.grant(cost);
            call.send(&Request::Credit { bytes: cost })?;
        }
    }
}

//! Results on stdout: lines and tables for people, or one JSON object per line.
//!
//! Promises that nothing else ever goes to stdout, and that a closed pipe is an error value, not a
//! panic.

use std::io::Write;
use std::sync::Mutex;

use anstyle::{AnsiColor, Style};

use crate::base::error::{Error, Result};

/// Things that went wrong.
pub const ERROR: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
/// Stubs.
pub const STUB: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan)));
/// Things to notice.
pub const WARN: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
/// Headings.
pub const BOLD: Style = Style::new().bold();
/// Less important things.
pub const DIM: Style = Style::new().dimmed();

/// Text in a style.
pub fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{}{text}{}", style.render(), style.render_reset())
}

/// Where results go.
pub struct Output {
    json: bool,
    quiet: bool,
    to: Mutex<std::io::BufWriter<anstream::AutoStream<std::io::Stdout>>>,
}

impl Output {
    /// Decides on colour by what stdout is.
    pub fn new(json: bool, quiet: bool) -> Self {
        let stdout = anstream::AutoStream::auto(std::io::stdout());
        Self { json, quiet, to: Mutex::new(std::io::BufWriter::new(stdout)) }
    }

    /// Whether the user wants JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people; nothing in JSON mode.
    pub fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.json || self.quiet { Ok(()) } else { self.write(&format!("{text}\n")) }
    }

    /// A line that is the very answer asked for: printed for people even when quiet.
    pub fn answer(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.json { Ok(()) } else { self.write(&format!("{text}\n")) }
    }

    /// An object; nothing in human mode.
    pub fn json(&self, value: &serde_json::Value) -> Result<()> {
        if self.json { self.write(&format!("{value}\n")) } else { Ok(()) }
    }

    /// Bytes as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        let mut to = self.to.lock().unwrap_or_else(|e| e.into_inner());
        to.write_all(bytes).map_err(|e| Error::io("writing", "stdout", e))
    }

    fn write(&self, text: &str) -> Result<()> {
        self.raw(text.as_bytes())
    }

    /// Shows what was written so far.
    pub fn flush(&self) -> Result<()> {
        let mut to = self.to.lock().unwrap_or_else(|e| e.into_inner());
        to.flush().map_err(|e| Error::io("writing", "stdout", e))
    }
}

/// Lines up columns; the last one may be of any width.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| visible(t)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let cell = |(c, text): (usize, &String)| {
        let pad = " ".repeat(widths[c].saturating_sub(visible(text)));
        match (right.contains(&c), c + 1 == columns) {
            (true, _) => format!("{pad}{text}"),
            (false, true) => text.clone(),
            (false, false) => format!("{text}{pad}"),
        }
    };
    rows.iter()
        .map(|row| row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_string())
        .collect()
}

/// Printed width, without escape sequences.
fn visible(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(|s| s.chars().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_style() {
        let rows = vec![
            vec![styled(STUB, "stub"), "1".into(), "a".into()],
            vec!["x".into(), "100".into(), "b".into()],
        ];
        let lines: Vec<String> =
            table(&rows, &[1]).iter().map(|l| anstream::adapter::strip_str(l).to_string()).collect();
        assert_eq!(lines, ["stub    1  a", "x     100  b"]);
    }
}

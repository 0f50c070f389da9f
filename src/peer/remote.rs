//! Running ddr on another machine: the command, and what its end means.
//!
//! Promises that a path reaches the other ddr as it is, whatever the shell in between, and that a
//! machine without ddr, one that cannot be reached and a changed host key are told apart. Pure.

use std::time::Duration;

use crate::base::error::Error;

/// After how much silence to ask whether the other side is there, unless ssh's configuration says.
pub const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// What is known of a command that ended on another machine.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Its exit status; 255 where ssh itself failed.
    pub exit: Option<i32>,
    /// Its last lines on standard error.
    pub said: Vec<String>,
    /// What happened to the connection.
    pub broken: Option<String>,
}

/// What it means.
#[derive(Debug)]
pub enum Verdict {
    /// This.
    Error(Error),
    /// It ended as it should.
    Nothing,
}

/// A word for any POSIX shell, and for fish and csh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What is run there; `~/` at the start of the program is the home directory.
pub fn serve_command(program: Option<&str>, path: &str) -> String {
    let program = match program {
        None => "ddr".to_string(),
        Some(program) => match program.strip_prefix("~/") {
            Some(rest) => format!("~/{}", quoted(rest)),
            None => quoted(program),
        },
    };
    format!("{program} serve -- {}", quoted(path))
}

/// What an end means. [`Error::Offline`]: dialling again may help.
pub fn verdict(words: &Words, place: &str) -> Verdict {
    let said = words.said.join("; ");
    let is = |text: &str| said.contains(text);
    let offline = |why: String| Verdict::Error(Error::Offline { name: place.into(), why });
    match (words.exit, &words.broken) {
        (Some(127), _) => Verdict::Error(no_ddr(place, &said)),
        (Some(126), _) => {
            Verdict::Error(Error::Unsupported(format!("{place}: ddr cannot be run there: {said}")))
        }
        (Some(255), _) if is("IDENTIFICATION HAS CHANGED") || is("Offending ") => {
            Verdict::Error(Error::Refused(format!("the host key of {place} is not the one we know: {said}")))
        }
        (Some(255), _) if is("Host key verification failed") => Verdict::Error(Error::Refused(format!(
            "the host key of {place} is not known; add --accept-new, or run ssh once and look at the key: {said}"
        ))),
        (_, Some(broken)) if said.is_empty() => offline(broken.clone()),
        (_, Some(broken)) => offline(format!("{broken} ({said})")),
        (Some(0), None) if said.is_empty() => Verdict::Nothing,
        (Some(code), None) if said.is_empty() => offline(format!("ddr ended there with {code}")),
        (None, None) if said.is_empty() => offline("the connection ended".into()),
        _ => offline(said),
    }
}

/// The other machine is there, but has no ddr.
fn no_ddr(place: &str, said: &str) -> Error {
    let heard = if said.is_empty() { String::new() } else { format!(" ({said})") };
    Error::Unsupported(format!(
        "there is no ddr on {place}{heard}; install it there, or say where it is: \
         ddr remote set NAME --program /path/to/ddr (--program with remote add and clone)"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn programs_and_paths_are_quoted() {
        assert_eq!(serve_command(None, "/srv/it's"), r"ddr serve -- '/srv/it'\''s'");
        assert_eq!(serve_command(Some("~/.cargo/bin/ddr"), "-x"), "~/'.cargo/bin/ddr' serve -- '-x'");
        assert_eq!(serve_command(Some("/opt/d d"), "$(x)"), "'/opt/d d' serve -- '$(x)'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_shell_gives_back_what_was_quoted(text in "[^\\x00\\p{C}]{1,30}") {
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", quoted(&text)))
                .output()
                .expect("sh runs");
            prop_assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let end = |exit, said: &str, broken: Option<&str>| {
            let said = said.lines().map(Into::into).collect();
            let words = Words { exit, said, broken: broken.map(Into::into) };
            match verdict(&words, "nas") {
                Verdict::Error(e) => Some(e),
                Verdict::Nothing => None,
            }
        };
        let missing = end(Some(127), "sh: 1: ddr: not found", None).expect("an error");
        assert!(matches!(&missing, Error::Unsupported(why) if why.contains("--program")), "{missing}");
        let changed = end(Some(255), "REMOTE HOST IDENTIFICATION HAS CHANGED!\nOffending key in /h:3", None);
        assert!(matches!(changed, Some(Error::Refused(why)) if why.contains("/h:3")));
        let unknown = end(Some(255), "Host key verification failed.", None);
        assert!(matches!(unknown, Some(Error::Refused(why)) if why.contains("--accept-new")));
        let refused = end(Some(255), "ssh: connect to host nas port 22: Connection refused", None);
        assert!(matches!(refused, Some(Error::Offline { .. })));
        let cut = end(None, "", Some("no answer for 45 s"));
        assert!(matches!(cut, Some(Error::Offline { why, .. }) if why == "no answer for 45 s"));
        assert!(end(Some(0), "", None).is_none());
    }
}

//! Just enough Rust lexing for the tidy checks: code without comments, strings and tests.
//!
//! Promises that line numbers stay what they were. Knows no grammar beyond braces, and nothing of
//! files.

/// The source with comments blanked and the insides of strings and characters replaced by `_`.
pub fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => {
                chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n)
            }
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            _ => at,
        };
        if end > at {
            fill(&mut out, &chars[at..end], ' ');
            at = end;
            continue;
        }
        let end = literal_end(&chars, at);
        if end > at {
            out.push(chars[at]);
            fill(&mut out, &chars[at + 1..end - 1], '_');
            out.push(chars[end - 1]);
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

fn fill(out: &mut String, chars: &[char], with: char) {
    out.extend(chars.iter().map(|c| if *c == '\n' { '\n' } else { with }));
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

/// End of the string, raw string or character literal at `start`; `start` itself if there is none.
fn literal_end(chars: &[char], start: usize) -> usize {
    let escaped_end = |quote: char| {
        let mut at = start + 1;
        while at < chars.len() && chars[at] != quote {
            at += if chars[at] == '\\' { 2 } else { 1 };
        }
        (at + 1).min(chars.len())
    };
    let word_before = start > 0 && (chars[start - 1].is_alphanumeric() || chars[start - 1] == '_');
    match chars[start] {
        '"' => escaped_end('"'),
        '\'' if chars.get(start + 1) == Some(&'\\') => escaped_end('\''),
        '\'' if chars.get(start + 2) == Some(&'\'') => start + 3,
        'r' if !word_before || chars[start - 1] == 'b' || chars[start - 1] == 'c' => raw_end(chars, start),
        _ => start,
    }
}

fn raw_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return start;
    }
    let closes = |at: &usize| {
        chars[*at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (start + 2 + hashes..chars.len()).find(closes).map_or(chars.len(), |at| at + 1 + hashes)
}

/// A word or a single other character, with its line (from 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    /// The text.
    pub text: &'a str,
    /// Its line.
    pub line: usize,
    /// Where it starts, in bytes.
    pub at: usize,
}

/// Splits code (as [`code_only`] gives it) into words, `::` and single characters.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let (mut out, mut line, mut at) = (Vec::new(), 1, 0);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(c) = code[at..].chars().next() {
        let len = if is_word(c) {
            code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at)
        } else if code[at..].starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            out.push(Token { text: &code[at..at + len], line, at });
        }
        line += usize::from(c == '\n');
        at += len;
    }
    out
}

/// Code with every `#[cfg(test)]` item blanked.
pub fn without_tests(code: &str) -> String {
    let tokens = tokens(code);
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut out = code.to_string();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].iter().map(|t| t.text).take(mark.len()).eq(mark) {
            at += 1;
            continue;
        }
        let end = item_end(&tokens, at + mark.len());
        let (from, to) = (tokens[at].at, tokens.get(end).map_or(code.len(), |t| t.at));
        let blank: String = code[from..to].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        // Bytes may shrink where a character is wider than one; keep the length by padding.
        let padded = format!("{blank}{}", " ".repeat(to - from - blank.len()));
        out.replace_range(from..to, &padded);
        at = end;
    }
    out
}

/// Index after the item that starts at `start`: its closing brace, or `;` before any brace.
fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let (mut braces, mut others) = (0i32, 0i32);
    for (n, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "{" => braces += 1,
            "}" => braces -= 1,
            "(" | "[" => others += 1,
            ")" | "]" => others -= 1,
            _ => {}
        }
        let ends = token.text == "}" || (token.text == ";" && others == 0);
        if ends && braces == 0 {
            return n + 1;
        }
    }
    tokens.len()
}

/// Lines that hold code. Lines inside a string, such as a transcript, are data.
pub fn code_lines(code: &str) -> usize {
    code.lines().filter(|l| l.chars().any(|c| c != '_' && !c.is_whitespace())).count()
}

/// A function: name, first line, lines of code.
#[derive(PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of `fn`.
    pub line: usize,
    /// Lines of code from `fn` to its closing brace.
    pub lines: usize,
}

/// Every function with a body.
pub fn functions(code: &str) -> Vec<Function> {
    let tokens = tokens(code);
    let mut out = Vec::new();
    for (n, pair) in tokens.windows(2).enumerate() {
        if pair[0].text != "fn" || pair[1].text == "(" {
            continue;
        }
        let end = item_end(&tokens, n);
        let body = &code[pair[0].at..tokens.get(end - 1).map_or(code.len(), |t| t.at + 1)];
        if body.ends_with('}') {
            out.push(Function {
                name: pair[1].text.to_string(),
                line: pair[0].line,
                lines: code_lines(body),
            });
        }
    }
    out
}

#[test]
fn comments_strings_and_characters_are_blanked() {
    let source = "a // crate::x\n/* b /* c */ d */ e \"f\\\" { g\" r#\"h\"i\"# '{' '\\'' 'l: b\"}\" j";
    let code = code_only(source);
    assert_eq!(code.lines().count(), 2);
    for gone in ["crate", "b ", "f", "g", "h", "{", "}", "i"] {
        assert!(!code.contains(gone), "{gone:?} is still in {code:?}");
    }
    for kept in ["a", "e", "'l", "j"] {
        assert!(code.contains(kept), "{kept:?} is gone from {code:?}");
    }
}

#[test]
fn test_items_are_blanked_and_nothing_else() {
    let code =
        "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { x[1]; }\n}\n#[cfg(test)]\nuse c;\nfn d() {}\n";
    let kept = without_tests(code);
    assert!(kept.contains("fn a") && kept.contains("fn d"));
    assert!(!kept.contains("fn b") && !kept.contains("use c"));
    assert_eq!(code_lines(&kept), 2);
}

#[test]
fn functions_are_measured_in_lines_of_code() {
    let code = code_only("fn a(f: fn(u8)) {\n\n // no\n 1;\n}\ntrait T { fn b(&self) -> [u8; 2]; }\n");
    assert_eq!(functions(&code), [Function { name: "a".into(), line: 1, lines: 3 }]);
    let code = code_only("fn a() {\n b(r\"\n text\n more\n \");\n}\n");
    assert_eq!(functions(&code), [Function { name: "a".into(), line: 1, lines: 4 }]);
}

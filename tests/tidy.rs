//! House rules, checked on the source text: layers, lengths, headers, forbidden words, dead links.
//!
//! Promises one message per violation, with file and line. Each rule is a pure function over text,
//! tested on a made-up violation, so that a rule that catches nothing is noticed.

use std::fs;
use std::path::{Path, PathBuf};

mod imports;
mod lex;

use imports::{Module, Named};

/// Most lines of code in a file and in a function.
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 80;

/// A source file: path relative to its root directory, and text.
struct Source {
    path: String,
    text: String,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir` with this extension, in order; build output and fuzz corpora excepted.
fn read(dir: &str, extension: &str) -> Vec<Source> {
    let root = repository().join(dir);
    let mut todo = vec![root.clone()];
    let mut found: Vec<PathBuf> = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.ends_with("target") || path.ends_with("corpus") => {}
                true => todo.push(path),
                false if path.extension().is_some_and(|e| e == extension) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    let load = |path: PathBuf| Source {
        path: path.strip_prefix(&root).expect("below its root").to_string_lossy().into_owned(),
        text: fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    };
    found.into_iter().map(load).collect()
}

fn all_rust() -> Vec<Source> {
    let named = |dir: &'static str| {
        let rename = move |file: Source| Source { path: format!("{dir}/{}", file.path), ..file };
        read(dir, "rs").into_iter().map(rename)
    };
    named("src").chain(named("tests")).collect()
}

fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// What a file names outside its unit tests.
fn names(file: &Source) -> (Module, Vec<Named>) {
    let module = imports::module_of(&file.path);
    let code = lex::without_tests(&lex::code_only(&file.text));
    let names = imports::named(&module, &code);
    (module, names)
}

fn header(file: &Source) -> Option<String> {
    let first = file.text.lines().next().unwrap_or_default();
    let said = first.strip_prefix("//!").is_some_and(|rest| !rest.trim().is_empty());
    (!said).then(|| format!("{}:1: does not open with `//!` and what it is", file.path))
}

fn lengths(file: &Source) -> Vec<String> {
    let code = lex::without_tests(&lex::code_only(&file.text));
    let lines = lex::code_lines(&code);
    let mut out = Vec::new();
    if lines > FILE_LINES {
        out.push(format!("{}: {lines} lines of code, more than {FILE_LINES}", file.path));
    }
    for function in lex::functions(&code) {
        if function.lines > FUNCTION_LINES {
            let lex::Function { name, line, lines } = function;
            out.push(format!("{}:{line}: {name} has {lines} lines, more than {FUNCTION_LINES}", file.path));
        }
    }
    out
}

fn forbidden(file: &Source) -> Vec<String> {
    // A module of tests in a file of its own has no `#[cfg(test)]` line to go by.
    if file.path.ends_with("/tests.rs") {
        return vec![];
    }
    let code = lex::without_tests(&lex::code_only(&file.text));
    let tokens = lex::tokens(&code);
    let mut out = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        let next = tokens.get(n + 1).map_or("", |t| t.text);
        let before = if n == 0 { "" } else { tokens[n - 1].text };
        let bad = match token.text {
            "unwrap" => before == "." && next == "(",
            "todo" | "dbg" | "unimplemented" => next == "!",
            _ => false,
        };
        if bad {
            out.push(format!("{}:{}: {} in the program", file.path, token.line, token.text));
        }
    }
    out
}

fn non_ascii(file: &Source) -> Vec<String> {
    let bad = |(n, line): (usize, &str)| {
        let c = line.chars().find(|c| !c.is_ascii())?;
        Some(format!("{}:{}: {c:?} is not ASCII", file.path, n + 1))
    };
    file.text.lines().enumerate().filter_map(bad).collect()
}

/// Test files that no `mod` line of all.rs names: they would never run.
fn unlisted(all: &str, files: &[String]) -> Vec<String> {
    let listed = imports::layers(&lex::code_only(all));
    let module = |file: &str| imports::module_of(file).join("/");
    let forgotten = |file: &&String| {
        let module = module(file);
        file.as_str() != "all.rs" && !module.contains('/') && !listed.contains(&module)
    };
    files.iter().filter(forgotten).map(|f| format!("tests/{f} is not listed in tests/all.rs")).collect()
}

/// Markdown files named in a page, as paths from the repository's root.
fn links(page: &Source) -> Vec<String> {
    let mut out = Vec::new();
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let dir = page.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    for (at, _) in page.text.match_indices(".md") {
        let start = page.text[..at].rfind(|c| !is_path(c)).map_or(0, |n| n + 1);
        let name = &page.text[start..at + 3];
        let goes_on = page.text[at + 3..].starts_with(|c: char| c.is_ascii_alphanumeric());
        if goes_on || name.starts_with('/') {
            continue;
        }
        if name.starts_with("docs/") {
            out.push(name.to_string());
        } else if page.text[..start].ends_with("](") {
            let joined = if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") };
            out.push(joined.replace("docs/../", "").replace("/./", "/"));
        }
    }
    out
}

#[test]
fn no_module_names_one_above_it() {
    let lib = fs::read_to_string(repository().join("src/lib.rs")).expect("src/lib.rs");
    let layers = imports::layers(&lex::code_only(&lib));
    assert!(!layers.is_empty());
    let check = |file: &Source| {
        let module = imports::module_of(&file.path);
        imports::upward(&file.path, &layers, &imports::named(&module, &lex::code_only(&file.text)))
    };
    assert_none(read("src", "rs").iter().flat_map(check).collect());
}

#[test]
fn no_siblings_import_each_other_in_a_circle() {
    let files: Vec<(Module, Vec<Named>)> = read("src", "rs").iter().map(names).collect();
    assert_none(imports::circles(&files));
}

#[test]
fn every_file_opens_with_what_it_is() {
    assert_none(all_rust().iter().filter_map(header).collect());
}

#[test]
fn files_and_functions_are_short() {
    assert_none(all_rust().iter().flat_map(lengths).collect());
}

#[test]
fn the_program_has_no_unwrap_todo_or_dbg() {
    assert_none(read("src", "rs").iter().flat_map(forbidden).collect());
}

#[test]
fn source_is_ascii() {
    assert_none(all_rust().iter().flat_map(non_ascii).collect());
}

#[test]
fn every_test_file_is_listed() {
    let all = fs::read_to_string(repository().join("tests/all.rs")).expect("tests/all.rs");
    let files: Vec<String> = read("tests", "rs").into_iter().map(|f| f.path).collect();
    assert_none(unlisted(&all, &files));
}

#[test]
fn every_page_named_in_the_docs_exists() {
    let mut pages = read("docs", "md");
    pages.iter_mut().for_each(|p| p.path = format!("docs/{}", p.path));
    for name in ["README.md", "CHANGELOG.md"] {
        if let Ok(text) = fs::read_to_string(repository().join(name)) {
            pages.push(Source { path: name.into(), text });
        }
    }
    let dead = |page: &Source| {
        let gone = links(page).into_iter().filter(|l| !repository().join(l).is_file());
        gone.map(|l| format!("{}: names {l}, which does not exist", page.path)).collect::<Vec<_>>()
    };
    assert_none(pages.iter().flat_map(dead).collect());
}

fn made_up(text: &str) -> Source {
    Source { path: "store/made_up.rs".into(), text: text.into() }
}

/// Numbers of the contract's invariants that no test function is named after. I10 begins with peers.
fn untested(files: &[Source]) -> Vec<String> {
    let tested = |n: u32| files.iter().any(|f| f.text.contains(&format!("fn i{n}_")));
    let wanted = (1..=11).filter(|n| *n != 10 && !tested(*n));
    wanted.map(|n| format!("tests: no test is named after I{n}")).collect()
}

#[test]
fn every_invariant_has_a_test_named_after_it() {
    let tests: Vec<Source> = all_rust().into_iter().filter(|f| f.path.starts_with("tests/")).collect();
    assert_none(untested(&tests));
    let made_up = Source { path: "tests/x.rs".into(), text: "fn i3_x() {}".into() };
    assert_eq!(untested(&[made_up]).len(), 9);
}

#[test]
fn a_missing_header_is_caught() {
    assert!(header(&made_up("//! A thing.\nfn a() {}\n")).is_none());
    assert!(header(&made_up("use std::fs;\n")).is_some());
    assert!(header(&made_up("//!\n//! late\n")).is_some());
    assert!(header(&made_up("")).is_some());
}

#[test]
fn a_long_file_and_a_long_function_are_caught() {
    let body = |lines: usize| format!("fn a() {{\n{}}}\n", "    b();\n\n    // no code\n".repeat(lines));
    assert!(lengths(&made_up(&body(FUNCTION_LINES - 2))).is_empty());
    assert_eq!(lengths(&made_up(&body(FUNCTION_LINES - 1))).len(), 1);
    assert!(lengths(&made_up(&"const A: u8 = 1;\n".repeat(FILE_LINES))).is_empty());
    assert_eq!(lengths(&made_up(&"const A: u8 = 1;\n".repeat(FILE_LINES + 1))).len(), 1);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", body(FILE_LINES));
    assert!(lengths(&made_up(&tests)).is_empty());
}

#[test]
fn forbidden_words_are_caught_outside_tests_strings_and_comments() {
    assert_eq!(forbidden(&made_up("fn a() { b()\n  .unwrap(); todo!(); dbg!(c) }")).len(), 3);
    let fine = "fn unwrap() {} // x.unwrap()\nconst A: &str = \"todo!\";\n#[cfg(test)]\nmod t { fn b() { c.unwrap() } }";
    assert!(forbidden(&made_up(fine)).is_empty());
}

#[test]
fn a_curly_quote_is_caught() {
    assert!(non_ascii(&made_up("// plain\n")).is_empty());
    assert_eq!(non_ascii(&made_up("// a \u{2019}\n")).len(), 1);
}

#[test]
fn a_test_file_without_a_mod_line_is_caught() {
    let files = ["all.rs", "tidy.rs", "tidy/lex.rs", "support/mod.rs", "forgotten.rs"].map(String::from);
    let found = unlisted("mod support;\nmod tidy;\n// mod forgotten;\n", &files);
    assert_eq!(found, ["tests/forgotten.rs is not listed in tests/all.rs"]);
}

#[test]
fn names_of_pages_are_found_in_text_and_in_links() {
    let text = "See `docs/FORMAT.md` and [this](PLAN.md#a), not FOLDER.md, a.mdx or https://x.org/docs.md.";
    let page = |path: &str| Source { path: path.into(), text: text.into() };
    assert_eq!(links(&page("README.md")), ["docs/FORMAT.md", "PLAN.md"]);
    assert_eq!(links(&page("docs/A.md")), ["docs/FORMAT.md", "docs/PLAN.md"]);
}

//! Which modules a source file names, and whether layers and siblings allow it.
//!
//! Promises to see every path that starts with `crate`, `self` or `super`, in `use` and in code.
//! Does not follow re-exports: a name taken from a parent module counts as the parent's.

use std::collections::{BTreeMap, BTreeSet};

use super::lex::{Token, tokens};

/// A module path below the crate root: `["store", "packs"]`.
pub type Module = Vec<String>;

/// One path named in a file, resolved to the crate root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Components; the last may be an item.
    pub path: Module,
    /// Ends in `::*`.
    pub glob: bool,
    /// Line.
    pub line: usize,
}

/// The layers, low to high: the `mod` lines of lib.rs.
pub fn layers(lib: &str) -> Vec<String> {
    let tokens = tokens(lib);
    let named = |w: &[Token<'_>]| w[0].text == "mod" && w[2].text == ";";
    tokens.windows(3).filter(|w| named(w)).map(|w| w[1].text.to_string()).collect()
}

/// The module of a file below src/: `store/packs.rs` and `store/packs/mod.rs` are both store::packs.
pub fn module_of(file: &str) -> Module {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if matches!(stem, "lib" | "main") { vec![] } else { stem.split('/').map(String::from).collect() }
}

/// Every path in `code` that starts at the crate root or at a relative keyword.
pub fn named(module: &[String], code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut out = Vec::new();
    // Per open brace, the inline module it opens, if any: `super` counts from there.
    let mut scopes: Vec<Option<String>> = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        let text = |k: usize| tokens.get(k).map_or("", |t| t.text);
        match token.text {
            "{" => {
                let inline = n >= 2 && text(n - 2) == "mod";
                scopes.push(inline.then(|| text(n - 1).to_string()));
            }
            "}" => drop(scopes.pop()),
            "crate" | "self" | "super" if text(n + 1) == "::" && (n == 0 || text(n - 1) != "::") => {
                let mut base = module.to_vec();
                base.extend(scopes.iter().flatten().cloned());
                path_tree(&tokens, n, &base, &mut out);
            }
            _ => {}
        }
    }
    out
}

/// Reads the path (or, inside braces, the tree of paths) at `at`; returns the index after it.
fn path_tree(tokens: &[Token<'_>], mut at: usize, base: &[String], out: &mut Vec<Named>) -> usize {
    let mut path = base.to_vec();
    let text = |k: usize| tokens.get(k).map_or("", |t| t.text);
    let line = tokens[at].line;
    loop {
        match text(at) {
            "crate" => path.clear(),
            "self" => {}
            "super" => drop(path.pop()),
            "*" => {
                out.push(Named { path, glob: true, line });
                return at + 1;
            }
            "{" => {
                at += 1;
                while at < tokens.len() && text(at) != "}" {
                    at = if text(at) == "," { at + 1 } else { path_tree(tokens, at, &path, out) };
                }
                return at + 1;
            }
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => path.push(word.to_string()),
            // `::<T>` and whatever else may follow ends the path.
            _ => break,
        }
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    // `as name` inside a tree.
    if text(at) == "as" {
        at += 2;
    }
    out.push(Named { path, glob: false, line });
    at.max(1)
}

/// Paths that name a layer above the file's own, or no layer at all, or the whole crate.
pub fn upward(file: &str, layers: &[String], names: &[Named]) -> Vec<String> {
    let module = module_of(file);
    let Some(own) = module.first().and_then(|m| layers.iter().position(|l| l == m)) else {
        return vec![];
    };
    let mut out = Vec::new();
    for name in names {
        let complaint = match name.path.first() {
            None if name.glob => Some("imports the whole crate".to_string()),
            None => None,
            Some(first) => match layers.iter().position(|l| l == first) {
                Some(layer) if layer <= own => None,
                Some(_) => Some(format!("layer {} names {first}, which is above it", layers[own])),
                None => Some(format!("names crate::{first}, which is no layer")),
            },
        };
        out.extend(complaint.map(|c| format!("{file}:{}: {c}", name.line)));
    }
    out
}

/// Edges between siblings: (parent, from, to) for every file's names.
fn edges(files: &[(Module, Vec<Named>)]) -> BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> {
    let known: BTreeSet<Module> =
        files.iter().flat_map(|(m, _)| (1..=m.len()).map(|n| m[..n].to_vec())).collect();
    let mut out: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (module, names) in files {
        for name in names {
            let common = module.iter().zip(&name.path).take_while(|(a, b)| a == b).count();
            if common == 0 || common >= module.len() || common >= name.path.len() {
                continue;
            }
            if known.contains(&name.path[..=common]) {
                let level = out.entry(module[..common].to_vec()).or_default();
                level.entry(module[common].clone()).or_default().insert(name.path[common].clone());
            }
        }
    }
    out
}

/// Circles among sibling modules of one parent, each told once.
pub fn circles(files: &[(Module, Vec<Named>)]) -> Vec<String> {
    let mut out = Vec::new();
    for (parent, graph) in edges(files) {
        let mut done = BTreeSet::new();
        for start in graph.keys() {
            if let Some(circle) = circle_from(&graph, &mut vec![start.clone()], &mut done) {
                out.push(format!("src/{}: circular import {}", parent.join("/"), circle.join(" -> ")));
            }
        }
    }
    out
}

fn circle_from(
    graph: &BTreeMap<String, BTreeSet<String>>,
    trail: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    let here = trail.last()?.clone();
    if done.contains(&here) {
        return None;
    }
    for next in graph.get(&here).into_iter().flatten() {
        if let Some(at) = trail.iter().position(|m| m == next) {
            done.extend(trail.iter().cloned());
            return Some([&trail[at..], std::slice::from_ref(next)].concat());
        }
        trail.push(next.clone());
        if let Some(circle) = circle_from(graph, trail, done) {
            return Some(circle);
        }
        trail.pop();
    }
    done.insert(here);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(module: &str, code: &str) -> Vec<String> {
        named(&module_of(module), code).iter().map(|n| n.path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_in_groups_in_code_and_in_inline_modules() {
        let code = "use crate::{base::{error::Error, id as i}, model::*};\nfn a() { super::wire::b::<u8>(1) }\n\
                    mod c { use super::d; use super::super::e; }\npub(crate) use self::f::G;";
        assert_eq!(
            paths("format/log.rs", code),
            [
                "base::error::Error",
                "base::id",
                "model",
                "format::wire::b",
                "format::log::d",
                "format::e",
                "format::log::f::G"
            ]
        );
    }

    #[test]
    fn an_upward_import_is_caught() {
        let layers = layers("pub mod base;\npub mod store;\npub mod cli;");
        let check = |file: &str, code: &str| upward(file, &layers, &named(&module_of(file), code)).len();
        assert_eq!(check("store/dir.rs", "use crate::base::id::StoreId; use crate::store::mem;"), 0);
        assert_eq!(check("store/dir.rs", "use crate::cli::output;"), 1);
        assert_eq!(check("store/dir.rs", "use crate::{base, cli};"), 1);
        assert_eq!(check("base/id.rs", "fn a() { super::super::store::open() }"), 1);
        assert_eq!(check("store/dir.rs", "use crate::*;"), 1);
        assert_eq!(check("store/dir.rs", "use crate::nothing::Known;"), 1);
    }

    #[test]
    fn a_circle_between_siblings_is_caught_and_a_chain_is_not() {
        let file = |name: &str, code: &str| (module_of(name), named(&module_of(name), code));
        let chain = [
            file("store/a.rs", "use super::b::X;"),
            file("store/b.rs", "use super::c;"),
            file("store/c.rs", ""),
        ];
        assert!(circles(&chain).is_empty());
        let circle = [
            file("store/a.rs", "use super::b::X;"),
            file("store/b/mod.rs", "mod deep;"),
            file("store/b/deep.rs", "fn f() { super::super::c::g() }"),
            file("store/c.rs", "use crate::store::a::Y;"),
        ];
        assert_eq!(circles(&circle), ["src/store: circular import a -> b -> c -> a"]);
        // Items of the parent are no siblings.
        let parent = [file("store/mod.rs", "pub use a::X;"), file("store/a.rs", "use super::Store;")];
        assert!(circles(&parent).is_empty());
    }
}

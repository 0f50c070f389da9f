//! The policies that come with ddr: the files of `policies/`, part of the program.

use super::doc::{Doc, Flaw};

/// A policy that comes with ddr.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// The name that `use` takes.
    pub name: &'static str,
    /// The whole file.
    pub text: &'static str,
}

/// The policy of a folder that names none.
pub const DEFAULT: &str = "laptop";

/// All of them.
pub const ALL: [Shipped; 6] = [
    Shipped { name: "laptop", text: include_str!("../../../policies/laptop.toml") },
    Shipped { name: "workstation", text: include_str!("../../../policies/workstation.toml") },
    Shipped { name: "photographer", text: include_str!("../../../policies/photographer.toml") },
    Shipped { name: "edge", text: include_str!("../../../policies/edge.toml") },
    Shipped { name: "archive", text: include_str!("../../../policies/archive.toml") },
    Shipped { name: "mirror", text: include_str!("../../../policies/mirror.toml") },
];

/// One by name.
pub fn find(name: &str) -> Option<&'static Shipped> {
    ALL.iter().find(|s| s.name == name)
}

/// All names, to be said in an error.
pub fn names() -> String {
    ALL.map(|s| s.name).join(", ")
}

impl Shipped {
    /// The policy it holds.
    pub fn doc(&self) -> Result<Doc, Flaw> {
        Doc::parse(self.text)
    }

    /// The first sentence of its intent.
    pub fn intent(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }
}

//! Counts of instructions that were kept, and what differs from them.
//!
//! A count is exact for one compiler and one C library: with others it is not
//! compared, for it would say nothing about the change at hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

/// Growth that is let pass, as a share of the kept count.
pub const GROWTH_MAX: f64 = 0.03;

/// Instructions for one item of each piece of work.
pub type Counts = BTreeMap<String, f64>;

/// What was kept.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// What built and ran it, as [`Kept::is_for`] compares it.
    pub toolchain: String,
    /// The counts.
    pub instructions: Counts,
}

/// How a count stands beside the kept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// More than [`GROWTH_MAX`] above it.
    Grown,
    /// More than that below it: to be kept anew, or the gain can be lost again.
    Shrunk,
    /// Within it.
    Same,
    /// Nothing was kept for this work.
    New,
}

impl Kept {
    /// Reads the kept file.
    ///
    /// # Errors
    /// What is wrong with it, by line.
    pub fn parse(text: &str) -> Result<Kept, toml::de::Error> {
        toml::from_str(text)
    }

    /// Whether counts made with `toolchain` may be compared.
    pub fn is_for(&self, toolchain: &str) -> bool {
        self.toolchain == toolchain
    }

    /// How `count` stands beside what was kept for `work`.
    pub fn standing(&self, work: &str, count: f64) -> Standing {
        match self.instructions.get(work) {
            None => Standing::New,
            Some(kept) if count > kept * (1.0 + GROWTH_MAX) => Standing::Grown,
            Some(kept) if count < kept * (1.0 - GROWTH_MAX) => Standing::Shrunk,
            Some(_) => Standing::Same,
        }
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# Instructions for one item of each piece of work (benches/hot/count). Written by\n\
             # `./dev count --keep`; a change of these numbers is explained in its commit.\n",
        );
        let _ = writeln!(text, "toolchain = {:?}\n\n[instructions]", self.toolchain);
        for (work, count) in &self.instructions {
            let _ = writeln!(text, "{work:?} = {count:.1}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept { toolchain: "rustc 1".to_owned(), instructions: Counts::from([("a: b".to_owned(), 100.0)]) }
    }

    #[test]
    fn growth_beyond_three_percent_is_seen() {
        assert_eq!(kept().standing("a: b", 102.9), Standing::Same);
        assert_eq!(kept().standing("a: b", 103.1), Standing::Grown);
        assert_eq!(kept().standing("a: b", 96.9), Standing::Shrunk);
        assert_eq!(kept().standing("c", 1.0), Standing::New);
    }

    #[test]
    fn the_file_is_read_as_it_is_written() {
        assert_eq!(Kept::parse(&kept().to_text()).expect("its own text"), kept());
    }

    #[test]
    fn other_compilers_are_not_compared() {
        assert!(kept().is_for("rustc 1") && !kept().is_for("rustc 2"));
    }
}

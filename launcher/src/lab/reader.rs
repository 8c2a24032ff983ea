//! Reading a TOML document key by key, so that every fault has a line, a
//! column and, for a key nobody knows, the nearest key that exists.
//!
//! It knows nothing of labs; [`super::parse`] does. serde is not used here:
//! its errors for nested tables lose the place, and it cannot tell "unknown"
//! from "known, but not built yet".

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// What is wrong with a lab file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", file.display())]
pub struct LabError {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// The document, for turning byte offsets into lines and columns.
#[derive(Debug, Clone, Copy)]
pub struct Source<'t> {
    /// The file as the user named it.
    pub file: &'t Path,
    /// Its whole text.
    pub text: &'t str,
}

impl Source<'_> {
    /// A fault at byte `at` of the document.
    pub fn fault(&self, at: usize, message: impl Into<String>) -> LabError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        LabError { file: self.file.to_owned(), line, column, message: message.into() }
    }
}

/// A table whose keys are asked for by name; what was not asked for is unknown.
#[derive(Debug)]
pub struct Keys<'a> {
    source: Source<'a>,
    own: &'a DeTable<'a>,
    defaults: Option<&'a DeTable<'a>>,
    /// Where the table begins, for faults of what is missing.
    pub at: usize,
    what: String,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Keys<'a> {
    /// The keys of `own`, of which `what` ("guest zero") is said in faults.
    pub fn new(source: Source<'a>, own: &'a DeTable<'a>, at: usize, what: impl Into<String>) -> Keys<'a> {
        Keys { source, own, defaults: None, at, what: what.into(), known: RefCell::default() }
    }

    /// Looks a missing key up in `defaults` as well.
    #[must_use]
    pub fn or(mut self, defaults: Option<&'a DeTable<'a>>) -> Keys<'a> {
        self.defaults = defaults;
        self
    }

    /// The value of `key`, which is known from now on.
    pub fn item(&self, key: &'static str) -> Option<Item<'a>> {
        self.own(key).or_else(|| self.find(self.defaults?, key))
    }

    /// The value of `key` in the table itself, leaving the defaults aside.
    pub fn own(&self, key: &'static str) -> Option<Item<'a>> {
        self.known.borrow_mut().push(key);
        self.find(self.own, key)
    }

    fn find(&self, table: &'a DeTable<'a>, key: &'static str) -> Option<Item<'a>> {
        let value = table.get(key)?;
        Some(Item { source: self.source, at: value.span().start, key, value: value.get_ref() })
    }

    /// Every entry of a table whose keys are names the user chose, in the
    /// file's order.
    pub fn entries(&self) -> Vec<(&'a str, usize, Item<'a>)> {
        let mut all: Vec<_> = self
            .own
            .iter()
            .map(|(key, value)| {
                let item =
                    Item { source: self.source, at: value.span().start, key: "", value: value.get_ref() };
                (key.get_ref().as_ref(), key.span().start, item)
            })
            .collect();
        all.sort_by_key(|(_, at, _)| *at);
        all
    }

    /// Fails on a key that nobody asked for.
    pub fn finish(&self) -> Result<(), LabError> {
        let known = self.known.borrow();
        let mut unknown: Vec<_> =
            self.own.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())).collect();
        unknown.sort_by_key(|(key, _)| key.span().start);
        let Some((key, _)) = unknown.first() else { return Ok(()) };
        let hint =
            nearest(key.get_ref(), &known).map(|k| format!("; did you mean `{k}`?")).unwrap_or_default();
        Err(self
            .source
            .fault(key.span().start, format!("unknown key `{}` in {}{hint}", key.get_ref(), self.what)))
    }

    /// A fault at byte `at` of the document.
    pub fn fault_at(&self, at: usize, message: impl Into<String>) -> LabError {
        self.source.fault(at, message)
    }

    /// A fault of the table as a whole.
    pub fn fault(&self, message: impl Into<String>) -> LabError {
        self.source.fault(self.at, message)
    }
}

/// One value and its place.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    source: Source<'a>,
    /// Where the value begins, in bytes.
    pub at: usize,
    key: &'static str,
    value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    /// A fault at this value.
    pub fn fault(&self, message: impl Into<String>) -> LabError {
        self.source.fault(self.at, message)
    }

    /// The fault of asking for what this version does not do yet.
    pub fn unavailable(&self, what: impl std::fmt::Display) -> LabError {
        self.fault(format!("{what} is not available in this version"))
    }

    fn wanted(&self, what: &str) -> LabError {
        let key = if self.key.is_empty() { "this".to_owned() } else { format!("`{}`", self.key) };
        self.fault(format!("{key} must be {what}, not {}", self.value.type_str()))
    }

    /// The value as a string.
    pub fn text(&self) -> Result<&'a str, LabError> {
        self.value.as_str().ok_or_else(|| self.wanted("a string"))
    }

    /// The value as true or false.
    pub fn boolean(&self) -> Result<bool, LabError> {
        self.value.as_bool().ok_or_else(|| self.wanted("true or false"))
    }

    /// The value as a whole number within `range`.
    pub fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, LabError> {
        let number = self.value.as_integer().ok_or_else(|| self.wanted("a whole number"))?;
        i64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| range.contains(n)).ok_or_else(
            || self.fault(format!("`{}` must be between {} and {}", self.key, range.start(), range.end())),
        )
    }

    /// The elements of an array.
    pub fn list(&self) -> Result<Vec<Item<'a>>, LabError> {
        let array = self.value.as_array().ok_or_else(|| self.wanted("a list"))?;
        let place = |value: &'a toml::Spanned<DeValue<'a>>| Item {
            source: self.source,
            at: value.span().start,
            key: self.key,
            value: value.get_ref(),
        };
        Ok(array.iter().map(place).collect())
    }

    /// The value as a table, called `what` in faults.
    pub fn table(&self, what: impl Into<String>) -> Result<Keys<'a>, LabError> {
        Ok(Keys::new(self.source, self.raw_table()?, self.at, what))
    }

    /// The value as a table, unread.
    pub fn raw_table(&self) -> Result<&'a DeTable<'a>, LabError> {
        self.value.as_table().ok_or_else(|| self.wanted("a table"))
    }

    /// Whether the value is a string.
    pub fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// One of a few words. A word with `None` is known and not built yet.
    pub fn word<T: Clone>(&self, words: &[(&str, Option<T>)]) -> Result<T, LabError> {
        let text = self.text()?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, Some(value))) => Ok(value.clone()),
            Some((_, None)) => Err(self.unavailable(format_args!("{} = \"{text}\"", self.key))),
            None => {
                let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                Err(self.fault(format!("`{}` is one of {}, not `{text}`", self.key, all.join(", "))))
            }
        }
    }

    /// The value as it is, for tables that are passed on to the switch.
    pub fn value(&self) -> Result<toml::Value, LabError> {
        let wrong = || self.fault("this value cannot be read");
        Ok(match self.value {
            DeValue::String(text) => toml::Value::String(text.to_string()),
            DeValue::Integer(n) => {
                toml::Value::Integer(i64::from_str_radix(n.as_str(), n.radix()).map_err(|_| wrong())?)
            }
            DeValue::Float(n) => toml::Value::Float(n.as_str().parse().map_err(|_| wrong())?),
            DeValue::Boolean(b) => toml::Value::Boolean(*b),
            DeValue::Datetime(time) => toml::Value::Datetime(*time),
            DeValue::Array(_) => {
                toml::Value::Array(self.list()?.iter().map(Item::value).collect::<Result<_, _>>()?)
            }
            DeValue::Table(_) => {
                let mut table = toml::Table::new();
                for (key, _, item) in self.table("")?.entries() {
                    table.insert(key.to_owned(), item.value()?);
                }
                toml::Value::Table(table)
            }
        })
    }
}

/// The candidate that is at most a third of its letters away from `word`.
fn nearest<'k>(word: &str, candidates: &[&'k str]) -> Option<&'k str> {
    candidates
        .iter()
        .map(|&candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete or replace to turn `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "abc", 3), ("memroy", "memory", 2), ("cpu", "cpus", 1), ("x", "x", 0)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
        assert_eq!(nearest("memroy", &["memory", "cpus"]), Some("memory"));
        assert_eq!(nearest("colour", &["memory", "cpus"]), None);
    }

    #[test]
    fn columns_count_characters() {
        let source = Source { file: Path::new("lab.toml"), text: "a = 1\nnäh = 2\n" };
        let at = source.text.find("= 2").unwrap();
        assert_eq!(source.fault(at, "here").to_string(), "lab.toml:2:5: here");
    }
}

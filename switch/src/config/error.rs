//! What is wrong with a configuration, where it stands, and how to mend it.

use std::fmt;
use std::path::PathBuf;

/// Where a faulty word was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// In a file.
    File {
        /// As it was opened.
        path: PathBuf,
        /// From 1; 0: the file as a whole.
        line: usize,
        /// Characters, from 1.
        column: usize,
    },
    /// On the command line; the flag with its value.
    Flag(String),
    /// In a request, or nowhere in particular.
    #[default]
    Request,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line: 0, .. } => write!(f, "{}: ", path.display()),
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}: ", path.display()),
            Origin::Flag(flag) => write!(f, "{}: ", flag.escape_debug()),
            Origin::Request => Ok(()),
        }
    }
}

/// A configuration that is refused, whole.
///
/// Prints as `PLACE: MESSAGE`, and the fix on an indented line of its own.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{origin}{}", .fault.text())]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    fault: Fault,
}

impl ConfigError {
    pub(super) fn new(origin: Origin, fault: Fault) -> ConfigError {
        ConfigError { origin, fault }
    }

    /// Place and message, without the fix.
    pub fn message(&self) -> String {
        format!("{}{}", self.origin, self.fault.message)
    }

    /// What to do about it; may be empty.
    pub fn fix(&self) -> &str {
        &self.fault.fix
    }
}

/// A message and its fix, whose place is not known yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub message: String,
    pub fix: String,
}

impl Fault {
    pub fn new(message: impl Into<String>, fix: impl Into<String>) -> Fault {
        Fault { message: message.into(), fix: fix.into() }
    }

    pub fn at(self, origin: Origin) -> ConfigError {
        ConfigError::new(origin, self)
    }

    fn text(&self) -> String {
        if self.fix.is_empty() { self.message.clone() } else { format!("{}\n  {}", self.message, self.fix) }
    }
}

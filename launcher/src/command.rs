//! A command line as data, and as text for a POSIX shell.

use std::path::{Path, PathBuf};

/// A program, its arguments, and where its output goes. Standard input is
/// always `/dev/null`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where stdout goes; `None`: with stderr.
    pub stdout: Option<PathBuf>,
    /// The log that stderr goes to; `None`: the terminal.
    pub log: Option<PathBuf>,
}

impl Command {
    /// A command that ends by itself and speaks to the terminal.
    pub fn new(argv: Vec<String>) -> Command {
        Command { argv, stdout: None, log: None }
    }

    /// As a line that a shell runs.
    pub fn line(&self) -> String {
        let mut line: Vec<String> = self.argv.iter().map(|word| quote(word)).collect();
        let path = |path: &Path| quote(&path.to_string_lossy());
        if let Some(log) = &self.log {
            line.push("</dev/null".to_owned());
            line.push(match &self.stdout {
                Some(out) => format!(">{} 2>{} &", path(out), path(log)),
                None => format!(">{} 2>&1 &", path(log)),
            });
        }
        line.join(" ")
    }
}

/// `word` as one word of a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A value inside QEMU's `key=value,key=value`, where a comma is doubled.
pub fn option(value: impl AsRef<Path>) -> String {
    value.as_ref().to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_survive_a_real_shell() {
        for word in
            ["plain", "", "two words", "it's", "$HOME `id` \"x\" \\ ; & | * ?", "a\nb", "~", "#c", "é"]
        {
            let script = format!("printf %s {}", quote(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(quote("-netdev"), "-netdev");
    }

    #[test]
    fn commas_are_doubled_for_qemu() {
        assert_eq!(option("/a,b"), "/a,,b");
    }
}

//! The steps as a script for a POSIX shell, which does what `up` does.
//!
//! A seed takes `mkfs.fat` (dosfstools) and `mcopy` (mtools) here, which `up`
//! does without.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::Step;
use crate::command::quote;
use crate::facts::public_key;
use crate::identity::SSH_KEY;
use crate::seed;

/// The steps as a script.
pub fn script(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        // Writing to a String cannot fail.
        let _ = match step {
            Step::Directory { path: it, passable } => {
                writeln!(text, "mkdir -p -m {} {}", if *passable { 711 } else { 700 }, path(it))
            }
            Step::Key { path: it, part, command } => writeln!(
                text,
                "{} && mv -n {} {} && mv -n {} {}",
                command.line(),
                path(&public_key(part)),
                path(&public_key(it)),
                path(part),
                path(it)
            ),
            Step::Clone { path: it, part, commands, scratch } => {
                let mut lines: Vec<String> = commands.iter().map(|command| command.line()).collect();
                lines.push(format!("mv -n {} {}", path(part), path(it)));
                lines.extend(scratch.iter().map(|scratch| format!("rm -f {}", path(scratch))));
                writeln!(text, "{}", lines.join(" && "))
            }
            Step::File { path: it, text: content, key } => {
                here_document(&mut text, content, key.as_ref(), &format!(">{}", path(it)))
            }
            Step::Seed { path: it, files, key } => {
                let size = seed::size(files);
                let made = writeln!(
                    text,
                    "rm -f {0} && truncate -s {size} {0} && mkfs.fat -n CIDATA {0} >/dev/null",
                    path(it)
                );
                for (name, content) in files {
                    let into = format!("| mcopy -i {} - ::{name}", path(it));
                    let _ = here_document(&mut text, content, key.as_ref(), &into);
                }
                made
            }
            Step::Switch { record, command } => {
                let ready = format!("until grep -q ^ready: {}; do sleep 0.1; done", path(&record.out));
                writeln!(text, "{}\n{ready}", command.line())
            }
            Step::Guest { command, .. } => writeln!(text, "{}", command.line()),
        };
    }
    text
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// `content` written to where `into` says, with the public key filled in.
fn here_document(
    text: &mut String,
    content: &str,
    key: Option<&PathBuf>,
    into: &str,
) -> Result<(), std::fmt::Error> {
    let mut end = "END".to_owned();
    while content.lines().any(|line| line == end) {
        end.push('_');
    }
    let from = match key.filter(|_| content.contains(SSH_KEY)) {
        Some(key) => format!("sed \"s|{SSH_KEY}|$(cat {})|\"", path(&public_key(key))),
        None => "cat".to_owned(),
    };
    writeln!(text, "{from} <<'{end}' {into}\n{}\n{end}", content.trim_end())
}

//! Reading the configuration file again: the file and the flags of the start make
//! a whole new configuration, which is applied as any other change is, or not at
//! all.
//!
//! Deliberately absent: merging. What clients changed since and the file does not
//! say is undone: after a reload the switch is as if it had just been started.

use super::Supervisor;
use crate::config::{Config, ConfigError, Flags, Invoker, describe, needs_restart};
use crate::control::{Changed, ErrorReply};
use crate::events::Happening;

/// Where the configuration came from: the command line, and whose it was.
#[derive(Debug)]
pub struct Source {
    /// As typed.
    pub flags: Flags,
    /// Who typed it.
    pub invoker: Invoker,
}

impl Source {
    /// The configuration as file and flags say now.
    ///
    /// # Errors
    /// The first fault, with its place.
    pub fn read(&self) -> Result<Config, ConfigError> {
        Config::from_flags(&self.flags, &self.invoker)
    }

    fn file(&self) -> Option<String> {
        self.flags.file.as_ref().map(|file| file.display().to_string())
    }
}

impl Supervisor {
    /// Reads the configuration from `source` whenever it is told to reload.
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Supervisor {
        self.source = Some(source);
        self
    }

    /// Whether there is a file to read again.
    pub fn has_file(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.flags.file.is_some())
    }

    /// Reads the file again and makes what it says the configuration in force.
    ///
    /// # Errors
    /// Why nothing was changed: there is no file, it has a fault, it changes
    /// what only a restart can, or a device refuses.
    pub fn reload(&mut self) -> Result<Changed, ErrorReply> {
        let Some((source, file)) = self.source.as_ref().and_then(|source| Some((source, source.file()?)))
        else {
            return Err(ErrorReply {
                error: "this switch was started without a configuration file".to_owned(),
                hint: "start it with vswitch run --config FILE, or change it: vswitch set, port, fdb"
                    .to_owned(),
            });
        };
        let wanted = source.read().map_err(ErrorReply::from);
        match wanted.and_then(|wanted| self.reload_to(file.clone(), wanted)) {
            Ok(changed) => {
                let changes = changed.changes.clone();
                self.happened(Happening::ConfigReloaded { file, changes });
                Ok(changed)
            }
            Err(refused) => {
                self.happened(Happening::ReloadRefused { file, error: refused.error.clone() });
                Err(refused)
            }
        }
    }

    fn reload_to(&mut self, file: String, wanted: Config) -> Result<Changed, ErrorReply> {
        let restart = needs_restart(&self.config, &wanted);
        if !restart.is_empty() {
            let error = format!("{file}: only a restart can change {}", restart.join(", "));
            let hint = "nothing was changed; restart the switch, or take these keys back to what they were";
            return Err(ErrorReply { error, hint: hint.to_owned() });
        }
        let changes = describe(&self.config, &wanted);
        let notes = self.apply(wanted)?;
        Ok(Changed { file, changes, notes })
    }
}

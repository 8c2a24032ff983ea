//! Which lab a command is about.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vlab::lab::{self, Lab};
use vlab::names::{self, NAME_LEN_MAX};
use vlab::places::{Roots, User};
use vlab::say;
use vlab::state::{GuestRecord, Store};

use crate::cli::Global;

/// The options that choose a lab, and whose labs there are.
pub struct Target {
    /// `--lab`, `--name`, `--json`.
    pub global: Global,
    /// Whose labs.
    pub user: User,
    /// Where they are.
    pub roots: Roots,
}

impl Target {
    fn file(&self) -> &Path {
        self.global.lab.as_deref().unwrap_or(Path::new("lab.toml"))
    }

    /// The lab file, absolute, whether it is there or not.
    pub fn absolute(&self) -> Result<PathBuf> {
        let file = std::path::absolute(self.file())?;
        let folder = file.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
        Ok(match (folder, file.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => file,
        })
    }

    /// Reads the lab file; with its absolute path.
    pub fn lab(&self) -> Result<(Lab, PathBuf)> {
        if let Some(name) = &self.global.name {
            bail!("--name {name} is for labs that are up; this command reads a lab file: --lab FILE");
        }
        let file = self.file();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is no {}\n  write one: vlab init, or name it: --lab FILE", file.display())
            }
            Err(e) => return Err(e).with_context(|| file.display().to_string()),
        };
        let absolute = self.absolute()?;
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        if folder.to_str().is_none() {
            bail!("{}: a lab's folder must have a name in UTF-8", folder.display());
        }
        Ok((lab::parse(&text, file, folder)?, absolute))
    }

    /// The state of the lab, if there is one: by `--name`, else by the file
    /// that it was brought up from. The file itself is not read: it may have
    /// changed, or be gone.
    pub fn store(&self) -> Result<Option<Store>> {
        if let Some(name) = &self.global.name {
            if !names::is_name(name, NAME_LEN_MAX) {
                bail!("`{name}` cannot name a lab");
            }
            return Ok(Store::load(&self.roots.lab(name).state_file())?);
        }
        let file = self.absolute()?;
        Ok(self.all().into_iter().find(|store| store.state.file == file))
    }

    /// The states of all labs of this user, by name.
    pub fn all(&self) -> Vec<Store> {
        let labs = std::fs::read_dir(&self.roots.state).into_iter().flatten().flatten();
        let mut all: Vec<Store> = labs
            .filter_map(|folder| match Store::load(&folder.path().join("state.json")) {
                Ok(store) => store,
                Err(e) => {
                    say!("warning: {e}");
                    None
                }
            })
            .collect();
        all.sort_by(|a, b| a.state.lab.cmp(&b.state.lab));
        all
    }

    /// The state of the lab, which must be up.
    pub fn up(&self) -> Result<Store> {
        self.store()?
            .with_context(|| format!("lab {} is not up\n  start it: vlab up", self.name_for_humans()))
    }

    /// The record of a guest of the lab that is up.
    pub fn guest(&self, name: &str) -> Result<GuestRecord> {
        let store = self.up()?;
        let guests = &store.state.guests;
        let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
        let found = guests.iter().find(|guest| guest.name == name);
        found.cloned().with_context(|| format!("there is no guest {name}; there are: {}", names.join(", ")))
    }

    /// What to call the lab: its name where that can be told, else its file,
    /// absolute, so that a wrong folder shows.
    pub fn name_for_humans(&self) -> String {
        let named = self.global.name.clone().or_else(|| self.lab().ok().map(|(lab, _)| lab.name));
        named.unwrap_or_else(|| self.file_for_humans())
    }

    /// The lab file, absolute where that can be told.
    pub fn file_for_humans(&self) -> String {
        self.absolute().as_deref().unwrap_or(self.file()).display().to_string()
    }

    /// Folders in which clones of images are looked for.
    pub fn clone_folders(&self) -> Vec<PathBuf> {
        let labs = std::fs::read_dir(&self.roots.data).into_iter().flatten().flatten();
        labs.map(|folder| folder.path()).collect()
    }
}

//! Reading vswitch.toml. Every fault points at its line and column.
//!
//! The document is walked by hand rather than derived: a port may be a string
//! or a table, and keys, texts and hints are those of port specifications.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::Subject;
use super::error::Fault;
use super::keys::{SWITCH_KEYS, is_port_key, port_of_spec, set_port_key, set_switch_key, unknown_key};
use super::value::Value;
use super::{Config, ConfigError, Invoker, Origin, PortConfig, StaticEntry};
use crate::frame::{MacAddr, VlanId};

const FILE_KEYS: &[&str] = &["ports", "switch", "fdb"];
const FDB_KEYS: &[&str] = &["mac", "port", "vid", "sticky"];

/// A configuration being put together, with the place of everything in it.
#[derive(Debug)]
pub(super) struct Draft {
    pub config: Config,
    pub keys: BTreeMap<&'static str, Origin>,
    pub ports: Vec<Origin>,
    pub statics: Vec<Origin>,
}

impl Draft {
    pub fn new(invoker: &Invoker) -> Draft {
        Draft { config: Config::new(invoker), keys: BTreeMap::new(), ports: Vec::new(), statics: Vec::new() }
    }

    /// Sets one key of the switch.
    pub fn set(&mut self, key: &str, value: &Value, origin: Origin) -> Result<(), ConfigError> {
        set_switch_key(&mut self.config, key, value).map_err(|fault| fault.at(origin.clone()))?;
        if let Some(known) = SWITCH_KEYS.iter().find(|known| **known == key) {
            self.keys.insert(known, origin);
        }
        Ok(())
    }

    /// Checks the whole; faults are told with the place of what is at fault.
    pub fn finish(mut self, invoker: &Invoker) -> Result<Config, ConfigError> {
        if !self.keys.contains_key("control") {
            self.config.control = invoker.control(&self.config.name);
        }
        let Some((subject, fault)) = self.config.fault() else { return Ok(self.config) };
        let origin = match subject {
            Subject::Key(key) => self.keys.get(key),
            Subject::Port(index) => self.ports.get(index),
            Subject::Static(index) => self.statics.get(index),
        };
        Err(fault.at(origin.cloned().unwrap_or_default()))
    }
}

impl Config {
    /// Reads the text of a vswitch.toml; `path` is for messages, and what
    /// relative paths in it start from.
    ///
    /// # Errors
    /// The first fault, with line and column.
    pub fn from_toml(text: &str, path: &Path, invoker: &Invoker) -> Result<Config, ConfigError> {
        let mut draft = Draft::new(invoker);
        read(text, path, &mut draft)?;
        draft.finish(invoker)
    }
}

/// Reads a file into `draft`.
pub(super) fn read_file(path: &Path, draft: &mut Draft) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let origin = Origin::File { path: path.to_owned(), line: 0, column: 0 };
        Fault::new(e.to_string(), "--config names a vswitch.toml; without one, name ports: --port tap0")
            .at(origin)
    })?;
    read(&text, path, draft)
}

fn read(text: &str, path: &Path, draft: &mut Draft) -> Result<(), ConfigError> {
    let source = Source { text, path };
    let document = DeTable::parse(text).map_err(|e| {
        let fix = "write it as TOML: key = value, text in \"quotes\"";
        Fault::new(e.message(), fix).at(source.origin(e.span().unwrap_or(0..0)))
    })?;
    for (key, value) in document.get_ref() {
        match key.get_ref().as_ref() {
            "switch" => source.switch(value, draft)?,
            "ports" => {
                for port in source.array(key.get_ref(), value)? {
                    draft.config.ports.push(source.port(port)?);
                    draft.ports.push(source.origin(port.span()));
                }
            }
            "fdb" => {
                for entry in source.array(key.get_ref(), value)? {
                    draft.config.fdb.push(source.static_entry(entry)?);
                    draft.statics.push(source.origin(entry.span()));
                }
            }
            other if SWITCH_KEYS.contains(&other) => {
                let fault = Fault::new(
                    format!("`{other}` stands outside [switch]"),
                    "write [switch] on a line above it",
                );
                return Err(fault.at(source.origin(key.span())));
            }
            other => return Err(unknown_key(other, FILE_KEYS, "in this file").at(source.origin(key.span()))),
        }
    }
    Ok(())
}

/// The text being read and where it came from.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

type Table<'a> = DeTable<'a>;

impl Source<'_> {
    fn switch(&self, value: &Spanned<DeValue<'_>>, draft: &mut Draft) -> Result<(), ConfigError> {
        for (key, value) in self.table("switch", value)? {
            let origin = self.origin(value.span());
            let name = key.get_ref().as_ref();
            if !SWITCH_KEYS.contains(&name) {
                let fault = if FILE_KEYS.contains(&name) {
                    // TOML's trap: whatever follows a header is inside it.
                    Fault::new(format!("`{name}` stands inside [switch]"), "move it above the line [switch]")
                } else {
                    unknown_key(name, SWITCH_KEYS, "in [switch]")
                };
                return Err(fault.at(self.origin(key.span())));
            }
            draft.set(name, &self.value(name, value)?, origin)?;
            if name == "control" {
                draft.config.control = self.beside(&draft.config.control);
            }
        }
        Ok(())
    }

    fn port(&self, value: &Spanned<DeValue<'_>>) -> Result<PortConfig, ConfigError> {
        let at = |span| move |fault: Fault| fault.at(self.origin(span));
        if let Some(spec) = value.get_ref().as_str() {
            return port_of_spec(spec).map_err(at(value.span()));
        }
        let table = self.table("ports", value)?;
        let spec = self.required(table, "spec", value.span())?;
        let text = self.value("spec", spec)?;
        let mut port = text.text("spec").and_then(port_of_spec).map_err(at(spec.span()))?;
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if name == "spec" {
                continue;
            }
            let span = if is_port_key(name, port.spec.kind) { value.span() } else { key.span() };
            set_port_key(&mut port, name, &self.value(name, value)?).map_err(at(span))?;
        }
        Ok(port)
    }

    fn static_entry(&self, value: &Spanned<DeValue<'_>>) -> Result<StaticEntry, ConfigError> {
        let table = self.table("fdb", value)?;
        for key in table.keys() {
            if !FDB_KEYS.contains(&key.get_ref().as_ref()) {
                let fault = unknown_key(key.get_ref(), FDB_KEYS, "in [[fdb]]");
                return Err(fault.at(self.origin(key.span())));
            }
        }
        let mac: MacAddr = self.read(self.required(table, "mac", value.span())?, "mac", |value| {
            let text = value.text("mac")?;
            text.parse().map_err(|e: crate::frame::ParseMacError| Fault::new(e.to_string(), ""))
        })?;
        let port = self.read(self.required(table, "port", value.span())?, "port", |v| {
            v.text("port").map(str::to_owned)
        })?;
        let vid = match table.get("vid") {
            Some(vid) => self.read(vid, "vid", |value| value.number("vid", 0..=4094))?,
            None => 0,
        };
        let sticky = match table.get("sticky") {
            Some(sticky) => self.read(sticky, "sticky", |value| value.bool("sticky"))?,
            None => false,
        };
        // The range above ends at 4094.
        Ok(StaticEntry { mac, vid: VlanId::new(u16::try_from(vid).unwrap_or(0)), port, sticky })
    }

    fn read<T>(
        &self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        read: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Result<T, ConfigError> {
        read(&self.value(key, value)?).map_err(|fault| fault.at(self.origin(value.span())))
    }

    fn required<'t, 'i>(
        &self,
        table: &'t Table<'i>,
        key: &str,
        span: Range<usize>,
    ) -> Result<&'t Spanned<DeValue<'i>>, ConfigError> {
        table.get(key).ok_or_else(|| {
            Fault::new(format!("`{key}` is missing"), format!("add {key} = \"…\"")).at(self.origin(span))
        })
    }

    fn array<'t, 'i>(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Result<&'t [Spanned<DeValue<'i>>], ConfigError> {
        let fix = if key == "fdb" { "write [[fdb]]" } else { "write ports = [\"tap0\", \"tap1\"]" };
        match value.get_ref().as_array() {
            Some(array) => Ok(array),
            None => Err(self.wrong_type(key, value, fix)),
        }
    }

    fn table<'t, 'i>(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Result<&'t Table<'i>, ConfigError> {
        let fix = match key {
            "switch" => "write [switch] and its keys below",
            "ports" => "write \"tap0\" or { spec = \"tap0\" }",
            _ => "write [[fdb]] and its keys below",
        };
        value.get_ref().as_table().ok_or_else(|| self.wrong_type(key, value, fix))
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, fix: &str) -> ConfigError {
        let message = format!("`{key}` cannot be of type {}", value.get_ref().type_str());
        Fault::new(message, fix).at(self.origin(value.span()))
    }

    fn value(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(Value::Text(text.clone().into_owned())),
            DeValue::Boolean(value) => Ok(Value::Bool(*value)),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map(Value::Number)
                .map_err(|_| self.wrong_type(key, value, "write a smaller number")),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                Err(self.wrong_type(key, value, "write a number, true, false, or text in quotes"))
            }
        }
    }

    /// `path` as it is meant in this file: from the file's own directory.
    fn beside(&self, path: &Path) -> PathBuf {
        match self.path.parent() {
            Some(parent) if !path.as_os_str().is_empty() => parent.join(path),
            _ => path.to_owned(),
        }
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Origin::File { path: self.path.to_owned(), line, column }
    }
}

#[cfg(test)]
mod tests;

//! What can be typed. No behaviour here; see `commands`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use vlab::identity::render::Renderer;
use vlab::lab::Display;

/// Labs of QEMU guests on one Ethernet: disks, guests and their switch from one
/// file.
#[derive(Debug, Parser)]
#[command(name = "vlab", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The lab file [default: lab.toml in this folder]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub lab: Option<PathBuf>,
    /// The lab that is up under this name, wherever its file is
    #[arg(long, global = true, value_name = "LAB", conflicts_with = "lab")]
    pub name: Option<String>,
    /// Print JSON, for machines
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Write a small lab.toml into this folder
    Init,
    /// Start the switches and the guests, and wait until all are up
    Up {
        /// When something fails, leave what is up for inspection
        #[arg(long)]
        keep: bool,
        /// Start guests anew where a change of the file takes that
        #[arg(long)]
        recreate: bool,
    },
    /// Power guests down and start them as the file says now
    Restart {
        /// The guests; all that are up without a name
        #[arg(value_name = "GUEST")]
        guests: Vec<String>,
    },
    /// Stop everything that `up` started
    Down {
        /// Delete the guests' clones as well
        #[arg(long)]
        disks: bool,
        /// How long guests may take to power down
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
        grace: Duration,
    },
    /// Show what is up
    Status {
        /// All labs of this user, a line each
        #[arg(long, conflicts_with_all = ["lab", "name"])]
        all: bool,
    },
    /// Print the commands that `up` would run, for pasting into a shell
    Plan,
    /// Attach to a guest's serial console; Ctrl-] leaves
    Console {
        /// The guest
        guest: String,
    },
    /// Print what came out of a guest's console
    Logs {
        /// The guest
        guest: String,
        /// What QEMU said instead
        #[arg(long)]
        qemu: bool,
        /// Go on printing until the guest ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Talk to QEMU's monitor: one command, or those on stdin
    Monitor {
        /// The guest
        guest: String,
        /// The command: info network
        #[arg(trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Plug a guest's cable in, or pull it: the guest sees its carrier change
    Link {
        /// The guest
        guest: String,
        /// To where
        to: UpOrDown,
        /// Only on this network (NET.1: its second NIC there)
        #[arg(long)]
        network: Option<String>,
    },
    /// Keep guests with their memory inside their disks, or go back
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Show a guest's screen (display = "vnc")
    Open {
        /// The guest
        guest: String,
    },
    /// Log in to a guest, or run a command there on this terminal
    Ssh {
        /// The guest
        guest: String,
        /// What to run instead of a shell
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Run a program in a guest: no terminal, words stay words, its exit code is ours
    Exec {
        /// The guest
        guest: String,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Copy files to or from a guest: vlab cp a.txt zero:/tmp
    Cp {
        /// Copy folders with what is in them
        #[arg(short, long)]
        recursive: bool,
        /// From where, and to where; GUEST:PATH is in a guest
        #[arg(required = true, num_args = 2.., value_name = "PATH")]
        paths: Vec<String>,
    },
    /// Boot a guest once from an ISO, to install a system into its disk
    Install(InstallArgs),
    /// Print an ssh_config of the guests, for ssh -F
    SshConfig,
    /// Print an Ansible inventory of the guests (--json: as a dynamic one)
    Inventory,
    /// Print the JSON schema of lab.toml, for editors
    Schema,
    /// Print the network configuration that a guest should have
    GuestConfig {
        /// The guest
        guest: String,
        /// For what: netctl, networkd, networkmanager, netplan, ifupdown
        #[arg(long, value_parser = renderer)]
        format: Renderer,
    },
    /// Make disk images, or change one
    #[command(subcommand)]
    Disk(Disk),
    /// Print a completion script
    #[command(hide = true)]
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: Option<PathBuf>,
    },
}

/// A cable's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum UpOrDown {
    /// Plugged in.
    Up,
    /// Pulled.
    Down,
}

/// Commands on guests with their memory.
#[derive(Debug, Clone, Subcommand)]
pub enum Snapshot {
    /// Keep what there is now under a name
    Save {
        /// The name
        tag: String,
        /// The guests; all without a name
        guests: Vec<String>,
    },
    /// Go back to what there was
    Restore {
        /// The name
        tag: String,
        /// The guests; all without a name
        guests: Vec<String>,
    },
    /// Drop a snapshot
    Delete {
        /// The name
        tag: String,
        /// The guests; all without a name
        guests: Vec<String>,
    },
}

/// How a system is installed.
#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    /// The guest whose disk it is: its `disk`, or the `base` it will have a clone of
    pub guest: String,
    /// The ISO [default: `iso` in the lab file]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub iso: Option<PathBuf>,
    /// What the ISO's SHA-256 must be
    #[arg(long, value_name = "SUM")]
    pub sha256: Option<String>,
    /// User data for the live system's cloud-init: a script (#!) or a #cloud-config
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub seed: Option<PathBuf>,
    /// What to say to the installer's serial console, line by line
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub dialogue: Option<PathBuf>,
    /// Boot this kernel instead of the ISO's menu; iso:PATH is inside the ISO
    #[arg(long, value_name = "FILE", requires = "initrd")]
    pub kernel: Option<String>,
    /// Its initramfs
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<String>,
    /// Its command line
    #[arg(long, value_name = "WORDS", requires = "kernel", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// What must have been on the console for the installation to count
    #[arg(long, value_name = "REGEX")]
    pub done: Option<String>,
    /// Where its screen is seen: none, window, vnc [default: `display` in the lab file]
    #[arg(long, value_name = "WHERE", value_parser = InstallArgs::parse_display)]
    pub display: Option<Display>,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = duration)]
    pub timeout: Duration,
}

/// Commands on disk images.
#[derive(Debug, Clone, Subcommand)]
pub enum Disk {
    /// Make an empty image (qcow2, grows as it is written)
    Create {
        /// Its file
        #[arg(value_name = "NAME", value_hint = clap::ValueHint::FilePath)]
        image: PathBuf,
        /// What the guest sees: 512M, 8G, 1T
        #[arg(long)]
        size: String,
        /// Replace an image that is there
        #[arg(long)]
        force: bool,
    },
    /// Make a linked clone: it holds only what differs from its base
    Clone {
        /// The image to start from, which must not change afterwards (unless --full)
        #[arg(value_hint = clap::ValueHint::FilePath)]
        base: PathBuf,
        /// The clone's file
        #[arg(value_name = "NAME", value_hint = clap::ValueHint::FilePath)]
        image: PathBuf,
        /// Copy everything instead: the clone then stands alone
        #[arg(long)]
        full: bool,
        /// Replace an image that is there
        #[arg(long)]
        force: bool,
    },
    /// Fetch an image by its URL (with curl); its SHA-256 must be this one
    Fetch {
        /// From where
        url: String,
        /// Its file
        #[arg(value_name = "NAME", value_hint = clap::ValueHint::FilePath)]
        image: PathBuf,
        /// What its SHA-256 must be
        #[arg(long, value_name = "SUM")]
        sha256: String,
        /// Replace an image that is there
        #[arg(long)]
        force: bool,
    },
    /// Show format, sizes, base, clones and snapshots of an image
    Info {
        /// Its file
        #[arg(value_name = "NAME", value_hint = clap::ValueHint::FilePath)]
        image: PathBuf,
    },
    /// Make an image larger (the guest still has to use it), or smaller by force
    Resize {
        /// Its file
        #[arg(value_name = "NAME", value_hint = clap::ValueHint::FilePath)]
        image: PathBuf,
        /// What the guest sees: 16G, or +8G for so much more
        #[arg(allow_hyphen_values = true)]
        size: String,
        /// Cut off what is behind the new end
        #[arg(long)]
        force: bool,
    },
    /// List the snapshots inside an image, or make, apply or drop one
    Snapshot {
        /// Its file
        #[arg(value_name = "NAME", value_hint = clap::ValueHint::FilePath)]
        image: PathBuf,
        /// Keep what is there now under this name
        #[arg(long, value_name = "TAG", group = "what")]
        save: Option<String>,
        /// Go back to this one: what was written since is lost
        #[arg(long, value_name = "TAG", group = "what")]
        restore: Option<String>,
        /// Drop this one
        #[arg(long, value_name = "TAG", group = "what")]
        delete: Option<String>,
    },
}

fn renderer(text: &str) -> Result<Renderer, String> {
    let found = Renderer::ALL.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, renderer)| renderer).ok_or_else(|| {
        let names: Vec<&str> = Renderer::ALL.into_iter().map(|(name, _)| name).collect();
        format!("it is one of {}", names.join(", "))
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    vlab::lab::parse_duration(text)
        .ok_or_else(|| format!("`{text}` is not a duration: write 10s, 2m or 500ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_goes_with_every_command() {
        for words in [
            "init",
            "up",
            "down",
            "status",
            "plan",
            "console a",
            "logs a",
            "ssh a",
            "ssh-config",
            "disk info a",
        ] {
            let line = format!("vlab {words} --json");
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.global.json, "{line}");
        }
    }
}

//! A guest's identity written into its clone before the first start, for images
//! that read neither a seed nor credentials. Pure: commands and files only.
//!
//! The base is copied to a raw file, `debugfs` writes into its file system there,
//! and `qemu-img rebase` makes a linked clone of what then differs from the base.
//! Beside mounting through qemu-nbd this needs neither root nor a kernel module,
//! and leaves nothing to unmount when it is cut short. Only ext2, ext3 and ext4
//! can be written so.

use std::path::{Path, PathBuf};

use super::{Content, File, Identity, SSH_KEY, render};
use crate::command::Command;
use crate::disk::{self, DEBUGFS, QEMU_IMG};
use crate::facts::public_key;

/// Where a guest's ssh server has the public half of its key.
const PUBLIC_HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

/// What is written in the guest, beside its network configuration: the ssh host
/// key lies at `host_key` on this machine.
pub fn files(identity: &Identity, renderer: render::Renderer) -> Vec<File> {
    let mut files = vec![
        File::text("/etc/hostname", format!("{}\n", identity.hostname)),
        File::text("/etc/machine-id", format!("{}\n", identity.machine_id())),
        File::text(
            "/etc/hosts",
            format!(
                "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {}\n{}",
                identity.hostname,
                identity.hosts_lines()
            ),
        ),
        File::secret("/root/.ssh/authorized_keys", format!("{SSH_KEY}\n")),
    ];
    files.extend(render::files(identity, renderer));
    files
}

/// The script for debugfs that writes `files`, whose texts lie at `sources` on
/// this machine (`None` for links), and replaces the guest's ssh host keys by
/// the one at `host_key`.
pub fn script(files: &[File], sources: &[Option<PathBuf>], host_key: &Path) -> String {
    let mut text = String::new();
    for (file, source) in files.iter().zip(sources) {
        make_folders(&mut text, &file.path);
        text.push_str(&format!("rm {}\n", file.path));
        match (&file.content, source) {
            (Content::Link(to), _) => text.push_str(&format!("symlink {} {to}\n", file.path)),
            (Content::Text(_), Some(source)) => write(&mut text, source, &file.path, file.mode),
            (Content::Text(_), None) => {}
        }
    }
    text.push_str("sif /root/.ssh mode 040700\n");
    make_folders(&mut text, "/etc/ssh/x");
    for kind in ["rsa", "ecdsa", "dsa", "ed25519"] {
        for end in ["", ".pub"] {
            text.push_str(&format!("rm /etc/ssh/ssh_host_{kind}_key{end}\n"));
        }
    }
    write(&mut text, host_key, "/etc/ssh/ssh_host_ed25519_key", 0o600);
    write(&mut text, &public_key(host_key), PUBLIC_HOST_KEY, 0o644);
    text
}

fn make_folders(text: &mut String, path: &str) {
    // debugfs says so where one is there already, and goes on.
    for (at, _) in path.match_indices('/').skip(1) {
        text.push_str(&format!("mkdir {}\n", &path[..at]));
    }
}

fn write(text: &mut String, source: &Path, path: &str, mode: u16) {
    // Modes of debugfs are those of the inode: a plain file is 0100000.
    text.push_str(&format!("write \"{}\" {path}\n", source.display()));
    text.push_str(&format!("sif {path} mode 0100{mode:03o}\nsif {path} uid 0\nsif {path} gid 0\n"));
}

/// Where the written file system is kept as qcow2. `qemu-img rebase` compares the
/// whole of a raw file, holes too: 28 s for 8 GiB, against half a second.
pub fn written(raw: &Path) -> PathBuf {
    raw.with_extension("written.part")
}

/// Fails where the file system in image `$1` has not the text of file `$2` at `$3`: the last
/// that the script writes. debugfs itself ends with 0 also where a line of its script failed.
const CHECK: &str = r#"debugfs -R "cat $3" "$1" 2> /dev/null | cmp -s - "$2" || {
    echo "what the guest is told could not be written into its file system: it is full, or of a kind that debugfs cannot write" >&2
    exit 1
}"#;

/// The commands that make `part` a linked clone of `base` with `script` carried
/// out in the file system at byte `offset`, the last of which writes `host_key`'s public
/// half; `raw` is used meanwhile.
pub fn commands(
    (base, format): (&Path, &str),
    offset: u64,
    (script, host_key): (&Path, &Path),
    raw: &Path,
    part: &Path,
    size: Option<&str>,
) -> Vec<Command> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (base, raw_text, part_text) = (text(base), text(raw), text(part));
    let written = written(raw);
    let written_text = text(&written);
    let words = |words: &[&str]| Command::new(words.iter().map(|word| (*word).to_owned()).collect());
    let image = format!("{raw_text}?offset={offset}");
    let mut commands = vec![
        words(&[QEMU_IMG, "convert", "-q", "-f", format, "-O", "raw", &base, &raw_text]),
        words(&[DEBUGFS, "-w", "-f", &text(script), &image]),
        words(&["sh", "-c", CHECK, "sh", &image, &text(&public_key(host_key)), PUBLIC_HOST_KEY]),
        words(&[QEMU_IMG, "convert", "-q", "-f", "raw", "-O", "qcow2", &raw_text, &written_text]),
        disk::clone_command(&written, "qcow2", part, None),
        words(&[QEMU_IMG, "rebase", "-q", "-f", "qcow2", "-F", format, "-b", &base, &part_text]),
    ];
    commands.extend(size.map(|size| words(&[QEMU_IMG, "resize", "-q", "-f", "qcow2", &part_text, size])));
    commands
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::disk::{Existing, info, root_partition};

    /// A base with one ext4 partition, made without root.
    fn base(folder: &Path) -> PathBuf {
        let (raw, base) = (folder.join("raw"), folder.join("base.qcow2"));
        let file = std::fs::File::create(&raw).unwrap();
        file.set_len(64 << 20).unwrap();
        // One Linux partition at sector 2048, by hand.
        let mut table = [0u8; 512];
        table[446 + 4] = 0x83;
        table[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        table[446 + 12..446 + 16].copy_from_slice(&(63 * 2048u32).to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        std::os::unix::fs::FileExt::write_all_at(&file, &table, 0).unwrap();
        let text = |path: &Path| path.display().to_string();
        for argv in [
            vec!["mkfs.ext4", "-q", "-E", "offset=1048576", &text(&raw), "63M"],
            vec![QEMU_IMG, "convert", "-O", "qcow2", &text(&raw), &text(&base)],
        ] {
            disk::run(&argv.into_iter().map(str::to_owned).collect::<Vec<_>>()).unwrap();
        }
        std::fs::remove_file(raw).unwrap();
        base
    }

    #[test]
    fn a_clone_is_told_who_it_is_and_its_base_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let base = base(folder.path());
        let before = std::fs::read(&base).unwrap();
        let offset = root_partition(&base, "qcow2").unwrap();
        assert_eq!(offset, 1 << 20);

        let files = files(&example(), render::Renderer::Ifupdown);
        let mut sources = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let Content::Text(text) = &file.content else { continue };
            std::fs::write(at(&index.to_string()), text).unwrap();
            sources.push(Some(at(&index.to_string())));
        }
        for name in ["key", "key.pub"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::write(at("script"), script(&files, &sources, &at("key"))).unwrap();
        let part = at("clone.part");
        let make = |script: &str, offset| {
            let told = (&*at(script), &*at("key"));
            commands((&base, "qcow2"), offset, told, &at("clone.raw"), &part, Some("128M"))
        };
        for command in make("script", offset) {
            disk::run(&command.argv).unwrap();
        }
        disk::finish(&part, &at("clone.qcow2"), Existing::Keep).unwrap();

        let clone = info(&at("clone.qcow2"), &[]).unwrap();
        assert_eq!((clone.base.as_deref(), clone.virtual_size), (Some(base.as_path()), 128 << 20));
        assert!(clone.disk_size < 4 << 20, "linked, not copied: {}", clone.disk_size);
        assert_eq!(std::fs::read(&base).unwrap(), before);

        // Nothing is written where there is no file system, and what is there is too small.
        let outcome = |offset| make("script", offset).iter().try_for_each(|command| disk::run(&command.argv));
        outcome(0).unwrap_err();
        std::fs::write(at("key.pub"), vec![b'k'; 80 << 20]).unwrap();
        let full = outcome(offset).unwrap_err().to_string();
        assert!(full.contains("it is full"), "{full}");

        let raw = at("again.raw");
        let text = |path: &Path| path.display().to_string();
        let convert = [QEMU_IMG, "convert", "-O", "raw", &text(&at("clone.qcow2")), &text(&raw)];
        disk::run(&convert.map(str::to_owned)).unwrap();
        let read = |command: &str| {
            let image = format!("{}?offset={offset}", raw.display());
            let output = std::process::Command::new(DEBUGFS).args(["-R", command, &image]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(read("cat /etc/hostname"), "zero\n");
        assert_eq!(read("cat /etc/ssh/ssh_host_ed25519_key"), "key");
        assert!(read("cat /etc/network/interfaces.d/vlab").contains("address 192.168.1.150\n"));
        let listed = read("ls -l /etc/ssh");
        assert!(listed.contains("100600 (1)      0      0"), "{listed}");
        assert!(read("stat /root/.ssh").contains("Mode:  0700"));
    }
}

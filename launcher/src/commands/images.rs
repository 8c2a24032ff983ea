//! `vlab disk`.

use anyhow::Result;
use serde_json::json;
use vlab::disk::{self, Existing, Info, Kind, Snapshot};

use super::target::Target;
use super::{print, print_json};
use crate::cli::Disk;

/// Runs a command on images.
pub fn run(command: &Disk, target: &Target) -> Result<()> {
    let known = target.clone_folders();
    let existing = |force| if force { Existing::Replace } else { Existing::Keep };
    let (path, said) = match command {
        Disk::Create { image: name, size, force } => {
            disk::create(name, size, existing(*force), &known)?;
            (name, format!("made {} ({size}, empty)", name.display()))
        }
        Disk::Clone { base, image: name, full, force } => {
            let (kind, word) = if *full { (Kind::Full, "full") } else { (Kind::Linked, "linked") };
            disk::clone(base, name, kind, existing(*force), &known)?;
            (name, format!("made {}, a {word} clone of {}", name.display(), base.display()))
        }
        Disk::Fetch { url, image: name, sha256, force } => {
            disk::fetch(url, sha256, name, existing(*force), &known)?;
            (name, format!("fetched {}", name.display()))
        }
        Disk::Info { image: name } => return show(&disk::info(name, &known)?, text, target),
        Disk::Resize { image: name, size: wanted, force } => {
            disk::resize(name, wanted, *force, &known)?;
            let now = size(disk::info(name, &known)?.virtual_size);
            (name, format!("{} has {now} now; the guest still has to use them", name.display()))
        }
        Disk::Snapshot { image: name, save, restore, delete } => {
            let (what, did) = match (save, restore, delete) {
                (Some(tag), ..) => (Snapshot::Save(tag.clone()), format!("saved {tag}")),
                (_, Some(tag), _) => (Snapshot::Restore(tag.clone()), format!("is at {tag} again")),
                (.., Some(tag)) => (Snapshot::Delete(tag.clone()), format!("dropped {tag}")),
                (None, None, None) => return show(&disk::info(name, &known)?, snapshots, target),
            };
            disk::snapshot(name, &what, &known)?;
            (name, format!("{}: {did}", name.display()))
        }
    };
    if target.global.json {
        return print_json(&json!(disk::info(path, &known)?));
    }
    print(&(said + "\n"));
    Ok(())
}

fn show(info: &Info, text: impl Fn(&Info) -> String, target: &Target) -> Result<()> {
    if target.global.json {
        return print_json(info);
    }
    print(&text(info));
    Ok(())
}

fn snapshots(info: &Info) -> String {
    if info.snapshots.is_empty() {
        return format!("{} has no snapshots\n", info.path.display());
    }
    info.snapshots.join("\n") + "\n"
}

fn text(info: &Info) -> String {
    let mut text = format!(
        "{}: {}, {} of {} used\n",
        info.path.display(),
        info.format,
        size(info.disk_size),
        size(info.virtual_size)
    );
    if let Some(base) = &info.base {
        text.push_str(&format!("base: {}\n", base.display()));
    }
    for clone in &info.clones {
        text.push_str(&format!("clone: {}\n", clone.display()));
    }
    for snapshot in &info.snapshots {
        text.push_str(&format!("snapshot: {snapshot}\n"));
    }
    text
}

/// Bytes in the unit that a person would choose.
fn size(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) if (bytes >> shift) < 10 => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}iB", tenths / 10, tenths % 10)
        }
        Some((unit, shift)) => format!("{} {unit}iB", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (196_616, "192 KiB"), (8 << 30, "8.0 GiB"), (3 << 39, "1.5 TiB")]
        {
            assert_eq!(super::size(bytes), text);
        }
    }
}

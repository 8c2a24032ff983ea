//! Where a system's file system begins inside an image: for offline
//! configuration, which writes ext2, ext3 and ext4 only.
//!
//! A few sectors are read through qemu-img, so that any format will do and
//! nothing is mounted.

use std::path::Path;

use anyhow::{Result, bail};

use super::{QEMU_IMG, run, text};

const SECTOR: u64 = 512;

/// The byte at which the largest ext file system of the image begins.
///
/// # Errors
/// There is none, or it was not unmounted cleanly: its journal would undo what
/// is written now.
pub fn root_partition(image: &Path, format: &str) -> Result<u64> {
    let table = read(image, format, 0, 34)?;
    let mut found: Option<(u64, u64)> = None;
    let mut unclean = false;
    // An image may be one file system without a partition table, too.
    for (start, len) in partitions(&table).into_iter().chain([(0, 1)]) {
        let Ok(block) = read(image, format, start + 2, 2) else { continue };
        match superblock(&block) {
            Some(Clean::Yes) if found.is_none_or(|(_, longest)| len > longest) => found = Some((start, len)),
            Some(Clean::No) => unclean = true,
            Some(Clean::Yes) | None => {}
        }
    }
    match found {
        Some((start, _)) => Ok(start * SECTOR),
        None if unclean => bail!(
            "the file system in {} was not unmounted cleanly: start a guest from it once and power that down",
            image.display()
        ),
        None => bail!(
            "{} holds no ext2, ext3 or ext4 file system, and no other can be configured offline",
            image.display()
        ),
    }
}

fn read(image: &Path, format: &str, sector: u64, count: u64) -> Result<Vec<u8>> {
    // A folder of our own: qemu-img opens by name, and follows links.
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("sectors");
    let argv = [
        QEMU_IMG.to_owned(),
        "dd".to_owned(),
        "-U".to_owned(),
        "-f".to_owned(),
        format.to_owned(),
        "-O".to_owned(),
        "raw".to_owned(),
        format!("bs={SECTOR}"),
        format!("skip={sector}"),
        format!("count={}", sector + count),
        format!("if={}", text(image)),
        format!("of={}", text(&out)),
    ];
    run(&argv)?;
    Ok(std::fs::read(&out)?)
}

/// Start and length, in sectors, of the partitions in an MBR or GPT.
fn partitions(table: &[u8]) -> Vec<(u64, u64)> {
    let number = |at: usize, len: usize| {
        let bytes = table.get(at..at + len).unwrap_or_default();
        bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    if table.get(510..512) != Some(&[0x55, 0xaa]) {
        return Vec::new();
    }
    if table.get(512..520) == Some(b"EFI PART") {
        let entry = |index: usize| (number(1024 + index * 128 + 32, 8), number(1024 + index * 128 + 40, 8));
        let entries = (0..128).map(entry).filter(|(first, last)| *first > 0 && last >= first);
        return entries.map(|(first, last)| (first, last - first + 1)).collect();
    }
    let entry = |index: usize| {
        let at = 446 + index * 16;
        (number(at + 4, 1), number(at + 8, 4), number(at + 12, 4))
    };
    (0..4).map(entry).filter(|(kind, ..)| *kind != 0).map(|(_, start, len)| (start, len)).collect()
}

enum Clean {
    Yes,
    No,
}

/// Whether the 1024 bytes are the superblock of an ext file system.
fn superblock(block: &[u8]) -> Option<Clean> {
    if block.get(0x38..0x3a) != Some(&[0x53, 0xef]) {
        return None;
    }
    // s_feature_incompat, bit 2: the journal has to be replayed.
    let needs_recovery = block.get(0x60).is_some_and(|bits| bits & 4 != 0);
    Some(if needs_recovery { Clean::No } else { Clean::Yes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Existing, create};

    #[test]
    fn partitions_of_both_tables() {
        let mut table = vec![0u8; 34 * 512];
        table[510..512].copy_from_slice(&[0x55, 0xaa]);
        table[446 + 4] = 0x83;
        table[446 + 8] = 63;
        table[446 + 12] = 100;
        assert_eq!(partitions(&table), [(63, 100)]);
        table[512..520].copy_from_slice(b"EFI PART");
        table[1024 + 128 + 33] = 8;
        table[1024 + 128 + 41] = 9;
        assert_eq!(partitions(&table), [(2048, 257)]);
        assert_eq!(partitions(&[0; 512]), []);
    }

    #[test]
    fn an_image_without_a_system_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.qcow2");
        create(&path, "8M", Existing::Keep, &[]).unwrap();
        let refused = root_partition(&path, "qcow2").unwrap_err().to_string();
        assert!(refused.contains("holds no ext2"), "{refused}");
    }
}

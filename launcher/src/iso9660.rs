//! Reading one file out of an installation ISO: its kernel and initramfs, so
//! that a kernel command line can be given to them.
//!
//! ISO 9660 (ECMA-119) with Rock Ridge names; no Joliet, no UDF, no writing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: u64 = 2048;
/// The primary volume descriptor lies behind 16 sectors that are the system's.
const DESCRIPTOR: u64 = 16 * SECTOR;
/// Where a descriptor has the record of its root directory.
const ROOT: usize = 156;
/// The largest file or directory that is read, in bytes.
const SIZE_MAX: u32 = 1 << 30;

/// A file or directory: where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    name: String,
    sector: u32,
    size: u32,
    is_directory: bool,
}

/// The bytes of `path` inside the ISO at `image`.
///
/// # Errors
/// It is no ISO, or has no such file.
pub fn read(image: &Path, path: &str) -> io::Result<Vec<u8>> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let file = File::open(image)?;
    let mut descriptor = [0; 2048];
    let read = file.read_exact_at(&mut descriptor, DESCRIPTOR);
    if read.is_err() || descriptor[..6] != *b"\x01CD001" {
        return Err(bad(format!("{} is no ISO 9660 image", image.display())));
    }
    let mut at =
        record(&descriptor[ROOT..]).ok_or_else(|| bad("its root directory cannot be read".into()))?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if !at.is_directory {
            return Err(bad(format!("{path}: not a directory on the way")));
        }
        let entries = entries(&contents(&file, &at)?);
        let found = entries.into_iter().find(|entry| entry.name.eq_ignore_ascii_case(name));
        at = found.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{} has no {path}", image.display()))
        })?;
    }
    if at.is_directory {
        return Err(bad(format!("{path} is a directory")));
    }
    contents(&file, &at)
}

fn contents(file: &File, record: &Record) -> io::Result<Vec<u8>> {
    if record.size > SIZE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is too large", record.name)));
    }
    let mut bytes = vec![0; usize::try_from(record.size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, u64::from(record.sector) * SECTOR)?;
    Ok(bytes)
}

fn entries(directory: &[u8]) -> Vec<Record> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < directory.len() {
        let len = usize::from(directory[at]);
        if len == 0 {
            // Records do not cross sectors: the rest of this one is empty.
            at = (at / 2048 + 1) * 2048;
            continue;
        }
        entries.extend(directory.get(at..at + len).and_then(record));
        at += len;
    }
    entries
}

/// One directory record, 9.1 of the standard.
fn record(bytes: &[u8]) -> Option<Record> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let name_len = usize::from(*bytes.get(32)?);
    let name = bytes.get(33..33 + name_len)?;
    // System use fields begin behind the name, padded to an even offset.
    let system = bytes.get(33 + name_len + usize::from(name_len.is_multiple_of(2))..).unwrap_or_default();
    let plain = || {
        let name = String::from_utf8_lossy(name);
        name.split(';').next().unwrap_or_default().trim_end_matches('.').to_owned()
    };
    Some(Record {
        name: rock_ridge(system).unwrap_or_else(plain),
        sector: number(2)?,
        size: number(10)?,
        is_directory: bytes.get(25)? & 2 != 0,
    })
}

/// The name that `NM` fields give.
fn rock_ridge(mut fields: &[u8]) -> Option<String> {
    let mut name = Vec::new();
    while let [a, b, len, _, ..] = *fields {
        let field = fields.get(..usize::from(len)).filter(|field| field.len() > 3)?;
        if (a, b) == (b'N', b'M') {
            name.extend_from_slice(field.get(5..).unwrap_or_default());
        }
        fields = &fields[field.len()..];
        if fields.first() == Some(&0) {
            break;
        }
    }
    (!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(name: &[u8], sector: u32, size: u32, is_directory: bool, long: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![0; 33];
        bytes[2..6].copy_from_slice(&sector.to_le_bytes());
        bytes[10..14].copy_from_slice(&size.to_le_bytes());
        bytes[25] = if is_directory { 2 } else { 0 };
        bytes[32] = u8::try_from(name.len()).unwrap();
        bytes.extend_from_slice(name);
        if name.len().is_multiple_of(2) {
            bytes.push(0);
        }
        if let Some(long) = long {
            bytes.extend([b'N', b'M', u8::try_from(5 + long.len()).unwrap(), 1, 0]);
            bytes.extend_from_slice(long.as_bytes());
        }
        bytes[0] = u8::try_from(bytes.len()).unwrap();
        bytes
    }

    #[test]
    fn files_are_found_by_both_kinds_of_names() {
        let mut image = vec![0; 22 * 2048];
        let descriptor = 16 * 2048;
        image[descriptor..descriptor + 6].copy_from_slice(b"\x01CD001");
        let put = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(&mut image, descriptor + ROOT, &record_of(b"\0", 18, 2048, true, None));
        put(&mut image, 18 * 2048, &record_of(b"BOOT", 19, 2048, true, None));
        let mut folder = record_of(b"VMLINUZ.;1", 20, 6, false, None);
        folder.extend(record_of(b"INITRAMF.IMG;1", 21, 4, false, Some("initramfs-linux.img")));
        put(&mut image, 19 * 2048, &folder);
        put(&mut image, 20 * 2048, b"kernel");
        put(&mut image, 21 * 2048, b"init");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.iso");
        std::fs::write(&path, image).unwrap();
        assert_eq!(read(&path, "/boot/vmlinuz").unwrap(), b"kernel");
        assert_eq!(read(&path, "boot/initramfs-linux.img").unwrap(), b"init");
        for (name, why) in [("boot", "directory"), ("boot/x", "has no"), ("boot/vmlinuz/x", "directory")] {
            assert!(read(&path, name).unwrap_err().to_string().contains(why), "{name}");
        }
        std::fs::write(&path, "short").unwrap();
        assert!(read(&path, "x").unwrap_err().to_string().contains("no ISO"));
    }
}

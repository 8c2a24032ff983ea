//! The drive that cloud-init reads: a FAT image labelled CIDATA.
//!
//! What its files say is [`crate::identity::cloud_init`]'s.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};

/// The label that cloud-init looks for.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// Room for the file system itself, and for files to be rounded up, in bytes.
const OVERHEAD: usize = 1 << 20;

/// Size of the image for `files`, in bytes.
pub fn size(files: &[(String, String)]) -> u64 {
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    u64::try_from((OVERHEAD + 2 * bytes).next_multiple_of(1 << 20)).unwrap_or(u64::MAX)
}

/// Writes the image of `files` to `path`, for this user alone: it may hold
/// what nobody else should know.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, files: &[(String, String)]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let mut image = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    image.set_len(size(files))?;
    format_volume(&mut image, FormatVolumeOptions::new().volume_label(LABEL))?;
    image.seek(SeekFrom::Start(0))?;
    let volume = FileSystem::new(&image, FsOptions::new())?;
    for (name, text) in files {
        let mut file = volume.root_dir().create_file(name)?;
        file.truncate()?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
    }
    volume.unmount()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_written_is_read_back_under_its_label() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zero.seed");
        let files = [
            ("meta-data".to_owned(), "instance-id: x\n".to_owned()),
            ("user-data".to_owned(), "x".repeat(700_000)),
        ];
        write(&path, &files).unwrap();
        write(&path, &files).expect("over the one of the time before");
        let image = fs::File::open(&path).unwrap();
        let volume = FileSystem::new(image, FsOptions::new().update_accessed_date(false)).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        for (name, text) in files {
            let mut read = String::new();
            volume.root_dir().open_file(&name).unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, text, "{name}");
        }
    }
}

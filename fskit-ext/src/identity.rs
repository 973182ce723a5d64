//! The UUID of a mounted image: it is the same until the file is moved to another file system or replaced, or the disk
//! that it is on is attached again.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use cdi_image::disk::Disk;

/// A UUID. FSKit requires the same one for the container (the image) and its only volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if [4, 6, 8, 10].contains(&i) { "-" } else { "" })?;
        }
        Ok(())
    }
}

/// Returns the UUID of the disk in this image. The system identifies a volume by it, so a copy must have another: it is
/// derived from the identity of the image, and from the location of its file.
pub fn uuid(disk: &Disk) -> Uuid {
    let mut hasher = blake3::Hasher::new_derive_key("org.cdimg.cdi.fskit volume UUID 1");
    hasher.update(&disk.identity());
    if let Ok(metadata) = disk.input().path().metadata() {
        hasher.update(&metadata.dev().to_be_bytes()).update(&metadata.ino().to_be_bytes());
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    // Version 8 of RFC 9562: a custom derivation.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Uuid(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::testing::{disk_of, fixture};

    #[test]
    fn an_image_keeps_its_uuid_and_no_two_share_one() {
        let mut seen = Vec::new();
        for image in ["zstd.cdimg", "deflate.cdimg", "stored.cdimg", "example.cdimg", "example.raw"] {
            let first = uuid(&disk_of(&fixture(image)));
            assert_eq!(first, uuid(&disk_of(&fixture(image))), "{image}");
            assert!(!seen.contains(&first), "{image}");
            seen.push(first);
        }
    }

    #[test]
    fn a_copy_is_another_volume() {
        let dir = crate::volume::testing::TempDir::new();
        for image in ["zstd.cdimg", "example.raw"] {
            let copies = ["one", "two"].map(|name| dir.0.join(format!("{name}-{image}")));
            for copy in &copies {
                std::fs::copy(fixture(image), copy).unwrap();
                std::fs::File::open(copy).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            assert_ne!(uuid(&disk_of(&copies[0])), uuid(&disk_of(&copies[1])), "{image}");
        }
    }

    #[test]
    fn a_uuid_has_the_standard_form() {
        let text = uuid(&disk_of(&fixture("zstd.cdimg"))).to_string();
        let parts: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{text}");
        assert_eq!(text.as_bytes()[14], b'8');
        assert!(b"89AB".contains(&text.as_bytes()[19]), "{text}");
    }
}

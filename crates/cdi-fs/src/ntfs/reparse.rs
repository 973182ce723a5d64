//! Reparse points: symbolic links, junctions, and contents that are stored elsewhere.
//!
//! Facts: `REPARSE_DATA_BUFFER` in Microsoft's [MS-FSCC] 2.1.2, `REPARSE_POINT` in ntfs-3g's layout.h; links of Interix:
//! `INTX_FILE` in ntfs-3g's layout.h.

use crate::bytes::{le16, le32};

use super::names::text;

const MOUNT_POINT: u32 = 0xA000_0003;
const SYMLINK: u32 = 0xA000_000C;
/// Of the Windows Subsystem for Linux.
const LX_SYMLINK: u32 = 0xA000_001D;
/// "Windows overlay filter": the contents are compressed in the stream `WofCompressedData`, or in another file.
const WOF: u32 = 0x8000_0017;
const DEDUP: u32 = 0x8000_0013;

/// What Interix, and ntfs-3g by default, begin the contents of a symbolic link with.
const INTERIX: &[u8] = b"IntxLNK\x01";

/// Returns whether a reparse point with this tag is a symbolic link.
pub(super) fn is_link(tag: u32) -> bool {
    matches!(tag, MOUNT_POINT | SYMLINK | LX_SYMLINK)
}

/// Returns the tag of a reparse point.
pub(super) fn tag(value: &[u8]) -> Option<u32> {
    le32(value, 0)
}

/// Returns why the contents of a file with this reparse point are not where they usually are.
pub(super) fn packed(tag: u32) -> Option<&'static str> {
    match tag {
        WOF => Some("compressed"),
        DEDUP => Some("deduplicated"),
        _ => None,
    }
}

/// Returns the target of a link, as Windows shows it, in UTF-8.
pub(super) fn target(value: &[u8]) -> Option<Vec<u8>> {
    let path = match tag(value)? {
        LX_SYMLINK => return value.get(12..8 + usize::from(le16(value, 4)?)).map(<[u8]>::to_vec),
        MOUNT_POINT => 16,
        SYMLINK => 20,
        _ => return None,
    };
    let name = |at| {
        let from = path + usize::from(le16(value, at)?);
        value.get(from..from + usize::from(le16(value, at + 2)?)).filter(|name| !name.is_empty())
    };
    let shown = name(12).map(text);
    let target = shown.or_else(|| {
        let stored = text(name(8)?);
        Some(stored.strip_prefix(r"\??\").map(str::to_owned).unwrap_or(stored))
    });
    target.map(String::into_bytes)
}

/// Returns the target, in UTF-8, if contents are those of a link of Interix.
pub(super) fn interix(contents: &[u8]) -> Option<Vec<u8>> {
    contents.strip_prefix(INTERIX).map(|target| text(target).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(tag: u32, path: usize, stored: &str, shown: &str) -> Vec<u8> {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let (stored, shown) = (wide(stored), wide(shown));
        let mut value = tag.to_le_bytes().to_vec();
        value.extend([0; 4]);
        for number in [0, stored.len(), stored.len(), shown.len()] {
            value.extend(u16::try_from(number).unwrap().to_le_bytes());
        }
        value.resize(path, 0);
        value.extend(stored);
        value.extend(shown);
        value
    }

    #[test]
    fn links_have_the_target_that_windows_shows() {
        let target = |value: &[u8]| target(value).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(target(&link(SYMLINK, 20, r"\??\C:\a", r"C:\a")).unwrap(), r"C:\a");
        assert_eq!(target(&link(MOUNT_POINT, 16, r"\??\C:\a", "")).unwrap(), r"C:\a");
        assert_eq!(target(&link(MOUNT_POINT, 16, "..", "")).unwrap(), "..");
        assert_eq!(target(&link(WOF, 16, "a", "b")), None);
        let whole = link(SYMLINK, 20, r"\??\C:\a", r"C:\a");
        (0..28).for_each(|len| assert_eq!(target(&whole[..len]), None, "{len}"));
    }
}

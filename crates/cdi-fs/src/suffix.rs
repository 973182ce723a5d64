//! The suffix of a file whose name is lost, by its first bytes.

use crate::volume::Volume;

/// How much of the start of a file is looked at, in bytes.
const LEN: usize = 16;

/// The bytes of a kind of file, where they are in it, and its suffix; the first that fits. By the specifications of the formats.
const KINDS: &[(usize, &[u8], &str)] = &[
    (0, b"\xFF\xD8\xFF", ".jpg"),
    (0, b"\x89PNG\r\n", ".png"),
    (0, b"GIF8", ".gif"),
    (8, b"CR\x02", ".cr2"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (4, b"ftypheic", ".heic"),
    (4, b"ftypcrx", ".cr3"),
    (4, b"ftypqt", ".mov"),
    (4, b"ftypM4A", ".m4a"),
    (4, b"ftyp", ".mp4"),
    (4, b"moov", ".mov"),
    (8, b"WAVEfmt", ".wav"),
    (8, b"AVI LIST", ".avi"),
    (8, b"WEBP", ".webp"),
    (0, b"ID3", ".mp3"),
    (0, b"fLaC", ".flac"),
    (0, b"OggS", ".ogg"),
    (0, b"%PDF", ".pdf"),
    (0, b"PK\x03\x04", ".zip"),
    (0, b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", ".doc"),
    (0, b"{\\rtf", ".rtf"),
    (0, b"\x1F\x8B\x08", ".gz"),
    (0, b"7z\xBC\xAF\x27\x1C", ".7z"),
];

/// Returns the suffix of a file that begins at byte `at` of the volume, with its dot; nothing if it is not known. What was not
/// read yet is not asked for.
pub(crate) fn at(volume: &Volume<'_>, at: u64) -> &'static str {
    if volume.missing(at..at.saturating_add(LEN as u64)).iter().any(|missing| missing.untried) {
        return "";
    }
    let bytes = volume.read(at, LEN).unwrap_or_default();
    let fits =
        |(from, magic, _): &&(usize, &[u8], &str)| bytes.get(*from..).is_some_and(|b| b.starts_with(magic));
    KINDS.iter().find(fits).map_or("", |(_, _, suffix)| suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        for (start, suffix) in [
            (&b"\xFF\xD8\xFF\xE1\0\0Exif\0\0MM\0*"[..], ".jpg"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0", ".mp4"),
            (b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0", ".cr2"),
            (b"RIFF\0\0\0\0WAVEfmt ", ".wav"),
            (b"some text in it.", ""),
        ] {
            let bytes = start.to_vec();
            assert_eq!(at(&Volume::new(&bytes, 0..64), 0), suffix);
        }
        assert_eq!(at(&Volume::new(&vec![0; 8], 0..8), 4), "");
    }
}

//! What may be on a volume whose files cdi cannot list: recognised, so that it can be named.

use crate::volume::Volume;

/// Something that is recognised by bytes at a fixed place.
struct Signature {
    name: &'static str,
    /// In bytes from the start of the volume.
    at: u64,
    magic: &'static [u8],
}

const fn of(name: &'static str, at: u64, magic: &'static [u8]) -> Signature {
    Signature { name, at, magic }
}

/// By the sources of the programs that make them, as util-linux's libblkid has them.
const SIGNATURES: &[Signature] = &[
    of("BitLocker (encrypted)", 3, b"-FVE-FS-"),
    of("LUKS (encrypted)", 0, b"LUKS\xBA\xBE"),
    of("Core Storage (FileVault or Fusion Drive)", 88, b"CS\x01\x00"),
    of("LVM physical volume", 512, b"LABELONE"),
    of("LVM physical volume", 0, b"LABELONE"),
    of("Linux RAID member", 4096, b"\xFC\x4E\x2B\xA9"),
    of("Linux RAID member", 0, b"\xFC\x4E\x2B\xA9"),
    of("XFS", 0, b"XFSB"),
    of("Btrfs", 0x1_0040, b"_BHRfS_M"),
    of("bcachefs", 4096 + 24, b"\xC6\x85\x73\xF6\x4E\x1A\x45\xCA"),
    of("F2FS", 1024, b"\x10\x20\xF5\xF2"),
    of("ReFS", 3, b"ReFS\0\0\0\0"),
    of("HFS (not HFS+)", 1024, b"BD"),
    of("SquashFS", 0, b"hsqs"),
    of("Linux swap", 4086, b"SWAPSPACE2"),
    of("Linux swap", 65526, b"SWAPSPACE2"),
    of("VMFS", 0x20_0000, b"\x5E\xF1\xAB\x2F"),
    of("JFS", 0x8000, b"JFS1"),
    of("ReiserFS", 0x1_0034, b"ReIsEr"),
    of("UFS", 8192 + 1372, b"\x54\x19\x01\x00"),
    of("UFS2", 65536 + 1372, b"\x19\x01\x54\x19"),
    of("ZFS member", 0x4000 - 0x400 + 128 * 1024, b"\x0C\xB1\xBA\x00"),
];

/// Returns the name of what is on the volume, if it is known.
pub(crate) fn name(volume: &Volume<'_>) -> Option<&'static str> {
    SIGNATURES
        .iter()
        .find(|s| volume.read(s.at, s.magic.len()).is_ok_and(|bytes| bytes == s.magic))
        .map(|s| s.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_named() {
        for known in SIGNATURES {
            let mut bytes = vec![0; 4 << 20];
            let at = usize::try_from(known.at).unwrap();
            bytes[at..at + known.magic.len()].copy_from_slice(known.magic);
            assert_eq!(name(&Volume::new(&bytes, 0..4 << 20)), Some(known.name));
        }
        let empty = vec![0; 4096];
        assert_eq!(name(&Volume::new(&empty, 0..4096)), None);
    }
}

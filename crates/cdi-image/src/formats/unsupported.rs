//! Recognises files in formats that are not supported, and says which program converts them. Such files are often named
//! like raw images, and their bytes would be mistaken for the disk's.
//!
//! Sources: the programs' documentation and sources, and the shared lists of magic numbers. Anything that a disk may
//! begin with, such as file systems and LUKS, is not in the list.
//! One file: it is a single table.

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::printable::quoted;

use crate::badmap::load::is_mapfile;
use crate::bytes::le32;
use crate::input::Input;
use crate::input::pieces::{self, join_hint};
use crate::text::command::new_name;

/// How to recognise a file type.
enum Sign {
    /// By these bytes at this offset.
    At(u64, &'static [u8]),
    /// By a function that gets the first bytes of the file, up to [`PROBE_LEN`], and the length of the file.
    Check(fn(&[u8], u64) -> bool),
}
use Sign::{At, Check};

/// How many bytes at the start of a file are examined.
const PROBE_LEN: u64 = 1024;

/// A file type: its name, how to recognise it, and how to convert it.
struct Container {
    name: &'static str,
    sign: Sign,
    hint: &'static str,
}

const fn container(name: &'static str, sign: Sign, hint: &'static str) -> Container {
    Container { name, sign, hint }
}

const SEVEN_ZIP: &str = "extract it: 7z x FILE";
const QEMU: &str = "convert it: qemu-img convert -O raw FILE disk.raw";
const FLOPPY: &str = "it contains the tracks of a floppy disk; convert them to sectors with 'gw convert FILE disk.img' \
    (Greaseweazle), HxCFloppyEmulator or SAMdisk";
const GAME: &str = "convert it to a plain ISO image with 'maxcso --decompress' or 'dolphin-tool convert'";

/// All known file types. The first match is used.
const ALL: &[Container] = &[
    container("a gzip file", At(0, b"\x1F\x8B\x08"), "decompress it: gzip -dc FILE > disk.raw"),
    container("an xz file", At(0, b"\xFD7zXZ\0"), "decompress it: xz -dc FILE > disk.raw"),
    container("a bzip2 file", Check(bzip2), "decompress it: bzip2 -dc FILE > disk.raw"),
    container("a zstd file", Check(zstd), "decompress it: zstd -dc FILE > disk.raw"),
    container("an lz4 file", At(0, b"\x04\x22\x4D\x18"), "decompress it: lz4 -dc FILE > disk.raw"),
    container("an lz4 file", At(0, b"\x02\x21\x4C\x18"), "decompress it: lz4 -dc FILE > disk.raw"),
    container("an lzip file", At(0, b"LZIP\x01"), "decompress it: lzip -dc FILE > disk.raw"),
    container("an lzop file", At(0, b"\x89LZO\0\r\n\x1A\n"), "decompress it: lzop -dc FILE > disk.raw"),
    container("an lzma file", Check(lzma), "decompress it: xz --format=lzma -dc FILE > disk.raw"),
    container("a compress file (.Z)", At(0, b"\x1F\x9D\x90"), "decompress it: gzip -dc FILE > disk.raw"),
    container("a zip archive", At(0, b"PK\x03\x04"), "extract it: unzip FILE"),
    container("a zip archive in parts", At(0, b"PK\x07\x08"), SEVEN_ZIP),
    container("an empty zip archive", At(0, b"PK\x05\x06"), "it contains no files"),
    container("a 7-Zip archive", At(0, b"7z\xBC\xAF\x27\x1C"), SEVEN_ZIP),
    container("a RAR archive", At(0, b"Rar!\x1A\x07"), "extract it: unrar x FILE, or 7z x FILE"),
    container("a cabinet archive", At(0, b"MSCF\0\0\0\0"), SEVEN_ZIP),
    container("an ARJ archive", Check(arj), SEVEN_ZIP),
    container("a xar archive", At(0, b"xar!\0\x1C"), SEVEN_ZIP),
    container(
        "a tar archive",
        At(257, b"ustar"),
        "extract it: tar -xf FILE (an .ova contains the .vmdk of the disk)",
    ),
    container("a Bochs disk", At(0, b"Bochs Virtual HD Image\0"), QEMU),
    container(
        "a cloop image",
        At(0, b"#!/bin/sh\n#V2.0 Format"),
        "convert it: qemu-img convert -f cloop -O raw FILE disk.raw",
    ),
    container(
        "an AD1 file",
        At(0, b"ADSEGMENTEDFILE\0"),
        "it contains files, not a disk: open it in FTK Imager",
    ),
    container(
        "a logical evidence file (L01)",
        At(0, b"LVF\x09\r\n\xFF\0"),
        "it contains files, not a disk: export them with 'ewfexport' or EnCase",
    ),
    container(
        "a logical evidence file (Lx01)",
        At(0, b"LEF2\r\n\x81\0"),
        "it contains files, not a disk: export them with EnCase",
    ),
    container(
        "an image encrypted by AccessData (ADCRYPT)",
        At(0, b"ADCRYPT\0"),
        "decrypt it with FTK Imager ('Decrypt AD1/E01')",
    ),
    container(
        "an ntfsclone image",
        At(0, b"\0ntfsclone-image"),
        "restore it: ntfsclone --restore-image --overwrite part.raw FILE",
    ),
    container("a Partimage file", At(0, b"PaRtImAgE-VoLuMe"), "restore it: partimage restore part.raw FILE"),
    container(
        "a FSArchiver file",
        At(0, b"FsA0"),
        "it contains files, not a disk: fsarchiver restfs FILE id=0,dest=PARTITION",
    ),
    container(
        "a Windows image (WIM)",
        At(0, b"MSWIM\0\0\0"),
        "it contains files, not a disk: wimapply FILE DIR (wimtools)",
    ),
    container(
        "a Windows image (WIM)",
        At(0, b"WLPWM\0\0\0"),
        "it contains files, not a disk: wimapply FILE DIR (wimtools)",
    ),
    container(
        "a Norton Ghost image",
        Check(ghost),
        "restore it with Ghost, or convert it with Ghost Explorer",
    ),
    container("an Acronis backup", At(0, b"\xCE\x24\xB9\xA2"), "restore it with Acronis True Image"),
    container(
        "a CD image with raw sectors of 2352 bytes",
        Check(compact_disc),
        "convert it to sectors of 2048 bytes with bchunk, or ccd2iso FILE disk.iso",
    ),
    container("an Aaru image", At(0, b"AARUFRMT"), "convert it: aaru image convert FILE disk.raw"),
    container("an Aaru image", At(0, b"DICMFRMT"), "convert it: aaru image convert FILE disk.raw"),
    container("a PowerISO image (DAA)", At(0, b"DAA\0"), "convert it with PowerISO or daa2iso"),
    container("a zipped ISO image (ISZ)", At(0, b"IsZ!"), "convert it with UltraISO or isz-tool"),
    container(
        "a file encrypted by openssl",
        At(0, b"Salted__"),
        "decrypt it: openssl enc -d … -in FILE -out disk.raw",
    ),
    container(
        "a file encrypted by age",
        At(0, b"age-encryption.org/"),
        "decrypt it: age -d -o disk.raw FILE",
    ),
    container(
        "an Apple encrypted archive",
        At(0, b"AEA1"),
        "decrypt it on a Mac: aea decrypt -i FILE -o disk.raw",
    ),
    container("an Apple archive", At(0, b"AA01"), "extract it on a Mac: aa extract -i FILE -d DIR"),
    container("an Apple archive", At(0, b"YAA1"), "extract it on a Mac: aa extract -i FILE -d DIR"),
    container("a pbzx file", At(0, b"pbzx"), "decompress it on a Mac, or: pbzx -n FILE"),
    container("an Acronis backup", At(0, b"\xB4\x6E\x68\x44"), "restore it with Acronis True Image"),
    container(
        "a memory dump (LiME)",
        At(0, b"EMiL"),
        "it contains a memory image, not a disk: open it in Volatility",
    ),
    container(
        "a Windows memory dump",
        At(0, b"PAGEDU64"),
        "it contains a memory image, not a disk: open it in WinDbg or Volatility",
    ),
    container(
        "a Windows memory dump",
        At(0, b"PAGEDUMP"),
        "it contains a memory image, not a disk: open it in WinDbg or Volatility",
    ),
    container("an Android update payload", At(0, b"CrAU"), "extract it: payload-dumper FILE"),
    container(
        "a Windows full flash image (FFU)",
        At(4, b"SignedImage "),
        "convert it: ffu2img FILE disk.raw",
    ),
    container("a cpio archive", At(0, b"070701"), "extract it: cpio -id < FILE"),
    container("a cpio archive", At(0, b"070702"), "extract it: cpio -id < FILE"),
    container("a cpio archive", At(0, b"070707"), "extract it: cpio -id < FILE"),
    container("an lrzip file", At(0, b"LRZI\0"), "decompress it: lrzip -d -o disk.raw FILE"),
    container("a zpaq archive", At(0, b"7kSt\xA0\x31\x83\xD3"), "extract it: zpaq extract FILE"),
    container("a snappy file", At(0, b"\xFF\x06\0\0sNaPpY"), "decompress it: snzip -dc FILE > disk.raw"),
    container("an LHA archive", Check(lha), SEVEN_ZIP),
    container("an ACE archive", At(7, b"**ACE**"), "extract it: unace x FILE"),
    container("a zoo archive", At(20, b"\xDC\xA7\xC4\xFD"), "extract it: zoo x FILE"),
    container("a StuffIt archive", At(0, b"StuffIt "), "extract it: unar FILE"),
    container("a StuffIt archive", At(0, b"SIT!"), "extract it: unar FILE"),
    container("an AppleSingle file", At(0, b"\0\x05\x16\0\0\x02\0\0"), "extract the data fork: unar FILE"),
    container(
        "a btrfs stream",
        At(0, b"btrfs-stream\0"),
        "it contains files, not a disk: btrfs receive -f FILE DIR",
    ),
    container("a mainframe disk (CKD)", At(0, b"CKD_P370"), "open it in Hercules"),
    container("a mainframe disk (CKD)", At(0, b"CKD_C370"), "open it in Hercules"),
    container("a User Mode Linux copy-on-write file", At(0, b"MOOO"), "merge it: uml_moo FILE disk.raw"),
    container("a User Mode Linux copy-on-write file", At(0, b"OOOM"), "merge it: uml_moo FILE disk.raw"),
    container("an Apple II disk (2MG)", At(0, b"2IMG"), FLOPPY),
    container("a WOZ floppy image", At(0, b"WOZ1\xFF\n\r\n"), FLOPPY),
    container("a WOZ floppy image", At(0, b"WOZ2\xFF\n\r\n"), FLOPPY),
    container("a MOOF floppy image", At(0, b"MOOF\xFF\n\r\n"), FLOPPY),
    container("an A2R flux image", At(0, b"A2R2\xFF\n\r\n"), FLOPPY),
    container("an A2R flux image", At(0, b"A2R3\xFF\n\r\n"), FLOPPY),
    container("a MAME floppy image (MFI)", At(0, b"MESSFLOPPYIMAGE\0"), FLOPPY),
    container("a MAME floppy image (MFI)", At(0, b"MAMEFLOPPYIMAGE\0"), FLOPPY),
    container("an 86F floppy image", At(0, b"86BF"), FLOPPY),
    container("an FDI floppy image", At(0, b"Formatted Disk Image file\r\n"), FLOPPY),
    container("an STX floppy image", At(0, b"RSY\0\x03\0"), FLOPPY),
    container("a UDI floppy image", At(0, b"UDI!"), FLOPPY),
    container(
        "a T98-Next disk (NHD)",
        At(0, b"T98HDDIMAGE.R0\0"),
        "remove its header: the header's length is at byte 272, and the disk follows it",
    ),
    container("an HDF disk of RS-IDE", At(0, b"RS-IDE\x1A"), "convert it: hdfmonkey rebuild FILE disk.raw"),
    container("a CISO image", At(0, b"CISO"), GAME),
    container("a ZISO image", At(0, b"ZISO"), GAME),
    container("a DAX image", At(0, b"DAX\0"), GAME),
    container("a GCZ image", At(0, b"\x01\xC0\x0B\xB1"), GAME),
    container("a WIA image", At(0, b"WIA\x01"), GAME),
    container("an RVZ image", At(0, b"RVZ\x01"), GAME),
    container("a WBFS image", At(0, b"WBFS"), GAME),
    container("an ECM file", At(0, b"ECM\0"), "decompress it: unecm FILE"),
    container(
        "an Alcohol 120% description (MDS)",
        At(0, b"MEDIA DESCRIPTOR\x01"),
        "open the .mdf next to it instead",
    ),
    container("an ImageDisk file (IMD)", At(0, b"IMD 1."), FLOPPY),
    container("a TeleDisk file (TD0)", Check(teledisk), FLOPPY),
    container("an Amstrad CPC disk", At(0, b"MV - CPC"), FLOPPY),
    container("an Amstrad CPC disk", At(0, b"EXTENDED CPC DSK File"), FLOPPY),
    container("an HFE floppy image", At(0, b"HXCPICFE"), FLOPPY),
    container("an HFE floppy image", At(0, b"HXCHFEV3"), FLOPPY),
    container("a SuperCard Pro flux image", Check(supercard), FLOPPY),
    container("an IPF floppy image", At(0, b"CAPS\0\0\0\x0C"), FLOPPY),
    container("a DMS file", At(0, b"DMS!"), FLOPPY),
    container("a ddrescue mapfile", At(0, b"# Mapfile. Created by "), MAP),
    container("a ddrescue logfile", At(0, b"# Rescue Logfile. Created by "), MAP),
    container("a ddrescue mapfile or HDDSuperClone log", Check(|start, _| is_mapfile(start)), MAP),
];

const TAR: &str = "a tar archive";
/// The hint of map files, which contain no disk at all.
const MAP: &str = "";

/// Returns an error that names the type of an unsupported file and how to convert it; None if the type is not known.
pub(crate) fn recognise(input: &Input, named_raw: bool) -> Option<Error> {
    if input.is_device() || input.is_directory() {
        return None;
    }
    let len = usize::try_from(input.len().min(PROBE_LEN)).ok()?;
    let start = input.bytes(0, len, "the header").ok()?;
    let fits = |container: &&Container| match container.sign {
        At(at, bytes) => {
            usize::try_from(at).is_ok_and(|at| start.get(at..).is_some_and(|s| s.starts_with(bytes)))
        }
        Check(is) => is(&start, input.len()),
    };
    let found = ALL.iter().find(fits).filter(|found| !(named_raw && found.name == TAR))?;
    let out = new_name(input.path(), "plain", ".raw");
    let file = quoted(&input.path().display().to_string());
    let hint = filled(found.hint, &[("disk.raw", &out), ("part.raw", &out), ("FILE", &file)]);
    let mut error = Error::bad_image(format!("this is {}, not a disk image", found.name));
    if found.hint == MAP {
        return Some(error.then(Advice::IsMapfile));
    }
    if let Some(other) = pieces::neighbour(input) {
        error = error.then(join_hint(input, "file", &other));
    }
    error = error.then(hint);
    if found.hint.contains("disk.raw") {
        error = error.then(Advice::Convert(out.into()));
    }
    Some(error)
}

/// Replaces each placeholder by its value. Values may contain placeholders; they are not replaced again.
fn filled(hint: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = hint;
    while let Some(c) = rest.chars().next() {
        match values.iter().find(|(placeholder, _)| rest.starts_with(placeholder)) {
            Some((placeholder, value)) => {
                text.push_str(value);
                rest = &rest[placeholder.len()..];
            }
            None => {
                text.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    text
}

fn bzip2(start: &[u8], _: u64) -> bool {
    start.starts_with(b"BZh")
        && start.get(3).is_some_and(|level| (b'1'..=b'9').contains(level))
        && matches!(start.get(4..10), Some(b"1AY&SY" | b"\x17\x72\x45\x38\x50\x90"))
}

/// Checks for a zstd frame, or a skippable frame followed by one.
fn zstd(start: &[u8], _: u64) -> bool {
    const FRAME: &[u8] = b"\x28\xB5\x2F\xFD";
    let skippable = start.len() >= 8 && le32(start, 0) & !0xF == 0x184D_2A50;
    let next = if skippable { 8 + le32(start, 4) as usize } else { 0 };
    start.get(next..).is_some_and(|rest| rest.starts_with(FRAME))
}

/// Checks for LZMA's default properties, a dictionary size that is a power of two, and a length that is unknown or
/// plausible.
fn lzma(start: &[u8], _: u64) -> bool {
    let Some(head) = start.get(..13) else { return false };
    let dictionary = le32(head, 1);
    let len = u64::from(le32(head, 5)) | u64::from(le32(head, 9)) << 32;
    head[0] == 0x5D
        && dictionary.is_power_of_two()
        && dictionary >= 1 << 12
        && (len == u64::MAX || len < 1 << 48 && len > 0)
}

fn arj(start: &[u8], _: u64) -> bool {
    // The length of the header, and the length of its fixed part.
    start.len() > 34 && start.starts_with(b"\x60\xEA") && (30..=34).contains(&start[4]) && start[3] <= 0x0A
}

/// Checks for the twelve sync bytes that begin each raw CD sector, and a valid mode.
fn compact_disc(start: &[u8], len: u64) -> bool {
    let sync = start.len() > 16 && start[0] == 0 && start[11] == 0 && start[1..11].iter().all(|b| *b == 0xFF);
    sync && start[15] <= 2 && len >= 2352
}

fn lha(start: &[u8], _: u64) -> bool {
    start.len() > 21 && &start[2..5] == b"-lh" && start[6] == b'-' && start[20] <= 3
}

fn ghost(start: &[u8], _: u64) -> bool {
    start.len() > 3 && start.starts_with(b"\xFE\xEF") && start[2] <= 9 && start[3] <= 10
}

fn teledisk(start: &[u8], _: u64) -> bool {
    start.len() > 12
        && matches!(&start[..3], b"TD\0" | b"td\0")
        && (10..=21).contains(&start[4])
        && start[5] <= 6
}

fn supercard(start: &[u8], _: u64) -> bool {
    // First and last track, out of at most 168, and bit cells of 0 or 16 bits.
    start.len() > 16
        && start.starts_with(b"SCP")
        && start[6] <= start[7]
        && start[7] <= 167
        && matches!(start[9], 0 | 16)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found(start: &[u8], len: usize) -> Option<String> {
        let mut bytes = start.to_vec();
        bytes.resize(len.max(start.len()), 0);
        let input = Input::new(Box::new(bytes), Path::new("disk.img")).unwrap();
        recognise(&input, false).map(|e| format!("{e} ({:?})", e.advice))
    }

    #[test]
    fn every_magic_is_recognised_and_has_a_hint() {
        for container in ALL {
            if let At(at, magic) = container.sign {
                let mut bytes = vec![0; usize::try_from(at).unwrap()];
                bytes.extend_from_slice(magic);
                let said = found(&bytes, 4096).unwrap();
                assert!(said.contains(container.name), "{said}");
                assert!(!said.contains("FILE"), "{said}");
            }
        }
    }

    #[test]
    fn formats_without_magic_are_recognised_by_their_fields() {
        assert!(found(b"BZh91AY&SY", 100).is_some_and(|s| s.contains("bzip2")));
        assert!(
            found(b"\x50\x2A\x4D\x18\x04\0\0\0abcd\x28\xB5\x2F\xFD", 100).is_some_and(|s| s.contains("zstd"))
        );
        assert!(
            found(b"\x5D\0\0\x80\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 100).is_some_and(|s| s.contains("lzma"))
        );
    }

    #[test]
    fn disk_contents_are_not_mistaken_for_containers() {
        let mut random = 1u64;
        for _ in 0..2000 {
            let sector: Vec<u8> = (0..512)
                .map(|_| {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    u8::try_from(random >> 56).unwrap()
                })
                .collect();
            assert_eq!(found(&sector, 4096), None);
        }
        for start in [
            &b"LUKS\xBA\xBE"[..],
            b"\xEB\x58\x90MSDOS5.0",
            b"\xEB\x52\x90NTFS    ",
            b"hsqs",
            b"",
            b"NXSB",
            b"LABELONE",
        ] {
            assert_eq!(found(start, 4096), None);
        }
    }
}

//! The files of a directory: which belong to which disk and partition.

use std::path::{Path, PathBuf};

use cdi_base::error::Error;

use super::table::file_name;
use crate::extent::FileNo;
use crate::input::Input;

/// How the image of a partition is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By partclone.
    Partclone,
    /// All bytes.
    Raw,
    /// By a program whose images are not read: its name.
    Other(&'static str),
}

/// The image of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionFiles {
    pub(super) kind: Kind,
    /// Its files, in order.
    pub(super) names: Vec<String>,
    /// The name of a piece that is missing between them.
    pub(super) missing: Option<String>,
}

/// A directory by Clonezilla.
pub(super) struct Folder<'a> {
    input: &'a Input,
    names: Vec<String>,
}

/// The suffixes of compressions that could be counters of pieces by their letters.
const SUFFIXES: [&str; 11] =
    ["gz", "xz", "zst", "lzo", "lzma", "lzip", "lrz", "lrzip", "uncomp", "partimage", "zstd"];
/// The maximum length of a text in the directory, in bytes.
const MAX_TEXT: u64 = 1 << 20;

impl<'a> Folder<'a> {
    pub(super) fn new(input: &'a Input) -> Result<Folder<'a>, Error> {
        let mut names = input.names(Path::new("."))?.unwrap_or_default();
        names.sort();
        Ok(Folder { input, names })
    }

    /// Returns whether this is a directory by Clonezilla: it has the table of a disk.
    pub(super) fn is_one(&self) -> bool {
        !self.disks().is_empty()
    }

    /// Returns whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }

    /// Returns the number of a file, if it is there.
    pub(super) fn file(&self, name: &str) -> Result<Option<FileNo>, Error> {
        if !self.has(name) {
            return Ok(None);
        }
        self.input.sibling(Path::new(name))
    }

    /// Returns the first bytes of a file, at most `max`, if it is there.
    pub(super) fn bytes(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let len = usize::try_from(self.input.len_of(file).min(max)).unwrap_or(0);
        let bytes = self.input.bytes_of(file, 0, len, "the file");
        bytes.map(Some).map_err(|e| e.at(&self.input.path_of(file)))
    }

    /// Returns a text, if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.bytes(name, MAX_TEXT)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Returns the disks whose tables are in the directory.
    pub(super) fn disks(&self) -> Vec<String> {
        let of = |name: &String| {
            let disk = ["-pt.parted", "-pt.sf", "-mbr"].into_iter().find_map(|end| name.strip_suffix(end))?;
            // `sda-hidden-data-after-mbr` is what follows the MBR.
            (!disk.is_empty() && !disk.ends_with("-hidden-data-after")).then(|| disk.to_owned())
        };
        let mut disks: Vec<String> = self.names.iter().filter_map(of).collect();
        disks.dedup();
        disks.sort();
        disks.dedup();
        disks
    }

    /// Returns the names of the partitions that were saved, as the directory lists them.
    pub(super) fn saved(&self) -> Result<Vec<String>, Error> {
        let text = self.text("parts")?.unwrap_or_default();
        Ok(text.split_whitespace().map(file_name).collect())
    }

    /// Returns why a partition that was saved has no image of its own, if there is a reason: what is in it has one.
    pub(super) fn contents_elsewhere(&self, name: &str) -> Result<Option<&'static str>, Error> {
        for (list, what) in [
            ("lvm_vg_dev.list", "a physical volume of LVM, whose logical volumes were saved one by one"),
            ("luks-dev.list", "encrypted by LUKS; what is in it was saved decrypted"),
        ] {
            let text = self.text(list)?.unwrap_or_default();
            let mut words = text.split_whitespace().filter_map(|word| word.strip_prefix("/dev/"));
            if words.any(|device| file_name(device) == file_name(name)) {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    /// Returns the names of everything that has an image: partitions, logical volumes, whole disks.
    pub(super) fn imaged(&self) -> Vec<String> {
        let of = |name: &String| {
            let (before, _, _) = image_kind(name)?;
            Some(before.to_owned())
        };
        let mut all: Vec<String> = self.names.iter().filter_map(of).collect();
        all.dedup();
        all
    }

    /// Returns the image of the partition `name`. If there are several, one that is not packed comes first, because somebody
    /// has unpacked it, and one of which nothing is missing.
    pub(super) fn partition(&self, name: &str) -> Option<PartitionFiles> {
        // By the name without a counter, and the length of that.
        let mut found: Vec<(String, usize, Kind, Vec<String>)> = Vec::new();
        for file in &self.names {
            let Some((_, kind, stem)) = image_kind(file).filter(|(before, ..)| *before == name) else {
                continue;
            };
            let counter = file.len() - stem.len();
            match found.iter_mut().find(|(other, len, ..)| *other == stem && *len == counter) {
                Some((.., names)) => names.push(file.clone()),
                None => found.push((stem.to_owned(), counter, kind, vec![file.clone()])),
            }
        }
        let mut found: Vec<_> = found
            .into_iter()
            .map(|(stem, _, kind, mut names)| {
                names.sort();
                let missing = missing_piece(&stem, &names);
                (stem.len(), PartitionFiles { kind, names, missing })
            })
            .collect();
        found.sort_by_key(|(len, files)| (*len, files.missing.is_some()));
        found.into_iter().next().map(|(_, files)| files)
    }

    /// Returns the path of a file.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.input.path().join(name)
    }
}

/// Returns the first piece that is missing of `names`, which are `stem` and a counter each, in order: `aa`, `ab`, …
fn missing_piece(stem: &str, names: &[String]) -> Option<String> {
    let len = names.first()?.len().checked_sub(stem.len() + 1).filter(|len| *len > 0)?;
    let expected = |n: usize| {
        let mut letters = vec![b'a'; len];
        let mut rest = n;
        for letter in letters.iter_mut().rev() {
            *letter = b'a' + u8::try_from(rest % 26).unwrap_or(0);
            rest /= 26;
        }
        format!("{stem}.{}", String::from_utf8_lossy(&letters))
    };
    names
        .iter()
        .enumerate()
        .map(|(n, name)| (expected(n), name))
        .find(|(want, name)| want != *name)
        .map(|(want, _)| want)
}

/// Returns the partition of which a file is the image or a piece of it, how that is made, and the name without the
/// counter of a piece: `sda1.ext4-ptcl-img.gz.aa`.
fn image_kind(name: &str) -> Option<(&str, Kind, &str)> {
    let is_end = |rest: &str| rest.is_empty() || rest.starts_with('.');
    let (at, kind, len) = [
        (".dd-ptcl-img", Kind::Raw),
        (".dd-img", Kind::Raw),
        (".ntfs-img", Kind::Other("ntfsclone")),
        ("-ptcl-img", Kind::Partclone),
        (".ptcl-img", Kind::Partclone),
    ]
    .into_iter()
    .find_map(|(mark, kind)| {
        let at = name.find(mark)?;
        is_end(&name[at + mark.len()..]).then_some((at, kind, mark.len()))
    })?;
    // Before `-ptcl-img` there is the name of the file system.
    let before = match kind {
        Kind::Partclone if name[at..].starts_with('-') => name[..at].rsplit_once('.')?.0,
        _ => &name[..at],
    };
    let rest = &name[at + len..];
    if rest.ends_with(".info")
        || rest.ends_with(".cdi-index")
        || rest.contains(".torrent")
        || before.is_empty()
    {
        return None;
    }
    let is_counter = |word: &str| word.len() >= 2 && word.bytes().all(|b| b.is_ascii_lowercase());
    let stem = match rest.rsplit_once('.') {
        // `.gz` and `.xz` are no counters.
        Some((_, last)) if is_counter(last) && !SUFFIXES.contains(&last) => {
            &name[..name.len() - last.len() - 1]
        }
        _ => name,
    };
    Some((before, kind, stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_are_recognised() {
        let p = Kind::Partclone;
        for (name, want) in [
            ("sda1.ext4-ptcl-img.gz.aa", Some(("sda1", p, "sda1.ext4-ptcl-img.gz"))),
            ("sda1.ext4-ptcl-img.gz", Some(("sda1", p, "sda1.ext4-ptcl-img.gz"))),
            ("sda1.ext4-ptcl-img", Some(("sda1", p, "sda1.ext4-ptcl-img"))),
            ("nvme0n1p2.hfs+-ptcl-img.uncomp.aaa", Some(("nvme0n1p2", p, "nvme0n1p2.hfs+-ptcl-img.uncomp"))),
            ("centos-root.xfs-ptcl-img.zst", Some(("centos-root", p, "centos-root.xfs-ptcl-img.zst"))),
            ("vg.x-lv.xfs-ptcl-img.zst", Some(("vg.x-lv", p, "vg.x-lv.xfs-ptcl-img.zst"))),
            ("sda2.dd-ptcl-img.gz", Some(("sda2", Kind::Raw, "sda2.dd-ptcl-img.gz"))),
            ("sda5.dd-img.aa", Some(("sda5", Kind::Raw, "sda5.dd-img"))),
            ("sda1.ntfs-img.ab", Some(("sda1", Kind::Other("ntfsclone"), "sda1.ntfs-img"))),
            ("sda1.ext4-ptcl-img.gz.cdi-index", None),
            ("sda5.dd-img.info", None),
            ("sda1.info", None),
            ("sda1.files-md5sum.info.gz", None),
        ] {
            assert_eq!(image_kind(name), want, "{name}");
        }
    }
}

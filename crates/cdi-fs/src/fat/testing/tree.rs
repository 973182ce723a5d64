//! Files for a volume, with fragments.

use std::collections::BTreeMap;
use std::path::Path;

use super::Random;

/// A file that is on a volume: its number in its contents, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) id: u32,
    pub(crate) size: u64,
}

/// Writes to a volume.
pub(crate) trait Writer {
    /// Copies what is in the directory `from` to the top of the volume, with directories.
    fn copy(&mut self, from: &Path);
    /// Removes a file of the volume.
    fn remove(&mut self, path: &str);
}

const MAGIC: &[u8; 8] = b"cdi-fs:\n";

/// Returns the contents of a file.
pub(crate) fn contents(stamp: Stamp) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sector in 0..u32::try_from(stamp.size.div_ceil(512)).unwrap() {
        let mut part = MAGIC.to_vec();
        part.extend(stamp.id.to_le_bytes());
        part.extend(sector.to_le_bytes());
        part.resize(512, b'a' + u8::try_from((stamp.id + sector) % 26).unwrap());
        bytes.extend(part);
    }
    bytes.truncate(usize::try_from(stamp.size).unwrap());
    bytes
}

/// Returns the number of the file that a sector belongs to, and of the sector in it.
pub(crate) fn owner(sector: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_le_bytes(*sector.get(at..)?.first_chunk()?));
    (sector.get(..8)? == MAGIC).then_some(())?;
    Some((number(8)?, number(12)?))
}

/// Puts `count` files on a volume, then removes some and puts more, larger ones, so that these have fragments. Returns what is
/// there in the end, by path.
pub(crate) fn fill(dir: &Path, count: u32, writer: &mut dyn Writer) -> BTreeMap<String, Stamp> {
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut files = BTreeMap::new();
    let directories = [
        "",
        "DCIM",
        "DCIM/100CANON",
        "Documents",
        "Documents/letters to a friend",
        "Ünïcode",
        "many files in one",
    ];
    let mut make =
        |round: &str, ids: std::ops::Range<u32>, largest: u64, files: &mut BTreeMap<String, Stamp>| {
            let top = dir.join(round);
            for id in ids {
                let name = match id % 6 {
                    0 => format!("IMG_{id}.JPG"),
                    1 => format!("file{id}.txt"),
                    2 => format!("a name that is longer than others {id}.document"),
                    3 => format!("Mixed Case {id}"),
                    4 => format!("žluťoučký kůň {id}.dat"),
                    _ => format!("日本語の名前 {id}.txt"),
                };
                let in_dir = match id % 3 {
                    0 => "many files in one",
                    _ => directories[random.index(directories.len())],
                };
                // A tail of less than 16 bytes would not say whose it is.
                let size = match random.below(largest) {
                    size if id % 17 == 0 => size % 300 + 16,
                    _ if id % 19 == 0 => 0,
                    size if size % 512 < 16 => size - size % 512,
                    size => size,
                };
                let stamp = Stamp { id, size };
                let path = if in_dir.is_empty() { name } else { format!("{in_dir}/{name}") };
                let host = top.join(&path);
                std::fs::create_dir_all(host.parent().unwrap()).unwrap();
                std::fs::write(&host, contents(stamp)).unwrap();
                files.insert(path, stamp);
            }
            top
        };
    let top = make("first", 1..count * 2 / 3, 20_000, &mut files);
    writer.copy(&top);
    let victims: Vec<String> = files.keys().step_by(3).cloned().collect();
    for path in victims {
        writer.remove(&path);
        files.remove(&path);
    }
    let top = make("second", count * 2 / 3..count, 60_000, &mut files);
    writer.copy(&top);
    files
}

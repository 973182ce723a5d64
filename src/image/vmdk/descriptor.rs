//! The text that describes a VMDK disk: its extents and its parent.

use crate::units::SECTOR;

/// The first line.
const FIRST_LINE: &[u8] = b"# Disk DescriptorFile";

/// Whether a text begins as descriptors do; in which case differs.
pub(super) fn is_one(start: &[u8]) -> bool {
    start.get(..FIRST_LINE.len()).is_some_and(|line| line.eq_ignore_ascii_case(FIRST_LINE))
}

/// How much of a file tells whether it is one, in bytes.
pub(super) const TELLING: usize = FIRST_LINE.len();
/// How many extents a disk may have: 64 TiB of 2 GiB each, and as many again.
const MOST_EXTENTS: usize = 1 << 16;

/// What the text says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub extents: Vec<Line>,
    /// This disk's content, by a name that changes with it.
    pub content: Option<u32>,
    /// The name of the parent's content, and its file.
    pub parent: Option<(u32, String)>,
    pub kind: String,
}

/// A line that describes an extent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its length on the disk in bytes.
    pub len: u64,
    pub kind: Kind,
    pub file: String,
    /// Where in the file it begins, in bytes. Only flat ones have that.
    pub at: u64,
}

/// What kind of extent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flat,
    Zero,
    Sparse,
}

/// Reads the text; what is wrong is told with its line.
pub(super) fn parse(text: &str) -> Result<Descriptor, String> {
    let mut told = Descriptor::default();
    let (mut parent_content, mut parent_file) = (None, None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        let fail = |what: &str| format!("line {} of the descriptor: {what}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(extent) = extent(line) {
            told.extents.push(extent.map_err(|e| fail(&e))?);
            if told.extents.len() > MOST_EXTENTS {
                return Err(fail("too many extents"));
            }
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(fail("this is neither a setting nor an extent"));
        };
        let value = value.trim().trim_matches('"');
        let number = || u32::from_str_radix(value, 16).map_err(|_| fail("this is not a number in hex"));
        match name.trim() {
            "CID" => told.content = Some(number()?),
            "parentCID" => parent_content = Some(number()?),
            "parentFileNameHint" => parent_file = Some(value.to_owned()),
            "createType" => told.kind = value.to_owned(),
            _ => {}
        }
    }
    // All ones: there is none.
    if let Some(content) = parent_content.filter(|c| *c != u32::MAX) {
        let file = parent_file.ok_or("the disk is a difference, and nothing names its parent")?;
        told.parent = Some((content, file));
    }
    Ok(told)
}

/// The extent that a line describes, if it is such a line: access, sectors, kind, "file", offset.
fn extent(line: &str) -> Option<Result<Line, String>> {
    let (access, rest) = line.split_once(|c: char| c.is_ascii_whitespace())?;
    if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
        return None;
    }
    let mut parts = rest.splitn(3, '"');
    let (words, file, behind) = (parts.next().unwrap_or(""), parts.next(), parts.next().unwrap_or(""));
    let mut words = words.split_whitespace();
    let bytes = |word: Option<&str>| word?.parse::<u64>().ok()?.checked_mul(SECTOR.into());
    let len = bytes(words.next()).filter(|len| i64::try_from(*len).is_ok());
    let kind = match words.next() {
        Some("FLAT" | "VMFS") => Kind::Flat,
        Some("ZERO") => Kind::Zero,
        Some("SPARSE" | "VMFSSPARSE" | "SESPARSE") => Kind::Sparse,
        other => return Some(Err(format!("extents of type '{}' are not read", other.unwrap_or("")))),
    };
    let at = match behind.split_whitespace().next() {
        None => Some(0),
        word => bytes(word),
    };
    let file = file.unwrap_or("").to_owned();
    Some(match (len, at) {
        _ if access == "NOACCESS" && kind != Kind::Zero => Err("this extent may not be read".into()),
        _ if file.is_empty() && kind != Kind::Zero => Err("this extent names no file".into()),
        (Some(len), Some(at)) => Ok(Line { len, kind, file, at }),
        _ => Err("the length or the offset of this extent is not a number of sectors".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_extents_and_parent() {
        let text = "# Disk DescriptorFile\r\nversion=1\nCID=fffffffe\nparentCID=12ab34cd\ncreateType=\"custom\"\n\
            parentFileNameHint=\"base disk.vmdk\"\n\nRW 8192 SPARSE \"a b-s001.vmdk\"\nRDONLY 2 FLAT \"x.vmdk\" 128\n\
            NOACCESS 5 ZERO\nddb.adapterType = \"ide\"\n";
        let line = |len: u32, kind, file: &str, at: u32| Line {
            len: u64::from(len) * 512,
            kind,
            file: file.into(),
            at: u64::from(at) * 512,
        };
        let expect = Descriptor {
            extents: vec![
                line(8192, Kind::Sparse, "a b-s001.vmdk", 0),
                line(2, Kind::Flat, "x.vmdk", 128),
                line(5, Kind::Zero, "", 0),
            ],
            content: Some(0xFFFF_FFFE),
            parent: Some((0x12AB_34CD, "base disk.vmdk".into())),
            kind: "custom".into(),
        };
        assert_eq!(parse(text), Ok(expect));
        for (line, word) in [
            ("RW 1 VMFSRDM \"x\"", "'VMFSRDM' are not read"),
            ("RW x FLAT \"x\"", "not a number"),
            ("RW 1 FLAT \"x\" -1", "not a number"),
            ("RW 1 FLAT", "names no file"),
            ("NOACCESS 1 FLAT \"x\"", "may not be read"),
            ("RW 99999999999999999 ZERO", "not a number"),
            ("CID=xyz", "not a number in hex"),
            ("READ 1 FLAT \"x\"", "neither a setting nor an extent"),
            ("RW\t1 VMFSRDM \"x\"", "are not read"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word) && error.contains("line 1"), "{line}: {error}");
        }
        assert!(parse("parentCID=00000001").is_err_and(|e| e.contains("nothing names its parent")));
    }
}

//! The text that describes a VMDK disk: its extents and its parent.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cdi_base::units::SECTOR;
use encoding_rs::Encoding;

/// The first line.
const FIRST_LINE: &[u8] = b"# Disk DescriptorFile";

/// Whether a text begins as descriptors do; in which case differs.
pub(super) fn is_one(start: &[u8]) -> bool {
    start.get(..FIRST_LINE.len()).is_some_and(|line| line.eq_ignore_ascii_case(FIRST_LINE))
}

/// How much of a file tells whether it is one, in bytes.
pub(super) const TELLING: usize = FIRST_LINE.len();
/// How many extents a disk may have: 64 TiB of 2 GiB each, and as many again.
const MAX_EXTENTS: usize = 1 << 16;

/// The name of a file: as it is in the text, and what it means in the encoding that the text says it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Name {
    raw: Vec<u8>,
    decoded: Option<String>,
}

impl Name {
    /// `text` has a character for each byte.
    fn new(text: &str, encoding: Option<&'static Encoding>) -> Name {
        let raw: Vec<u8> = text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
        // With a byte that the encoding does not have it is in another one.
        let decoded = encoding.and_then(|e| e.decode_without_bom_handling_and_without_replacement(&raw));
        Name { decoded: decoded.map(Cow::into_owned), raw }
    }

    /// The paths that may be meant, the most likely one first. Names of files are UTF-8; some programs say so of no text.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let raw = Path::new(OsStr::from_bytes(&self.raw));
        self.decoded.as_deref().map(Path::new).into_iter().chain([raw])
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decoded {
            Some(decoded) => f.write_str(decoded),
            None => f.write_str(&String::from_utf8_lossy(&self.raw)),
        }
    }
}

/// What the text says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub extents: Vec<Line>,
    /// This disk's content, by a name that changes with it.
    pub content: Option<u32>,
    /// The name of the parent's content, and its file.
    pub parent: Option<(u32, Name)>,
    pub kind: String,
}

/// A line that describes an extent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its length on the disk in bytes.
    pub len: u64,
    pub kind: Kind,
    pub file: Name,
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

/// Reads the text; errors say which line is wrong.
pub(super) fn parse(text: &[u8]) -> Result<Descriptor, String> {
    // A character for each byte: all that is not a name is ASCII, and no encoding has a quotation mark within a character.
    let text: String = text.iter().map(|b| char::from(*b)).collect();
    let setting = |line: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "encoding").then(|| value.trim().trim_matches('"').to_owned())
    };
    let encoding = text.lines().find_map(setting).and_then(|name| Encoding::for_label(name.as_bytes()));
    let mut told = Descriptor::default();
    let (mut parent_content, mut parent_file) = (None, None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
        let fail = |what: &str| format!("line {} of the descriptor: {what}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(extent) = extent(line, encoding) {
            told.extents.push(extent.map_err(|e| fail(&e))?);
            if told.extents.len() > MAX_EXTENTS {
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
            "parentFileNameHint" => parent_file = Some(Name::new(value, encoding)),
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
fn extent(line: &str, encoding: Option<&'static Encoding>) -> Option<Result<Line, String>> {
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
    let file = file.unwrap_or("");
    Some(match (len, at) {
        _ if access == "NOACCESS" && kind != Kind::Zero => Err("this extent may not be read".into()),
        _ if file.is_empty() && kind != Kind::Zero => Err("this extent names no file".into()),
        (Some(len), Some(at)) => Ok(Line { len, kind, file: Name::new(file, encoding), at }),
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
            file: Name::new(file, None),
            at: u64::from(at) * 512,
        };
        let expect = Descriptor {
            extents: vec![
                line(8192, Kind::Sparse, "a b-s001.vmdk", 0),
                line(2, Kind::Flat, "x.vmdk", 128),
                line(5, Kind::Zero, "", 0),
            ],
            content: Some(0xFFFF_FFFE),
            parent: Some((0x12AB_34CD, Name::new("base disk.vmdk", None))),
            kind: "custom".into(),
        };
        assert_eq!(parse(text.as_bytes()), Ok(expect));
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
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(word) && error.contains("line 1"), "{line}: {error}");
        }
        assert!(parse(b"parentCID=00000001").is_err_and(|e| e.contains("nothing names its parent")));
    }
}

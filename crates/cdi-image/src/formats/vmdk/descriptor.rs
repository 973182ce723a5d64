//! The VMDK descriptor: a text that lists the extents of a disk and names its parent.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cdi_base::units::SECTOR;
use encoding_rs::Encoding;

/// The first line.
const FIRST_LINE: &[u8] = b"# Disk DescriptorFile";

/// Checks whether a text begins like a descriptor. Programs write the first line in different case.
pub(super) fn is_descriptor(start: &[u8]) -> bool {
    start.get(..FIRST_LINE.len()).is_some_and(|line| line.eq_ignore_ascii_case(FIRST_LINE))
}

/// How many bytes of a file are needed to recognise a descriptor.
pub(super) const PROBE_LEN: usize = FIRST_LINE.len();
/// Maximum number of extents of a disk: twice as many as 64 TiB in extents of 2 GiB need.
const MAX_EXTENTS: usize = 1 << 16;

/// A file name: as stored in the text, and decoded from the encoding that the text declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Name {
    raw: Vec<u8>,
    decoded: Option<String>,
}

impl Name {
    /// Creates a name from `text`, which has one character for each byte.
    fn new(text: &str, encoding: Option<&'static Encoding>) -> Name {
        let raw: Vec<u8> = text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
        // A byte that is invalid in the declared encoding means that the name is in another one.
        let decoded = encoding.and_then(|e| e.decode_without_bom_handling_and_without_replacement(&raw));
        Name { decoded: decoded.map(Cow::into_owned), raw }
    }

    /// Returns the possible paths, most likely first. Names may be UTF-8 even if the text declares another encoding.
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

/// The contents of a descriptor.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub extents: Vec<Line>,
    /// The content ID (CID), which changes with the disk's contents.
    pub content: Option<u32>,
    /// The parent's CID and file name.
    pub parent: Option<(u32, Name)>,
    pub kind: String,
}

/// An extent line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its length on the disk in bytes.
    pub len: u64,
    pub kind: Kind,
    pub file: Name,
    /// Its offset in the file in bytes; only flat extents have one.
    pub at: u64,
}

/// The type of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flat,
    Zero,
    Sparse,
}

/// Parses a descriptor. Errors contain the number of the line.
pub(super) fn parse(text: &[u8]) -> Result<Descriptor, String> {
    // One character for each byte: everything except names is ASCII, and no encoding uses the byte of a quotation mark
    // within another character.
    let text: String = text.iter().map(|b| char::from(*b)).collect();
    let setting = |line: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "encoding").then(|| value.trim().trim_matches('"').to_owned())
    };
    let encoding = text.lines().find_map(setting).and_then(|name| Encoding::for_label(name.as_bytes()));
    let mut descriptor = Descriptor::default();
    let (mut parent_content, mut parent_file) = (None, None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
        let fail = |what: &str| format!("line {} of the descriptor: {what}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(extent) = extent(line, encoding) {
            descriptor.extents.push(extent.map_err(|e| fail(&e))?);
            if descriptor.extents.len() > MAX_EXTENTS {
                return Err(fail("too many extents"));
            }
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(fail("neither a setting nor an extent"));
        };
        let value = value.trim().trim_matches('"');
        let number = || u32::from_str_radix(value, 16).map_err(|_| fail("not a hexadecimal number"));
        match name.trim() {
            "CID" => descriptor.content = Some(number()?),
            "parentCID" => parent_content = Some(number()?),
            "parentFileNameHint" => parent_file = Some(Name::new(value, encoding)),
            "createType" => descriptor.kind = value.to_owned(),
            _ => {}
        }
    }
    // All ones mean that there is no parent.
    if let Some(content) = parent_content.filter(|c| *c != u32::MAX) {
        let file = parent_file.ok_or("differencing image, but the descriptor does not name its parent")?;
        descriptor.parent = Some((content, file));
    }
    Ok(descriptor)
}

/// Parses an extent line: access, sectors, type, "file", offset. Returns None for other lines.
fn extent(line: &str, encoding: Option<&'static Encoding>) -> Option<Result<Line, String>> {
    let (access, rest) = line.split_once(|c: char| c.is_ascii_whitespace())?;
    if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
        return None;
    }
    let mut parts = rest.splitn(3, '"');
    let (words, file, rest) = (parts.next().unwrap_or(""), parts.next(), parts.next().unwrap_or(""));
    let mut words = words.split_whitespace();
    let bytes = |word: Option<&str>| word?.parse::<u64>().ok()?.checked_mul(SECTOR.into());
    let len = bytes(words.next()).filter(|len| i64::try_from(*len).is_ok());
    let kind = match words.next() {
        Some("FLAT" | "VMFS") => Kind::Flat,
        Some("ZERO") => Kind::Zero,
        Some("SPARSE" | "VMFSSPARSE" | "SESPARSE") => Kind::Sparse,
        other => return Some(Err(format!("unsupported extent type '{}'", other.unwrap_or("")))),
    };
    let at = match rest.split_whitespace().next() {
        None => Some(0),
        word => bytes(word),
    };
    let file = file.unwrap_or("");
    Some(match (len, at) {
        _ if access == "NOACCESS" && kind != Kind::Zero => Err("the extent is marked NOACCESS".into()),
        _ if file.is_empty() && kind != Kind::Zero => Err("the extent has no file name".into()),
        (Some(len), Some(at)) => Ok(Line { len, kind, file: Name::new(file, encoding), at }),
        _ => Err("the extent's length or offset is not a valid number of sectors".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_parsed_and_bad_lines_refused() {
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
            ("RW 1 VMFSRDM \"x\"", "unsupported extent type 'VMFSRDM'"),
            ("RW x FLAT \"x\"", "not a valid number"),
            ("RW 1 FLAT \"x\" -1", "not a valid number"),
            ("RW 1 FLAT", "has no file name"),
            ("NOACCESS 1 FLAT \"x\"", "NOACCESS"),
            ("RW 99999999999999999 ZERO", "not a valid number"),
            ("CID=xyz", "not a hexadecimal number"),
            ("READ 1 FLAT \"x\"", "neither a setting nor an extent"),
            ("RW\t1 VMFSRDM \"x\"", "unsupported extent type"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(word) && error.contains("line 1"), "{line}: {error}");
        }
        assert!(parse(b"parentCID=00000001").is_err_and(|e| e.contains("does not name its parent")));
    }
}

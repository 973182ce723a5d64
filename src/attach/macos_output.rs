//! What macOS's programs print about disks, as property lists: read tolerantly, because the shapes differ from one
//! release to the next and are documented for none. Nothing here runs but on macOS, or against the stand-ins of the
//! tests; it is plain Rust, so it is built everywhere.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cdi_base::error::{Error, Kind};
use cdi_system::{ask, has_program};
use plist::{Dictionary, Value};

use super::Request;

/// How long a question to the system may take.
const QUESTION: Duration = Duration::from_secs(30);

/// The content of a container that APFS makes up from a partition: a disk to the system, but not the one that was
/// attached.
const SYNTHESIZED: [&str; 2] = ["EF57347C-0000-11AA-AA11-00306543ECAC", "Apple_APFS_Container"];

/// The property list in what a program printed, whatever it printed before it.
fn parse(text: &[u8]) -> Option<Value> {
    let starts: [&[u8]; 3] = [b"<?xml", b"<plist", b"bplist00"];
    let at = (0..text.len()).find(|at| starts.iter().any(|s| text[*at..].starts_with(s)))?;
    Value::from_reader(Cursor::new(&text[at..])).ok()
}

/// A disk that is told of: its device, and what is on it as far as that is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entity {
    device: PathBuf,
    content: String,
}

/// The names under which the system tells of a device: hdiutil(1), diskutil(8), the registry (IOMedia). Under any other,
/// what looks like one may be the name of a volume, which whoever made the image has chosen.
const DEVICE_KEYS: [&str; 4] = ["dev-entry", "BSD Name", "DeviceIdentifier", "DeviceNode"];

/// Every disk and partition that a value tells of, however deep.
fn entities(value: &Value, found: &mut BTreeSet<Entity>) {
    match value {
        Value::Dictionary(dict) => {
            let content = ["content-hint", "content", "Content", "unmapped-content-hint"]
                .iter()
                .find_map(|key| dict.get(key).and_then(Value::as_string).filter(|c| !c.is_empty()));
            let named = DEVICE_KEYS.iter().filter_map(|key| device(dict.get(key)?.as_string()?));
            let content = content.unwrap_or_default();
            found.extend(named.map(|device| Entity { device, content: content.into() }));
            dict.values().for_each(|v| entities(v, found));
        }
        Value::Array(array) => array.iter().for_each(|v| entities(v, found)),
        _ => {}
    }
}

/// Every text of a value, however deep.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Dictionary(dict) => dict.values().for_each(|v| texts(v, found)),
        Value::Array(array) => array.iter().for_each(|v| texts(v, found)),
        Value::String(text) => found.push(text),
        _ => {}
    }
}

/// `disk4`, `/dev/disk4`, `/dev/disk4s1`, as a path.
fn device(text: &str) -> Option<PathBuf> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    let mut numbers = name.strip_prefix("disk")?.split('s');
    let digits = |n: &str| !n.is_empty() && n.len() < 9 && n.bytes().all(|b| b.is_ascii_digit());
    numbers.all(digits).then(|| Path::new("/dev").join(name))
}

/// The whole disk that a program says it made: in its property list, or where there is none, or none that is told in a
/// way that is known, in its words. Those may be anything: whoever believes them asks the system first.
pub(super) fn attached(said: &[u8]) -> Option<PathBuf> {
    let list = parse(said);
    list.as_ref().and_then(whole_disk).or_else(|| {
        let words = String::from_utf8_lossy(said);
        let mut found = Vec::new();
        match &list {
            Some(list) => texts(list, &mut found),
            None => found.extend(words.split_whitespace()),
        }
        whole(found.into_iter().filter_map(device).map(|device| Entity { device, content: String::new() }))
    })
}

/// The whole disk among what a value tells of: not a partition, and not a container that APFS made up.
fn whole_disk(value: &Value) -> Option<PathBuf> {
    let mut found = BTreeSet::new();
    entities(value, &mut found);
    whole(found)
}

fn whole(found: impl IntoIterator<Item = Entity>) -> Option<PathBuf> {
    let number = |e: &Entity| e.device.to_str()?.strip_prefix("/dev/disk")?.parse::<u32>().ok();
    let wholes = found.into_iter().filter_map(|e| Some((number(&e)?, e)));
    let real = |e: &Entity| !SYNTHESIZED.iter().any(|s| s.eq_ignore_ascii_case(&e.content));
    // With a partition scheme it is certain; else the first number, for what is made up comes after what is attached.
    let scheme = |e: &Entity| e.content.to_ascii_lowercase().ends_with("partition_scheme");
    let best = wholes.min_by_key(|(number, e)| (!scheme(e), !real(e), *number));
    best.map(|(_, e)| e.device)
}

/// Whether a path or URL that the system tells is the file, or its other name.
fn is_file(told: &str, file: &Path) -> bool {
    let plain =
        |path: &Path| path.strip_prefix("/private").map_or(path.to_owned(), |p| Path::new("/").join(p));
    let own = plain(file);
    let same = |told: &Path| told == own || told == own.with_extension("dmg");
    let Some(url) = told.strip_prefix("file://") else { return same(&plain(Path::new(told))) };
    // As a URL has it, or, for nobody says which, as it is.
    let path = url.strip_prefix("localhost").unwrap_or(url);
    same(&plain(Path::new(OsStr::from_bytes(&unescape(path))))) || same(&plain(Path::new(path)))
}

/// `%20` and the like.
fn unescape(url: &str) -> Vec<u8> {
    let (bytes, mut out, mut at) = (url.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = url.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

/// The device of an image, in the parts of `value` that name the image's file.
fn devices_of(value: &Value, file: &Path, found: &mut Vec<PathBuf>) {
    let here = |dict: &Dictionary| dict.values().any(|v| v.as_string().is_some_and(|s| is_file(s, file)));
    match value {
        Value::Dictionary(dict) if here(dict) => found.extend(whole_disk(value)),
        Value::Dictionary(dict) => dict.values().for_each(|v| devices_of(v, file, found)),
        Value::Array(array) => array.iter().for_each(|v| devices_of(v, file, found)),
        _ => {}
    }
}

/// The devices that show the file, as `hdiutil info` and the registry of devices tell: each knows of images that the
/// other may not know of. An error if one that is there does not answer, or none is there.
pub(super) fn devices(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let questions: [(&str, &[&str]); 2] =
        [("hdiutil", &["info", "-plist"]), ("ioreg", &["-a", "-l", "-r", "-c", "AppleDiskImageDevice"])];
    let (mut found, mut answers) = (Vec::new(), 0);
    for (name, args) in questions.into_iter().filter(|(name, _)| has_program(name)) {
        let text = ask(Command::new(name).args(args), QUESTION, "")?;
        // ioreg says nothing at all where there is no such device.
        if !text.trim_ascii().is_empty() {
            let told =
                parse(&text).ok_or_else(|| Error::failed(format!("{name} {}: no list", args.join(" "))))?;
            devices_of(&told, file, &mut found);
        }
        answers += 1;
    }
    if answers == 0 {
        return Err(Error::new(Kind::Unavailable, "neither hdiutil nor ioreg tells what is attached"));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Holds what was attached against what was asked for: size, sector size, no writing. What the system does not tell is
/// not held against it.
pub(super) fn check(device: &Path, request: &Request) -> Result<(), Error> {
    let told = ask(Command::new("diskutil").args(["info", "-plist"]).arg(device), QUESTION, "");
    let told = told.ok().and_then(|text| parse(&text));
    let Some(told) = told.as_ref().and_then(Value::as_dictionary) else {
        log::warn!("{}: diskutil tells nothing of it, so it was not checked", device.display());
        return Ok(());
    };
    let number = |keys: &[&str]| {
        keys.iter().find_map(|k| told.get(k)?.as_unsigned_integer()).filter(|number| *number > 0)
    };
    let wrong = |what: String| Err(Error::new(Kind::Unavailable, what).at(device));
    let sector = u64::from(request.sector);
    if let Some(other) = number(&["DeviceBlockSize"]).filter(|size| *size != sector) {
        return wrong(format!("it has sectors of {other} bytes and not {sector}"));
    }
    if let Some(size) = number(&["TotalSize", "Size"]).filter(|s| request.size - request.size % sector != *s)
    {
        return wrong(format!("it has {size} bytes and not {}", request.size));
    }
    if told.get("WritableMedia").and_then(Value::as_boolean) == Some(true) {
        return wrong("it can be written to".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entities: &[(&str, &str)]) -> Value {
        let entity = |(device, content): &(&str, &str)| {
            let mut dict = Dictionary::new();
            dict.insert("dev-entry".into(), Value::String((*device).into()));
            dict.insert("content-hint".into(), Value::String((*content).into()));
            Value::Dictionary(dict)
        };
        let mut dict = Dictionary::new();
        dict.insert("system-entities".into(), Value::Array(entities.iter().map(entity).collect()));
        Value::Dictionary(dict)
    }

    #[test]
    fn the_whole_disk_is_found_among_its_parts() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("/dev/disk4", "")], "/dev/disk4"),
            (&[("/dev/disk4s1", "EFI"), ("/dev/disk4", "GUID_partition_scheme")], "/dev/disk4"),
            // A synthesized container with a lower number than the disk that it is on.
            (
                &[
                    ("/dev/disk3", "EF57347C-0000-11AA-AA11-00306543ECAC"),
                    ("/dev/disk3s1", "41504653-0000-11AA-AA11-00306543ECAC"),
                    ("/dev/disk12", "GUID_partition_scheme"),
                    ("/dev/disk12s1", "Apple_APFS"),
                ],
                "/dev/disk12",
            ),
            // APFS on the whole disk, no partitions: what is made up comes later.
            (&[("/dev/disk5", "Apple_APFS_Container"), ("/dev/disk4", "")], "/dev/disk4"),
            (&[("disk10", "FDisk_partition_scheme"), ("disk10s1", "")], "/dev/disk10"),
        ];
        for (told, expect) in cases {
            assert_eq!(whole_disk(&list(told)).as_deref(), Some(Path::new(expect)), "{told:?}");
        }
        assert_eq!(whole_disk(&list(&[("/dev/disk4s1", "EFI")])), None);
    }

    #[test]
    fn what_a_volume_is_called_is_no_device() {
        let mut volume = Dictionary::new();
        for (key, value) in [("BSD Name", "disk5s1"), ("IORegistryEntryName", "disk1"), ("FullName", "disk1")]
        {
            volume.insert(key.into(), Value::String(value.into()));
        }
        volume.insert("Content".into(), Value::String("x_partition_scheme".into()));
        let mut disk = Dictionary::new();
        disk.insert("BSD Name".into(), Value::String("disk4".into()));
        disk.insert("IORegistryEntryChildren".into(), Value::Array(vec![Value::Dictionary(volume)]));
        assert_eq!(whole_disk(&Value::Dictionary(disk)), Some("/dev/disk4".into()));
    }

    #[test]
    fn what_was_attached_is_found_in_any_shape() {
        let attached = |said: &str| attached(said.as_bytes());
        assert_eq!(attached("/dev/disk7\n"), Some("/dev/disk7".into()));
        assert_eq!(attached("/dev/disk7s1 EFI\n/dev/disk7 GUID_partition_scheme"), Some("/dev/disk7".into()));
        let list = |body: &str| attached(&format!("<plist version=\"1.0\">{body}</plist>"));
        assert_eq!(list("<string>/dev/disk7</string>"), Some("/dev/disk7".into()));
        assert_eq!(list("<dict><key>new</key><string>disk7</string></dict>"), Some("/dev/disk7".into()));
        let known =
            "<dict><key>a</key><string>disk1</string><key>dev-entry</key><string>disk7</string></dict>";
        assert_eq!(list(known), Some("/dev/disk7".into()));
        assert_eq!(list("<dict/>"), None);
    }

    #[test]
    fn only_names_of_disks_are_devices() {
        for text in ["disk", "disk4s", "disks1", "/dev/rdisk4", "diskette", "/dev/disk4/..", "disk1234567890"]
        {
            assert_eq!(device(text), None, "{text}");
        }
        assert_eq!(device("disk4s2s1"), Some("/dev/disk4s2s1".into()));
    }

    #[test]
    fn an_image_is_known_by_each_of_its_names() {
        let file = Path::new("/private/tmp/a/disk.raw");
        for told in ["/private/tmp/a/disk.raw", "/tmp/a/disk.raw", "file:///private/tmp/a/disk.dmg"] {
            assert!(is_file(told, file), "{told}");
        }
        let blank = Path::new("/private/tmp/My Disk ä/disk.raw");
        for told in ["file:///tmp/My%20Disk%20%C3%A4/disk.dmg", "file://localhost/tmp/My Disk ä/disk.raw"] {
            assert!(is_file(told, blank), "{told}");
        }
        assert!(!is_file("file:///tmp/%", file) && !is_file("file:///tmp/%2", file));
        assert!(!is_file("/tmp/b/disk.raw", file));
        assert!(!is_file("disk.raw", file));
    }

    #[test]
    fn a_list_is_found_behind_a_warning_and_rubbish_is_none() {
        let text = b"hdiutil: WARNING: deprecated\n<?xml version=\"1.0\"?><plist version=\"1.0\"><string>disk2</string></plist>";
        assert_eq!(parse(text), Some(Value::String("disk2".into())));
        for rubbish in
            [&b""[..], b"<plist", b"<plist><dict>", b"bplist00", b"<plist version=\"1.0\">&x;</plist>"]
        {
            assert_eq!(parse(rubbish), None);
        }
    }
}

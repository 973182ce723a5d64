//! Parses the property lists that macOS's disk programs (hdiutil, diskutil, ioreg) print. Tolerant, because their
//! layout varies between releases and is documented for none. Only runs on macOS, or against the stand-ins of the
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

/// Timeout for one query to the system.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// The content of a container that APFS synthesizes from a partition: the system lists it as a disk, but it is not the
/// disk that was attached.
const SYNTHESIZED: [&str; 2] = ["EF57347C-0000-11AA-AA11-00306543ECAC", "Apple_APFS_Container"];

/// Returns the property list in a program's output, skipping any text before it.
fn parse(text: &[u8]) -> Option<Value> {
    let starts: [&[u8]; 3] = [b"<?xml", b"<plist", b"bplist00"];
    let at = (0..text.len()).find(|at| starts.iter().any(|s| text[*at..].starts_with(s)))?;
    Value::from_reader(Cursor::new(&text[at..])).ok()
}

/// A listed disk or partition: its device, and its content if that is listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entity {
    device: PathBuf,
    content: String,
}

/// The keys under which the system lists a device: hdiutil(1), diskutil(8), the I/O registry (IOMedia). Under any other
/// key, a value that looks like a device may be the name of a volume, which the creator of the image has chosen.
const DEVICE_KEYS: [&str; 4] = ["dev-entry", "BSD Name", "DeviceIdentifier", "DeviceNode"];

/// Collects every disk and partition in a value, at any depth.
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

/// Collects every string in a value, at any depth.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Dictionary(dict) => dict.values().for_each(|v| texts(v, found)),
        Value::Array(array) => array.iter().for_each(|v| texts(v, found)),
        Value::String(text) => found.push(text),
        _ => {}
    }
}

/// Converts `disk4`, `/dev/disk4` or `/dev/disk4s1` to the path of the device.
fn device(text: &str) -> Option<PathBuf> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    let mut numbers = name.strip_prefix("disk")?.split('s');
    let digits = |n: &str| !n.is_empty() && n.len() < 9 && n.bytes().all(|b| b.is_ascii_digit());
    numbers.all(digits).then(|| Path::new("/dev").join(name))
}

/// Returns the whole disk that a program reports to have attached: from its property list or, if there is none or it
/// has none of the known keys, from any word of its output. That may be anything, so callers check with the system
/// first.
pub(super) fn attached(output: &[u8]) -> Option<PathBuf> {
    let list = parse(output);
    list.as_ref().and_then(whole_disk).or_else(|| {
        let text = String::from_utf8_lossy(output);
        let mut found = Vec::new();
        match &list {
            Some(list) => texts(list, &mut found),
            None => found.extend(text.split_whitespace()),
        }
        whole(found.into_iter().filter_map(device).map(|device| Entity { device, content: String::new() }))
    })
}

/// Returns the whole disk among the disks in a value: not a partition, and not a container that APFS synthesized.
fn whole_disk(value: &Value) -> Option<PathBuf> {
    let mut found = BTreeSet::new();
    entities(value, &mut found);
    whole(found)
}

fn whole(found: impl IntoIterator<Item = Entity>) -> Option<PathBuf> {
    let number = |e: &Entity| e.device.to_str()?.strip_prefix("/dev/disk")?.parse::<u32>().ok();
    let wholes = found.into_iter().filter_map(|e| Some((number(&e)?, e)));
    let real = |e: &Entity| !SYNTHESIZED.iter().any(|s| s.eq_ignore_ascii_case(&e.content));
    // A partition scheme makes it certain; otherwise the lowest number, because synthesized disks come after the
    // attached one.
    let scheme = |e: &Entity| e.content.to_ascii_lowercase().ends_with("partition_scheme");
    let best = wholes.min_by_key(|(number, e)| (!scheme(e), !real(e), *number));
    best.map(|(_, e)| e.device)
}

/// Returns whether a path or URL from the system's output is the file, or its other name.
fn is_file(listed: &str, file: &Path) -> bool {
    let plain =
        |path: &Path| path.strip_prefix("/private").map_or(path.to_owned(), |p| Path::new("/").join(p));
    let own = plain(file);
    let same = |path: &Path| path == own || path == own.with_extension("dmg");
    let Some(url) = listed.strip_prefix("file://") else { return same(&plain(Path::new(listed))) };
    // Accept both URL-encoded and plain paths: which one is printed is not documented.
    let path = url.strip_prefix("localhost").unwrap_or(url);
    same(&plain(Path::new(OsStr::from_bytes(&unescape(path))))) || same(&plain(Path::new(path)))
}

/// Decodes percent-encoding (`%20`).
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

/// Collects the devices of an image from the parts of `value` that name the image's file.
fn devices_of(value: &Value, file: &Path, found: &mut Vec<PathBuf>) {
    let here = |dict: &Dictionary| dict.values().any(|v| v.as_string().is_some_and(|s| is_file(s, file)));
    match value {
        Value::Dictionary(dict) if here(dict) => found.extend(whole_disk(value)),
        Value::Dictionary(dict) => dict.values().for_each(|v| devices_of(v, file, found)),
        Value::Array(array) => array.iter().for_each(|v| devices_of(v, file, found)),
        _ => {}
    }
}

/// Returns the devices that are backed by the file, according to `hdiutil info` and the I/O registry: each may list
/// images that the other does not. Fails if an installed program does not answer, or none is installed.
pub(super) fn devices(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let queries: [(&str, &[&str]); 2] =
        [("hdiutil", &["info", "-plist"]), ("ioreg", &["-a", "-l", "-r", "-c", "AppleDiskImageDevice"])];
    let (mut found, mut answers) = (Vec::new(), 0);
    for (name, args) in queries.into_iter().filter(|(name, _)| has_program(name)) {
        let text = ask(Command::new(name).args(args), QUERY_TIMEOUT, "")?;
        // ioreg prints nothing at all if there is no such device.
        if !text.trim_ascii().is_empty() {
            let command = args.join(" ");
            let list = parse(&text)
                .ok_or_else(|| Error::failed(format!("{name} {command}: output is not a property list")))?;
            devices_of(&list, file, &mut found);
        }
        answers += 1;
    }
    if answers == 0 {
        return Err(Error::new(
            Kind::Unavailable,
            "cannot list attached images: neither hdiutil nor ioreg is available",
        ));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Verifies the size, the sector size and the read-only state of the device against the request. Properties that the
/// system does not report are not checked.
pub(super) fn check(device: &Path, request: &Request) -> Result<(), Error> {
    let info = ask(Command::new("diskutil").args(["info", "-plist"]).arg(device), QUERY_TIMEOUT, "");
    let info = info.ok().and_then(|text| parse(&text));
    let Some(info) = info.as_ref().and_then(Value::as_dictionary) else {
        log::warn!("{}: not verified: diskutil reports nothing about the device", device.display());
        return Ok(());
    };
    let number = |keys: &[&str]| {
        keys.iter().find_map(|k| info.get(k)?.as_unsigned_integer()).filter(|number| *number > 0)
    };
    let wrong = |what: String| Err(Error::new(Kind::Unavailable, what).at(device));
    let sector = u64::from(request.sector);
    if let Some(other) = number(&["DeviceBlockSize"]).filter(|size| *size != sector) {
        return wrong(format!("device has sectors of {other} bytes instead of {sector}"));
    }
    if let Some(size) = number(&["TotalSize", "Size"]).filter(|s| request.size - request.size % sector != *s)
    {
        return wrong(format!("device has {size} bytes instead of {}", request.size));
    }
    if info.get("WritableMedia").and_then(Value::as_boolean) == Some(true) {
        return wrong("device is writable".into());
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
            // APFS on the whole disk, no partitions: the synthesized disk comes later.
            (&[("/dev/disk5", "Apple_APFS_Container"), ("/dev/disk4", "")], "/dev/disk4"),
            (&[("disk10", "FDisk_partition_scheme"), ("disk10s1", "")], "/dev/disk10"),
        ];
        for (listed, expect) in cases {
            assert_eq!(whole_disk(&list(listed)).as_deref(), Some(Path::new(expect)), "{listed:?}");
        }
        assert_eq!(whole_disk(&list(&[("/dev/disk4s1", "EFI")])), None);
    }

    #[test]
    fn the_name_of_a_volume_is_not_a_device() {
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
    fn the_attached_disk_is_found_in_any_output() {
        let attached = |output: &str| attached(output.as_bytes());
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

    /// What Macs have printed, and what they print by documentation: tests/macos/fixtures.
    #[test]
    fn the_attached_disk_is_found_in_every_recorded_output() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/macos/fixtures");
        let systems = std::fs::read_dir(fixtures).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
        let mut outputs = 0;
        for system in systems {
            let read = |name: &str| {
                let text = std::fs::read_to_string(system.join(format!("{name}.txt"))).ok()?;
                let [path, url] = ["/tmp/a disk/disk.dmg", "/tmp/a%20disk/disk.dmg"];
                let text = text.replace("@DISK@", "disk12").replace("@IMAGE@", path);
                Some(text.replace("@IMAGE_URL@", url).replace("@SIZE@", "1048576").replace("@BLOCK@", "512"))
            };
            for with in ["hdiutil", "diskutil"] {
                let Some(output) = read(&format!("{with}-attach")) else { continue };
                let what = format!("{} with {with}", system.display());
                assert_eq!(attached(output.as_bytes()), Some("/dev/disk12".into()), "{what}");
                let mut found = Vec::new();
                for list in ["hdiutil-info", "ioreg"] {
                    let text = read(&format!("{list}-{with}")).unwrap();
                    if let Some(list) = parse(text.as_bytes()) {
                        devices_of(&list, Path::new("/tmp/a disk/disk.raw"), &mut found);
                    }
                    let text = read(&format!("{list}-none")).unwrap();
                    let none = parse(text.as_bytes());
                    assert!(none.is_some() || text.trim().is_empty(), "{what}: {list}");
                }
                found.dedup();
                assert_eq!(found, [Path::new("/dev/disk12")], "{what}");
                outputs += 1;
            }
        }
        assert!(outputs >= 2);
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
    fn an_image_is_recognized_by_each_of_its_names() {
        let file = Path::new("/private/tmp/a/disk.raw");
        for listed in ["/private/tmp/a/disk.raw", "/tmp/a/disk.raw", "file:///private/tmp/a/disk.dmg"] {
            assert!(is_file(listed, file), "{listed}");
        }
        let blank = Path::new("/private/tmp/My Disk ä/disk.raw");
        for listed in ["file:///tmp/My%20Disk%20%C3%A4/disk.dmg", "file://localhost/tmp/My Disk ä/disk.raw"]
        {
            assert!(is_file(listed, blank), "{listed}");
        }
        assert!(!is_file("file:///tmp/%", file) && !is_file("file:///tmp/%2", file));
        assert!(!is_file("/tmp/b/disk.raw", file));
        assert!(!is_file("disk.raw", file));
    }

    #[test]
    fn a_property_list_is_found_after_a_warning_and_garbage_is_rejected() {
        let text = b"hdiutil: WARNING: deprecated\n<?xml version=\"1.0\"?><plist version=\"1.0\"><string>disk2</string></plist>";
        assert_eq!(parse(text), Some(Value::String("disk2".into())));
        for garbage in
            [&b""[..], b"<plist", b"<plist><dict>", b"bplist00", b"<plist version=\"1.0\">&x;</plist>"]
        {
            assert_eq!(parse(garbage), None);
        }
    }
}

//! The service's configuration: which images to keep mounted or attached, where and how. A JSON file that is validated
//! as a whole before anything is done; docs/CLI.md has the table of its keys.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use cdi_base::error::Error;
use cdi_base::units::parse_size;
use clap::ValueEnum;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::home;
use crate::cli::{Bad, ErrnoName, Suspect, Via, With, values};
use crate::mount::record::MountRecord;

/// The content of a new configuration.
pub const EMPTY: &str = "{\n  \"version\": 1,\n  \"images\": []\n}\n";

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of the format, always 1.
    #[serde(deserialize_with = "version")]
    pub version: u32,
    /// The images.
    pub images: Vec<Entry>,
}

/// An image that the service keeps mounted or attached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Entry {
    /// The image, an absolute path.
    pub image: PathBuf,
    /// The mount point, an absolute path.
    pub dir: Option<PathBuf>,
    /// Whether to attach it as a block device as well.
    pub attach: bool,
    /// All other settings, as options of `cdi attach` or `cdi mount`.
    options: Vec<String>,
}

/// An entry as it stands in the file. Values are validated while they are parsed, so that an error names the line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    image: Absolute,
    #[serde(default)]
    dir: Option<Absolute>,
    #[serde(default = "yes")]
    attach: bool,
    #[serde(default)]
    format: Option<String>,
    #[serde(default, deserialize_with = "mapfile")]
    mapfile: Option<Absolute>,
    #[serde(default)]
    badblocks: Option<Absolute>,
    #[serde(default, deserialize_with = "block_size")]
    block_size: Option<String>,
    #[serde(default)]
    allow_parent: Vec<Absolute>,
    #[serde(default, deserialize_with = "sector_size")]
    sector_size: Option<String>,
    #[serde(default)]
    snapshot: Option<String>,
    #[serde(default)]
    member: Option<String>,
    #[serde(default)]
    passphrase_file: Option<Absolute>,
    #[serde(default)]
    bad: Option<Policy>,
    #[serde(default)]
    suspect: Option<Name<Suspect>>,
    #[serde(default, deserialize_with = "cache")]
    cache: Option<String>,
    #[serde(default)]
    errno: Option<Name<ErrnoName>>,
    #[serde(default)]
    allow_other: bool,
    #[serde(default)]
    files: bool,
    #[serde(default)]
    via: Option<Name<Via>>,
    #[serde(default)]
    with: Option<Name<With>>,
    #[serde(default)]
    mount: bool,
    #[serde(default)]
    partscan: bool,
    #[serde(default)]
    partition: Option<u32>,
    #[serde(default, deserialize_with = "bytes")]
    offset: Option<String>,
    #[serde(default, deserialize_with = "bytes")]
    size: Option<String>,
    #[serde(default, deserialize_with = "readahead")]
    readahead: Option<String>,
}

fn yes() -> bool {
    true
}

fn version<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        1 => Ok(1),
        other => Err(D::Error::custom(format!("unknown version {other} (must be 1)"))),
    }
}

/// A path that does not depend on the directory in which the service is started.
struct Absolute(PathBuf);

impl Absolute {
    fn new(path: &Path) -> Result<Absolute, String> {
        match path.strip_prefix("~") {
            Ok(rest) => home().map(|home| Absolute(home.join(rest))).map_err(|e| e.to_string()),
            Err(_) if path.is_absolute() => Ok(Absolute(path.to_owned())),
            Err(_) => Err(format!("the path '{}' must begin with / or ~/", path.display())),
        }
    }
}

impl<'de> Deserialize<'de> for Absolute {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Absolute, D::Error> {
        Absolute::new(&PathBuf::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Parses a mapfile: a path, or `none`.
fn mapfile<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Absolute>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.as_os_str() == "none" {
        return Ok(Some(Absolute(path)));
    }
    Absolute::new(&path).map(Some).map_err(D::Error::custom)
}

/// Parses a size, a number of bytes or a string such as `64M`, and returns it in the form that the option accepts.
fn size<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Text(String),
    }
    let text = match Form::deserialize(from)? {
        Form::Number(number) => number.to_string(),
        Form::Text(text) => text,
    };
    parse(&text).map_err(D::Error::custom)?;
    Ok(Some(text))
}

fn sector_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    size(from, values::sector_size)
}

fn block_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    size(from, values::list_block_size)
}

fn cache<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    size(from, values::cache_size)
}

fn readahead<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    size(from, values::readahead)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    size(from, parse_size)
}

/// One of the names that an option accepts.
struct Name<T>(String, std::marker::PhantomData<T>);

impl<'de, T: ValueEnum> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name<T>, D::Error> {
        let name = String::deserialize(from)?;
        T::from_str(&name, false).map_err(|_| {
            let names = T::value_variants().iter().filter_map(T::to_possible_value);
            let names: Vec<_> = names.map(|n| format!("'{}'", n.get_name())).collect();
            D::Error::custom(format!("'{name}' is not valid; must be one of {}", names.join(", ")))
        })?;
        Ok(Name(name, std::marker::PhantomData))
    }
}

/// The handling of bad sectors, as `--bad` accepts it.
struct Policy(String);

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Policy, D::Error> {
        let text = String::deserialize(from)?;
        Bad::parse(&text).map_err(D::Error::custom)?;
        Ok(Policy(text))
    }
}

impl TryFrom<Raw> for Entry {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Entry, String> {
        let image = raw.image.0;
        if !raw.attach && raw.dir.is_none() {
            let image = image.display();
            return Err(format!("{image}: needs a \"dir\" to mount at, because \"attach\" is false"));
        }
        if !raw.attach && (raw.with.is_some() || raw.mount || raw.partscan || raw.readahead.is_some()) {
            let keys = "\"with\", \"mount\", \"partscan\" and \"readahead\"";
            return Err(format!("{}: {keys} apply to the device, but \"attach\" is false", image.display()));
        }
        if raw.partition.is_some() && (raw.offset.is_some() || raw.size.is_some()) {
            let keys = "\"partition\" and \"offset\" or \"size\"";
            return Err(format!("{}: {keys} cannot be used together", image.display()));
        }
        let text = |path: Absolute| path.0.to_string_lossy().into_owned();
        if raw.badblocks.is_some() != raw.block_size.is_some() {
            return Err(format!(
                "{}: \"badblocks\" and \"block_size\" must be used together",
                image.display()
            ));
        }
        let mut options: Vec<_> =
            raw.allow_parent.into_iter().map(|dir| format!("--allow-parent={}", text(dir))).collect();
        for (name, value) in [
            ("format", raw.format),
            ("mapfile", raw.mapfile.map(text)),
            ("badblocks", raw.badblocks.map(text)),
            ("block-size", raw.block_size),
            ("sector-size", raw.sector_size),
            ("snapshot", raw.snapshot),
            ("member", raw.member),
            ("passphrase-file", raw.passphrase_file.map(text)),
            ("bad", raw.bad.map(|p| p.0)),
            ("suspect", raw.suspect.map(|n| n.0)),
            ("cache", raw.cache),
            ("errno", raw.errno.map(|n| n.0)),
            ("via", raw.via.map(|n| n.0)),
            ("with", raw.with.map(|n| n.0)),
            ("readahead", raw.readahead),
            ("partition", raw.partition.map(|n| n.to_string())),
            ("offset", raw.offset),
            ("size", raw.size),
        ] {
            options.extend(value.map(|value| format!("--{name}={value}")));
        }
        let flags = [
            ("allow-other", raw.allow_other),
            ("files", raw.files),
            ("mount", raw.mount),
            ("partscan", raw.partscan),
        ];
        options.extend(flags.iter().filter(|(_, set)| *set).map(|(name, _)| format!("--{name}")));
        Ok(Entry { image, dir: raw.dir.map(|dir| dir.0), attach: raw.attach, options })
    }
}

impl Entry {
    /// Returns the entry of a mount of an earlier service, as far as its record has it.
    pub(super) fn of(record: &MountRecord) -> Entry {
        Entry {
            image: record.image.clone(),
            dir: Some(record.mountpoint.clone()),
            attach: record.device.is_some(),
            options: Vec::new(),
        }
    }

    /// Returns the arguments of the command that the service runs for it, without the program's name.
    pub fn command(&self) -> Vec<OsString> {
        let verb = if self.attach { "attach" } else { "mount" };
        let mut args: Vec<OsString> = ["--json", verb, "--foreground"].map(OsString::from).into();
        args.extend(self.options.iter().map(OsString::from));
        args.push("--".into());
        args.push(self.image.clone().into());
        args.extend(self.dir.clone().map(OsString::from));
        args
    }
}

/// Reads the configuration. Fails with [`cdi_base::error::Kind::Usage`] and the line if it is not valid.
pub fn read(path: &Path) -> Result<Config, Error> {
    let text = fs::read_to_string(path).map_err(|e| {
        let hint = "'cdi service install' creates one; docs/CLI.md describes its keys";
        Error::io("cannot read the configuration", path, e).hint(hint)
    })?;
    parse(&text).map_err(|e| e.at(path))
}

fn parse(text: &str) -> Result<Config, Error> {
    let config: Config = serde_json::from_str(text).map_err(|e| {
        // serde_json puts the position after the message; ours goes before it.
        let what = e.to_string();
        let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what);
        Error::usage(format!("line {}, column {}: {what}", e.line(), e.column()))
    })?;
    for (n, entry) in config.images.iter().enumerate() {
        let twin =
            |other: &&Entry| other.image == entry.image || (entry.dir.is_some() && entry.dir == other.dir);
        if let Some(other) = config.images[..n].iter().find(twin) {
            let what = if other.image == entry.image { "the same image" } else { "the same directory" };
            let path = if other.image == entry.image { Some(&entry.image) } else { entry.dir.as_ref() };
            let path = path.map(|p| p.display().to_string()).unwrap_or_default();
            return Err(Error::usage(format!("two entries name {what}: {path}")));
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn an_entry_becomes_what_a_user_would_type() {
        let config = parse(
            r#"{ "version": 1, "images": [
                { "image": "/a/disk.cdimg" },
                { "image": "/b/-x y.img", "dir": "/mnt/b", "attach": false, "bad": "pattern:a b", "cache": "32M",
                  "errno": "medium", "suspect": "read", "via": "nfs", "allow_other": true, "files": true, "format": "raw",
                  "mapfile": "/b/x.map", "sector_size": 4096, "passphrase_file": "/b/pass", "allow_parent": ["/p", "/q"] },
                { "image": "/c", "badblocks": "/c.txt", "block_size": 1024,
                  "with": "hdiutil", "mount": true, "partscan": true, "readahead": 0 } ] }"#,
        );
        let config = config.unwrap_or_else(|e| panic!("{e}"));
        let args = |n: usize| config.images[n].command();
        assert_eq!(args(0), ["--json", "attach", "--foreground", "--", "/a/disk.cdimg"].map(OsString::from));
        for n in 0..3 {
            let typed = [OsString::from("cdi")].into_iter().chain(args(n));
            assert!(Cli::try_parse_from(typed).is_ok(), "{:?}", args(n));
        }
        assert!(args(1).ends_with(&["--".into(), "/b/-x y.img".into(), "/mnt/b".into()]));
        assert!(parse(EMPTY).is_ok());
    }

    #[test]
    fn errors_name_the_line() {
        let wrong = |text: &str, expect: &str| {
            let error = parse(text).map(|c| format!("{c:?}")).unwrap_err();
            assert!(error.what.contains(expect), "{} for {text}", error.what);
            assert_eq!(error.kind, cdi_base::error::Kind::Usage);
        };
        wrong("", "line 1, column 0: EOF");
        wrong("{\n \"version\": 2,\n \"images\": [] }", "line 2, column 13: unknown version 2");
        wrong("{ \"version\": 1 }", "missing field `images`");
        let entry = |entry: &str| format!("{{ \"version\": 1, \"images\": [\n{entry}\n] }}");
        wrong(&entry(r#"{ "image": "/a", "bda": "zero" }"#), "line 2, column 22: unknown field `bda`");
        wrong(&entry(r#"{ "image": "/a", "bad": "0" }"#), "line 2, column 29: must be 'error', 'zero'");
        wrong(
            &entry(r#"{ "image": "/a", "via": "smb" }"#),
            "'smb' is not valid; must be one of 'fuse', 'nfs'",
        );
        wrong(&entry(r#"{ "image": "a" }"#), "line 2, column 16: the path 'a' must begin with /");
        wrong(
            &entry(r#"{ "image": "/a", "cache": "9" }"#),
            "line 2, column 31: the size of the cache must be from 1M",
        );
        wrong(&entry(r#"{ "image": "/a", "attach": false }"#), "needs a \"dir\"");
        wrong(
            &entry(r#"{ "image": "/a", "attach": false, "dir": "/d", "mount": true }"#),
            "apply to the device",
        );
        wrong(&entry(r#"{ "image": "/a" }, { "image": "/a" }"#), "two entries name the same image: /a");
        wrong(
            &entry(r#"{ "image": "/a", "dir": "/d" }, { "image": "/b", "dir": "/d" }"#),
            "two entries name the same directory: /d",
        );
    }
}

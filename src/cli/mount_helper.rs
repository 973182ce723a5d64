//! The command line of `mount.cdi`, which mount(8) runs for file systems of type `cdi`: it becomes that of `cdi mount`,
//! whose options and rules it has.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind};
use clap::{ArgAction, FromArgMatches};

use super::help::{FILES, roff};
use super::{Cli, Verb, command};

/// The names under which the program is mount(8)'s helper: for `-t cdi`, and for the type that mounts have in the list of
/// the kernel.
const NAMES: [&str; 2] = ["mount.cdi", "mount.fuse.cdi"];

/// Options of `cdi mount` that make no sense in fstab: mount(8) prints and waits as it does for every type; it passes on no
/// file descriptors; and unmounting must take nothing but umount(8).
const NOT_HERE: [&str; 9] =
    ["foreground", "json", "quiet", "verbose", "help", "browse", "no-browse", "passphrase-fd", "via"];

/// Options that are for mount(8) itself, or that ask for what is so anyway. `rw` is one: mount(8) gives it unless `ro` was
/// asked for, so that it says nothing.
const WITHOUT_EFFECT: [&str; 43] = [
    "_netdev",
    "_rnetdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "group",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "nogroup",
    "noiversion",
    "nolazytime",
    "nomand",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "ro",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "user",
    "users",
];

/// What mount(8) wants.
#[derive(Debug)]
pub struct Wanted {
    /// The command line of `cdi mount`.
    pub cli: Cli,
    /// Its arguments.
    pub words: Vec<OsString>,
    /// Where the disk is to be mounted.
    pub dir: PathBuf,
    /// Whether nothing is to be mounted (`mount --fake`).
    pub fake: bool,
}

/// Returns whether the program was started as mount(8)'s helper.
pub fn is_mount_helper(program: Option<&OsStr>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| NAMES.iter().any(|known| name == *known))
}

/// Returns the exit code that mount(8) documents for a kind of error.
pub fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => 1,
        Kind::Unavailable => 2,
        Kind::Interrupted => 8,
        _ => 32,
    }
}

/// Parses the arguments of mount(8): `SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Wanted, Error> {
    let Arguments { places, options, sloppy, fake, verbose } = arguments(args)?;
    let [source, dir] = <[OsString; 2]>::try_from(places)
        .map_err(|_| Error::usage("usage: mount.cdi IMAGE DIR [-sfnv] [-o OPTIONS]; mount(8) runs it"))?;
    refuse_loop_device(&source)?;
    let mut words = Vec::new();
    for option in split(&options) {
        words.extend(translate(&option, sloppy)?);
    }
    words.extend(["--".into(), source, dir.clone()]);
    let line = ["cdi".into(), "mount".into()].into_iter().chain(words.iter().cloned());
    let parsed = command().try_get_matches_from(line).and_then(|matches| Cli::from_arg_matches(&matches));
    let mut cli = parsed.map_err(|e| {
        // The first paragraph: the rest is how 'cdi mount' is used.
        let text = e.render().to_string();
        let what = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        Error::usage(format!("mount options: {}", what.replace("'--", "'").replace('\n', " ")))
    })?;
    cli.verbose = u8::from(verbose);
    if let Verb::Mount(mount) = &mut cli.verb {
        // As mount(8) is.
        mount.silent = !verbose;
    }
    Ok(Wanted { cli, words, dir: dir.into(), fake })
}

/// Refuses a loop device: for the options `loop`, `offset=` and `sizelimit=`, mount(8) makes one itself and passes it on in
/// place of the image. Its bytes are those of the file, without its format and its list of bad sectors.
fn refuse_loop_device(source: &OsStr) -> Result<(), Error> {
    let source = Path::new(source);
    if !cdi_system::is_loop_device(source) {
        return Ok(());
    }
    let error = Error::usage("a loop device has the bytes of the file and not the disk in the image");
    Err(error.at(source).hint(
        "leave out loop, offset= and sizelimit=, for which mount(8) makes it; start=BYTES is cdi's option for a part of the disk",
    ))
}

/// The arguments, sorted.
#[derive(Default)]
struct Arguments {
    places: Vec<OsString>,
    options: Vec<u8>,
    sloppy: bool,
    fake: bool,
    verbose: bool,
}

fn arguments(mut args: impl Iterator<Item = OsString>) -> Result<Arguments, Error> {
    let mut sorted = Arguments::default();
    while let Some(word) = args.next() {
        let letters = match word.as_bytes() {
            [b'-', letters @ ..] if !letters.is_empty() => letters,
            _ => {
                sorted.places.push(word);
                continue;
            }
        };
        for (at, letter) in letters.iter().enumerate() {
            let mut value = || {
                let rest = &letters[at + 1..];
                let value = if rest.is_empty() { args.next() } else { Some(OsStr::from_bytes(rest).into()) };
                value.ok_or_else(|| Error::usage(format!("-{} needs a value", char::from(*letter))))
            };
            match letter {
                b's' => sorted.sloppy = true,
                b'f' => sorted.fake = true,
                b'v' => sorted.verbose = true,
                b'n' => {}
                b'o' => {
                    sorted.options.push(b',');
                    sorted.options.extend(value()?.into_vec());
                    break;
                }
                b't' => {
                    value()?;
                    break;
                }
                b'N' => {
                    let namespace = value()?;
                    let error = Error::usage("cannot mount in another namespace").at(Path::new(&namespace));
                    return Err(error.hint("run mount in it: nsenter --mount=NAMESPACE mount ..."));
                }
                _ => {
                    return Err(Error::usage(format!(
                        "unknown argument '{}': mount.cdi takes those of mount(8)'s helpers",
                        word.to_string_lossy()
                    )));
                }
            }
        }
    }
    Ok(sorted)
}

/// Splits mount options at their commas, except for those in double quotes, and removes the quotes.
fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let mut quoted = false;
    for byte in options {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => all.push(Vec::new()),
            _ => all.last_mut().into_iter().for_each(|option| option.push(*byte)),
        }
    }
    all.retain(|option| !option.is_empty());
    all
}

/// Returns the option of `cdi mount` that a mount option stands for, if it stands for one.
fn translate(option: &[u8], sloppy: bool) -> Result<Option<OsString>, Error> {
    let at = option.iter().position(|byte| *byte == b'=');
    let (name, value) = at.map_or((option, None), |at| (&option[..at], Some(&option[at + 1..])));
    let name = String::from_utf8_lossy(name).into_owned();
    let lower = name.to_lowercase();
    // user=NAME is how mount(8) notes who may unmount it.
    let for_mount = WITHOUT_EFFECT.contains(&name.as_str()) && (value.is_none() || name == "user");
    if for_mount || lower.starts_with("x-") || name == "comment" {
        return Ok(None);
    }
    if name == "remount" {
        let error = Error::usage("a disk image cannot be remounted");
        return Err(error.hint("unmount it, and mount it again with the new options"));
    }
    let mount = command();
    let known = of_mount(&mount).find(|arg| name_here(arg) == name.replace('-', "_"));
    let Some(arg) = known else {
        return match sloppy {
            true => Ok(None),
            false => Err(unknown(&name)),
        };
    };
    let mut word = OsString::from(format!("--{}", arg.get_long().unwrap_or_default()));
    match (arg.get_action().takes_values(), value) {
        (true, Some(value)) => {
            word.push("=");
            word.push(OsStr::from_bytes(value));
        }
        (false, None) => {}
        (true, None) => return Err(Error::usage(format!("mount option '{name}' needs a value: {name}=..."))),
        (false, Some(_)) => return Err(Error::usage(format!("mount option '{name}' takes no value"))),
    }
    Ok(Some(word))
}

fn unknown(name: &str) -> Error {
    let mount = command();
    let known: Vec<String> = of_mount(&mount).map(option_name).collect();
    let error = Error::usage(format!("unknown mount option '{name}'"));
    error.hint(format!("the options are {}, and those of every file system", known.join(", ")))
}

/// Returns the options of `cdi mount` that are mount options, too.
fn of_mount(command: &clap::Command) -> impl Iterator<Item = &clap::Arg> {
    let mount = command.find_subcommand("mount").into_iter();
    mount.flat_map(clap::Command::get_arguments).filter(|arg| {
        arg.get_long().is_some_and(|long| !NOT_HERE.contains(&long))
            && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version)
    })
}

/// Returns the name of an option among mount options: with `_` in it, as mount(8)'s have it. `offset` has another name,
/// because mount(8) takes that one for itself: it makes a loop device.
fn name_here(arg: &clap::Arg) -> String {
    match arg.get_long().unwrap_or_default() {
        "offset" => "start".into(),
        long => long.replace('-', "_"),
    }
}

/// Returns an option as it is written among mount options.
fn option_name(arg: &clap::Arg) -> String {
    let name = name_here(arg);
    match arg.get_value_names().filter(|_| arg.get_action().takes_values()) {
        Some([value]) => format!("{name}={value}"),
        _ => name,
    }
}

/// Returns the man page mount.cdi(8).
pub fn man_page() -> Vec<u8> {
    let mut page = format!(
        ".TH mount.cdi 8 \"\" \"cdi {}\" \"System Administration\"\n{}",
        env!("CARGO_PKG_VERSION"),
        include_str!("mount_helper.roff")
    );
    let command = command();
    let _ = writeln!(page, ".SH OPTIONS\nOf \\fBcdi mount\\fR; a value with commas is put in double quotes:");
    for arg in of_mount(&command) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
        let default = match defaults.is_empty() || !arg.get_action().takes_values() {
            true => String::new(),
            false => format!(" (default: {})", defaults.join(", ")),
        };
        let _ = writeln!(page, ".TP\n\\fB{}\\fR\n{}{}", roff(&option_name(arg)), roff(&help), roff(&default));
    }
    let _ = writeln!(
        page,
        ".PP\nOf every file system, accepted and without effect here: {}, \\fBx\\-*\\fR, \\fBcomment=\\fR.",
        WITHOUT_EFFECT.map(|name| format!("\\fB{name}\\fR")).join(", ")
    );
    page += include_str!("mount_helper_end.roff");
    for (file, what) in FILES {
        let _ = writeln!(page, ".TP\n{}\n{}", roff(file), roff(what));
    }
    page += ".SH \"SEE ALSO\"\n\\fBcdi\\-mount\\fR(1), \\fBmount\\fR(8), \\fBfstab\\fR(5), \\fBsystemd.mount\\fR(5)\n";
    page.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Bad, ErrnoName};

    fn parse_words(words: &[&str]) -> Result<Wanted, Error> {
        parse(words.iter().map(Into::into))
    }

    #[test]
    fn fstab_s_options_become_those_of_mount() {
        let wanted = parse_words(&[
            "/a b.raw",
            "/mnt",
            "-sn",
            "-o",
            "rw,noauto,user=anna,x-systemd.automount,allow_other,mapfile=\"/x,y.map\",bad=zero,errno=medium,start=1M,dirsync,unheard-of",
            "-t",
            "fuse.cdi",
        ]);
        let wanted = wanted.unwrap();
        let Verb::Mount(mount) = wanted.cli.verb else { panic!("not mount") };
        assert!(mount.access.allow_other && mount.silent && !wanted.fake);
        assert_eq!(mount.image.image, Path::new("/a b.raw"));
        assert_eq!(mount.image.open.mapfile.as_deref(), Some(Path::new("/x,y.map")));
        assert_eq!((mount.reads.bad, mount.access.errno), (Bad::Zero, ErrnoName::Medium));
        assert_eq!(mount.dir.as_deref(), Some(Path::new("/mnt")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |options: &str| {
            let error = parse_words(&["a", "/mnt", "-o", options]).unwrap_err();
            assert_eq!(exit_code(error.kind), 1);
            crate::report::Report::of(&error)
        };
        let report = wrong("rw,colour=red");
        assert!(report.message.contains("'colour'"), "{report:?}");
        assert!(report.hint.as_ref().is_some_and(|hint| hint.contains("mapfile=FILE")), "{report:?}");
        for (options, what) in [
            ("partition", "needs a value"),
            ("files=1", "takes no value"),
            ("ro=1", "'ro'"),
            ("remount,ro", "cannot be remounted"),
            ("offset=4096", "'offset'"),
            ("foreground", "'foreground'"),
            ("via=nfs", "'via'"),
            ("cache=much", "cache"),
            ("bad=green", "bad"),
        ] {
            assert!(wrong(options).message.contains(what), "{options}: {:?}", wrong(options));
        }
        for words in [&["a"][..], &["a", "b", "c"], &["a", "b", "-x"], &["a", "b", "-N", "/proc/1/ns/mnt"]] {
            assert_eq!(parse_words(words).unwrap_err().kind, Kind::Usage, "{words:?}");
        }
    }

    #[test]
    fn the_program_is_known_by_its_name() {
        for (name, is) in [("/sbin/mount.cdi", true), ("mount.fuse.cdi", true), ("/usr/bin/cdi", false)] {
            assert_eq!(is_mount_helper(Some(OsStr::new(name))), is, "{name}");
        }
        assert!(!is_mount_helper(None));
    }

    #[test]
    fn the_man_page_has_every_option() {
        let page = String::from_utf8(man_page()).unwrap();
        for word in ["mapfile=FILE", "allow_other", "bad=POLICY", "nofail", "fstab"] {
            assert!(page.contains(word), "{word}: {page}");
        }
    }
}

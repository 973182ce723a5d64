//! The command line: every verb and option. The doc comments are the help texts; man pages and completions are made
//! from them too.

mod create;
mod files;
mod help;
mod image;
mod mount;
pub mod mount_helper;
mod service;
pub(crate) mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
pub use create::{Compact, Create, Protect, Repair, Rescue};
pub use files::Files;
pub use help::man_page;
pub use image::{Extract, Image, Index, Info, Map, OpenArgs, Overwrite, Verify, Watch};
pub use mount::{
    Access, Attach, DesktopArgs, Detach, DeviceArgs, Exec, Mount, PartArgs, Reads, Serve, Stats, Unmount,
};
pub use service::{Demo, Service, ServiceVerb};
pub use values::{Bad, ErrnoName, FirstName, Suspect, Via, With};

/// The heading of the options that all verbs have.
const GENERAL: &str = "General options";

/// Present disk images as read-only block devices, and image failing disks
///
/// cdi turns a disk image into a read-only block device with I/O errors where the original disk had bad sectors, and
/// images disks that are failing.
#[derive(Debug, Parser)]
#[command(name = "cdi", version, max_term_width = 100, arg_required_else_help = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Cli {
    /// Print one JSON object on stdout; errors, warnings and progress as JSON lines on stderr
    #[arg(long, global = true, help_heading = GENERAL, display_order = 900)]
    pub json: bool,
    /// Print errors only
    #[arg(short, long, global = true, help_heading = GENERAL, display_order = 901)]
    pub quiet: bool,
    /// Report each step; -vv for details
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GENERAL, display_order = 902)]
    pub verbose: u8,
    /// Print help (-h: a summary)
    #[arg(short, long, global = true, action = ArgAction::Help, help_heading = GENERAL, display_order = 903)]
    help: Option<bool>,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = GENERAL, display_order = 904)]
    version: Option<bool>,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // there is one
pub enum Verb {
    /// Image a disk that may be failing, or convert another image to .cdimg
    Create(Create),
    /// Show an image's format, size, metadata and how much of it is bad
    Info(Info),
    /// Show which sectors are bad: as a picture, a list, or a ddrescue mapfile
    Map(Map),
    /// List the files of a disk that are damaged, and copy what can be saved
    Files(Files),
    /// Follow an image that another process is making, on the terminal or as a web page; ends when it is finished
    Watch(Watch),
    /// Check all data in an image, and compare it with the stored hashes
    Verify(Verify),
    /// Export the disk to a raw file, to stdout, or to a disk
    Extract(Extract),
    /// Make the index of a compressed image (.gz, .xz, …), and keep it next to the image
    Index(Index),
    /// Salvage a damaged .cdimg into a new one
    Repair(Repair),
    /// Add parity to a .cdimg, from which damage of the image can be restored
    Protect(Protect),
    /// Rewrite a .cdimg to reclaim the space of superseded data
    Compact(Compact),
    /// Mount an image as a directory with disk.raw and badblocks.json
    Mount(Mount),
    /// Unmount a directory mounted by 'mount'
    Unmount(Unmount),
    /// Attach an image as a read-only block device
    Attach(Attach),
    /// Detach a block device created by 'attach'
    Detach(Detach),
    /// List mounted and attached images
    List,
    /// Show read statistics of mounted images
    Stats(Stats),
    /// Attach an image, run a command on the device, and detach it
    Exec(Exec),
    /// Serve an image over NBD or NFS
    Serve(Serve),
    /// Keep the images of a configuration file attached in the background
    Service(Service),
    /// Check the system requirements
    Doctor,
    /// List the supported image formats
    Formats,
    /// Demonstrate imaging and attaching with a small sample disk
    Demo(Demo),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// The directory
        dir: PathBuf,
        /// Section of the manual: 1 for the pages of cdi, 8 for mount.cdi(8)
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
        section: u8,
    },
}

/// Commands of other tools, and the verb that does the same.
const OTHER_WORDS: [(&str, &str); 18] = [
    ("umount", "unmount"),
    ("eject", "detach"),
    ("image", "create"),
    ("imageinfo", "info"),
    ("convert", "create"),
    ("copy", "create"),
    ("clone", "create"),
    ("dump", "create"),
    ("dd", "create"),
    ("rescue", "create"),
    ("export", "extract"),
    ("check", "verify"),
    ("fsck", "verify"),
    ("show", "info"),
    ("status", "list"),
    ("ls", "list"),
    ("run", "exec"),
    ("bad", "map"),
];

/// Returns the whole command line, with examples, exit codes and files in the long help of each verb.
pub fn command() -> clap::Command {
    let mut command = Cli::command().after_help(help::EXIT_STATUS);
    let verbs: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for verb in verbs {
        command = command.mut_subcommand(&verb, |c| c.after_long_help(help::after(&verb)));
    }
    command
}

/// Parses the arguments of the process.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|mut e| {
        if e.get(ContextKind::InvalidSubcommand) == Some(&ContextValue::String("version".into())) {
            let version = command().try_get_matches_from(["cdi", "--version"]);
            return version.err().unwrap_or(e);
        }
        if e.kind() == ErrorKind::InvalidSubcommand
            && let Some(ContextValue::String(typed)) = e.get(ContextKind::InvalidSubcommand)
            && let Some((_, verb)) = OTHER_WORDS.iter().find(|(word, _)| word == typed)
        {
            e.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![(*verb).to_owned()]));
        }
        e.with_cmd(&command())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definitions() {
        command().debug_assert();
    }

    #[test]
    fn commands_of_other_tools_suggest_a_verb() {
        let verbs: Vec<String> = command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for (word, verb) in OTHER_WORDS {
            let typed = ["cdi", word].into_iter().map(OsString::from);
            let message = parse(typed).unwrap_err().to_string();
            assert!(message.contains(&format!("'{verb}'")), "{message}");
            assert!(!verbs.iter().any(|v| v == word) && verbs.iter().any(|v| v == verb), "{word}");
        }
    }
}

//! The mount options, which differ between Linux's FUSE and macFUSE.

use std::fs::File;
use std::process::Command;

use cdi_base::workers;
use cdi_system::{FUSE_TYPE, MACFUSE_SOURCE, ask};
use fuser::{Config, MountOption, SessionACL};

use crate::transport::{Place, volume_name};
use crate::tree::Tree;

/// Returns the configurations to try, the best first. If one is refused, the next is tried.
pub(super) fn attempts(tree: &Tree, place: &Place<'_>) -> Vec<Config> {
    if cfg!(target_os = "macos") {
        return macos(tree, place);
    }
    let plain = linux(tree, place);
    // fusermount3 writes them to the list of mounts that desktops read (/run/mount/utab); the kernel does not know them,
    // so they are not for root, who mounts without it, and versions before 3.17 fail.
    if place.desktop.asked && !nix::unistd::geteuid().is_root() {
        let mut shown = plain.clone();
        let option = if place.desktop.show { "x-gvfs-show" } else { "x-gvfs-hide" };
        shown.mount_options.push(MountOption::CUSTOM(option.into()));
        return vec![shown, plain];
    }
    vec![plain]
}

/// Returns the options for all systems.
fn common_options(source: &str) -> Vec<MountOption> {
    // A comma would end the option when it is passed on.
    let fsname: String =
        source.chars().map(|c| if c == ',' || c == '\\' || c.is_control() { '_' } else { c }).collect();
    vec![
        MountOption::FSName(fsname),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
    ]
}

fn linux(tree: &Tree, place: &Place<'_>) -> Config {
    let mut config = Config::default();
    config.mount_options = common_options(&place.image.to_string_lossy());
    config.mount_options.push(MountOption::NoExec);
    // fuser passes the subtype to fusermount, but not to the kernel when it mounts directly, as root.
    let subtype = FUSE_TYPE.trim_start_matches("fuse.");
    config.mount_options.push(if nix::unistd::geteuid().is_root() {
        MountOption::CUSTOM(format!("subtype={subtype}"))
    } else {
        MountOption::Subtype(subtype.into())
    });
    config.acl = if tree.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(workers::cores().clamp(4, 16));
    // Each thread opens /dev/fuse again for itself. Without permission to open it, all threads share the descriptor
    // that fusermount3 returned.
    config.clone_fd = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    config
}

/// Returns the configurations for macFUSE: with all useful options, with fewer, and with only the required ones. Its
/// kernel extension sends events to one thread.
fn macos(tree: &Tree, place: &Place<'_>) -> Vec<Config> {
    let custom = |text: String| MountOption::CUSTOM(text);
    let mut needed = common_options(&format!("{MACFUSE_SOURCE}{}", place.image.display()));
    // A slow source must not make macOS offer to eject the disk, which it does after a minute by default.
    needed.push(custom("daemon_timeout=600".into()));
    if tree.disk().has_failing_reads() {
        // The cache reads clusters, and one error makes the whole cluster fail. Without the cache, reads are exactly
        // those of the reader.
        needed.push(custom("direct_io".into()));
    }
    let name = volume_name(place.image).replace(',', "_");
    let mut better = needed.clone();
    better.extend(["noappledouble", "noatime"].map(|o| custom(o.into())));
    better.extend((!place.desktop.show).then(|| custom("nobrowse".into())));
    better.extend([custom(format!("volname={name}")), custom("iosize=131072".into())]);
    let mut best = better.clone();
    best.push(custom("local".into()));
    // The program that reads the file for the block device may run as another user: root.
    let others = match tree.allow_other {
        true => SessionACL::All,
        false if is_administrator() => SessionACL::RootAndOwner,
        false => SessionACL::Owner,
    };
    let config = |options: &[MountOption], acl| {
        let mut config = Config::default();
        config.mount_options = options.to_vec();
        config.acl = acl;
        config
    };
    let minimal = if tree.allow_other { SessionACL::All } else { SessionACL::Owner };
    vec![config(&best, others), config(&better, others), config(&needed, minimal)]
}

/// Returns whether macFUSE lets this user share a mount: root, and members of the administrators' group (80).
fn is_administrator() -> bool {
    let groups =
        ask(Command::new("id").arg("-G"), std::time::Duration::from_secs(10), "").unwrap_or_default();
    nix::unistd::geteuid().is_root() || groups.split(u8::is_ascii_whitespace).any(|g| g == b"80")
}

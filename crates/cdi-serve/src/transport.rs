//! The interface of the transports, which mount a tree.

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::Error;
use cdi_system::confine::{Confine, Needs};

use crate::tree::Tree;

/// The mount point and the source of a mount.
pub struct Place<'a> {
    /// The directory to mount at.
    pub dir: &'a Path,
    /// The image, reported as the source of the file system where the system accepts one.
    pub image: &'a Path,
    /// Whether desktops show the mount as a volume.
    pub desktop: Desktop,
    /// What the threads that serve are confined to.
    pub confine: &'a Confine,
}

/// Whether desktops show a mount as a volume: the Finder, and the file managers of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desktop {
    /// Whether the mount is shown.
    pub show: bool,
    /// Whether the user asked for it, or for the opposite. If not, a Linux desktop decides by itself.
    pub asked: bool,
}

/// The maximum length of the name of a volume in bytes of UTF-8. The Finder does not show more anyway.
pub const MAX_VOLUME_NAME: usize = 127;

/// Returns the name of the volume: that of the image without its extension, without characters that the Finder cannot
/// show.
pub fn volume_name(image: &Path) -> String {
    let stem = image.file_stem().unwrap_or_default().to_string_lossy();
    let mut name: String =
        stem.chars().map(|c| if matches!(c, '/' | ':') || c.is_control() { '-' } else { c }).collect();
    while name.len() > MAX_VOLUME_NAME {
        name.pop();
    }
    // A leading dot would hide it.
    let name = name.trim_start_matches(|c: char| c == '.' || c.is_whitespace()).trim_end();
    if name.is_empty() { "cdi".into() } else { name.into() }
}

/// A way to mount a tree at a directory.
pub trait Transport {
    /// Returns its name, as in JSON output and options.
    fn name(&self) -> &'static str;
    /// Returns whether this process serves the disk, so that its read options apply.
    fn serves_itself(&self) -> bool {
        true
    }
    /// Adds what serving takes once it is mounted.
    fn needs(&self, needs: &mut Needs);
    /// Mounts `tree` at a place. Returns when it is mounted.
    fn serve(&self, tree: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error>;
}

/// A mounted tree.
pub trait Serving: Send {
    /// Waits until it is no longer mounted, whatever the reason.
    fn wait(self: Box<Self>) -> Result<(), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finder_can_show_every_name() {
        let long = "ä".repeat(100);
        for (path, wanted) in [
            ("/a/b/disk.cdimg", "disk"),
            ("old disk.2019.cdimg", "old disk.2019"),
            ("12:30.cdimg", "12-30"),
            ("a\nb.cdimg", "a-b"),
            (".cdimg", "cdimg"),
            ("...", "cdi"),
            ("/", "cdi"),
            ("  .cdimg", "cdi"),
            (long.as_str(), &long[..126]),
        ] {
            assert_eq!(volume_name(Path::new(path)), wanted, "{path}");
        }
    }
}

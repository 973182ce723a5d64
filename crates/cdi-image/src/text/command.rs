//! Words of the commands that hints suggest. Such a command must never write over a file.

use std::path::Path;

use cdi_base::printable::quoted;

/// Returns the name of a file that does not exist yet, neither here nor next to `file`, for a command that writes it:
/// the stem of `file`, `tag` and `suffix`. Quoted for a shell.
pub(crate) fn new_name(file: &Path, tag: &str, suffix: &str) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let names = (0..).map(|n: u32| match n {
        0 => format!("{stem}-{tag}{suffix}"),
        n => format!("{stem}-{tag}-{n}{suffix}"),
    });
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let free =
        names.take(100).find(|name| !is_there(&file.with_file_name(name)) && !is_there(Path::new(name)));
    quoted(&free.unwrap_or_else(|| format!("NEW{suffix}")))
}

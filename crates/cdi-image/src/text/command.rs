//! Words of the commands that hints suggest. Such a command must never write over a file.

use std::path::Path;

/// Returns the name of a file that does not exist yet, neither here nor next to `file`, for a command that writes it:
/// the stem of `file`, `tag` and `suffix`. Quoted for a shell.
pub(crate) fn new_name(file: &Path, tag: &str, suffix: &str) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let names = (0..).map(|n: u32| match n {
        0 => format!("{stem}-{tag}{suffix}"),
        n => format!("{stem}-{tag}-{n}{suffix}"),
    });
    let free = names.take(100).find(|name| !file.with_file_name(name).exists() && !Path::new(name).exists());
    quoted(&free.unwrap_or_else(|| format!("NEW{suffix}")))
}

/// Quotes a word for a shell, if necessary.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+=:,".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.to_owned();
    }
    let dashed = if word.starts_with('-') { "./" } else { "" };
    format!("'{dashed}{}'", word.replace('\'', "'\\''"))
}

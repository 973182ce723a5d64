//! The volumes that have a directory in `files`.

use cdi_fs::recognize::Recognized;
use cdi_fs::volumes::Part;

use super::names::{changed, numbered};

/// A volume with a directory.
pub(super) struct Volume {
    /// The name of its directory.
    pub title: String,
    /// Where it is, and its file system; if that cannot be used, its directory cannot be listed.
    pub part: Part,
}

/// Returns the parts with a file system that cdi knows, and those of which the start is lost, under names of their own.
pub(super) fn volumes(parts: Vec<Part>) -> Vec<Volume> {
    let known = parts.into_iter().filter(|part| match part.contents {
        Recognized::Files(_) | Recognized::Damaged(..) => true,
        Recognized::Unknown(error) => error.is_some(),
        Recognized::Named(_) => false,
    });
    let mut volumes: Vec<Volume> = Vec::new();
    for part in known {
        let mut title = changed(&part.title());
        if volumes.iter().any(|v| v.title == title) {
            title = numbered(&title, volumes.len());
        }
        volumes.push(Volume { title, part });
    }
    volumes
}

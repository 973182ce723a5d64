//! The segments of an image by EnCase: files beside each other, whose names count.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::image::FileNo;
use crate::image::input::Input;

/// Gives each segment, from the first one on, and its number, to `take`, which says whether there is another.
pub(in crate::image) fn walk(
    input: &Input,
    name: fn(&Path, u32) -> Option<PathBuf>,
    mut take: impl FnMut(FileNo, u32) -> Result<bool, Error>,
) -> Result<(), Error> {
    let (mut file, mut number) = (Input::MAIN, 1);
    while take(file, number).map_err(|e| e.at(&input.path_of(file)))? {
        number += 1;
        let next = name(input.path(), number).unwrap_or_default();
        let missing = || {
            let name = next.display();
            Error::bad_image(format!("the image goes on in segment {number}, '{name}', which is missing"))
        };
        if next.as_os_str().is_empty() {
            return Err(missing());
        }
        file = input.beside(&next)?.ok_or_else(missing)?;
    }
    Ok(())
}

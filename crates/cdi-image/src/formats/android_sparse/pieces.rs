//! The other pieces of an image that is split: `super.img_sparsechunk.0`, `super.img.0`, `system.img_sparsechunk1` …

use std::path::Path;

use cdi_base::error::Error;

use crate::extent::FileNo;
use crate::input::Input;

/// The maximum number of pieces.
const MAX: u32 = 256;

/// Splits the name of a piece into what comes before its number, and the number.
fn counted(name: &str) -> Option<(&str, u32)> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (head, digits) = name.split_at(name.len() - digits);
    let is_piece = head.ends_with('.') || head.to_ascii_lowercase().ends_with("sparsechunk");
    // Numbers as they are counted have no zeros before them.
    let number = digits.parse::<u32>().ok().filter(|n| n.to_string() == digits && *n < MAX)?;
    is_piece.then_some((head, number))
}

/// Returns the pieces that follow the image's main file. An error if that is not the first one, or one is missing.
pub(super) fn others(input: &Input) -> Result<Vec<FileNo>, Error> {
    let name = input.name().file_name().and_then(|name| name.to_str());
    let Some((head, first)) = name.and_then(counted) else { return Ok(Vec::new()) };
    let piece = |n: u32| input.sibling(Path::new(&format!("{head}{n}")));
    if let Some(before) = first.checked_sub(1)
        && piece(before)?.is_some()
    {
        let what = format!("this is a piece of an image, and '{head}{before}' comes before it");
        return Err(Error::bad_image(what).hint("open the first piece instead"));
    }
    let (mut found, mut missing) = (Vec::new(), None);
    for n in first + 1..MAX {
        match (piece(n)?, missing) {
            (Some(file), None) => found.push(file),
            (Some(_), Some(missing)) => {
                let what = format!("a piece of the image is missing: '{head}{missing}'");
                return Err(Error::bad_image(what).hint("copy it next to the image"));
            }
            (None, _) => missing = missing.or(Some(n)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn names_of_pieces_are_recognised() {
        assert_eq!(counted("super.img_sparsechunk.0"), Some(("super.img_sparsechunk.", 0)));
        assert_eq!(counted("system.img_sparsechunk12"), Some(("system.img_sparsechunk", 12)));
        assert_eq!(counted("super.img.3"), Some(("super.img.", 3)));
        for name in ["super.img", "a.001", "sdcard1", "a.", "7", "a.300", "a.99999999999"] {
            assert_eq!(counted(name), None, "{name}");
        }
    }
}

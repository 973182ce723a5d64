//! The names that are shown, where those of a file system cannot be: names that no system takes, and double ones.

/// The longest name that systems take, in bytes.
const MAX_NAME: usize = 255;
/// The longest name that is shown of one that is changed, in bytes: there is room for a number.
const MAX_CHANGED: usize = 230;

/// Returns whether a name can be shown as it is.
pub(super) fn is_safe(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// Returns the name to show in place of one that is not safe, or that is there twice.
pub(super) fn changed(name: &str) -> String {
    let mut shown = name.replace(['/', '\0'], "_");
    if shown.len() > MAX_CHANGED {
        let end = (0..=MAX_CHANGED).rev().find(|end| shown.is_char_boundary(*end)).unwrap_or(0);
        shown.truncate(end);
    }
    match shown.as_str() {
        "" => "_".into(),
        "." | ".." => shown.replace('.', "_"),
        _ => shown,
    }
}

/// Adds a number to a changed name.
pub(super) fn numbered(name: &str, number: usize) -> String {
    format!("{name}~{number}")
}

/// Takes the number from a name that has one: returns the name before it, and the number.
pub(super) fn split_number(name: &str) -> Option<(&str, usize)> {
    let (before, number) = name.trim_end_matches('~').rsplit_once('~')?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|_| digits).map(|number| (before, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_system_takes_is_changed() {
        for name in ["a", "...", " ", "a\nb", "\u{fffd}", "-rf", "con", &"x".repeat(255)] {
            assert!(is_safe(name), "{name:?}");
        }
        for (name, shown) in [("", "_"), (".", "_"), ("..", "__"), ("a/b", "a_b"), ("a\0", "a_")] {
            assert!(!is_safe(name));
            assert_eq!(changed(name), shown);
            assert!(is_safe(shown));
        }
        let long = changed(&"ä".repeat(200));
        assert!(is_safe(&numbered(&long, usize::MAX)) && long.len() >= 229);
    }

    #[test]
    fn numbers_are_found_again() {
        assert_eq!(split_number("a~2"), Some(("a", 2)));
        assert_eq!(split_number("a~1~23~~"), Some(("a~1", 23)));
        assert_eq!(split_number("~7"), Some(("", 7)));
        for name in ["a", "a~", "a~b", "a~+1", "a~99999999999999999999999", "~"] {
            assert_eq!(split_number(name), None, "{name}");
        }
    }
}

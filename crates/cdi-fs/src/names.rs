//! Names that can be used as the name of a file anywhere.

/// The longest name that every file system takes, in bytes of UTF-8.
const MAX_BYTES: usize = 240;

/// Names that Windows reserves for devices, whatever follows a dot.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// Returns a name that is safe on every file system, and like `name` as far as possible: without separators, control
/// characters, or characters that change the direction of text; never `.`, `..` or empty, and not too long.
pub fn safe_name(name: &str) -> String {
    let mut safe = String::new();
    for c in name.chars() {
        let refused = c.is_control()
            || "/\\:*?\"<>|".contains(c)
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}');
        let c = if refused { '_' } else { c };
        if safe.len() + c.len_utf8() > MAX_BYTES {
            break;
        }
        safe.push(c);
    }
    // Windows drops dots and spaces at the end.
    let kept = safe.trim_end_matches(['.', ' ']).len();
    let dropped = safe.len() - kept;
    safe.replace_range(kept.., &"_".repeat(dropped));
    let stem = safe.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let port = stem
        .strip_prefix("com")
        .or(stem.strip_prefix("lpt"))
        .is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
    if safe.is_empty() || DEVICES.contains(&stem.as_str()) || port {
        safe.insert(0, '_');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_where_they_are_safe() {
        for name in ["photo.jpg", "Ünïcode — файл.txt", ".bashrc", "a b", "console", "com", "$MFT"] {
            assert_eq!(safe_name(name), name);
        }
        let rows = [
            ("", "_"),
            (".", "_"),
            ("..", "__"),
            ("a/../b", "a_.._b"),
            ("a\\b:c*", "a_b_c_"),
            ("NUL.txt", "_NUL.txt"),
            ("com7", "_com7"),
            ("end. ", "end__"),
            ("a\nb\u{202E}c", "a_b_c"),
        ];
        for (name, safe) in rows {
            assert_eq!(safe_name(name), safe, "{name:?}");
        }
        assert!(safe_name(&"ä".repeat(500)).len() <= MAX_BYTES);
    }
}

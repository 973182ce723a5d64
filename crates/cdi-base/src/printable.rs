//! Makes text safe to print on a terminal: file names and the contents of images are untrusted.

use std::io::{self, Write};

/// Checks whether a character controls the terminal rather than being displayed: control characters, and marks that
/// change the direction of the text after them.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text with every character that controls the terminal replaced, except line ends and tabs.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_control(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Formats bytes in hex, as two lower-case digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Quotes a word for a shell, if necessary.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+=:,".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.to_owned();
    }
    let dashed = if word.starts_with('-') { "./" } else { "" };
    format!("'{dashed}{}'", word.replace('\'', "'\\''"))
}

/// Escapes every character in a JSON text that controls the terminal, except line ends. The value stays the same:
/// outside of strings, where escapes are allowed, JSON contains no such characters but line ends.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) && c != '\n' {
            // All of them are below U+10000.
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// A writer that passes JSON through [`json`].
pub struct Json<W>(pub W);

impl<W: Write> Write for Json<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A JSON writer never splits a character between two writes.
        match std::str::from_utf8(bytes) {
            Ok(text) if text.chars().any(|c| is_control(c) && c != '\n') => {
                self.0.write_all(json(text).as_bytes())?
            }
            _ => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTRUSTED: &str = "a\u{1b}[31m\u{9b}5m\u{202e}b\u{2066}\u{200f}\u{61c}\u{7f}ü\u{2028}\n";

    #[test]
    fn printable_text_contains_no_terminal_controls() {
        let safe = printable(UNTRUSTED);
        assert!(!safe.chars().any(|c| is_control(c) && c != '\n'), "{safe:?}");
        assert!(safe.starts_with("a\u{fffd}[31m") && safe.ends_with("ü\u{2028}\n"));
    }

    #[test]
    fn escaping_does_not_change_the_value_of_json() {
        let value = serde_json::json!({ UNTRUSTED: [UNTRUSTED, 1] });
        let mut text = Vec::new();
        serde_json::to_writer_pretty(Json(&mut text), &value).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\\u202e") && !text.chars().any(|c| is_control(c) && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&value.to_string())).unwrap(), value);
    }
}

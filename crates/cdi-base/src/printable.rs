//! Text that does not drive a terminal: names of files, and whatever an image says, come from others.

use std::io::{self, Write};

/// Whether a character controls how a terminal shows text rather than being shown: control characters, and marks that
/// change the direction of what follows.
fn controls(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with a replacement for every character that controls the terminal, but for line ends and tabs.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if controls(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Bytes in hex, two lower-case digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// JSON with an escape for every character that controls the terminal. Its value stays what it was: outside of strings,
/// which can have escapes, JSON has none of them but line ends.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if controls(c) && c != '\n' {
            // All of them are below U+10000.
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Writes JSON by way of [`json`].
pub struct Json<W>(pub W);

impl<W: Write> Write for Json<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What writes JSON gives whole characters at a time.
        match std::str::from_utf8(bytes) {
            Ok(text) if text.chars().any(|c| controls(c) && c != '\n') => {
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

    const WILD: &str = "a\u{1b}[31m\u{9b}5m\u{202e}b\u{2066}\u{200f}\u{61c}\u{7f}ü\u{2028}\n";

    #[test]
    fn nothing_is_left_that_drives_a_terminal() {
        let tame = printable(WILD);
        assert!(!tame.chars().any(|c| controls(c) && c != '\n'), "{tame:?}");
        assert!(tame.starts_with("a\u{fffd}[31m") && tame.ends_with("ü\u{2028}\n"));
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ WILD: [WILD, 1] });
        let mut text = Vec::new();
        serde_json::to_writer_pretty(Json(&mut text), &value).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\\u202e") && !text.chars().any(|c| controls(c) && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&value.to_string())).unwrap(), value);
    }
}

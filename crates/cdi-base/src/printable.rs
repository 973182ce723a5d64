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

/// Returns the text without what may be secret in addresses (`scheme://…`): a name and a password before '@', and what
/// follows '?', or '#' in addresses of the web. Addresses of Unix sockets (`nbd+unix:///?socket=PATH`) have no secrets.
pub fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let scheme = &rest[scheme_start(rest, at)..at];
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        // Names in object stores may have spaces in them, so that an address has no clear end.
        let next = after.find("://").map(|at| scheme_start(after, at));
        let end = after.find('\n').into_iter().chain(next).min().unwrap_or(after.len());
        let (address, others) = after.split_at(end);
        rest = others;
        // What follows '?' in the address of a Unix socket is its path.
        if scheme.is_empty() || scheme.ends_with("+unix") {
            out.push_str(address);
        } else {
            let is_web = ["http", "https", "ftp"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
            redact_address(address, is_web, &mut out);
        }
    }
    out.push_str(rest);
    out
}

/// Returns where the name of the scheme begins that ends at byte `at` of a text.
fn scheme_start(text: &str, at: usize) -> usize {
    let is_part = |b: &&u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
    at - text.as_bytes()[..at].iter().rev().take_while(is_part).count()
}

/// Returns where the word that begins a text ends: at a space or a quotation mark.
fn word_end(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || "'\"<>`".contains(c)).unwrap_or(text.len())
}

/// Appends an address, of which the scheme is cut off, with any text after it.
fn redact_address(address: &str, is_web: bool, out: &mut String) {
    let word = word_end(address);
    let host = address[..word].find(['/', '?', '#']).unwrap_or(word);
    let (mut from, mut at) = (0, address[..host].rfind('@'));
    // A password may have any characters in it.
    let port = address[..host].trim_end_matches([':', ',', ';']).rsplit_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| !port.ends_with(']') && !port.bytes().all(|b| b.is_ascii_digit())) {
        at = address[..word].rfind('@').or(at);
        from = if at.is_none() { host } else { 0 };
    }
    if let Some(at) = at {
        from = at;
    }
    if from > 0 {
        out.push('…');
    }
    let mut rest = &address[from..];
    while let Some(mark) = rest.find(['?', '#']) {
        let (before, query) = rest.split_at(mark);
        out.push_str(before);
        let end = 1 + word_end(&query[1..]);
        let inside = from + before.len() < word && is_web;
        if end > 1 && (inside || (query.starts_with('?') && query[..end].contains('='))) {
            out.push_str(&query[..1]);
            out.push_str(if query[..end].ends_with(':') { "…:" } else { "…" });
            rest = &query[end..];
            from = word;
        } else {
            out.push_str(&query[..1]);
            rest = &query[1..];
            from += before.len() + 1;
        }
    }
    out.push_str(rest);
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
    fn addresses_lose_what_may_be_secret() {
        for (text, expect) in [
            ("https://h/x?X-Amz-Signature=S: cannot open", "https://h/x?…: cannot open"),
            ("http://u:PW@h:80/x: no", "http://…@h:80/x: no"),
            ("http://u:P/W@h/x", "http://…@h/x"),
            ("http://u:P?W@h/x", "http://…@h/x"),
            ("http://h/x#S and 'http://u@h/y?S'", "http://h/x#… and 'http://…@h/y?…'"),
            ("s3://b/My disk #1?.E01: no", "s3://b/My disk #1?.E01: no"),
            ("s3://b/My disk.raw?X-Amz-Signature=S x", "s3://b/My disk.raw?… x"),
            ("az://c/x?sv=1&sig=S", "az://c/x?…"),
            ("ftp://u:PW@h/x.raw: no", "ftp://…@h/x.raw: no"),
            ("http://[::1]:80/x, http://h: is it there?", "http://[::1]:80/x, http://h: is it there?"),
            ("s3://b/user@host?", "s3://b/user@host?"),
            ("nbd+unix:///x?socket=s, http://h/x?S", "nbd+unix:///x?socket=s, http://h/x?…"),
            ("/x/é://b: why? a=b", "/x/é://b: why? a=b"),
        ] {
            assert_eq!(redacted(text), expect);
        }
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

//! Apple's XML property lists, as stored in disk images.

pub(crate) use plist::Dictionary;

/// Maximum nesting depth: the lists of images are four levels deep.
const MAX_DEPTH: usize = 32;
/// Maximum number of tags: the list of an image has a few for each part of the disk.
const MAX_TAGS: usize = 1 << 18;

/// Parses a property list. The lists of images are flat and define no entities; a deeply nested one would overflow the
/// stack, so it is refused.
pub(crate) fn read(text: &[u8]) -> Result<plist::Value, String> {
    // Each element takes about a hundred bytes of memory.
    if text.iter().filter(|b| **b == b'<').count() > MAX_TAGS {
        return Err(format!("the property list has more than {MAX_TAGS} tags"));
    }
    let mut depth = 0usize;
    for (at, _) in text.iter().enumerate().filter(|(_, b)| **b == b'<') {
        let rest = &text[at..];
        let is = |word: &[u8]| rest.starts_with(word);
        if is(b"<!ENTITY") {
            return Err("the property list defines entities (not supported)".into());
        }
        // Tags inside of these would not count, but the scan below does not parse them.
        if is(b"<!--") || is(b"<![CDATA[") || (is(b"<?") && at > 3) {
            return Err(
                "the property list contains comments or processing instructions (not supported)".into()
            );
        }
        if is(b"<dict") || is(b"<array") {
            let tag = &rest[..rest.len().min(64)];
            let empty = tag.split(|b| *b == b'>').next().is_some_and(|tag| tag.ends_with(b"/"));
            depth += usize::from(!empty);
            if depth > MAX_DEPTH {
                return Err(format!("the property list is nested more than {MAX_DEPTH} levels deep"));
            }
        } else if is(b"</dict") || is(b"</array") {
            depth = depth.saturating_sub(1);
        }
    }
    plist::Value::from_reader_xml(text).map_err(|e| format!("invalid property list: {e}"))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn malicious_property_lists_are_refused() {
        let deep = format!("<plist>{}", "<array>".repeat(100_000));
        assert!(read(deep.as_bytes()).is_err_and(|e| e.contains("more than 32 levels deep")));
        let laughs = b"<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">]><plist>&b;</plist>";
        assert!(read(laughs).is_err_and(|e| e.contains("entities")));
        let hidden = format!("<plist>{}{}", "<array><!--</array>-->".repeat(1000), "</array>".repeat(1000));
        assert!(read(hidden.as_bytes()).is_err_and(|e| e.contains("comments")));
        assert!(read("<dict".repeat(200_000).as_bytes()).is_err());
        assert!(read(b"").is_err());
    }
}

//! The metadata texts in EnCase's images: a line of names and a line of values, separated by tabs.

/// Decodes little-endian UTF-16. Returns None if the text is empty.
pub(crate) fn utf16(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    Some(String::from_utf16_lossy(&units)).filter(|text| !text.is_empty())
}

/// Returns the names and values after the line "main", without empty ones.
pub(crate) fn values(text: &str) -> Vec<(String, String)> {
    let mut lines =
        text.lines().map(|l| l.trim_start_matches('\u{feff}')).skip_while(|l| *l != "main").skip(1);
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return Vec::new() };
    let pairs = names.split('\t').zip(values.split('\t')).filter(|(_, v)| !v.trim().is_empty());
    pairs.map(|(name, value)| (name.into(), value.into())).collect()
}

//! Which files are meant: patterns of names and paths.

use glob::{MatchOptions, Pattern};

/// Patterns as users write them. `*` stands for any characters, `?` for one, `[a-z]` for one of these, upper and lower case
/// alike. A pattern with a slash (or, as on Windows, with backslashes) is compared with the path from the root of the volume, and
/// with the path that begins with the name of the volume; another one with each name in it. A directory stands for everything in
/// it, and so does the name of a volume. No pattern at all stands for every file.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<(Pattern, bool)>);

const HOW: MatchOptions = MatchOptions {
    case_sensitive: false,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

impl Patterns {
    /// Parses patterns.
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Patterns, String> {
        let parse = |text: &str| {
            let slashes = if text.contains('/') { text.to_owned() } else { text.replace('\\', "/") };
            let (text, path) = (&*slashes, slashes.trim_matches('/'));
            let pattern = Pattern::new(path).map_err(|e| format!("'{text}' is not a pattern: {}", e.msg))?;
            Ok((pattern, path.contains('/') || text.starts_with('/')))
        };
        patterns.into_iter().map(parse).collect::<Result<_, String>>().map(Patterns)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a path is meant: a path from the root of a volume with this title, without a slash before it.
    pub fn matches(&self, volume: &str, path: &str) -> bool {
        let full = format!("{volume}/{path}");
        let is_above = |pattern: &Pattern, path: &str| {
            let mut paths = path.match_indices('/').map(|(i, _)| &path[..i]).chain([path]);
            paths.any(|above| pattern.matches_with(above, HOW))
        };
        self.is_empty()
            || self.0.iter().any(|(pattern, whole)| {
                if *whole {
                    is_above(pattern, path) || is_above(pattern, &full)
                } else {
                    // 'f*' does not mean all of 'fat32'.
                    pattern.as_str() == volume || path.split('/').any(|name| pattern.matches_with(name, HOW))
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_what_is_in_it() {
        let path = "Users/Anna/Pictures/IMG_1.JPG";
        let rows = [
            ("*.jpg", true),
            ("pictures", true),
            ("Users/*/Pictures", true),
            ("/Users", true),
            ("Users/anna/pictures/", true),
            ("1-ntfs-C/Users/anna", true),
            ("1-ntfs-C", true),
            ("1-*", false),
            ("2-ntfs-C/Users", false),
            ("users\\anna", true),
            ("Pictures/*.jpg", false),
            ("/Pictures", false),
            ("img_?.jpg", true),
            ("img_[2-9].jpg", false),
            ("*.png", false),
        ];
        for (pattern, matches) in rows {
            assert_eq!(Patterns::parse([pattern]).unwrap().matches("1-ntfs-C", path), matches, "{pattern}");
        }
        assert!(Patterns::parse([]).unwrap().matches("1-ntfs-C", path));
        assert!(Patterns::parse(["a[", "b"]).is_err());
        assert!(Patterns::parse(["*.png", "*.jpg"]).unwrap().matches("1-ntfs-C", path));
    }
}

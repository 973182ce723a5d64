//! The address of a remote file: which server or bucket, and which object.

use std::path::Path;

use cdi_base::error::Error;
use object_store::path::Path as Key;

/// The schemes of addresses, each with what follows it in an example.
const SCHEMES: [&str; 5] = ["https", "http", "s3", "gs", "az"];

/// Where objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    /// A web server: the address without a path.
    Http(String),
    /// A bucket of Amazon S3, or of a server with its interface.
    S3(String),
    /// A bucket of Google Cloud Storage.
    Gs(String),
    /// A container of Azure Blob Storage.
    Az(String),
}

impl Root {
    /// Returns whether its files can be listed.
    pub(super) fn can_list(&self) -> bool {
        !matches!(self, Root::Http(_))
    }
}

/// The address of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) root: Root,
    pub(super) key: Key,
}

/// Returns the scheme of an address, and what follows it, if `path` is one.
fn split(path: &Path) -> Option<(&'static str, &str)> {
    let (scheme, rest) = path.to_str()?.split_once("://")?;
    let known = SCHEMES.into_iter().find(|known| scheme.eq_ignore_ascii_case(known))?;
    Some((known, rest))
}

/// Returns whether `path` is the address of a remote file and not a path of this system.
pub(in crate::input) fn is_remote(path: &Path) -> bool {
    split(path).is_some()
}

impl Location {
    /// Parses an address.
    ///
    /// # Errors
    ///
    /// [`Kind::Usage`](cdi_base::error::Kind::Usage) if it is none, or has parts that may be a password or a token: these
    /// would be in lists, logs and records. Such an error does not repeat the address.
    pub(super) fn parse(path: &Path) -> Result<Location, Error> {
        let wrong = |what: &str| Error::usage(what.to_owned()).at(path);
        let Some((scheme, rest)) = split(path) else { return Err(wrong("not an address")) };
        let (place, key) = rest.split_once('/').unwrap_or((rest, ""));
        let is_web = scheme.starts_with("http");
        if place.contains('@') {
            return Err(Error::usage(format!(
                "a {scheme} address with a name or a password in it is not accepted"
            ))
            .hint(
                "credentials are read from the environment and from the files of the services' own programs",
            ));
        }
        if is_web && key.contains(['?', '#']) {
            return Err(Error::usage(format!(
                "a {scheme} address with '?' or '#' is not accepted: what follows may be a credential"
            ))
            .hint("use the address without it; for a file in S3, s3://BUCKET/KEY"));
        }
        // A name may have a '?' in it; what is pasted from a signed address has parameters after it.
        if key.split_once('?').is_some_and(|(_, query)| query.contains('=')) || place.contains(['?', '#']) {
            return Err(Error::usage(format!(
                "a {scheme} address with parameters ('?…=…') is not accepted: they may be a credential"
            ))
            .hint("use the address without them; credentials are read from the environment"));
        }
        if !is_web && let Some(wrong) = place.chars().find(|c| !is_in_names(*c)) {
            return Err(
                Error::usage(format!("not the name of a bucket: '{wrong}' cannot be in one")).at(path)
            );
        }
        if place.is_empty() {
            return Err(wrong(if is_web { "the address has no host" } else { "the address has no bucket" }));
        }
        let key = if is_web { Key::from_url_path(key) } else { Key::parse(key) };
        let key =
            key.map_err(|_| wrong("not the address of a file: a part of its path is empty, '.' or '..'"))?;
        if key.is_root() {
            return Err(wrong("the address names no file"));
        }
        let root = match scheme {
            "s3" => Root::S3(place.to_owned()),
            "gs" => Root::Gs(place.to_owned()),
            "az" => Root::Az(place.to_owned()),
            web => Root::Http(format!("{web}://{place}/")),
        };
        Ok(Location { root, key })
    }

    /// Returns the address of `name`, which is one component, as it is written in addresses of this kind.
    pub(super) fn written(&self, name: &str) -> String {
        match self.root {
            Root::Http(_) => percent_encoding::utf8_percent_encode(name, IN_PATHS).to_string(),
            _ => name.to_owned(),
        }
    }
}

/// Returns whether a character may be in the name of a bucket or a container.
fn is_in_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.$:".contains(c)
}

/// What is written as %XX in the path of a web address. Source: RFC 3986, section 3.3.
const IN_PATHS: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Location, String> {
        Location::parse(Path::new(text)).map_err(|e| e.to_string())
    }

    #[test]
    fn an_address_is_not_a_path() {
        for path in ["s3://b/k", "https://h/k", "HTTP://h/k", "gs://b/k", "az://c/k"] {
            assert!(is_remote(Path::new(path)), "{path}");
        }
        for path in ["/x/s3:/b", "s3:/b/k", "ftp://h/k", "disk.raw", "x/https://h/k", ""] {
            assert!(!is_remote(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn an_address_is_a_place_and_a_key() {
        let s3 = parsed("s3://cases/2026/My disk%20#1?.E01").unwrap();
        assert_eq!(s3.root, Root::S3("cases".into()));
        assert_eq!(s3.key.as_ref(), "2026/My disk%20#1?.E01");
        assert_eq!(s3.written("a b"), "a b");
        let web = parsed("HTTPS://host:8443/x/My%20disk.E01").unwrap();
        assert_eq!(web.root, Root::Http("https://host:8443/".into()));
        assert_eq!(web.key.as_ref(), "x/My disk.E01");
        assert_eq!(web.written("a b%"), "a%20b%25");
    }

    #[test]
    fn an_address_with_a_credential_is_refused_without_repeating_it() {
        for text in [
            "https://me:geheim@host/x",
            "s3://KEY:geheim@bucket/x",
            "https://host/x?X-Amz-Signature=geheim",
            "s3://bucket/x?X-Amz-Signature=geheim",
            "az://container/x?sv=1&sig=geheim",
            "gs://bucket?token=geheim",
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains("not accepted") && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn an_address_without_a_file_is_refused() {
        for (text, why) in [
            ("s3://bucket", "names no file"),
            ("s3:///key", "no bucket"),
            ("https:///key", "no host"),
            ("https://host/a/../b", "not the address of a file"),
            ("s3://bucket/a//b", "not the address of a file"),
            ("s3://my bucket/a", "not the name of a bucket"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

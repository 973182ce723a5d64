//! What a process opens while it reads remote files. A process that is confined names it before.
//!
//! A rule for a file is forgotten with its inode. A file that is replaced by another while the process runs, as tokens
//! are, is reached by a rule for its directory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Files that are read once, when a server or a bucket is connected.
const ONCE: [&str; 8] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "SERVICE_ACCOUNT",
];
/// The same, in the directory of the user.
const OF_USER: [&str; 3] =
    [".aws/credentials", ".aws/config", ".config/gcloud/application_default_credentials.json"];
/// Files with tokens: read again whenever the credentials that they give have expired, and replaced until then.
const TOKENS: [&str; 3] =
    ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AZURE_FEDERATED_TOKEN_FILE"];
/// Certificates, but not the keys next to them; and how names are looked up. Of /etc, single files: the directory has the
/// passwords. A lookup that fails because one of them was replaced is answered with what is known (`names.rs`).
const SYSTEM: [&str; 20] = [
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
    "/opt/etc/ssl/certs",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/run/systemd/resolve",
    "/run/resolvconf",
];

/// Returns what reading remote files takes, besides connections: files, and directories whose files are read.
pub(in crate::input) fn places() -> Vec<PathBuf> {
    let of = |variables: &'static [&str]| variables.iter().filter_map(std::env::var_os).map(PathBuf::from);
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let of_user = home.iter().flat_map(|home| OF_USER.map(|file| home.join(file)));
    let tokens = of(&TOKENS).flat_map(|token| replaced(&token, home.as_deref()));
    of(&ONCE).chain(of_user).chain(tokens).chain(SYSTEM.map(PathBuf::from)).collect()
}

/// Returns what a file that is replaced takes: the file; the directory that it is in; the same of the file that it is a
/// link to; and the directory with a link like Kubernetes' `..data`, which is replaced in place of the files that it leads to.
/// Directories that hold more than tokens are left out: those of the root directory, /var, the user's and those above.
fn replaced(file: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let parent = |path: &Path| path.parent().map(Path::to_path_buf);
    let is_link = |part: &OsStr| part.as_encoded_bytes().starts_with(b"..") && part != "..";
    let of_links = file.ancestors().filter(|path| path.file_name().is_some_and(is_link)).filter_map(parent);
    let target = file.canonicalize().ok();
    let dirs = parent(file).into_iter().chain(of_links).chain(target.as_deref().and_then(parent));
    // Where it is, not what it is called.
    let place = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let home = home.map(place);
    let is_own = |dir: &PathBuf| {
        let dir = place(dir);
        let of_all = dir.parent().is_none_or(|above| [Path::new("/"), Path::new("/var")].contains(&above));
        dir.is_absolute() && !of_all && !home.as_ref().is_some_and(|home| home.starts_with(&dir))
    };
    std::iter::once(file.to_path_buf()).chain(dirs.filter(is_own)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_token_that_is_replaced_is_reached_by_its_directory() {
        let dir =
            std::env::temp_dir().canonicalize().unwrap().join(format!("cdi-token-{}", std::process::id()));
        let [first, second] = ["..2026_1", "..2026_2"].map(|name| dir.join("tokens").join(name));
        for made in [&first, &second] {
            fs::create_dir_all(made).unwrap();
            fs::write(made.join("token"), "text").unwrap();
        }
        let at = |name: &str| dir.join("tokens").join(name);
        symlink("..2026_1", at("..data")).unwrap();
        symlink("..data/token", at("token")).unwrap();
        for named in [at("token"), at("..data/token")] {
            let places = replaced(&named, None);
            // As Kubernetes does it.
            symlink("..2026_2", at("next")).unwrap();
            fs::rename(at("next"), at("..data")).unwrap();
            let now = named.canonicalize().unwrap();
            assert!(
                now.starts_with(&second) && places.iter().any(|place| now.starts_with(place)),
                "{places:?}"
            );
            symlink("..2026_1", at("next")).unwrap();
            fs::rename(at("next"), at("..data")).unwrap();
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn no_directory_is_opened_up_that_holds_more_than_tokens() {
        let home = Path::new("/home/user");
        for file in [
            "/token",
            "/etc/token",
            "/home/token",
            "/home/user/token",
            "/var/lib/token",
            "token",
            "/etc/../etc/t",
        ] {
            assert_eq!(replaced(Path::new(file), Some(home)), [PathBuf::from(file)], "{file}");
        }
        let own = replaced(Path::new("/home/user/tokens/token"), Some(home));
        assert_eq!(own, ["/home/user/tokens/token", "/home/user/tokens"].map(PathBuf::from));
        let places = places();
        for private in ["/etc/ssl/private/x.key", "/etc/pki/tls/private/x.key", "/etc/shadow"] {
            assert!(!places.iter().any(|place| Path::new(private).starts_with(place)), "{private}");
        }
    }
}

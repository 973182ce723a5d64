//! What the environment says about services, checked before the client takes it: what it cannot put into a request would
//! end the program.

use std::env::vars_os;

use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use reqwest::Url;

use super::location::Root;

/// Ends of the names of settings that are paths, lists or texts, which are in no request as they are.
const FREE: [&str; 9] = [
    "_FILE",
    "_CREDENTIALS",
    "_ACCOUNT",
    "_ACCOUNT_PATH",
    "_ACCOUNT_KEY",
    "_EXCLUDES",
    "_CERTIFICATE",
    "_AGENT",
    "_PATH",
];

/// Checks the variables that the client reads for such a place.
pub(super) fn check(root: &Root) -> Result<(), String> {
    let (start, is_known): (_, fn(&str) -> bool) = match root {
        Root::Http(_) => return Ok(()),
        Root::S3(_) => ("AWS_", |name| name.parse::<AmazonS3ConfigKey>().is_ok()),
        Root::Gs(_) => ("GOOGLE_", |name| name.parse::<GoogleConfigKey>().is_ok()),
        Root::Az(_) => ("AZURE_", |name| name.parse::<AzureConfigKey>().is_ok()),
    };
    for (name, value) in vars_os() {
        // The client skips what is not UTF-8.
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if name.starts_with(start) && is_known(&name.to_ascii_lowercase()) {
            check_value(name, value)?;
        }
    }
    Ok(())
}

/// Checks the value of a setting. The error does not repeat it.
pub(super) fn check_value(name: &str, value: &str) -> Result<(), String> {
    let upper = name.split(' ').next().unwrap_or_default().to_ascii_uppercase();
    let is_key = upper == "AZURE_STORAGE_ACCOUNT_KEY";
    if !is_key && FREE.iter().any(|end| upper.ends_with(end)) {
        return Ok(());
    }
    if let Some(at) = value.bytes().position(|b| !b.is_ascii_graphic()) {
        return Err(format!(
            "{name} is of no use: its character {} is a space, a line break or not ASCII",
            at + 1
        ));
    }
    let is_address = (upper.contains("ENDPOINT") && !upper.contains("USE_")) || upper.ends_with("BASE_URL");
    if is_address && !value.is_empty() {
        let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if url.is_none_or(|url| !url.has_host()) {
            return Err(format!("{name} is of no use: it must be like https://HOST or http://HOST:PORT"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_in_a_request_is_named_and_not_repeated() {
        for (name, value) in [
            ("AWS_SESSION_TOKEN", "geheim\n"),
            ("AWS_ACCESS_KEY_ID", "geheim key"),
            ("AWS_SECRET_ACCESS_KEY", "gehe\u{ef}m"),
            ("AWS_REGION", "geheim\n"),
            ("AWS_ENDPOINT_URL", "127.0.0.1:5611"),
            ("AWS_ENDPOINT_URL", "http://geheim host"),
            ("AWS_ENDPOINT_URL_S3", "ftp://geheim"),
            ("AZURE_STORAGE_SAS_TOKEN", "sig=geheim\n"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "geheim\n"),
            ("AZURE_ENDPOINT", "geheim"),
            ("endpoint_url in ~/.aws", "geheim"),
        ] {
            let error = check_value(name, value).unwrap_err();
            assert!(error.contains(name) && !error.contains("geheim"), "{error}");
        }
        for (name, value) in [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:5611"),
            ("AWS_ENDPOINT_URL", ""),
            ("AWS_ENDPOINT_URL", "https://[::1]:9000/s3"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/home/J\u{fc}rgen/my token"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/home/J\u{fc}rgen/my key.json"),
            ("AWS_REGION", "us-east-1"),
            ("AZURE_STORAGE_USE_EMULATOR", "true"),
        ] {
            assert_eq!(check_value(name, value), Ok(()), "{name}");
        }
    }
}

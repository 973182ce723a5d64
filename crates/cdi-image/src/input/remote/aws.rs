//! The files of Amazon's command line program, `~/.aws/credentials` and `~/.aws/config`: what a profile says.
//!
//! Source of the facts: AWS SDKs and Tools Reference Guide, "Shared config and credentials files".

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the files say about a profile.
pub(super) type Profile = BTreeMap<String, String>;

/// Settings with which a profile has its credentials made by another program or service.
const MADE: [&str; 5] =
    ["credential_process", "role_arn", "sso_session", "sso_start_url", "credential_source"];

/// Reads the profile that the environment chooses. Files that cannot be read say nothing.
pub(super) fn profile() -> Profile {
    let home = |name: &str| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".aws").join(name)).unwrap_or_default()
    };
    let file =
        |variable: &str, name: &str| std::env::var_os(variable).map_or_else(|| home(name), PathBuf::from);
    let name = std::env::var("AWS_PROFILE").or_else(|_| std::env::var("AWS_DEFAULT_PROFILE"));
    let name = name.unwrap_or_else(|_| "default".into());
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let mut profile = section(&read(file("AWS_CONFIG_FILE", "config")), &name, true);
    profile.extend(section(&read(file("AWS_SHARED_CREDENTIALS_FILE", "credentials")), &name, false));
    profile
}

/// Returns the setting of a profile that needs another program, if it has no credentials of its own.
pub(super) fn made_elsewhere(profile: &Profile) -> Option<&'static str> {
    let made = MADE.into_iter().find(|name| profile.contains_key(*name));
    made.filter(|_| !profile.contains_key("aws_access_key_id"))
}

/// Returns the settings in the section of the profile `name`. In the file `config`, sections of profiles have the word
/// `profile` before the name, but for the default one.
fn section(text: &str, name: &str, config: bool) -> Profile {
    let mut found = Profile::new();
    let mut inside = false;
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if let Some(title) =
            line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(title, _)| title)
        {
            let title = title.trim();
            inside = match title.strip_prefix("profile").filter(|rest| rest.starts_with([' ', '\t'])) {
                Some(profile) if config => profile.trim() == name,
                _ => title == name && (!config || name == "default"),
            };
        } else if inside
            && !is_nested
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default();
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[default]
region = eu-central-1 # Frankfurt
[profile case files]
region=us-west-2
s3 =
    addressing_style = path
[profile made]
credential_process = /bin/x
; [profile other]
region = never
";
    const CREDENTIALS: &str = "[default]\naws_access_key_id = A\naws_secret_access_key=a=b==\n\n[case files]\naws_access_key_id=C\n";

    #[test]
    fn a_profile_is_what_its_sections_say() {
        assert_eq!(section(CONFIG, "default", true)["region"], "eu-central-1");
        let case = section(CONFIG, "case files", true);
        assert_eq!(case["region"], "us-west-2");
        assert!(!case.contains_key("addressing_style"));
        assert_eq!(section(CREDENTIALS, "case files", false)["aws_access_key_id"], "C");
        assert_eq!(section(CREDENTIALS, "default", false)["aws_secret_access_key"], "a=b==");
        assert!(
            section(CREDENTIALS, "case", false).is_empty() && section(CONFIG, "made files", true).is_empty()
        );
    }

    #[test]
    fn credentials_that_another_program_makes_are_noticed() {
        let mut made = section(CONFIG, "made", true);
        assert_eq!(made_elsewhere(&made), Some("credential_process"));
        made.insert("aws_access_key_id".into(), "X".into());
        assert_eq!(made_elsewhere(&made), None);
    }
}

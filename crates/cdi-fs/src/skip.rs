//! For tests that need programs which are not everywhere.

/// Says that a test, or a part of one, is skipped because `what` is missing. In CI that is a failure, unless CDI_LACKS names
/// it, as for the integration tests.
pub(crate) fn skip(what: &str) {
    let lacks = std::env::var("CDI_LACKS").unwrap_or_default();
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(
        !ci || lacks.split(',').any(|word| what.contains(word.trim()) && !word.trim().is_empty()),
        "{what} is missing"
    );
    println!("SKIPPED: {what} is missing");
}

/// Returns whether a program is there.
pub(crate) fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/sbin".into(), "/usr/sbin".into()]);
    dirs.into_iter().any(|dir| dir.join(program).is_file())
}

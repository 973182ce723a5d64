//! Errors in the words of the command line: the exit code, and the advice by the options that follow it. Everything that
//! shows an error, or hands one to another process, does it by way of a [`Report`].

use std::error::Error as _;
use std::path::PathBuf;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind, advice_for};
use serde::{Deserialize, Serialize};

/// All kinds, with the names that JSON has for them and the exit codes that docs/CLI.md promises.
const KINDS: [(Kind, &str, u8); 7] = [
    (Kind::Failed, "failed", 1),
    (Kind::Usage, "usage", 2),
    (Kind::BadImage, "bad_image", 3),
    (Kind::DataMissing, "data_missing", 4),
    (Kind::Busy, "busy", 5),
    (Kind::Unavailable, "unavailable", 6),
    (Kind::Interrupted, "interrupted", 130),
];

/// Returns the exit code of a kind of error.
pub fn exit_code(kind: Kind) -> u8 {
    KINDS.iter().find(|(k, ..)| *k == kind).map_or(1, |(.., code)| *code)
}

/// An error, as JSON has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name of its kind.
    pub kind: String,
    /// The exit code that it leads to.
    pub exit: u8,
    /// The file, if there is one, and what went wrong.
    pub message: String,
    /// The file or device.
    pub path: Option<String>,
    /// What caused it, the nearest cause first.
    pub causes: Vec<String>,
    /// What can be done about it.
    pub hint: Option<String>,
}

impl Report {
    /// Returns what is to be said of `error`.
    pub fn of(error: &Error) -> Report {
        let mut advice: Vec<String> = error.advice.iter().map(words).collect();
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            // What the system says may mean the same whatever was done.
            if advice.is_empty() {
                advice.extend(cause.downcast_ref().and_then(advice_for).map(str::to_owned));
            }
            source = cause.source();
        }
        Report {
            kind: KINDS
                .iter()
                .find(|(k, ..)| *k == error.kind)
                .map_or("failed", |(_, name, _)| name)
                .to_owned(),
            exit: exit_code(error.kind),
            message: error.to_string(),
            path: error.path.as_ref().map(|path| path.display().to_string()),
            causes,
            hint: (!advice.is_empty()).then(|| advice.join("; ")),
        }
    }

    /// Returns the message and its causes in one line.
    pub fn line(&self) -> String {
        let causes = self.causes.iter().map(|cause| format!(": {cause}"));
        std::iter::once(self.message.clone()).chain(causes).collect()
    }

    /// Returns the error that another process reported.
    pub fn into_error(self) -> Error {
        let kind =
            KINDS.iter().find(|(_, name, _)| *name == self.kind).map_or(Kind::Failed, |(kind, ..)| *kind);
        let prefix = self.path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default();
        let what = self.message.strip_prefix(&prefix).unwrap_or(&self.message).to_owned();
        let source = self
            .causes
            .into_iter()
            .rev()
            .fold(None, |source, what| Some(Error { source, ..Error::new(kind, what) }.into()));
        let advice = self.hint.into_iter().map(Advice::Text).collect();
        Error { kind, what, path: self.path.map(PathBuf::from), advice, source }
    }
}

/// Returns advice in the words of the command line.
fn words(advice: &Advice) -> String {
    match advice {
        Advice::NameFormat(names) => {
            let options: Vec<_> = names.iter().map(|name| format!("--format {name}")).collect();
            format!("use {}", options.join(" or "))
        }
        Advice::ListFormats => {
            "'cdi formats' lists the formats; use --format raw for a raw image with another suffix".into()
        }
        Advice::AllowDirectory => {
            "only plain files next to the image are read; --allow-parent DIR allows those of another directory".into()
        }
        Advice::BlockSize => {
            "--block-size is the block size that badblocks was given with -b, 1024 by default".into()
        }
        Advice::SectorSize => "give the sector size with --sector-size".into(),
        Advice::Convert(raw) => {
            format!("then make an image of it that allows random access: cdi create {} NEW.cdimg", raw.display())
        }
        Advice::IsMapfile => "give the image that it belongs to, and this file with --mapfile".into(),
        Advice::Repair => "'cdi repair IMAGE NEW.cdimg' salvages what is left".into(),
        Advice::Compact => "'cdi compact IMAGE' rewrites it".into(),
        Advice::Resume(None) => "everything read so far is saved; continue with --resume".into(),
        Advice::Resume(Some(path)) => {
            format!("everything read so far is in {}; continue with --resume and that image", path.display())
        }
        Advice::Overwrite => "use --force to overwrite it".into(),
        Advice::DiscardUnfinished => "--discard-unfinished overwrites it, and what it holds is lost".into(),
        Advice::ReadInUse => "use --force to read it anyway".into(),
        Advice::CheckSystem => "'cdi doctor' checks what this system lacks".into(),
        Advice::Text(_) => advice.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    #[test]
    fn an_error_survives_the_way_to_another_process() {
        let inner = Error::io("cannot be opened", Path::new("/b"), io::Error::other("no"));
        let error =
            Error::new(Kind::Busy, "is in use").at(Path::new("/a")).hint(Advice::Overwrite).because(inner);
        let report = Report::of(&error);
        assert_eq!(report.line(), "/a: is in use: /b: cannot be opened: no");
        assert_eq!((report.exit, report.kind.as_str()), (5, "busy"));
        let text = serde_json::to_string(&report).unwrap();
        let arrived = serde_json::from_str::<Report>(&text).unwrap().into_error();
        assert_eq!(Report::of(&arrived), report);
    }

    #[test]
    fn the_first_path_and_the_first_hint_stay() {
        let error = Error::failed("x").at(Path::new("/a")).at(Path::new("/b")).hint("one").hint("two");
        assert_eq!(error.to_string(), "/a: x");
        assert_eq!(Report::of(&error).hint.as_deref(), Some("one"));
        assert_eq!(Report::of(&error.then("two")).hint.as_deref(), Some("one; two"));
    }
}

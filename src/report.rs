//! Errors in terms of the command line: exit codes, and advice that names options. Errors are printed, and passed to
//! other processes, as a [`Report`].

use std::error::Error as _;
use std::path::PathBuf;

use cdi_base::advice::{Advice, Saved};
use cdi_base::error::{Error, Kind, advice_for};
use cdi_base::printable::redacted;
use serde::{Deserialize, Serialize};

/// All kinds, with their names in JSON and the exit codes that docs/CLI.md documents.
const KINDS: [(Kind, &str, u8); 9] = [
    (Kind::Failed, "failed", 1),
    (Kind::Usage, "usage", 2),
    (Kind::BadImage, "bad_image", 3),
    (Kind::DataMissing, "data_missing", 4),
    (Kind::Busy, "busy", 5),
    (Kind::Unavailable, "unavailable", 6),
    (Kind::Gone, "gone", 7),
    (Kind::PowerCycle, "power_cycle", 8),
    (Kind::Interrupted, "interrupted", 130),
];

/// Returns the exit code of a kind of error.
pub fn exit_code(kind: Kind) -> u8 {
    KINDS.iter().find(|(k, ..)| *k == kind).map_or(1, |(.., code)| *code)
}

/// An error as it appears in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name of the error's kind.
    pub kind: String,
    /// The exit code.
    pub exit: u8,
    /// The path, if there is one, and what went wrong.
    pub message: String,
    /// The file or device.
    pub path: Option<String>,
    /// The underlying errors, the nearest one first.
    pub causes: Vec<String>,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Report {
    /// Returns the report of `error`.
    pub fn of(error: &Error) -> Report {
        let mut advice: Vec<String> = error.advice.iter().map(describe).collect();
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(redacted(&cause.to_string()));
            // Some system errors call for the same advice wherever they occur.
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
            message: redacted(&error.to_string()),
            path: error.path.as_ref().map(|path| redacted(&path.display().to_string())),
            causes,
            hint: (!advice.is_empty()).then(|| redacted(&advice.join("; "))),
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

/// Returns advice in terms of the command line.
fn describe(advice: &Advice) -> String {
    match advice {
        Advice::NameFormat(names) => {
            let options: Vec<_> = names.iter().map(|name| format!("--format {name}")).collect();
            format!("use {}", options.join(" or "))
        }
        Advice::ListFormats => {
            "'cdi formats' lists the formats; use --format raw for a raw image with another suffix".into()
        }
        Advice::AllowDirectory => {
            "only regular files next to the image are read; --allow-parent DIR allows another directory"
                .into()
        }
        Advice::BlockSize => {
            "set --block-size to the block size that badblocks used (its option -b, 1024 by default)".into()
        }
        Advice::ChooseMember => "choose one with --member NAME".into(),
        Advice::ConvertStream(command) => {
            format!("or convert it in one step: {command} | cdi create - NEW.cdimg")
        }
        Advice::SectorSize => "specify the sector size with --sector-size".into(),
        Advice::Passphrase => {
            "give it with --passphrase-file FILE or --passphrase-fd N; on a terminal, it is asked for".into()
        }
        Advice::WrongPassphrase => {
            "one line break at the end of the file does not count, unless a NUL byte follows it".into()
        }
        Advice::Convert(raw) => {
            format!("then convert it to an image with random access: cdi create {} NEW.cdimg", raw.display())
        }
        Advice::IsMapfile => "specify the image that it belongs to, and this file with --mapfile".into(),
        Advice::Repair => "'cdi repair IMAGE NEW.cdimg' salvages what is left".into(),
        Advice::Compact => "'cdi compact IMAGE' rewrites it".into(),
        Advice::Resume(saved @ Saved::In(_)) => format!("{saved}; continue with --resume and that image"),
        Advice::Resume(saved) => format!("{saved}; continue with --resume"),
        Advice::Continue => "'cdi create --resume DISK IMAGE' continues it".into(),
        Advice::Overwrite => "use --force to overwrite it".into(),
        Advice::DiscardUnfinished => "--discard-unfinished overwrites it; the data in it is then lost".into(),
        Advice::ReadInUse => "use --force to read it anyway".into(),
        Advice::Unmount => "unmount it first, with 'cdi unmount IMAGE'".into(),
        Advice::CheckSystem => "'cdi doctor' checks the system requirements".into(),
        Advice::Text(_) => advice.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    #[test]
    fn errors_reach_another_process_unchanged() {
        let inner = Error::io("cannot open", Path::new("/b"), io::Error::other("no"));
        let error =
            Error::new(Kind::Busy, "is in use").at(Path::new("/a")).hint(Advice::Overwrite).because(inner);
        let report = Report::of(&error);
        assert_eq!(report.line(), "/a: is in use: /b: cannot open: no");
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

//! `--copy`: copies files out of an image, damaged ones with holes, and never anything outside the directory.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cdi_base::error::{Error, Kind as ErrorKind};
use cdi_base::units::human;
use cdi_fs::catalogue::{Entry, State};
use cdi_fs::contents::Contents;
use cdi_fs::file_system::{Kind, Record};
use cdi_fs::loss::{Loss, Lost, MAX_RANGES, Why};
use cdi_fs::names::safe_name;
use cdi_fs::pattern::Patterns;
use cdi_image::disk::Disk;
use nix::libc::O_NOFOLLOW;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::list::{damage_text, loss_json};
use super::report::{Outcome, Report, Saved};
use super::{End, Found, Interrupt};
use crate::cli::Files;
use crate::ui::{Progress, Ui};

/// The file that marks a directory as one that `--copy` writes to, with the identity of the disk.
const MARK: &str = ".cdi-files.json";
/// What is added to the name of a file for the list of its holes.
const HOLES: &str = ".bad.json";
/// What is read at a time, in bytes.
const PIECE: usize = 1 << 20;

/// Copies the files that are meant into `dir`.
pub fn copy(
    disk: &Disk,
    volumes: &[Found],
    args: &Files,
    dir: &Path,
    patterns: &Patterns,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<End, Error> {
    prepare(disk, dir)?;
    let total = wanted(volumes, patterns).map(|w| w.entry.size.unwrap_or(0)).sum();
    let mut copier = Copier {
        disk,
        dir,
        made: BTreeSet::new(),
        taken: HashSet::new(),
        both_cases: dir.join(MARK.to_uppercase()).exists(),
        times: Vec::new(),
        links: Vec::new(),
        only_whole: args.only_whole,
        interrupt,
        progress: ui.progress("copying", total),
        report: Report::default(),
    };
    let copied = wanted(volumes, patterns).try_for_each(|file| copier.take(&file));
    let copied = copied.and_then(|()| copier.finish());
    let took = copier.progress.finish();
    // What was saved so far is told also after an interruption.
    let report = copier.report;
    report.write(disk, volumes, dir)?;
    copied?;
    if !ui.json(&report.json(dir)) {
        ui.data(format!("{}, in {took}; see {}", report.line(), dir.join(super::report::HTML).display()));
    }
    Ok(if report.is_whole() { End::Done } else { End::DataMissing })
}

/// Makes the directory, or takes one that an earlier `--copy` of the same disk wrote to.
fn prepare(disk: &Disk, dir: &Path) -> Result<(), Error> {
    let failed = |what: &str, e: io::Error| Error::io(what.to_owned(), dir, e);
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("cannot make the directory", e));
        }
        _ => {}
    }
    let mark = dir.join(MARK);
    let id = json!({ "disk": blake(&disk.identity()), "size_bytes": disk.size() });
    match fs::read(&mark) {
        Ok(text) => {
            let same = serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|found| found == id);
            if !same {
                return Err(Error::new(ErrorKind::Busy, "the directory has files of another disk").at(dir));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut entries = fs::read_dir(dir).map_err(|e| failed("cannot read the directory", e))?;
            if entries.next().is_some() {
                let e = Error::new(ErrorKind::Busy, "the directory is not empty").at(dir);
                return Err(e.hint("name one that does not exist yet"));
            }
            fs::write(&mark, format!("{id}\n")).map_err(|e| failed("cannot write to the directory", e))?;
        }
        Err(e) => return Err(failed("cannot read the directory", e)),
    }
    Ok(())
}

fn blake(identity: &[u8; 32]) -> String {
    identity.iter().map(|b| format!("{b:02x}")).collect()
}

/// A file that is to be copied.
struct Wanted<'a> {
    volume: &'a Found,
    entry: &'a Entry,
    state: State,
    /// The path in the volume; the first of several.
    path: String,
}

/// Returns the files that are meant, in the order of their records, which is roughly that of the disk.
fn wanted<'a>(volumes: &'a [Found], patterns: &'a Patterns) -> impl Iterator<Item = Wanted<'a>> {
    volumes.iter().filter_map(|v| Some((v, v.catalogue.as_ref()?))).flat_map(move |(volume, catalogue)| {
        let entries = catalogue.entries().iter().filter(|e| !e.internal && e.number != catalogue.root());
        entries.filter_map(move |entry| {
            let path = catalogue.paths(entry.number).into_iter().find(|p| patterns.matches(&p.text))?.text;
            Some(Wanted { volume, entry, state: catalogue.state(entry), path })
        })
    })
}

struct Copier<'a> {
    disk: &'a Disk,
    dir: &'a Path,
    /// Directories that exist and are directories, and no links to other places.
    made: BTreeSet<PathBuf>,
    /// Hashes of the paths that are in use; in lower case if the directory takes both cases as the same.
    taken: HashSet<u64>,
    both_cases: bool,
    /// Times of directories, which are set last: copying into one changes its time.
    times: Vec<(PathBuf, SystemTime)>,
    /// Symbolic links, which are made last: nothing is ever written through one.
    links: Vec<(PathBuf, Vec<u8>)>,
    only_whole: bool,
    interrupt: &'a Interrupt,
    progress: Progress,
    report: Report,
}

impl Copier<'_> {
    fn take(&mut self, file: &Wanted<'_>) -> Result<(), Error> {
        self.interrupt.check()?;
        let mut saved = Saved::of(&file.volume.title, &file.path, file.entry.size, file.state);
        saved.outcome = self.save(file, &mut saved)?;
        self.progress.advance(file.entry.size.unwrap_or(0).saturating_sub(saved.copied));
        self.report.add(saved);
        Ok(())
    }

    /// Copies one file. An error is one of the directory that is written to.
    fn save(&mut self, file: &Wanted<'_>, saved: &mut Saved) -> Result<Outcome, Error> {
        let (Some(handle), Some(found)) = (file.entry.handle, file.volume.file_system()) else {
            return Ok(Outcome::NotSaved("its record is lost".into()));
        };
        let relative = format!("{}/{}", file.volume.title, file.path);
        if file.entry.kind == Some(Kind::Directory) {
            let path = self.place(&relative, false);
            self.directory(&path)?;
            self.times.extend(file.entry.modified.and_then(time_of).map(|time| (path, time)));
            return Ok(Outcome::Directory);
        }
        if file.entry.kind == Some(Kind::Other) {
            return Ok(Outcome::NotSaved("it is a device, a socket or the like".into()));
        }
        let volume = file.volume.part.volume(self.disk);
        let record = match found.record(&volume, handle) {
            Ok(record) => record,
            Err(damage) => return Ok(Outcome::NotSaved(damage_text(&damage))),
        };
        if file.entry.kind == Some(Kind::Link) {
            let path = self.place(&relative, true);
            return Ok(match record.target {
                Some(target) => {
                    self.links.push((path, target));
                    Outcome::Whole
                }
                None => Outcome::NotSaved("the target of the link is lost".into()),
            });
        }
        if let Some(packed) = record.data.packed {
            return Ok(Outcome::NotSaved(format!("it is {packed}")));
        }
        if self.only_whole && file.state != State::Whole && file.state != State::NameLost {
            return Ok(Outcome::NotSaved("it is not whole".into()));
        }
        saved.streams = record.streams.iter().map(|(name, _)| name.clone()).collect();
        let path = self.place(&relative, true);
        self.write(&path, &record, Contents::new(volume, &record.data), saved)
    }

    /// Returns where a path of a volume is copied to. Of two files that would have the same name, the second has a number.
    fn place(&mut self, relative: &str, is_file: bool) -> PathBuf {
        let safe: Vec<String> = relative.split('/').map(safe_name).collect();
        let mut path = safe.join("/");
        if is_file {
            let whole = path.clone();
            let mut number = 1;
            while !self.reserve(&path) {
                number += 1;
                let (stem, suffix) = match whole.rsplit_once('.') {
                    Some((stem, suffix)) if !suffix.contains('/') && !stem.ends_with('/') => {
                        (stem, format!(".{suffix}"))
                    }
                    _ => (whole.as_str(), String::new()),
                };
                path = format!("{stem} ({number}){suffix}");
            }
        }
        self.dir.join(path)
    }

    /// Reserves a path, and that of the list of its holes. Returns whether both were free.
    fn reserve(&mut self, path: &str) -> bool {
        let path = if self.both_cases { path.to_lowercase() } else { path.to_owned() };
        let names = [xxh3_64(path.as_bytes()), xxh3_64(format!("{path}{HOLES}").as_bytes())];
        let free = !names.iter().any(|name| self.taken.contains(name));
        if free {
            self.taken.extend(names);
        }
        free
    }

    /// Makes a directory below ours, and those above it.
    fn directory(&mut self, path: &Path) -> Result<(), Error> {
        if path == self.dir || self.made.contains(path) {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.directory(above)?;
        }
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let kind = fs::symlink_metadata(path).map_err(|e| Error::io("cannot look at", path, e))?;
                if !kind.is_dir() {
                    return Err(Error::new(ErrorKind::Busy, "is in the way of a directory").at(path));
                }
            }
            Err(e) => return Err(Error::io("cannot make the directory", path, e)),
        }
        self.made.insert(path.to_owned());
        Ok(())
    }

    fn write(
        &mut self,
        path: &Path,
        record: &Record,
        contents: Contents<'_>,
        saved: &mut Saved,
    ) -> Result<Outcome, Error> {
        let modified = record.times.modified.and_then(time_of);
        let holes = holes_of(path);
        // Copied by an earlier run, and whole then: nothing better can come of it.
        let before = fs::symlink_metadata(path).ok();
        if let Some(before) = before.filter(|b| b.is_file() && b.len() == contents.size() && !holes.exists())
            && modified.is_none_or(|time| before.modified().is_ok_and(|m| same_second(m, time)))
        {
            return Ok(Outcome::Whole);
        }
        if let Some(above) = path.parent() {
            self.directory(above)?;
        }
        let failed = |e: io::Error| Error::io("cannot write", path, e);
        let partial = path.with_file_name(format!(".cdi-{}.partial", std::process::id()));
        let file =
            File::options().write(true).create(true).truncate(true).custom_flags(O_NOFOLLOW).open(&partial);
        let file = file.map_err(failed)?;
        let kept = self.fill(&file, contents, saved).and_then(|loss| {
            file.set_len(contents.size()).map_err(failed)?;
            if let Some(time) = modified {
                let accessed = record.times.accessed.and_then(time_of).unwrap_or(time);
                file.set_times(FileTimes::new().set_modified(time).set_accessed(accessed)).map_err(failed)?;
            }
            fs::rename(&partial, path).map_err(failed)?;
            Ok(loss)
        });
        let loss = match kept {
            Ok(loss) => loss,
            Err(e) => {
                let _ = fs::remove_file(&partial);
                return Err(e);
            }
        };
        if loss.is_empty() {
            match fs::remove_file(&holes) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("cannot remove", &holes, e));
                }
                _ => return Ok(Outcome::Whole),
            }
        }
        let text = json!({ "size_bytes": contents.size(), "lost": loss_json(&loss) });
        fs::write(&holes, format!("{text:#}\n")).map_err(|e| Error::io("cannot write", &holes, e))?;
        let what = format!("{} of it are lost", human(loss.total()));
        saved.loss = loss;
        Ok(Outcome::WithHoles(what))
    }

    /// Copies what can be read, and leaves holes. Returns what is lost.
    fn fill(&mut self, file: &File, contents: Contents<'_>, saved: &mut Saved) -> Result<Loss, Error> {
        let mut loss = Loss::default();
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < contents.size() {
            self.interrupt.check()?;
            let end = (at + PIECE as u64).min(contents.size());
            let copied = contents.read_part(
                at..end,
                &mut buffer,
                &mut |at, bytes| if is_zero(bytes) { Ok(()) } else { file.write_all_at(bytes, at) },
                &mut |lost| add(&mut loss, lost),
            );
            copied.map_err(|e| Error::failed("cannot write the copy of a file").because(e).at(self.dir))?;
            self.progress.advance(end - at);
            saved.copied += end - at;
            at = end;
        }
        Ok(loss)
    }

    /// Makes the symbolic links, and sets the times of directories.
    fn finish(&mut self) -> Result<(), Error> {
        use std::os::unix::ffi::OsStrExt;
        for (path, target) in std::mem::take(&mut self.links) {
            if let Some(above) = path.parent() {
                self.directory(above)?;
            }
            match std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("cannot make the link", &path, e));
                }
                _ => {}
            }
        }
        for (path, time) in std::mem::take(&mut self.times) {
            let set = File::open(&path).and_then(|dir| dir.set_times(FileTimes::new().set_modified(time)));
            set.map_err(|e| Error::io("cannot set the time of", &path, e))?;
        }
        Ok(())
    }
}

/// Returns a time in nanoseconds since 1970; None if it is before that.
fn time_of(nanoseconds: i64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

fn same_second(a: SystemTime, b: SystemTime) -> bool {
    let apart = a.duration_since(b).unwrap_or_else(|e| e.duration());
    apart < Duration::from_secs(2)
}

/// Adds a lost range to those before it.
fn add(loss: &mut Loss, lost: Lost) {
    let len = lost.file.end - lost.file.start;
    match lost.why {
        Why::Bad => loss.bad += len,
        Why::Untried => loss.untried += len,
        Why::Unknown => loss.unknown += len,
    }
    if let Some(last) = loss.ranges.last_mut().filter(|l| l.file.end == lost.file.start && l.why == lost.why)
    {
        last.file.end = lost.file.end;
    } else if loss.ranges.len() < MAX_RANGES {
        loss.ranges.push(lost);
    }
}

/// Returns the path of the list of holes of a damaged file.
fn holes_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(HOLES);
    path.with_file_name(name)
}

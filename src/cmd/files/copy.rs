//! `--copy`: copies files out of an image, damaged ones with holes, and never anything outside the directory.

mod compare;
mod fill;
mod mark;
pub(super) mod target;

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cdi_base::error::Error;
use cdi_fs::catalogue::{Catalogue, Entry, State};
use cdi_fs::contents::Contents;
use cdi_fs::file_system::{Kind, Record};
use cdi_fs::loss::Loss;
use cdi_fs::pattern::Patterns;
use cdi_image::disk::Disk;
use fill::{Failed, fill, holes_json};
use target::{Put, Stop, Target};

use super::list::{damage_text, loss_text};
use super::report::{Outcome, Report, Saved};
use super::{End, Found, Interrupt, Rest};
use crate::cli::Files;
use crate::ui::{Progress, Ui};

/// Copies the files that are meant into `dir`.
pub fn copy(
    disk: &Disk,
    volumes: &[Found],
    args: &Files,
    (dir, rest): (&Path, &Rest),
    patterns: &Patterns,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<End, Error> {
    let target = Target::open(disk, volumes, dir)?;
    let (mut matched, mut harmed, mut files, mut bytes) = (false, false, 0, 0_u64);
    for (entry, state) in volumes.iter().flat_map(|volume| wanted(volume, patterns)) {
        matched = true;
        harmed |= state != State::Whole;
        files += u64::from(entry.kind != Some(Kind::Directory));
        bytes = bytes.saturating_add(entry.size.unwrap_or(0));
    }
    if !matched && !patterns.is_empty() {
        ui.warning("no file matches");
    }
    let mut copier = Copier {
        disk,
        target,
        times: Vec::new(),
        links: Vec::new(),
        only_whole: args.only_whole,
        interrupt,
        progress: ui.progress("copying", bytes),
        report: Report::new(files, dir, rest),
    };
    let copied = volumes.iter().try_for_each(|volume| copier.volume(volume, patterns));
    let copied = copied.and_then(|()| copier.finish());
    let copied = copier.target.sync().and(copied);
    let took = copier.progress.finish();
    // What was saved so far is told also after an interruption.
    let mut report = copier.report;
    report.write(disk, volumes, &copier.target)?;
    copied?;
    if !ui.json(&report.json(dir)) {
        ui.data(format!("{}, in {took}; see {}", report.line(), dir.join(super::report::HTML).display()));
    }
    let hides_nothing = rest.is_empty() && volumes.iter().all(|volume| volume.hides_nothing(disk));
    let whole = report.is_whole() && !harmed && hides_nothing;
    if report.is_whole() && harmed {
        ui.warning(
            "a directory, a name or another stream of a file is not whole: see 'cdi files', or the report",
        );
    }
    if report.is_whole() && !hides_nothing {
        ui.warning("there may be files that nothing is known of: see 'cdi files', or the report");
    }
    Ok(if whole { End::Done } else { End::DataMissing })
}

/// Returns the entries of a volume that are meant, and their states.
fn wanted<'a>(volume: &'a Found, patterns: &'a Patterns) -> impl Iterator<Item = (&'a Entry, State)> {
    volume.catalogue.iter().flat_map(move |catalogue| {
        let meant = entries(catalogue).filter(move |entry| {
            catalogue.paths(entry.number).iter().any(|p| patterns.matches(&volume.title, &p.text))
        });
        meant.map(|entry| (entry, catalogue.state(entry)))
    })
}

fn entries(catalogue: &Catalogue) -> impl Iterator<Item = &Entry> {
    catalogue.entries().iter().filter(|e| !e.internal && e.number != catalogue.root())
}

/// A symbolic link to be made.
struct Link {
    place: PathBuf,
    target: Vec<u8>,
    saved: Saved,
    /// Whether it is counted: other names of the same link are not, if they can be made.
    counts: bool,
}

struct Copier<'a> {
    disk: &'a Disk,
    target: Target,
    /// Times of directories, which are set last: copying into one changes its time.
    times: Vec<(PathBuf, SystemTime)>,
    /// Symbolic links, which are made last: nothing is ever written through one.
    links: Vec<Link>,
    only_whole: bool,
    interrupt: &'a Interrupt,
    progress: Progress,
    report: Report,
}

impl Copier<'_> {
    fn volume(&mut self, volume: &Found, patterns: &Patterns) -> Result<(), Error> {
        let Some(catalogue) = &volume.catalogue else { return Ok(()) };
        let is_directory = |entry: &&Entry| entry.kind == Some(Kind::Directory);
        // Names do not depend on which files are meant: those of all are reserved.
        for entry in entries(catalogue).filter(is_directory) {
            for path in catalogue.paths(entry.number) {
                let title = self.target.title(volume).to_owned();
                self.target.directory(&format!("{title}/{}", path.text));
            }
        }
        for entry in entries(catalogue) {
            self.interrupt.check()?;
            let paths = catalogue.paths(entry.number).into_iter().map(|p| p.text);
            if is_directory(&entry) {
                for path in paths.filter(|path| patterns.matches(&volume.title, path)) {
                    self.directory(volume, entry, &path)?;
                }
                continue;
            }
            let title = self.target.title(volume).to_owned();
            let places: Vec<(String, PathBuf)> = paths
                .map(|path| {
                    let place = self.target.file(&format!("{title}/{path}"), entry.number);
                    (path, place)
                })
                .collect();
            let first = places.first().cloned();
            let meant: Vec<(String, PathBuf)> =
                places.into_iter().filter(|(path, _)| patterns.matches(&volume.title, path)).collect();
            if meant.is_empty()
                && let Some((path, place)) = first
            {
                self.report.not_meant(&format!("{}/{path}", volume.title), &place, entry.size);
            }
            if let Some(((path, place), others)) = meant.split_first() {
                self.file(volume, catalogue.state(entry), entry, (path, place), others)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, volume: &Found, entry: &Entry, path: &str) -> Result<(), Error> {
        let title = self.target.title(volume).to_owned();
        let place = self.target.directory(&format!("{title}/{path}"));
        match self.target.make(&place).map_err(|e| Stop::of(e, &place)) {
            Ok(()) => self.times.extend(entry.modified.and_then(time_of).map(|time| (place, time))),
            Err(Stop::All(e)) => return Err(e),
            Err(Stop::File(_)) => {}
        }
        Ok(())
    }

    /// Copies one file, and links its other names to it.
    fn file(
        &mut self,
        volume: &Found,
        state: State,
        entry: &Entry,
        (path, place): (&str, &Path),
        others: &[(String, PathBuf)],
    ) -> Result<(), Error> {
        let mut saved = Saved::of(&volume.title, path, entry.size, state);
        if entry.kind == Some(Kind::Link) {
            return self.link(volume, entry, place, others, saved);
        }
        let outcome = self.save(volume, entry, place, &mut saved).and_then(|outcome| {
            if matches!(outcome, Outcome::Whole | Outcome::WithHoles(_)) {
                others.iter().try_for_each(|(_, other)| self.other_name(place, other))?;
            }
            Ok(outcome)
        });
        saved.outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Stop::File(why)) => Outcome::NotSaved(why),
            Err(Stop::All(e)) => return Err(e),
        };
        self.progress.advance(entry.size.unwrap_or(0).saturating_sub(saved.copied));
        self.report.add(saved);
        Ok(())
    }

    /// Takes a symbolic link, to be made later under each of its names.
    fn link(
        &mut self,
        found: &Found,
        entry: &Entry,
        place: &Path,
        others: &[(String, PathBuf)],
        mut saved: Saved,
    ) -> Result<(), Error> {
        let target = entry.handle.zip(found.file_system()).and_then(|(handle, files)| {
            let record = files.record(&found.part.volume(self.disk), handle).ok()?;
            record.target.filter(|_| saved.is_whole() && record.damage.is_none())
        });
        let Some(target) = target else {
            saved.outcome = Outcome::NotSaved("the target of the link is lost, or part of it".into());
            self.report.add(saved);
            return Ok(());
        };
        for (path, other) in others {
            let saved = Saved::of(&found.title, path, entry.size, saved.state);
            self.links.push(Link { place: other.clone(), target: target.clone(), saved, counts: false });
        }
        self.links.push(Link { place: place.to_owned(), target, saved, counts: true });
        Ok(())
    }

    fn save(
        &mut self,
        found: &Found,
        entry: &Entry,
        place: &Path,
        saved: &mut Saved,
    ) -> Result<Outcome, Stop> {
        let (Some(handle), Some(files)) = (entry.handle, found.file_system()) else {
            let kept =
                fs::symlink_metadata(place).is_ok_and(|m| m.is_file()) && !target::holes_of(place).exists();
            return Ok(match kept {
                true => Outcome::Kept("its record is lost".into()),
                false => Outcome::NotSaved("its record is lost".into()),
            });
        };
        if entry.kind == Some(Kind::Other) {
            return Ok(Outcome::LeftOut("it is a device, a socket or the like".into()));
        }
        let volume = found.part.volume(self.disk);
        let record = match files.record(&volume, handle) {
            Ok(record) => record,
            Err(damage) => return Ok(Outcome::NotSaved(damage_text(&damage))),
        };
        if let Some(packed) = record.data.packed {
            return Ok(Outcome::NotSaved(format!("it is {packed}")));
        }
        let streams = entry.harm.as_ref().map_or(&[][..], |harm| &harm.streams);
        let stream = |name: &String| match streams.iter().find(|(damaged, _)| damaged == name) {
            Some((_, loss)) => format!("{name} ({})", loss_text(loss)),
            None => name.clone(),
        };
        saved.streams = record.streams.iter().map(|(name, _)| stream(name)).collect();
        let (whole, modified) = (saved.is_whole(), record.times.modified.and_then(time_of));
        if self.only_whole && !whole {
            return Ok(Outcome::NotSaved("it is not whole".into()));
        }
        // What the scan found out may be more than what the record says by itself.
        let damage = entry.harm.as_ref().and_then(|harm| harm.record.as_ref()).or(record.damage.as_ref());
        let damage = damage.map(damage_text);
        let contents = Contents::new(volume, &record.data);
        if whole && damage.is_none() && self.target.has(place, contents.size(), modified) {
            return Ok(Outcome::Whole);
        }
        self.write(place, &record, contents, damage, saved)
    }

    fn write(
        &mut self,
        place: &Path,
        record: &Record,
        contents: Contents<'_>,
        damage: Option<String>,
        saved: &mut Saved,
    ) -> Result<Outcome, Stop> {
        let times = record.times.modified.and_then(time_of).map(|modified| {
            let accessed = record.times.accessed.and_then(time_of).unwrap_or(modified);
            FileTimes::new().set_modified(modified).set_accessed(accessed)
        });
        let mut loss = Loss::default();
        let (interrupt, progress) = (self.interrupt, &mut self.progress);
        let mut fill = |file: &File| {
            loss = fill(file, contents, interrupt, &mut |bytes| {
                progress.advance(bytes);
                saved.copied += bytes;
            })
            .map_err(|e| match e {
                Failed::Interrupted(e) => Stop::All(e),
                Failed::Write(e) => Stop::of(e, place),
            })?;
            let holes = !loss.is_empty() || damage.is_some();
            Ok(holes.then(|| holes_json(contents.size(), &loss, damage.as_deref())))
        };
        let put = self.target.put(place, contents.size(), times, &mut fill)?;
        let mut lost = Vec::new();
        if !loss.is_empty() {
            lost.push(loss_text(&loss));
        }
        lost.extend(damage);
        saved.loss = loss;
        Ok(match put {
            Put::Kept => Outcome::Kept(lost.join("; ")),
            Put::Written if lost.is_empty() => Outcome::Whole,
            Put::Written => Outcome::WithHoles(lost.join("; ")),
        })
    }

    /// Gives a copy another name: as a hard link, or else as another copy.
    fn other_name(&mut self, place: &Path, other: &Path) -> Result<(), Stop> {
        let stop = |e: io::Error| Stop::of(e, other);
        if let Some(above) = other.parent() {
            self.target.make(above).map_err(stop)?;
        }
        for (from, to) in
            [(place.to_owned(), other.to_owned()), (target::holes_of(place), target::holes_of(other))]
        {
            match fs::remove_file(&to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(stop(e)),
                _ => {}
            }
            if from.exists() && fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(stop)?;
            }
        }
        Ok(())
    }

    /// Makes the symbolic links, and sets the times of directories.
    fn finish(&mut self) -> Result<(), Error> {
        for Link { place, target, mut saved, counts } in std::mem::take(&mut self.links) {
            saved.outcome = match self.target.link(&place, Path::new(OsStr::from_bytes(&target))) {
                Ok(()) => Outcome::Whole,
                Err(Stop::File(why)) => Outcome::NotSaved(why),
                Err(Stop::All(e)) => return Err(e),
            };
            if counts || saved.outcome != Outcome::Whole {
                self.report.add(saved);
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

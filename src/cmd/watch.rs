//! `cdi watch IMAGE`: shows an image that another process makes, on the terminal or as a web page.

pub(in crate::cmd) mod place;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::error::Error;
use cdi_base::units::human;
use cdi_capture::rescue::rate::per_second;
use cdi_image::cdimg::layout::STATE_COMPLETE;
use cdi_image::cdimg::{FORMAT, reader};
use cdi_image::disk::Disk;
use cdi_image::image::Opened;
use cdi_image::input::Input;
use place::Place;
use serde_json::{Value, json};

use super::info::health;
use super::{End, Interrupt, plain_reads};
use crate::cli::Watch;
use crate::ui::{Ui, page};

/// How often the image is read, and after how long without a change it is looked up whether a process writes it.
const EVERY: Duration = Duration::from_secs(3);
const QUIET: Duration = Duration::from_secs(30);

pub(super) fn run(args: &Watch, ui: &Ui) -> Result<End, Error> {
    let interrupt = Interrupt::new()?;
    let mut course = Course { sizes: Vec::new(), changed: None, length: 0 };
    let mut state = course.look(&args.image)?;
    let place = args.page.as_deref().map(|at| Place::new(at, &args.image, ui));
    let mut place = place.transpose()?;
    let result = follow(args, &mut course, &mut state, &mut place, &interrupt, ui);
    if result.is_err()
        && let Some(place) = &mut place
    {
        state["state"] = json!("failed");
        place.show(&state, true);
    }
    if result.is_ok() && !ui.json(&state) {
        ui.data(words(&state));
    }
    if let Some(place) = place {
        place.linger();
    }
    result?;
    Ok(if state["rescued_bytes"] == state["wanted_bytes"] { End::Done } else { End::DataMissing })
}

/// Shows the image until it is finished.
fn follow(
    args: &Watch,
    course: &mut Course,
    state: &mut Value,
    place: &mut Option<Place>,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<(), Error> {
    let line = ui.status();
    loop {
        let ended = state["state"] == "finished";
        if let Some(place) = place {
            place.show(state, ended);
        }
        line.show(&words(state));
        let mut event = state.clone();
        event["event"] = json!("watch");
        ui.event(&event);
        if ended {
            return Ok(());
        }
        let next = Instant::now() + EVERY;
        while Instant::now() < next {
            interrupt.check()?;
            thread::sleep(Duration::from_millis(100));
        }
        *state = course.look(&args.image)?;
    }
}

/// What has happened so far.
struct Course {
    /// How many bytes were there, and when.
    sizes: Vec<(Instant, u64)>,
    /// When it changed last, while it is watched.
    changed: Option<Instant>,
    length: u64,
}

impl Course {
    /// Reads the image as it is now.
    fn look(&mut self, path: &Path) -> Result<Value, Error> {
        let input = Arc::new(Input::open(path)?);
        if !(FORMAT.probe)(&input) {
            let what = "not a .cdimg image: only those can be watched while they are made";
            return Err(Error::bad_image(what).at(path));
        }
        let image = reader::open(Arc::clone(&input)).map_err(|e| e.at(path))?;
        let complete = image.superblock().state == STATE_COMPLETE;
        if input.len() != self.length {
            let known = self.length != 0;
            (self.length, self.changed) = (input.len(), known.then(Instant::now));
        }
        let grows = self.changed.is_some_and(|at| at.elapsed() < QUIET);
        let word = match (complete, grows || is_being_written(path)) {
            (true, _) => "finished",
            (false, true) => "imaging",
            (false, false) => "interrupted",
        };
        let disk = Disk::new(Opened { image: Box::new(image), input, format: &FORMAT }, plain_reads());
        let mut state = page::of_image(&disk, word);
        state["messages"] = json!([]);
        if let Some(last) = health::reports(&disk)?.last() {
            state["health"] = last.json();
        }
        let rescued = state["rescued_bytes"].as_u64().unwrap_or(0);
        let now = Instant::now();
        self.sizes.push((now, rescued));
        // Of the last minute.
        let first = self.sizes.iter().position(|(at, _)| now - *at < Duration::from_secs(60)).unwrap_or(0);
        self.sizes.drain(..first);
        let (since, before) = self.sizes[0];
        if !complete && now - since > Duration::from_secs(1) {
            let rate = per_second((rescued.saturating_sub(before), now - since));
            state["bytes_per_second"] = json!(rate);
            state["seconds_left"] = json!((rate > 0).then(|| (disk.size() - rescued) / rate));
        }
        Ok(state)
    }
}

/// Returns whether a process has the image locked for writing.
fn is_being_written(path: &Path) -> bool {
    // Released at once: a process that begins to write does not wait for it.
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Returns the state in words.
fn words(state: &Value) -> String {
    let number = |name: &str| state[name].as_u64().unwrap_or(0);
    let (rescued, wanted) = (number("rescued_bytes"), number("wanted_bytes"));
    let hundredths = u128::from(rescued) * 10_000 / u128::from(wanted.max(1));
    let mut text = format!(
        "{}: {} of {} rescued ({}.{:02} %)",
        state["state"].as_str().unwrap_or_default(),
        human(rescued),
        human(wanted),
        hundredths / 100,
        hundredths % 100
    );
    if number("bytes_per_second") > 0 {
        text.push_str(&format!(", {}/s", human(number("bytes_per_second"))));
    }
    let left = state["left_bytes"].as_object().into_iter().flatten();
    for (status, bytes) in
        left.filter_map(|(status, bytes)| Some((status, bytes.as_u64().filter(|b| *b > 0)?)))
    {
        text.push_str(&format!(", {} {status}", human(bytes)));
    }
    text
}

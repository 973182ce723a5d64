//! `create --watch PORT|FILE.html`: a web page with the map as it grows.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use cdi_base::error::Error;
use cdi_base::workers::lock;
use cdi_capture::rescue::progress::View;
use cdi_capture::rescue::source::Source;
use cdi_image::metadata::{Metadata, rfc3339};
use serde_json::{Value, json};

use super::health::Last;
use crate::cli::Create;
use crate::cmd::watch::place::Place;
use crate::ui::Ui;
use crate::ui::page::Course;

/// How often the state is renewed.
const RENEW: Duration = Duration::from_secs(1);

/// The page of a disk that is being imaged.
pub(super) struct Watch {
    place: Place,
    course: Course,
    health: Arc<Mutex<Option<Last>>>,
    renewed: Option<Instant>,
    /// The state that is shown.
    state: Value,
}

impl Watch {
    /// Prepares the place of the page, if the user wants one, before anything else is changed.
    pub(super) fn prepare(args: &Create, ui: &Ui) -> Result<Option<Place>, Error> {
        let Some(at) = &args.rescue.watch else { return Ok(None) };
        Place::new(at, &args.image, ui).map(Some)
    }

    /// Begins the page, at a place that was prepared.
    pub(super) fn new(
        place: Place,
        args: &Create,
        source: &Source,
        metadata: &Metadata,
        health: &Arc<Mutex<Option<Last>>>,
    ) -> Watch {
        let fixed = json!({
            "image": args.image.display().to_string(),
            "source": source.path().display().to_string(),
            "model": metadata.model,
            "serial": metadata.serial,
            "size_bytes": metadata.size_bytes,
            "sector_bytes": source.metadata().logical,
            "began": rfc3339(SystemTime::now()),
        });
        let (course, health) = (Course::new(fixed), Arc::clone(health));
        Watch { place, course, health, renewed: None, state: Value::Null }
    }

    /// Shows the progress, if it is time to; `mounted` is where the disk is shown.
    pub(super) fn show(&mut self, view: &View, mounted: Option<String>) {
        if self.renewed.is_none_or(|at| at.elapsed() >= RENEW) {
            self.renew(view, "imaging", mounted);
            self.place.show(&self.state, false);
        }
    }

    /// Shows that something else than reading is done now.
    pub(super) fn set_state(&mut self, state: &str) {
        if self.state["state"] != state {
            self.state["state"] = json!(state);
            self.place.show(&self.state, false);
        }
    }

    /// Shows the end.
    pub(super) fn end(&mut self, view: &View, state: &str) {
        self.renew(view, state, None);
        self.place.show(&self.state, true);
    }

    /// Shows that the imaging has failed, if it did not end in another way.
    pub(super) fn fails(&mut self) {
        if matches!(self.state["state"].as_str(), None | Some("imaging" | "waiting" | "hashing")) {
            self.state["state"] = json!("failed");
            self.place.show(&self.state, true);
        }
    }

    /// Lets those who look at the page see the end.
    pub(super) fn wait(self) {
        self.place.linger();
    }

    fn renew(&mut self, view: &View, state: &str, mounted: Option<String>) {
        self.renewed = Some(Instant::now());
        let mut more = json!({});
        if let Some(mounted) = mounted {
            more["mounted"] = json!(mounted);
        }
        if let Some(last) = &*lock(&self.health) {
            let mut health = json!(last.health);
            health["time"] = json!(last.time);
            health["warnings"] = json!(last.warnings);
            more["health"] = health;
        }
        self.state = self.course.state(view, state, more);
    }
}

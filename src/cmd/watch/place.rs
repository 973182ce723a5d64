//! Where the page of a disk is: on a port of this machine, or in a file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::error::Error;
use cdi_base::workers::{self, lock};
use cdi_capture::guard::{Guard, Over};
use cdi_serve::http::{Page, Site};
use serde_json::{Value, json};

use crate::cmd::protect_mounted;
use crate::ui::{Ui, page};

/// How often a file is written.
const WRITE: Duration = Duration::from_secs(10);
/// How long the server goes on at the end while somebody looks at the page, so that they see the end.
const LINGER: Duration = Duration::from_secs(6);

/// The place of the page.
pub(in crate::cmd) enum Place {
    /// It is served.
    Served(Server),
    /// It is written to a file, the last time then.
    File { path: PathBuf, title: String, written: Option<Instant> },
}

/// A page that is served.
pub(in crate::cmd) struct Server {
    state: Arc<Mutex<Value>>,
    /// When somebody asked last, in milliseconds since the start; 0: nobody has.
    asked: Arc<AtomicU64>,
    began: Instant,
}

/// Returns an error if this is no name for a page.
pub(in crate::cmd) fn check_name(path: &Path) -> Result<(), Error> {
    if path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("html")) {
        return Ok(());
    }
    Err(Error::usage("the page is HTML: use a name that ends in .html").at(path))
}

impl Place {
    /// Prepares the place that the user wants for the page of `image`: binds a port, or checks that the file may be written.
    /// `force`: also over another file. The files that are `read` are not overwritten.
    pub(in crate::cmd) fn new(
        at: &Path,
        image: &Path,
        force: bool,
        read: &[&Path],
        ui: &Ui,
    ) -> Result<Place, Error> {
        let title = image.file_name().unwrap_or(image.as_os_str()).to_string_lossy().into_owned();
        match at.to_str().and_then(|text| text.parse::<u16>().ok()) {
            Some(port) => Ok(Place::Served(Server::start(port, title, ui)?)),
            None => {
                check_name(at)?;
                let mut guard = Guard::new(Over { force, discard_unfinished: false });
                protect_mounted(&mut guard);
                guard.protect(image, "is the image");
                read.iter().for_each(|path| guard.protect(path, "is a file that is read"));
                let (output, _) = guard.create(at)?;
                output.finish()?;
                Ok(Place::File { path: at.to_owned(), title, written: None })
            }
        }
    }

    /// Shows a state; in a file not more often than every ten seconds, unless it is `last`.
    pub(in crate::cmd) fn show(&mut self, state: &Value, last: bool) {
        match self {
            Place::Served(server) => *lock(&server.state) = state.clone(),
            Place::File { path, title, written } => {
                if !last && written.is_some_and(|at| at.elapsed() < WRITE) {
                    return;
                }
                *written = Some(Instant::now());
                let mut state = state.clone();
                state["refresh_seconds"] = json!((!last).then_some(WRITE.as_secs()));
                let page = page::html(title, &state);
                // It is our own file by now.
                let guard = Guard::new(Over { force: true, discard_unfinished: false });
                if let Err(e) = guard.write(path, |file| file.write_all(page.as_bytes())) {
                    log::warn!("{e}");
                }
            }
        }
    }

    /// Lets those who look at the page see the end.
    pub(in crate::cmd) fn linger(&self) {
        let Place::Served(Server { asked, began, .. }) = self else { return };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (end, ended) = (millis(began.elapsed()), Instant::now());
        loop {
            let last = asked.load(Ordering::Relaxed);
            let looks = last > 0 && end.saturating_sub(last) < millis(LINGER);
            // The page asks every two seconds.
            if !looks || last > end || ended.elapsed() > LINGER {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        // The last answer is still being sent.
        thread::sleep(Duration::from_millis(200));
    }
}

impl Server {
    fn start(port: u16, title: String, ui: &Ui) -> Result<Server, Error> {
        let site = Site::new(port, &cdi_system::random()?)?;
        let (url, live) = (site.url(), site.relative("state.json"));
        let server = Server { state: Arc::default(), asked: Arc::default(), began: Instant::now() };
        let (shown, asked, began) = (Arc::clone(&server.state), Arc::clone(&server.asked), server.began);
        workers::spawn("page", move || {
            let page = move |path: &str| {
                let mut state = lock(&shown).clone();
                state["live"] = json!(live);
                let page = match path {
                    "/" => Page {
                        kind: "text/html; charset=utf-8",
                        body: page::html(&title, &state).into_bytes(),
                    },
                    "/state.json" => Page { kind: "application/json", body: state.to_string().into_bytes() },
                    _ => return None,
                };
                let now = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                asked.store(now.max(1), Ordering::Relaxed);
                Some(page)
            };
            if let Err(e) = site.serve(page) {
                log::warn!("the page cannot be served any more: {e}");
            }
        })?;
        if !ui.event(&json!({ "event": "page", "url": url })) {
            ui.message(format!("to watch it, open {url}"));
        }
        Ok(server)
    }
}

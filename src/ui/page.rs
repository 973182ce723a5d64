//! The map of a disk as a web page: of a disk that is being imaged, or of an image.

use std::time::{Instant, SystemTime};

use cdi_base::printable;
use cdi_capture::rescue::progress::View;
use cdi_capture::rescue::rate::per_second;
use cdi_image::badmap::cells::cells;
use cdi_image::badmap::{BadRange, Status};
use cdi_image::disk::Disk;
use cdi_image::metadata::rfc3339;
use serde_json::{Value, json};

use super::imaging::{statuses, unsettled, values};
use super::picture;

/// The page. It is filled with the state as JSON, of which all but a few values may be missing.
const TEMPLATE: &str = include_str!("page.html");
/// The number of cells in the map of an image, at most.
const CELLS: u64 = 2048;
/// The largest number of points in the history; then every other one is left out.
const MAX_HISTORY: usize = 300;

/// Returns the page with a title and a state.
pub fn html(title: &str, state: &Value) -> String {
    // Nothing in the JSON may end the element that it is in.
    let json = printable::json(&state.to_string()).replace('<', "\\u003c");
    let mut page = String::with_capacity(TEMPLATE.len() + json.len());
    let mut rest = TEMPLATE;
    // Texts that are filled in may contain the placeholders.
    for (placeholder, text) in [("__TITLE__", super::picture::escape(title)), ("__STATE__", json)] {
        let Some((before, after)) = rest.split_once(placeholder) else { continue };
        page.push_str(before);
        page.push_str(&text);
        rest = after;
    }
    page.push_str(rest);
    page
}

/// Returns whether a file that begins with these bytes is such a page.
pub fn is_ours(start: &[u8]) -> bool {
    let marker = b"<meta name=\"generator\" content=\"cdi\">";
    start.windows(marker.len()).any(|part| part == marker)
}

/// Returns the state of an image.
pub fn of_image(disk: &Disk, state: &str) -> Value {
    let metadata = disk.metadata();
    let sectors = disk.size().div_ceil(disk.sector().into());
    let count = usize::try_from(sectors.min(CELLS)).unwrap_or(1);
    let cells = cells(disk.bad().ranges().iter(), disk.size(), count);
    let listed: u64 = disk.bad().ranges().iter().map(BadRange::len).sum();
    let left: serde_json::Map<_, _> = Status::LISTED
        .into_iter()
        .map(|status| (status.name().to_owned(), json!(disk.bad().count(status).bytes)))
        .collect();
    json!({
        "version": 1,
        "time": rfc3339(SystemTime::now()),
        "image": disk.input().path().display().to_string(),
        "source": metadata.source,
        "model": metadata.model,
        "serial": metadata.serial,
        "size_bytes": disk.size(),
        "sector_bytes": disk.sector(),
        "state": state,
        "began": metadata.created,
        "wanted_bytes": disk.size(),
        "rescued_bytes": disk.size() - listed,
        "areas": disk.bad().ranges().len(),
        "left_bytes": left,
        "map": picture::letters(&cells),
        "messages": disk.image().warnings(),
    })
}

/// What does not change while a disk is imaged, and what has happened so far.
pub struct Course {
    fixed: Value,
    began: Instant,
    history: Vec<[u64; 3]>,
    /// The interval between two points of the history, in seconds.
    step: u64,
    before: Option<(Instant, u64)>,
}

impl Course {
    /// Begins with what does not change: an object of values of the state.
    pub fn new(fixed: Value) -> Course {
        Course { fixed, began: Instant::now(), history: Vec::new(), step: 1, before: None }
    }

    /// Returns the state: `state` is a word for it, `more` has other values.
    pub fn state(&mut self, view: &View, state: &str, more: Value) -> Value {
        let now = Instant::now();
        let seconds = (now - self.began).as_secs();
        if self.history.last().is_none_or(|[at, ..]| seconds >= at + self.step) {
            self.history.push([seconds, view.rescued(), view.errors]);
            if self.history.len() > MAX_HISTORY {
                let mut n = 0;
                self.history.retain(|_| {
                    n += 1;
                    n % 2 == 1
                });
                self.step *= 2;
            }
        }
        let rate = match self.before {
            Some((at, read)) if now > at => per_second((view.read.saturating_sub(read), now - at)),
            _ => per_second((view.read, view.began.elapsed())),
        };
        if self.before.is_none_or(|(at, _)| (now - at).as_secs() >= 5) {
            self.before = Some((now, view.read));
        }
        let (average, unsettled) = (per_second((view.read, view.began.elapsed())), unsettled(view));
        let mut all = values(view);
        for (name, value) in [
            ("version", json!(1)),
            ("time", json!(rfc3339(SystemTime::now()))),
            ("state", json!(state)),
            ("bytes_per_second", json!(rate)),
            ("seconds_left", json!((average > 0).then(|| unsettled / average))),
            ("left_bytes", statuses(view)),
            ("map", json!(picture::letters(&view.cells))),
            ("history", json!(self.history)),
        ] {
            all[name] = value;
        }
        if let Some(head) = &view.dead_head {
            all["dead_head"] = json!({ "of": head.of, "band_bytes": head.band, "left_bytes": head.bytes });
        }
        if view.demanded.reads > 0 {
            let demanded = &view.demanded;
            all["demanded"] =
                json!({ "reads": demanded.reads, "bytes": demanded.bytes, "failed": demanded.failed });
        }
        for part in [&self.fixed, &more] {
            if let (Value::Object(all), Value::Object(part)) = (&mut all, part) {
                all.extend(part.clone());
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_state_ends_the_script() {
        let state =
            json!({ "model": "</script><img src=x onerror=alert(1)>", "image": "__STATE__ & __TITLE__" });
        let page = html("a<b> & \"c\" __STATE__", &state);
        assert!(
            !page.contains("<img")
                && page.matches("</script>").count() == TEMPLATE.matches("</script>").count()
        );
        assert!(page.contains("a&lt;b&gt; &amp; &quot;c&quot; __STATE__</title>"));
        assert!(is_ours(&page.as_bytes()[..4096]) && !is_ours(b"<!DOCTYPE html>"));
        let start = page.find("id=\"state\">").unwrap() + 11;
        let json = &page[start..start + page[start..].find("</script>").unwrap()];
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), state);
    }
}

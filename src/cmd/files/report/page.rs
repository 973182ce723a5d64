//! The report as a page.

use std::fmt::Write;
use std::time::SystemTime;

use cdi_base::units::{human, plural};
use cdi_image::disk::Disk;
use cdi_image::metadata::rfc3339;

use super::{KEPT, NOT_SAVED, Report, Saved, WITH_HOLES, untried};
use crate::cmd::files::Found;
use crate::cmd::files::list::contents_text;

impl Report {
    /// Returns the page.
    pub(super) fn html(&self, disk: &Disk, volumes: &[Found]) -> String {
        let mut page = String::new();
        let image = disk.input().path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let title = format!("Files saved from {image}");
        let _ = write!(
            page,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n<style>{STYLE}</style></head>\n\
             <body><h1>{0}</h1>\n<p>{1}</p>\n<table class=\"sums\">\n",
            escape(&title),
            date()
        );
        let rows = [
            ("Saved whole", "whole"),
            ("Saved with holes: part of the file is missing", "holes"),
            ("Kept as an earlier copy has them: part of them is missing in this image", "kept"),
            ("Not saved", "lost"),
            ("Not reached: the copy was interrupted", "lost"),
        ];
        for ((what, class), (_, count)) in rows.into_iter().zip(self.totals()) {
            if count == 0 && matches!(class, "kept" | "lost") {
                continue;
            }
            let _ = writeln!(page, "<tr class=\"{class}\"><td>{what}</td><td>{count}</td></tr>");
        }
        page.push_str("</table>\n");
        let untried = untried(disk);
        if untried > 0 {
            let text =
                format!("{} of the disk were not read yet: imaging may still save more.", human(untried));
            let _ = writeln!(page, "<p>{text}</p>");
        }
        page.push_str("<h2>The disk</h2>\n<ul>\n");
        let metadata = disk.metadata();
        let name =
            [&metadata.model, &metadata.serial].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        let about = if name.is_empty() { String::new() } else { format!("{name}: ") };
        let _ = writeln!(page, "<li>{}</li>", escape(&format!("{about}{}", human(disk.size()))));
        for volume in volumes {
            let size = human(volume.part.range.end - volume.part.range.start);
            let text = format!("{}: {}, {size}", volume.title, contents_text(volume));
            let _ = writeln!(page, "<li>{}</li>", escape(&text));
        }
        page.push_str("</ul>\n");
        let unknown = self.unknown(disk, volumes);
        if !unknown.is_empty() {
            page.push_str("<h2>What else may be missing</h2>\n<ul>\n");
            unknown.iter().for_each(|text| page.push_str(&format!("<li>{}</li>\n", escape(text))));
            page.push_str("</ul>\n");
        }
        if !self.rest.is_empty() || !self.earlier.rest.is_empty() {
            page.push_str("<h2>Files that are not whole</h2>\n<table>\n<tr><th>File</th><th>Size</th><th>What happened</th></tr>\n");
            for file in self.rest.iter().map(Saved::json).chain(self.earlier.rest.iter().cloned()) {
                let text = |key: &str| escape(file[key].as_str().unwrap_or_default());
                let class = match file["outcome"].as_str() {
                    Some(WITH_HOLES | KEPT) => "holes",
                    Some(NOT_SAVED) => "lost",
                    _ => "whole",
                };
                let (path, what) = (text("path"), text("what"));
                let size = file["size_bytes"].as_u64().map_or_else(String::new, human);
                let _ = writeln!(
                    page,
                    "<tr class=\"{class}\"><td>{path}</td><td>{size}</td><td>{what}</td></tr>"
                );
            }
            page.push_str("</table>\n");
        }
        if self.left_out > 0 {
            let _ = writeln!(
                page,
                "<p>… and {}: 'cdi files' lists them.</p>",
                plural(self.left_out, "more file")
            );
        }
        page.push_str("<p>The holes of a file are zeros; where they are is in the file NAME.bad.json next to it.</p>\n</body></html>\n");
        page
    }
}

const STYLE: &str = "body{font:15px/1.4 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc;overflow-wrap:anywhere}\
.sums td+td{text-align:right;font-weight:bold}.whole td:first-child{border-left:.5em solid #2a2}\
.holes td:first-child,.kept td:first-child{border-left:.5em solid #e90}.lost td:first-child{border-left:.5em solid #c22}";

/// Returns the date and the time, to the minute.
fn date() -> String {
    let now = rfc3339(SystemTime::now());
    let minutes = now.get(..16).unwrap_or(&now);
    format!("{} UTC", minutes.replace('T', " "))
}

/// Escapes text for HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') => {
                escaped.push('\u{FFFD}')
            }
            c => escaped.push(c),
        }
    }
    escaped
}

//! The rates as bars: a picture for people.

use std::fmt::Write;

use crate::read::{Access, Workload};
use crate::table::{Results, is_ours};

const WIDTH: f64 = 960.0;
const NAME: f64 = 150.0;
const BAR: f64 = 15.0;
const TITLE: f64 = 40.0;

/// An SVG with a panel for each workload and a bar for each system and access.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for workload in Workload::ALL {
        let buffered = results.rates(workload, Access::Buffered);
        let direct = results.rates(workload, Access::Direct);
        let most = buffered.iter().chain(&direct).map(|(_, rate)| *rate).fold(1.0, f64::max);
        let scale = (WIDTH - NAME - 90.0) / most;
        let text = format!("{}, cold caches ({}; longer is better)", workload.name(), workload.unit());
        let _ = writeln!(body, r#"<text x="10" y="{:.0}" class="title">{text}</text>"#, y + 22.0);
        y += TITLE;
        for (name, rate) in &buffered {
            let class = if is_ours(name) { "ours" } else { "peer" };
            let _ = writeln!(
                body,
                r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{name}</text>"#,
                NAME - 6.0,
                y + BAR - 2.0
            );
            bar(&mut body, y, rate * scale, class, *rate, "");
            y += BAR;
            if let Some((_, rate)) = direct.iter().find(|(n, _)| n == name) {
                bar(&mut body, y, rate * scale, &format!("{class} direct"), *rate, " O_DIRECT");
                y += BAR;
            }
            y += 5.0;
        }
        y += 10.0;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0}" font-family="sans-serif" font-size="12">
<style>.title{{font-size:16px;font-weight:bold}} .rate{{fill:#444;font-size:11px}}
.ours{{fill:#c4501b}} .peer{{fill:#5b7a99}} .direct{{opacity:.55}}</style>
<rect width="{WIDTH}" height="{y:.0}" fill="#fff"/>
{body}</svg>
"##
    )
}

fn bar(body: &mut String, y: f64, width: f64, class: &str, rate: f64, note: &str) {
    let _ = writeln!(
        body,
        r#"<rect x="{NAME}" y="{y:.0}" width="{width:.1}" height="{:.0}" class="{class}"/>"#,
        BAR - 1.0
    );
    let _ = writeln!(
        body,
        r#"<text x="{:.1}" y="{:.0}" class="rate">{rate:.0}{note}</text>"#,
        NAME + width + 4.0,
        y + BAR - 3.0
    );
}

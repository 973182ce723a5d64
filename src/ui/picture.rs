//! Draws a disk as cells of equal size, each with the least processed status in it. Each status has its own letter and
//! shape, so that colours are not needed to distinguish them.

use std::fmt::Write as _;

use cdi_image::badmap::Status;

/// What a cell shows.
pub trait Cell: Copy + PartialEq {
    /// Returns its letter, its colour on a terminal (SGR), and its colour in a picture.
    fn style(self) -> (char, &'static str, &'static str);
    /// Returns its meaning.
    fn name(self) -> &'static str;
    /// Returns its shape in a picture.
    fn shape(self) -> Shape;
}

/// The shape of a cell in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Plain,
    Dot,
    Dash,
    Slash,
    Bar,
    Cross,
}

impl Cell for Status {
    fn style(self) -> (char, &'static str, &'static str) {
        match self {
            Status::Finished => ('#', "32", "#9bd19b"),
            Status::NonTried => ('.', "90", "#d9d9d9"),
            Status::NonTrimmed => ('*', "33", "#f2cf63"),
            Status::NonScraped => ('/', "35", "#c79be0"),
            Status::Bad => ('X', "31", "#c0392b"),
            Status::Suspect => ('s', "36", "#7ec8e3"),
        }
    }

    fn name(self) -> &'static str {
        Status::name(self)
    }

    fn shape(self) -> Shape {
        match self {
            Status::Finished => Shape::Plain,
            Status::NonTried => Shape::Dot,
            Status::NonTrimmed => Shape::Dash,
            Status::NonScraped => Shape::Slash,
            Status::Bad => Shape::Cross,
            Status::Suspect => Shape::Bar,
        }
    }
}

/// All statuses, best first.
pub const STATUSES: [Status; 6] = [
    Status::Finished,
    Status::Suspect,
    Status::NonTried,
    Status::NonTrimmed,
    Status::NonScraped,
    Status::Bad,
];

/// Checks whether to use colours on an output that is a `terminal` or not; see <https://no-color.org>.
pub fn colours_wanted(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Returns one letter for each cell.
pub fn letters(cells: &[impl Cell]) -> String {
    cells.iter().map(|cell| cell.style().0).collect()
}

/// Returns one letter for each cell, in colour if `colours`.
pub fn line(cells: &[impl Cell], colours: bool) -> String {
    if !colours {
        return letters(cells);
    }
    let mut text = String::new();
    for run in cells.chunk_by(|a, b| a == b) {
        let (_, colour, _) = run[0].style();
        let _ = write!(text, "\x1b[{colour}m{}", letters(run));
    }
    text.push_str("\x1b[0m");
    text
}

/// Returns the meaning of the letters of these cells.
pub fn legend(cells: &[impl Cell], colours: bool) -> String {
    let entries: Vec<String> =
        cells.iter().map(|cell| format!("{} {}", line(&[*cell], colours), cell.name())).collect();
    entries.join("   ")
}

/// Returns a picture as SVG: the title, the cells in rows of `columns`, and a legend.
pub fn svg<C: Cell>(title: &str, legend: &[(C, String)], cells: &[C], columns: usize) -> String {
    const CELL: usize = 10;
    let rows = cells.len().div_ceil(columns);
    let (width, top) = (columns * CELL + 40, 50);
    let height = top + rows * CELL + 30 + legend.len() * 20;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"30\" font-size=\"16\">{0}</text>\n",
        escape(title)
    );
    for (row, line) in cells.chunks(columns).enumerate() {
        let mut column = 0;
        for run in line.chunk_by(|a, b| a == b) {
            let (x, y) = (20 + column * CELL, top + row * CELL);
            draw(&mut svg, run[0], x, y, run.len(), CELL);
            column += run.len();
        }
    }
    for (i, (cell, text)) in legend.iter().enumerate() {
        let y = top + rows * CELL + 20 + i * 20;
        draw(&mut svg, *cell, 20, y, 2, CELL);
        let _ = writeln!(svg, "<text x=\"50\" y=\"{}\">{}</text>", y + CELL, escape(text));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws `count` adjacent cells that show the same.
fn draw(svg: &mut String, shown: impl Cell, x: usize, y: usize, count: usize, cell: usize) {
    let (_, _, colour) = shown.style();
    let (width, inner) = (count * cell, cell - 1);
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{inner}\" fill=\"{colour}\"/>",
        width - 1
    );
    let mut path = String::new();
    for i in 0..count {
        let (left, right) = (x + i * cell + 1, x + (i + 1) * cell - 2);
        let (up, down) = (y + 1, y + inner - 1);
        let middle = y + inner / 2;
        let _ = match shown.shape() {
            Shape::Plain => continue,
            Shape::Dot => write!(path, "M{0} {middle}h1", left + 3),
            Shape::Dash => write!(path, "M{left} {middle}H{right}"),
            Shape::Slash => write!(path, "M{left} {down}L{right} {up}"),
            Shape::Cross => write!(path, "M{left} {up}L{right} {down}M{left} {down}L{right} {up}"),
            Shape::Bar => write!(path, "M{0} {up}V{down}", left + 3),
        };
    }
    if !path.is_empty() {
        let ink = if shown.shape() == Shape::Cross { "white" } else { "#333" };
        let _ = writeln!(svg, "<path d=\"{path}\" stroke=\"{ink}\" stroke-width=\"1.2\" fill=\"none\"/>");
    }
}

pub(super) fn escape(text: &str) -> String {
    super::printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_a_letter_and_a_shape_of_its_own() {
        let letters: String = letters(&STATUSES);
        let mut unique: Vec<char> = letters.chars().collect();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), STATUSES.len());
        let shapes: std::collections::BTreeSet<String> = STATUSES
            .iter()
            .map(|status| {
                let mut svg = String::new();
                draw(&mut svg, *status, 0, 0, 1, 10);
                svg.split("<path").nth(1).unwrap_or("none").to_owned()
            })
            .collect();
        assert_eq!(shapes.len(), STATUSES.len());
        assert_eq!(line(&[Status::Bad, Status::Bad], true), "\x1b[31mXX\x1b[0m");
        assert!(svg("a<b>&\"\u{1b}", &[], &STATUSES, 3).contains("a&lt;b&gt;&amp;&quot;"));
    }
}

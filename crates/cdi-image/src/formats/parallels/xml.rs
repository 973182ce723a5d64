//! A small XML document as a tree.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Maximum nesting depth: descriptors are five levels deep.
const MAX_DEPTH: usize = 16;
/// Maximum number of elements: a descriptor has four for each file of the disk.
const MAX_ELEMENTS: usize = 1 << 18;

/// An element.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub name: String,
    /// The attribute `Version`.
    pub version: Option<String>,
    /// The text directly in it.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// Returns the children of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Returns the first child of this name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Returns the text of the first child of this name, without white space around it.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }

    fn new(start: &BytesStart<'_>) -> Result<Element, String> {
        let version = start.try_get_attribute("Version").map_err(|e| e.to_string())?;
        let version = version.map(|attribute| attribute.value.into_owned());
        Ok(Element { name: start.name().as_ref().to_owned(), version, ..Element::default() })
    }
}

/// Reads a document. Returns its outermost element, or what is wrong.
pub(super) fn read(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    // The elements that are open, the outermost first: the document itself.
    let mut open = vec![Element::default()];
    let mut count = 0;
    loop {
        let event = reader.read_event().map_err(|e| e.to_string())?;
        let is_element = matches!(event, Event::Start(_) | Event::Empty(_));
        count += usize::from(is_element);
        if count > MAX_ELEMENTS || open.len() > MAX_DEPTH {
            return Err(format!("more than {MAX_ELEMENTS} elements, or {MAX_DEPTH} levels"));
        }
        let Some(inner) = open.last_mut() else { return Err("more ends than elements".into()) };
        match event {
            Event::Start(start) => open.push(Element::new(&start)?),
            Event::Empty(start) => inner.children.push(Element::new(&start)?),
            Event::End(_) => {
                let done = open.pop();
                let outer = open.last_mut().ok_or("more ends than elements")?;
                outer.children.extend(done);
            }
            Event::Text(text) => inner.text.push_str(&text),
            Event::CData(text) => inner.text.push_str(&text),
            Event::GeneralRef(name) => inner.text.push(character(&name)?),
            Event::DocType(_) => return Err("a document type (not supported)".into()),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    let [document] = &mut open[..] else { return Err("it ends within an element".into()) };
    document.children.pop().ok_or_else(|| "no element".into())
}

/// Returns the character that a reference stands for.
fn character(reference: &quick_xml::events::BytesRef<'_>) -> Result<char, String> {
    if let Some(c) = reference.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(c);
    }
    match &**reference {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(format!("an unknown entity '{other}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn references_and_sections_are_text() {
        let root =
            read("<?xml version='1.0'?><a Version=\"1.0\"><b>x &amp; &#x41;<![CDATA[<&]]></b><c/></a>")
                .unwrap();
        assert_eq!(root.text_of("b"), Some("x & A<&"));
        assert_eq!((root.text_of("c"), root.version.as_deref()), (Some(""), Some("1.0")));
    }

    #[test]
    fn malicious_documents_are_refused() {
        assert!(read(&"<a>".repeat(100_000)).is_err_and(|e| e.contains("16 levels")));
        assert!(read(&format!("<a>{}</a>", "<b/>".repeat(300_000))).is_err_and(|e| e.contains("elements")));
        let laughs = "<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">]><x>&b;</x>";
        assert!(read(laughs).is_err_and(|e| e.contains("document type")));
        for bad in ["", "<a>", "</a>", "<a></b>", "<a>&b;</a>", "<a", "a", "<a>&</a>"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

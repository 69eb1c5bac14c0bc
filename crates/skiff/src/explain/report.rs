//! The answer: the hops of each way with what was seen at them, and where the first one is broken.

use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) works: bool,
    /// What all ways have in common.
    pub(crate) hops: Vec<Hop>,
    pub(crate) ways: Vec<Walk>,
    /// The first broken hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broken: Option<Broken>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Walk {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) works: bool,
    pub(crate) hops: Vec<Hop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Place {
    /// From a name to an address.
    Name,
    /// From an address and a port to a Service.
    Service,
    /// What the kernel does with the first packet.
    Rules,
    /// Which endpoints there are, and the share of each.
    Endpoints,
    /// Whether something listens there.
    Listener,
    /// A real connection.
    Answer,
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Place::Name => "name",
            Place::Service => "service",
            Place::Rules => "rules",
            Place::Endpoints => "endpoints",
            Place::Listener => "listener",
            Place::Answer => "answer",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    Good,
    Broken,
    /// It could not be looked at, or there is nothing to look at.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hop {
    pub(crate) hop: Place,
    pub(crate) state: State,
    pub(crate) seen: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Broken {
    pub(crate) hop: Place,
    /// A word for programs: `selectorMatchesNothing`.
    pub(crate) cause: &'static str,
    /// One sentence.
    pub(crate) what: String,
    pub(crate) details: Vec<String>,
    /// Commands, or what to connect to instead.
    pub(crate) mend: Vec<String>,
}

impl Broken {
    pub(crate) fn new(hop: Place, cause: &'static str, what: impl Into<String>) -> Self {
        Broken { hop, cause, what: what.into(), details: vec![], mend: vec![] }
    }

    pub(crate) fn detail(mut self, text: impl Into<String>) -> Self {
        self.details.push(text.into());
        self
    }

    pub(crate) fn details(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(texts);
        self
    }

    pub(crate) fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend.push(command.into());
        self
    }

    pub(crate) fn mends(mut self, commands: impl IntoIterator<Item = String>) -> Self {
        self.mend.extend(commands);
        self
    }
}

/// For a person.
pub(crate) fn render(report: &Report, colour: bool) -> String {
    let mut page = Page { text: format!("{} → {}\n", report.from, report.to), colour };
    page.hops(&report.hops);
    let mut said: Vec<&Broken> = vec![];
    for walk in &report.ways {
        if report.ways.len() > 1 || walk.to != report.to || walk.from != report.from {
            let from = if walk.from == report.from { String::new() } else { format!("{} → ", walk.from) };
            page.line(&format!("\n{from}{}", walk.to));
        }
        page.hops(&walk.hops);
        // Several ways may be broken by the same thing.
        if let Some(broken) = walk.broken.as_ref().filter(|b| !said.contains(b)) {
            page.verdict(broken);
            said.push(broken);
        }
    }
    match &report.broken {
        Some(broken) if report.ways.iter().all(|w| w.broken.is_none()) => page.verdict(broken),
        Some(_) => {}
        None => page.line(&format!("\n{}", page.paint("32", "It works."))),
    }
    page.text
}

struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn hops(&mut self, hops: &[Hop]) {
        for hop in hops {
            let mark = match hop.state {
                State::Good => self.paint("32", "✓"),
                State::Broken => self.paint("31", "✗"),
                State::Unknown => self.paint("33", "?"),
            };
            let first = hop.seen.first().map_or("", String::as_str);
            self.line(&format!("{mark} {:<9} {first}", hop.hop.word()));
            for more in hop.seen.iter().skip(1) {
                self.line(&format!("  {:<9} {more}", ""));
            }
        }
    }

    fn verdict(&mut self, broken: &Broken) {
        let head = self.paint("31", &format!("Broken at {}:", broken.hop.word()));
        self.line(&format!("\n{head} {}", broken.what));
        broken.details.iter().for_each(|d| self.line(&format!("  {d}")));
        if !broken.mend.is_empty() {
            self.line("To mend it:");
            broken.mend.iter().for_each(|m| self.line(&format!("  {m}")));
        }
    }
}

//! The command line as kubectl reads it: flags and words in any order, short flags in one go (`-it`), `--` ends flags.

use super::error::{Error, Result, plain};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// A switch: `--x`, `--x=false`.
    Nothing,
    /// Always a value: `--x v`, `--x=v`, `-x v`, `-xv`.
    Value,
    /// A value only by `=`; without one it means this.
    Perhaps(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) long: &'static str,
    pub(super) short: char,
    pub(super) takes: Takes,
    pub(super) help: &'static str,
}

pub(super) const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag { long, short: '\0', takes: Takes::Nothing, help }
}

pub(super) const fn value(long: &'static str, help: &'static str) -> Flag {
    Flag { long, short: '\0', takes: Takes::Value, help }
}

pub(super) const fn perhaps(long: &'static str, bare: &'static str, help: &'static str) -> Flag {
    Flag { long, short: '\0', takes: Takes::Perhaps(bare), help }
}

impl Flag {
    pub(super) const fn short(self, short: char) -> Flag {
        Flag { short, ..self }
    }
}

/// What every verb understands.
pub(super) const GLOBAL: &[Flag] = &[
    value("namespace", "the namespace to act in").short('n'),
    value("kubeconfig", "the file that says how to reach the cluster"),
    value("context", "the context of that file to use"),
    value("cluster", "the cluster of that file to use"),
    value("user", "the user of that file to use"),
    value("server", "the address of the API server").short('s'),
    value("as", "act as this user"),
    value("as-group", "act as a member of this group"),
    value("as-uid", "act as the user with this uid"),
    value("token", "a bearer token to authenticate with"),
    value("request-timeout", "how long a request may take: 1s, 2m, 3h; 0 for any time"),
    value("cache-dir", "accepted; nothing is cached on disk"),
    value("v", "accepted; has no effect").short('v'),
    switch("insecure-skip-tls-verify", "do not check the server's certificate"),
    switch("match-server-version", "accepted; has no effect"),
    switch("warnings-as-errors", "treat warnings of the server as errors"),
    switch("disable-compression", "accepted; has no effect"),
    switch("help", "what this verb does").short('h'),
];

/// The flags and words that were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Args {
    given: Vec<(&'static str, String)>,
    pub(super) words: Vec<String>,
    /// How many words stood before `--`.
    pub(super) dash: Option<usize>,
}

impl Args {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.given.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.given.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The values of a flag that takes a comma list and may be repeated.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        self.all(name).into_iter().flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn on(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    pub(super) fn off(&self, name: &str) -> bool {
        self.get(name) == Some("false")
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => plain(format!(
                "invalid argument {text:?} for \"--{name}\" flag: strconv.ParseInt: parsing {text:?}: invalid syntax"
            )),
        }
    }

    /// The words before and after `--`.
    pub(super) fn split(&self) -> (&[String], &[String]) {
        self.words.split_at(self.dash.unwrap_or(self.words.len()).min(self.words.len()))
    }
}

fn find<'a>(known: &'a [&'static [Flag]], by: impl Fn(&Flag) -> bool) -> Option<&'a Flag> {
    known.iter().flat_map(|f| f.iter()).chain(GLOBAL).find(|f| by(f))
}

/// Reads a verb's arguments (the verb's own name is no longer among them).
pub(super) fn parse(args: &[String], known: &[&'static [Flag]]) -> Result<Args> {
    let mut parsed = Args::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            parsed.dash = Some(parsed.words.len());
            parsed.words.extend(rest.by_ref().cloned());
        } else if let Some(long) = arg.strip_prefix("--") {
            read_long(long, &mut rest, known, &mut parsed)?;
        } else if arg.len() > 1 && arg.starts_with('-') {
            read_short(arg, &mut rest, known, &mut parsed)?;
        } else {
            parsed.words.push(arg.clone());
        }
    }
    Ok(parsed)
}

type Rest<'a> = std::slice::Iter<'a, String>;

fn read_long(text: &str, rest: &mut Rest<'_>, known: &[&'static [Flag]], into: &mut Args) -> Result<()> {
    let (name, given) = match text.split_once('=') {
        Some((name, given)) => (name, Some(given.to_owned())),
        None => (text, None),
    };
    let Some(flag) = find(known, |f| f.long == name) else {
        return plain(format!("unknown flag: --{name}"));
    };
    let value = match (flag.takes, given) {
        (Takes::Nothing, Some(given)) => truth(flag, &given)?,
        (_, Some(given)) => given,
        (Takes::Nothing, None) => "true".to_owned(),
        (Takes::Perhaps(bare), None) => bare.to_owned(),
        (Takes::Value, None) => match rest.next() {
            Some(next) => next.clone(),
            None => return plain(format!("flag needs an argument: --{name}")),
        },
    };
    into.given.push((flag.long, value));
    Ok(())
}

fn read_short(arg: &str, rest: &mut Rest<'_>, known: &[&'static [Flag]], into: &mut Args) -> Result<()> {
    for (at, letter) in arg[1..].char_indices() {
        let Some(flag) = find(known, |f| f.short == letter) else {
            return plain(format!("unknown shorthand flag: {letter:?} in {arg}"));
        };
        let after = &arg[1 + at + letter.len_utf8()..];
        let value = match (flag.takes, after.strip_prefix('='), after) {
            (Takes::Nothing, Some(given), _) => truth(flag, given)?,
            (_, Some(given), _) => given.to_owned(),
            (Takes::Nothing, None, _) => {
                into.given.push((flag.long, "true".to_owned()));
                continue;
            }
            (Takes::Perhaps(bare), None, _) => {
                into.given.push((flag.long, bare.to_owned()));
                continue;
            }
            (Takes::Value, None, "") => match rest.next() {
                Some(next) => next.clone(),
                None => return plain(format!("flag needs an argument: {letter:?} in {arg}")),
            },
            (Takes::Value, None, glued) => glued.to_owned(),
        };
        into.given.push((flag.long, value));
        return Ok(());
    }
    Ok(())
}

fn truth(flag: &Flag, given: &str) -> Result<String> {
    match given {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".into()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".into()),
        _ => {
            let name = match flag.short {
                '\0' => format!("--{}", flag.long),
                short => format!("-{short}, --{}", flag.long),
            };
            Err(Error::Plain(format!(
                "invalid argument {given:?} for {name:?} flag: strconv.ParseBool: parsing {given:?}: invalid syntax"
            )))
        }
    }
}

/// The places of the first words that are no flags or values of flags: the verb, and perhaps its second word. Flags of verbs
/// may stand before the verb, so an unknown flag without `=` is taken to have a value.
pub(super) fn leading_words(args: &[String]) -> Vec<usize> {
    let mut words = Vec::new();
    let mut at = 0;
    while at < args.len() && words.len() < 2 {
        let arg = &args[at];
        if arg == "--" {
            break;
        }
        if !arg.starts_with('-') || arg.len() < 2 {
            words.push(at);
        } else if !arg.contains('=') && consumes(arg) {
            at += 1;
        }
        at += 1;
    }
    words
}

fn consumes(arg: &str) -> bool {
    const SWITCHES: &[&str] = &[
        "--all-namespaces",
        "--watch",
        "--watch-only",
        "--show-labels",
        "--no-headers",
        "--stdin",
        "--tty",
        "--follow",
        "--all",
        "--force",
        "--now",
        "--overwrite",
        "--server-side",
        "--dry-run",
        "--rm",
        "--recursive",
    ];
    match arg.strip_prefix("--") {
        Some(name) => {
            let global = GLOBAL.iter().find(|f| f.long == name);
            !SWITCHES.contains(&arg) && global.is_none_or(|f| f.takes == Takes::Value)
        }
        None => arg.len() == 2 && !matches!(arg, "-h" | "-A" | "-w" | "-i" | "-t" | "-R" | "-p"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] = &[
        value("output", "").short('o'),
        switch("stdin", "").short('i'),
        switch("tty", "").short('t'),
        perhaps("cascade", "background", ""),
    ];

    fn read(line: &str) -> Result<Args> {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&args, &[KNOWN])
    }

    #[test]
    fn anywhere_and_glued() {
        let args = read("pod -oyaml -n x a --tty=false -it --cascade b -- ls -l").unwrap();
        assert_eq!(args.words, ["pod", "a", "b", "ls", "-l"]);
        assert_eq!(args.split().1, ["ls", "-l"]);
        assert_eq!((args.get("output"), args.get("namespace")), (Some("yaml"), Some("x")));
        assert!(args.on("tty") && args.on("stdin"));
        assert_eq!(args.get("cascade"), Some("background"));
    }

    #[test]
    fn refused() {
        let cases = [
            ("--foo", "unknown flag: --foo"),
            ("-iq", "unknown shorthand flag: 'q' in -iq"),
            ("-o", "flag needs an argument: 'o' in -o"),
            ("--output", "flag needs an argument: --output"),
        ];
        for (line, want) in cases {
            assert_eq!(read(line).unwrap_err().to_string(), want);
        }
        assert!(read("--tty=maybe").is_err());
    }

    #[test]
    fn the_verb_may_come_late() {
        let words = |line: &str| {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            leading_words(&args).into_iter().map(|i| args[i].clone()).collect::<Vec<_>>()
        };
        assert_eq!(words("-n x get pods"), ["get", "pods"]);
        assert_eq!(words("--dry-run -o yaml expose deployment a"), ["expose", "deployment"]);
        assert_eq!(words("-nx --context=c get"), ["get"]);
    }
}

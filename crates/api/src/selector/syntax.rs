//! What a label's key and value may look like, and the words in which Kubernetes refuses others.

const NAME_CHARS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_CHARS: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN_CHARS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
     or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Checks `prefix/name` or `name`; the error is the reason alone.
pub(crate) fn check_qualified_name(text: &str) -> Result<(), String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if name.contains('/') {
        return Err(format!(
            "a qualified name {NAME_CHARS} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ));
    }
    if let Some(prefix) = prefix {
        check_prefix(prefix)?;
    }
    match name {
        "" => Err("name part must be non-empty".into()),
        _ if name.len() > 63 => Err("name part must be no more than 63 characters".into()),
        _ if !is_name(name) => Err(format!("name part {NAME_CHARS}")),
        _ => Ok(()),
    }
}

/// Checks a label's value; the error is the reason alone.
pub(crate) fn check_label_value(value: &str) -> Result<(), String> {
    match value {
        "" => Ok(()),
        _ if value.len() > 63 => Err("must be no more than 63 characters".into()),
        _ if !is_name(value) => Err(VALUE_CHARS.into()),
        _ => Ok(()),
    }
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    match prefix {
        "" => Err("prefix part must be non-empty".into()),
        _ if prefix.len() > 253 => Err("prefix part must be no more than 253 characters".into()),
        _ if !prefix.split('.').all(is_dns_word) => Err(format!("prefix part {SUBDOMAIN_CHARS}")),
        _ => Ok(()),
    }
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn is_dns_word(word: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = word.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(plain)) && bytes.iter().all(|b| plain(b) || *b == b'-')
}

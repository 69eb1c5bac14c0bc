//! Links of a proxied page: what begins at the root of its server begins at the proxy's path for the browser.

/// Attributes that hold a URL.
const ATTRIBUTES: &[&str] = &[
    "href",
    "src",
    "action",
    "formaction",
    "cite",
    "background",
    "codebase",
    "longdesc",
    "usemap",
    "manifest",
    "poster",
    "icon",
    "profile",
    "classid",
    "data",
];

/// The URL as the browser must see it: of another server, relative, or behind the proxy already it stays.
pub(super) fn rewrite_url(url: &str, prefix: &str, authority: &str) -> String {
    let own = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme)?.strip_prefix(authority));
    let path = own.unwrap_or(url);
    let absolute = path.starts_with('/') && !path.starts_with("//");
    match absolute && !path.starts_with(prefix) {
        true => format!("{prefix}{path}"),
        false => url.to_string(),
    }
}

/// The page with the links in its tags rewritten. Whatever it is, nothing else of it changes.
pub(super) fn rewrite(page: &[u8], prefix: &str, authority: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + 256);
    let mut rest = page;
    while let Some(open) = rest.iter().position(|b| *b == b'<') {
        let (before, tag) = rest.split_at(open);
        out.extend_from_slice(before);
        let end = tag_end(tag);
        rewrite_tag(&tag[..end], prefix, authority, &mut out);
        rest = &tag[end..];
    }
    out.extend_from_slice(rest);
    out
}

/// Where the tag at the beginning ends, quoted `>` passed over.
fn tag_end(tag: &[u8]) -> usize {
    let mut quote = None;
    for (i, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return i + 1,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    tag.len()
}

fn rewrite_tag(tag: &[u8], prefix: &str, authority: &str, out: &mut Vec<u8>) {
    let mut rest = tag;
    while let Some(sign) = rest.iter().position(|b| *b == b'=') {
        let name = attribute(&rest[..sign]);
        out.extend_from_slice(&rest[..=sign]);
        rest = &rest[sign + 1..];
        let Some((quote, value)) = quoted(rest) else { continue };
        let link = ATTRIBUTES.iter().any(|a| name.eq_ignore_ascii_case(a.as_bytes()));
        out.push(quote);
        match std::str::from_utf8(value) {
            Ok(url) if link => out.extend_from_slice(rewrite_url(url, prefix, authority).as_bytes()),
            _ => out.extend_from_slice(value),
        }
        out.push(quote);
        rest = &rest[value.len() + 2..];
    }
    out.extend_from_slice(rest);
}

/// The last word before the sign.
fn attribute(before: &[u8]) -> &[u8] {
    let before = before.trim_ascii_end();
    let start = before.iter().rposition(|b| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b'/' | b'<'));
    &before[start.map_or(0, |i| i + 1)..]
}

fn quoted(text: &[u8]) -> Option<(u8, &[u8])> {
    let (quote, rest) = text.split_first().filter(|(q, _)| matches!(q, b'"' | b'\''))?;
    let end = rest.iter().position(|b| b == quote)?;
    Some((*quote, &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/pods/p/proxy";

    #[test]
    fn links_from_the_root_go_through_the_proxy() {
        let check = |page: &str, expect: &str| {
            assert_eq!(String::from_utf8(rewrite(page.as_bytes(), PREFIX, "10.0.0.1:80")).unwrap(), expect);
        };
        check("<a href=\"/rewriteme\">test</a>", &format!("<a href=\"{PREFIX}/rewriteme\">test</a>"));
        check("<img alt='a > b' src='/x'/>", &format!("<img alt='a > b' src='{PREFIX}/x'/>"));
        check("<a href=\"x/y\">", "<a href=\"x/y\">");
        check("<a href=\"http://example.com/\">", "<a href=\"http://example.com/\">");
        check("<a href=\"http://10.0.0.1:80/z\">", &format!("<a href=\"{PREFIX}/z\">"));
        check(&format!("<a href=\"{PREFIX}/z\">"), &format!("<a href=\"{PREFIX}/z\">"));
        check("<p title=\"/x\">a = \"/b\" < c</p>", "<p title=\"/x\">a = \"/b\" < c</p>");
        check("<a href=//cdn/x>", "<a href=//cdn/x>");
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        for page in ["", "<", "<a href=", "<a href=\"", "<<>>", "=\"\"", "<a href=\"/x", "<\u{e9} ='\u{e9}'>"] {
            assert_eq!(rewrite(page.as_bytes(), PREFIX, "h"), page.as_bytes(), "{page}");
        }
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(rewrite(&bytes, PREFIX, "h"), bytes);
    }
}

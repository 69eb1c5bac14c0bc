//! `/livez`, `/readyz` and `/healthz`: `ok`, or every check on a line of its own with `?verbose`; a check may be asked for
//! alone (`/readyz/store`) or left out (`?exclude=store`).

use http::request::Parts;
use http::{Response, StatusCode};
use skiff_api::status::Status;

use crate::encode::respond;
use crate::metrics::Page;
use crate::query::Query;
use crate::{Body, Result, Server};

const TEXT: &str = "text/plain; charset=utf-8";

/// A check's name and what it found.
type Check = (&'static str, Result<(), String>);

/// `livez` asks whether a restart would help, `readyz` whether requests are welcome. The names are those of the reference;
/// the store goes by both of its names.
fn checks(server: &Server, what: &str, store: Result<(), String>) -> Vec<Check> {
    let when = |holds: bool, otherwise: &str| if holds { Ok(()) } else { Err(otherwise.to_string()) };
    let roles = when(server.access.aggregates(), "the bootstrap roles are being written");
    let mut checks = vec![
        ("ping", Ok(())),
        ("log", Ok(())),
        ("etcd", store.clone()),
        ("store", store),
        ("poststarthook/rbac/bootstrap-roles", roles),
    ];
    if what == "readyz" {
        let addresses = when(server.services.is_tidied(), "the addresses of Services are being looked through");
        checks.push(("poststarthook/start-service-ip-repair-controllers", addresses));
        checks.push(("shutdown", when(!server.stopping.is_cancelled(), "the server is stopping")));
    }
    checks
}

/// The same as metrics.
pub(crate) fn metrics(server: &Server, store: Result<(), skiff_store::Error>) -> String {
    let name = "kubernetes_healthcheck";
    let mut page = Page::default();
    page.head(name, "gauge", "1 while a check passes.");
    for what in ["livez", "readyz"] {
        let store = store.as_ref().copied().map_err(ToString::to_string);
        for (check, result) in checks(server, what, store) {
            page.line(format_args!("{name}{{name=\"{check}\",type=\"{what}\"}} {}", u8::from(result.is_ok())));
        }
    }
    page.text()
}

pub(crate) fn answer(
    server: &Server,
    parts: &Parts,
    what: &str,
    only: &[&str],
    store: Result<(), skiff_store::Error>,
) -> Result<Response<Body>> {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let left_out: Vec<&str> = query.pairs().iter().filter(|(k, _)| k == "exclude").map(|(_, v)| v.as_str()).collect();
    let checks = checks(server, what, store.map_err(|e| e.to_string()));
    report(what, &only.join("/"), &checks, &left_out, query.has("verbose"))
}

fn report(what: &str, only: &str, checks: &[Check], left_out: &[&str], verbose: bool) -> Result<Response<Body>> {
    let asked: Vec<&Check> = checks.iter().filter(|(name, _)| only.is_empty() || only == *name).collect();
    if asked.is_empty() {
        return Err(Status::no_such_resource());
    }
    let mut lines = String::new();
    let mut failed = false;
    for (name, result) in asked {
        match result {
            _ if left_out.contains(name) => lines += &format!("[+]{name} excluded: ok\n"),
            Ok(()) => lines += &format!("[+]{name} ok\n"),
            Err(why) => {
                failed = true;
                tracing::warn!(check = name, "{what} check failed: {why}");
                lines += &format!("[-]{name} failed: {why}\n");
            }
        }
    }
    for unknown in left_out.iter().filter(|name| !checks.iter().any(|(known, _)| known == *name)) {
        lines += &format!("warn: some health checks cannot be excluded: no matches for {unknown:?}\n");
    }
    Ok(match (failed, verbose) {
        (true, _) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{lines}{what} check failed\n")),
        (false, true) => respond(StatusCode::OK, TEXT, format!("{lines}{what} check passed\n")),
        (false, false) => respond(StatusCode::OK, TEXT, "ok"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn shown(only: &str, left_out: &[&str], verbose: bool) -> (u16, String) {
        let checks = [("ping", Ok(())), ("a/b", Err("it burns".to_string()))];
        match report("readyz", only, &checks, left_out, verbose) {
            Err(status) => (status.code(), String::new()),
            Ok(response) => {
                let code = response.status().as_u16();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                (code, String::from_utf8(body.to_vec()).unwrap())
            }
        }
    }

    #[tokio::test]
    async fn checks_alone_left_out_and_all() {
        assert_eq!(
            shown("", &[], false).await,
            (500, "[+]ping ok\n[-]a/b failed: it burns\nreadyz check failed\n".into())
        );
        assert_eq!(shown("ping", &[], false).await, (200, "ok".into()));
        assert_eq!(shown("a/b", &[], false).await.0, 500);
        assert_eq!(shown("c", &[], false).await.0, 404);
        let all = "[+]ping ok\n[+]a/b excluded: ok\nreadyz check passed\n";
        assert_eq!(shown("", &["a/b"], true).await, (200, all.into()));
        assert!(shown("", &["x"], true).await.1.contains("no matches for \"x\""));
    }
}

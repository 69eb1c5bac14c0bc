//! Every verb, in process, over the memory store.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}})
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn create_get_and_the_errors_users_know() {
    let api = Api::new().await;
    let made = api.create(MAPS, map("a")).await;
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(made["metadata"][field].is_string(), "{field}");
    }
    assert_eq!(api.get(&format!("{MAPS}/a")).await, (200, made));
    let cases = [
        (MAPS, map("a"), 409, "configmaps \"a\" already exists"),
        ("/api/v1/namespaces/no/configmaps", map("a"), 404, "namespaces \"no\" not found"),
        (
            MAPS,
            json!({"kind": "Secret"}),
            400,
            "the kind in the data (Secret) does not match the expected kind (ConfigMap)",
        ),
        (
            MAPS,
            json!({"metadata": {"name": "x", "namespace": "y"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            MAPS,
            json!({"metadata": {"name": "x", "resourceVersion": "1"}}),
            400,
            "resourceVersion should not be set on objects to be created",
        ),
    ];
    for (path, body, code, message) in cases {
        let (got, status) = api.json(Method::POST, path, body).await;
        assert_eq!((got, status["message"].as_str().unwrap()), (code, message));
    }
    let (code, status) = api.get(&format!("{MAPS}/zz")).await;
    assert_eq!((code, &status["message"]), (404, &json!("configmaps \"zz\" not found")));
    assert_eq!(status["details"], json!({"name": "zz", "kind": "configmaps"}));
}

#[tokio::test]
async fn bad_bodies() {
    let api = Api::new().await;
    let big = format!("{{\"data\": {{\"x\": \"{}\"}}}}", "y".repeat(4 << 20));
    for (media, body, code) in [
        ("application/json", "{", 400),
        ("application/json", "[1]", 400),
        ("text/plain", "{}", 415),
        ("application/yaml", "a: [", 400),
        ("application/json", big.as_str(), 413),
    ] {
        let (got, status) = api.ask(Method::POST, MAPS, media, body.to_string()).await;
        assert_eq!(got, code, "{status}");
        assert_eq!(status["kind"], "Status");
    }
    let yaml = "metadata:\n  name: y\ndata:\n  k: v\n";
    assert_eq!(api.ask(Method::POST, MAPS, "application/yaml", yaml).await.0, 201);
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_kept_quiet() {
    let api = Api::new().await;
    let mut odd = map("odd");
    odd["dat"] = json!({});
    let (code, status) = api.json(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), odd.clone()).await;
    assert_eq!((code, &status["message"]), (400, &json!("strict decoding error: unknown field \"dat\"")));
    let response =
        api.send(Method::POST, &format!("{MAPS}?fieldValidation=Warn"), "application/json", odd.to_string()).await;
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"dat\\\"\"");
    let (code, _) = api.json(Method::POST, MAPS, json!({"metadata": {"name": "w"}, "data": {"a": 1}})).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn generated_names_and_dry_run() {
    let api = Api::new().await;
    let made = api.create(MAPS, json!({"metadata": {"generateName": "x-"}})).await;
    assert!(made["metadata"]["name"].as_str().unwrap().starts_with("x-"));
    assert_eq!(made["metadata"]["name"].as_str().unwrap().len(), 7);
    api.create(&format!("{MAPS}?dryRun=All"), map("dry")).await;
    assert_eq!(api.get(&format!("{MAPS}/dry")).await.0, 404);
    assert_eq!(api.json(Method::POST, &format!("{MAPS}?dryRun=Some"), map("dry")).await.0, 400);
}

#[tokio::test]
async fn list_selects_and_pages() {
    let api = Api::new().await;
    for i in 0..7 {
        api.create(MAPS, map(&format!("m{i}"))).await;
    }
    let (_, list) = api.get(&format!("{MAPS}?labelSelector=app%20in%20(m1,m3)")).await;
    assert_eq!(names(&list), ["m1", "m3"]);
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("ConfigMapList"), &Value::Null));
    let (_, list) = api.get(&format!("{MAPS}?fieldSelector=metadata.name=m2")).await;
    assert_eq!(names(&list), ["m2"]);
    let (_, first) = api.get(&format!("{MAPS}?limit=3")).await;
    assert_eq!((names(&first).len(), &first["metadata"]["remainingItemCount"]), (3, &json!(4)));
    api.create(MAPS, map("m9")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = api.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let (_, third) = api.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    assert_eq!(names(&third), ["m6"], "the page shows its own revision");
    assert!(third["metadata"]["continue"].is_null());
    assert_eq!(api.get(&format!("{MAPS}?continue=rubbish")).await.0, 400);
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion=99999")).await.0, 504);
    assert_eq!(api.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.0, 400);
}

#[tokio::test]
async fn update_minds_versions() {
    let api = Api::new().await;
    let path = format!("{MAPS}/a");
    let made = api.create(MAPS, map("a")).await;
    let mut next = made.clone();
    next["data"]["a"] = "2".into();
    let (code, updated) = api.json(Method::PUT, &path, next.clone()).await;
    assert_eq!((code, &updated["data"]["a"]), (200, &json!("2")));
    assert_eq!(updated["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, status) = api.json(Method::PUT, &path, next).await;
    let words = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!((code, status["message"].as_str().unwrap()), (409, words));
    let (code, same) = api.json(Method::PUT, &path, updated.clone()).await;
    assert_eq!(
        (code, &same["metadata"]["resourceVersion"]),
        (200, &updated["metadata"]["resourceVersion"]),
        "no change, no write"
    );
    assert_eq!(api.json(Method::PUT, &path, map("a")).await.0, 200, "unconditional");
    assert_eq!(api.json(Method::PUT, &format!("{MAPS}/zz"), map("zz")).await.0, 404);
    assert_eq!(api.json(Method::PUT, &path, map("b")).await.0, 400);
}

#[tokio::test]
async fn patches() {
    let api = Api::new().await;
    let path = format!("{MAPS}/a");
    api.create(MAPS, map("a")).await;
    assert_eq!(api.merge(&path, json!({"data": {"b": "2"}})).await.1["data"], json!({"a": "1", "b": "2"}));
    let json_patch = json!([{"op": "remove", "path": "/data/a"}]).to_string();
    let (_, patched) = api.ask(Method::PATCH, &path, "application/json-patch+json", json_patch.clone()).await;
    assert_eq!(patched["data"], json!({"b": "2"}));
    assert_eq!(api.ask(Method::PATCH, &path, "application/json-patch+json", json_patch).await.0, 422);
    let (_, patched) =
        api.ask(Method::PATCH, &path, "application/strategic-merge-patch+json", r#"{"data":{"b":null}}"#).await;
    assert!(patched["data"].as_object().is_none_or(|d| d.is_empty()));
    assert_eq!(api.ask(Method::PATCH, &path, "application/json", "{}").await.0, 415);
    assert_eq!(api.merge(&path, json!({"metadata": {"resourceVersion": "1"}})).await.0, 409);
    assert_eq!(api.merge(&format!("{MAPS}/zz"), json!({})).await.0, 404);
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let api = Api::new().await;
    api.create(MAPS, map("a")).await;
    let path = format!("{MAPS}/a");
    let patches = (0..20).map(|i| api.merge(&path, json!({"data": {format!("k{i}"): "v"}})));
    let codes: Vec<u16> = futures::future::join_all(patches).await.into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [200; 20]);
    assert_eq!(api.get(&path).await.1["data"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn deletes_and_finalizers() {
    let api = Api::new().await;
    let path = format!("{MAPS}/a");
    let made = api.create(MAPS, map("a")).await;
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(api.json(Method::DELETE, &path, wrong).await.0, 409);
    let (code, status) = api.delete(&path).await;
    assert_eq!(
        (code, &status["status"], &status["details"]["uid"]),
        (200, &json!("Success"), &made["metadata"]["uid"])
    );
    assert_eq!(api.delete(&path).await.0, 404);
    let mut held = map("a");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.create(MAPS, held).await;
    let (_, marked) = api.delete(&path).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(api.merge(&path, json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(api.get(&path).await.0, 404);
    for name in ["x", "y", "z"] {
        api.create(MAPS, map(name)).await;
    }
    let (code, gone) = api.delete(&format!("{MAPS}?labelSelector=app!=y")).await;
    assert_eq!((code, names(&gone).len()), (200, 2));
    assert_eq!(names(&api.get(MAPS).await.1), ["y"]);
}

#[tokio::test]
async fn pods_are_bound_and_end_in_time() {
    let api = Api::new().await;
    let made = api.create(PODS, pod("p")).await;
    assert_eq!((&made["spec"]["serviceAccountName"], &made["status"]["phase"]), (&json!("default"), &json!("Pending")));
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert!(made["spec"]["volumes"][0]["projected"].is_object());
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.json(Method::POST, &format!("{PODS}/p/binding"), binding.clone()).await.0, 201);
    let bound = api.get(&format!("{PODS}/p")).await.1;
    assert_eq!(
        (&bound["spec"]["nodeName"], &bound["status"]["conditions"][0]["type"]),
        (&json!("n1"), &json!("PodScheduled"))
    );
    assert_eq!(api.json(Method::POST, &format!("{PODS}/p/binding"), binding).await.0, 409);
    let (_, going) = api.delete(&format!("{PODS}/p")).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 200);
    assert_eq!(api.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.0, 200);
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 404);
    let status = json!({"metadata": {"name": "x"}, "spec": {"serviceAccountName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    let (code, refused) = api.json(Method::POST, PODS, status).await;
    assert_eq!(code, 403);
    assert!(refused["message"].as_str().unwrap().ends_with("serviceaccount \"nobody\" not found"), "{refused}");
}

#[tokio::test]
async fn status_is_its_own_half() {
    let api = Api::new().await;
    api.create(PODS, pod("p")).await;
    let (_, patched) = api
        .merge(&format!("{PODS}/p/status"), json!({"status": {"phase": "Running"}, "spec": {"nodeName": "x"}}))
        .await;
    assert_eq!((&patched["status"]["phase"], &patched["spec"]["nodeName"]), (&json!("Running"), &Value::Null));
    let (_, patched) = api.merge(&format!("{PODS}/p"), json!({"status": {"phase": "Failed"}})).await;
    assert_eq!(patched["status"]["phase"], "Running");
}

#[tokio::test]
async fn scale() {
    let api = Api::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "d"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    let d = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
    let made = api.create(path, d).await;
    assert_eq!((&made["spec"]["replicas"], &made["metadata"]["generation"]), (&json!(1), &json!(1)));
    let (_, scale) = api.get(&format!("{path}/d/scale")).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(1), &json!("app=d"))
    );
    let (code, scale) = api.merge(&format!("{path}/d/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(4)), "{scale}");
    let now = api.get(&format!("{path}/d")).await.1;
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(4), &json!(2)));
    let mut stale = scale.clone();
    stale["metadata"]["resourceVersion"] = "1".into();
    assert_eq!(api.json(Method::PUT, &format!("{path}/d/scale"), stale).await.0, 409);
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let api = Api::new().await;
    let svc = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let made = api.create(SERVICES, svc("a", json!({"selector": {"a": "b"}, "ports": ports}))).await;
    assert!(made["spec"]["clusterIP"].as_str().unwrap().starts_with("10."));
    let fixed = json!({"type": "NodePort", "clusterIP": "10.96.0.99", "ports": [{"port": 80, "nodePort": 31000}]});
    api.create(SERVICES, svc("b", fixed.clone())).await;
    let (code, refused) = api.json(Method::POST, SERVICES, svc("c", fixed.clone())).await;
    assert_eq!(code, 422);
    let words = refused["message"].as_str().unwrap();
    assert!(
        words.contains("provided IP is already allocated") && words.contains("provided port is already allocated"),
        "{words}"
    );
    let (_, changed) = api
        .merge(&format!("{SERVICES}/b"), json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}))
        .await;
    assert!(changed["spec"]["clusterIP"].is_null() && changed["spec"]["ports"][0]["nodePort"].is_null(), "{changed}");
    let again = api.create(SERVICES, svc("c", fixed.clone())).await;
    assert_eq!(again["spec"]["ports"][0]["nodePort"], 31000);
    assert_eq!(api.delete(&format!("{SERVICES}/c")).await.0, 200);
    api.create(&format!("{SERVICES}?dryRun=All"), svc("d", fixed.clone())).await;
    api.create(SERVICES, svc("d", fixed)).await;
}

#[tokio::test]
async fn a_thousand_services_at_once_get_a_thousand_addresses() {
    let api = Api::new().await;
    let one = |i: usize| {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
        let body = json!({"metadata": {"name": format!("s{i}")}, "spec": spec});
        api.create(SERVICES, body)
    };
    let made = futures::future::join_all((0..300).map(one)).await;
    let distinct = |pick: fn(&Value) -> String| made.iter().map(pick).collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(distinct(|s| s["spec"]["clusterIP"].to_string()), 300);
    assert_eq!(distinct(|s| s["spec"]["ports"][0]["nodePort"].to_string()), 300);
}

#[tokio::test]
async fn namespaces_end_when_they_are_finalized() {
    let api = Api::new().await;
    let made = api.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    assert_eq!(
        (&made["status"]["phase"], &made["metadata"]["labels"]["kubernetes.io/metadata.name"]),
        (&json!("Active"), &json!("n"))
    );
    let (_, going) = api.delete("/api/v1/namespaces/n").await;
    assert_eq!(going["status"]["phase"], "Terminating");
    let (code, refused) = api.json(Method::POST, "/api/v1/namespaces/n/configmaps", map("a")).await;
    assert_eq!(code, 403);
    assert!(refused["message"].as_str().unwrap().contains("because it is being terminated"));
    let mut done = going.clone();
    done["spec"]["finalizers"] = json!([]);
    assert_eq!(api.json(Method::PUT, "/api/v1/namespaces/n/finalize", done).await.0, 200);
    assert_eq!(api.get("/api/v1/namespaces/n").await.0, 404);
    assert_eq!(api.delete("/api/v1/namespaces/default").await.0, 403);
}

#[tokio::test]
async fn the_kubernetes_service_is_there() {
    let api = Api::new().await;
    let (_, service) = api.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let (_, endpoints) = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.1");
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=kubernetes";
    assert_eq!(names(&api.get(path).await.1), ["kubernetes"]);
}

#[tokio::test]
async fn paths_that_are_no_resources() {
    let api = Api::new().await;
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps/v1",
        "/apis/apps",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/apis/apps/v1",
        "/version",
    ] {
        assert_eq!(api.get(path).await.0, 200, "{path}");
    }
    for path in ["/nothing", "/api/v2", "/apis/nope/v1", "/api/v1/nothing"] {
        assert_eq!(api.get(path).await.0, 404, "{path}");
    }
    for path in ["/healthz", "/livez", "/readyz", "/readyz?verbose", "/livez/ping"] {
        assert_eq!(api.send(Method::GET, path, "", "").await.status(), 200, "{path}");
    }
}

/// Every way to say of which revision a list is to be.
#[tokio::test]
async fn lists_by_revision() {
    let store: std::sync::Arc<dyn skiff_store::Store> = std::sync::Arc::new(skiff_store::memory::Memory::new());
    let api = Api::over(store.clone(), &["10.96.0.0/12"]).await;
    let mut revisions = vec![];
    for name in ["a", "b", "c"] {
        let made = api.create(MAPS, map(name)).await;
        revisions.push(made["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
    }
    let (a, b) = (&revisions[0], &revisions[1]);
    let (all, first): (&[&str], &[&str]) = (&["a", "b", "c"], &["a"]);
    for (query, expected) in [
        (String::new(), Ok(all)),
        ("resourceVersion=0".into(), Ok(all)),
        (format!("resourceVersion={a}"), Ok(all)),
        (format!("resourceVersion={a}&resourceVersionMatch=NotOlderThan"), Ok(all)),
        (format!("resourceVersion={a}&resourceVersionMatch=Exact"), Ok(first)),
        (format!("resourceVersion={b}&resourceVersionMatch=Exact&limit=1"), Ok(first)),
        (format!("resourceVersion={a}&limit=5"), Ok(first)),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan&limit=1".into(), Ok(first)),
        ("resourceVersion=0&resourceVersionMatch=Exact".into(), Err(400)),
        ("resourceVersionMatch=Exact".into(), Err(400)),
        ("resourceVersionMatch=NotOlderThan".into(), Err(400)),
        (format!("resourceVersion={a}&resourceVersionMatch=Newest"), Err(400)),
        ("resourceVersion=x".into(), Err(400)),
        ("resourceVersion=99999".into(), Err(504)),
        (format!("continue=e30&resourceVersion={a}"), Err(400)),
        ("continue=nonsense".into(), Err(400)),
    ] {
        let (code, list) = api.get(&format!("{MAPS}?{query}")).await;
        match expected {
            Ok(want) => assert_eq!((code, names(&list).as_slice()), (200, want), "{query}"),
            Err(want) => assert_eq!(code, want, "{query}: {list}"),
        }
    }

    let (_, page) = api.get(&format!("{MAPS}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    api.create(MAPS, map("b2")).await;
    let (_, rest) = api.get(&format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!(names(&rest), ["b", "c"], "as of the first page's revision");
    let newest = store.revision().await.unwrap();
    store.compact(newest).await.unwrap();
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion={a}&resourceVersionMatch=Exact")).await.0, 410);
    let (code, gone) = api.get(&format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    let token = gone["metadata"]["continue"].as_str().expect("a token for the rest as it is now");
    let (_, rest) = api.get(&format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!(names(&rest), ["b", "b2", "c"]);
}

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema;

/// Writes messages by hand.
#[derive(Clone, Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut n: u64) -> Self {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
        self
    }

    fn number(self, field: u64, n: i64) -> Self {
        self.varint(field << 3).varint(n as u64)
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut out = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        out.0.extend(bytes);
        out
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn below(self, field: u64, message: Message) -> Self {
        self.bytes(field, &message.0)
    }
}

fn m() -> Message {
    Message::default()
}

fn body(api_version: &str, kind: &str, raw: Message) -> Vec<u8> {
    let envelope = m().below(1, m().text(1, api_version).text(2, kind)).below(2, raw).text(3, "").text(4, "");
    [MAGIC, &envelope.0].concat()
}

fn entry(key: &str, value: &str) -> Message {
    m().text(1, key).text(2, value)
}

#[test]
fn a_service_as_kubectl_sends_it() {
    let int = |n| m().number(1, 0).number(2, n).text(3, "");
    let port = m().text(1, "80-http").text(2, "TCP").number(3, 80).below(4, int(8080)).number(5, 31000);
    let named =
        m().text(1, "b").text(2, "").number(3, 81).below(4, m().number(1, 1).number(2, 0).text(3, "web")).number(5, 0);
    let metadata = m().text(1, "np").text(2, "").text(3, "").number(7, 0).below(8, m()).below(11, entry("app", "np"));
    let spec =
        m().below(1, port).below(1, named).below(2, entry("app", "np")).text(3, "").text(4, "NodePort").number(13, 0);
    let service = m().below(1, metadata).below(2, spec).below(3, m().below(1, m()));
    assert_eq!(
        decode(&body("v1", "Service", service)).unwrap(),
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "np", "labels": {"app": "np"}},
            "spec": {"ports": [
                    {"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 31000},
                    {"name": "b", "port": 81, "targetPort": "web"}],
                "selector": {"app": "np"}, "type": "NodePort"},
            "status": {"loadBalancer": {}}})
    );
}

#[test]
fn inlined_messages_pointers_and_data() {
    // Volume.volumeSource is inlined; defaultMode is a pointer and keeps its 0.
    let volume = m().text(1, "v").below(2, m().below(6, m().text(1, "s").number(3, 0)));
    let pod = m().below(2, m().below(1, volume));
    assert_eq!(
        decode(&body("v1", "Pod", pod)).unwrap()["spec"]["volumes"],
        json!([{"name": "v", "secret": {"secretName": "s", "defaultMode": 0}}])
    );
    let secret = m().below(2, m().text(1, "a").bytes(2, b"hello")).text(3, "Opaque");
    assert_eq!(decode(&body("v1", "Secret", secret)).unwrap()["data"], json!({"a": "aGVsbG8="}));
    let at = m().number(1, 1_700_000_000).number(2, 0);
    let map = m().below(1, m().text(1, "c").below(8, at));
    assert_eq!(decode(&body("v1", "ConfigMap", map)).unwrap()["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
}

#[test]
fn bad_bodies_are_refused() {
    assert_eq!(decode(b"{}"), Err(Error::NoMagic));
    assert_eq!(decode(b"k8s\0\x0a\xff"), Err(Error::Malformed));
    let unknown = decode(&body("v9", "Nope", m()));
    assert_eq!(unknown, Err(Error::UnknownKind { api_version: "v9".into(), kind: "Nope".into() }));
    assert_eq!(decode(&body("v1", "ConfigMap", m().number(1, 3))), Err(Error::Malformed));
}

#[test]
fn every_truncation_is_survived() {
    let spec = m().below(1, m().text(1, "a").number(3, 80).below(4, m().number(2, 1))).below(2, entry("k", "v"));
    let whole = body("v1", "Service", m().below(1, m().text(1, "x")).below(2, spec));
    for end in 0..whole.len() {
        let _ = decode(&whole[..end]);
        let mut broken = whole.clone();
        broken[end] ^= 0x55;
        let _ = decode(&broken);
    }
}

#[test]
fn zeros_that_mean_something() {
    let backend = m().below(4, m().text(1, "web").below(2, m().text(1, "http").number(2, 0)));
    let spec = m().text(4, "").below(1, m().below(3, m()).below(4, m()));
    let ingress = decode(&body("networking.k8s.io/v1", "Ingress", m().below(2, spec))).unwrap();
    assert_eq!(ingress["spec"]["ingressClassName"], "");
    let ingress = decode(&body("networking.k8s.io/v1", "Ingress", m().below(2, m().below(1, backend)))).unwrap();
    assert_eq!(ingress["spec"]["defaultBackend"], json!({"service": {"name": "web", "port": {"name": "http"}}}));
    let affinity = m().below(14, m().below(1, m().number(1, 0)));
    let service = decode(&body("v1", "Service", m().below(2, affinity))).unwrap();
    assert_eq!(service["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 0}}));
    let token = decode(&body(
        "authentication.k8s.io/v1",
        "TokenRequest",
        m().below(2, m().number(4, 600).below(3, m().text(1, "Pod").text(2, "v1").text(3, "p").text(4, "u-1"))),
    ));
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u-1"});
    assert_eq!(token.unwrap()["spec"], json!({"boundObjectRef": bound, "expirationSeconds": 600}));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(kind in 0..RESOURCES.len(), raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let resource = &RESOURCES[kind];
        let _ = decode(&raw);
        let _ = decode(&body(&resource.api_version(), resource.kind, Message(raw)));
    }

    /// Well-formed fields with any numbers in any nesting get further in than mere noise.
    #[test]
    fn any_messages_are_survived(kind in 0..RESOURCES.len(), raw in messages_of_any_shape()) {
        let resource = &RESOURCES[kind];
        if let Ok(value) = decode(&body(&resource.api_version(), resource.kind, raw)) {
            prop_assert_eq!(&value["kind"], resource.kind);
        }
    }
}

fn messages_of_any_shape() -> impl Strategy<Value = Message> {
    let leaf = prop_oneof![
        (1..30u64, any::<i64>()).prop_map(|(field, n)| m().number(field, n)),
        (1..30u64, "[a-z0-9]{0,5}").prop_map(|(field, text)| m().text(field, &text)),
    ];
    leaf.prop_recursive(6, 64, 5, |below| {
        proptest::collection::vec((1..30u64, below), 0..5)
            .prop_map(|fields| fields.into_iter().fold(m(), |out, (field, below)| out.below(field, below)))
    })
}

/// Every field of the table is one of its message's schema, so that a slip of the pen cannot lose what clients send.
#[test]
fn every_field_of_the_table_is_known() {
    let mut checked = 0;
    for r in RESOURCES {
        compile::with(&r.schema, |table, _| {
            for (message, entries) in messages() {
                let Some(Node::Object(schema)) = table.find(&format!("io.k8s.{message}")) else { continue };
                for entry in entries {
                    let Entry::Named(name, _) = entry else { continue };
                    assert!(schema.iter().any(|(n, _)| n.as_ref() == *name), "{message}.{name}");
                    checked += 1;
                }
            }
        });
    }
    assert!(checked > 1000, "{checked}");
}

/// The table names messages and fields that the schemas know.
#[test]
fn the_table_fits_the_schemas() {
    for r in RESOURCES {
        let name = r.schema.name();
        let fields = messages().get(name.trim_start_matches("io.k8s.")).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(fields[0], Entry::Named("metadata", Zero::Usual), "{name}");
        let sample = decode(&body(&r.api_version(), r.kind, m().below(1, m().text(1, "n")))).unwrap();
        assert_eq!(sample["metadata"], json!({"name": "n"}));
        assert_eq!(schema::check(r, &sample), []);
    }
}

/// What kubectl sent for `kubectl create …`, and what the same command prints with `--dry-run=client -o json`.
#[test]
fn bodies_of_kubectl() {
    macro_rules! captured {
        ($($name:literal)*) => {
            [$(($name,
                include_bytes!(concat!("testdata/", $name, ".bin")).as_slice(),
                include_str!(concat!("testdata/", $name, ".json")))),*]
        };
    }
    let all = captured![
        "clusterrole" "cronjob" "deployment" "disruptionbudget" "headless" "ingress" "priorityclass" "quota" "role"
        "rolebinding" "secret" "service" "serviceaccount"
    ];
    for (name, body, printed) in all {
        let printed: Value = serde_json::from_str(printed).unwrap();
        assert_eq!(decode(body).unwrap(), printed, "{name}");
        for end in 0..body.len() {
            let _ = decode(&body[..end]);
        }
    }
}

/// What was read can be written, and is then read as the same: for everything that kubectl sent, and for objects with every
/// field that their schemas have.
#[test]
fn what_is_written_is_read_back() {
    for (name, body) in [
        ("deployment", include_bytes!("testdata/deployment.bin").as_slice()),
        ("ingress", include_bytes!("testdata/ingress.bin")),
        ("secret", include_bytes!("testdata/secret.bin")),
        ("cronjob", include_bytes!("testdata/cronjob.bin")),
    ] {
        let object = decode(body).unwrap();
        assert_eq!(decode(&encode(&object).unwrap()).unwrap(), object, "{name}");
    }
    let mut lost = vec![];
    for r in RESOURCES {
        let mut full = compile::with(&r.schema, |table, node| sample(table, node, 0));
        full["apiVersion"] = r.api_version().into();
        full["kind"] = r.kind.into();
        let again = decode(&encode(&full).unwrap()).unwrap();
        differences(r.kind, &full, &again, &mut lost);
    }
    lost.retain(|line| !UNNUMBERED.iter().any(|field| line.contains(field)));
    assert!(lost.is_empty(), "{lost:#?}");
}

/// Fields of alpha features that are off, whose numbers the table does not have; and what Go's messages do not have.
const UNNUMBERED: [&str; 6] = [
    "StatefulSet.spec.volumeClaimTemplates.apiVersion:",
    "StatefulSet.spec.volumeClaimTemplates.kind:",
    ".schedulingGroup:",
    ".allocatedResourcesStatus.resources.message:",
    ".volumeMounts.volumeStatus:",
    ".nodeAllocatableResourceClaimStatuses:",
];

/// A value with every field, three levels below any message that was met before.
fn sample(table: &Table, node: &Node, depth: usize) -> Value {
    const DEEP: usize = 14;
    match node {
        Node::Any | Node::AnyObject => json!({"x": 1}),
        Node::Bool => true.into(),
        Node::Str => "text".into(),
        Node::Int(_) => (-7).into(),
        Node::Number => 0.5.into(),
        Node::IntOrString => {
            if depth.is_multiple_of(2) {
                8080.into()
            } else {
                "http".into()
            }
        }
        Node::Quantity => "100m".into(),
        Node::Time { micro: true } => "2026-01-02T03:04:05.678901Z".into(),
        Node::Time { micro: false } => "2026-01-02T03:04:05Z".into(),
        Node::Bytes => "aGVsbG8=".into(),
        Node::Object(_) | Node::Map(_) | Node::List(_) if depth > DEEP => Value::Null,
        Node::Object(fields) => {
            let values = fields.iter().map(|(name, node)| (name.to_string(), sample(table, node, depth + 1)));
            Value::Object(values.filter(|(_, value)| !value.is_null()).collect())
        }
        Node::Map(of) => match sample(table, of, depth + 1) {
            Value::Null => Value::Null,
            value => json!({"key": value}),
        },
        Node::List(of) => match sample(table, of, depth + 1) {
            Value::Null => Value::Null,
            value => json!([value]),
        },
        Node::Ref(i) => sample(table, table.get(*i).1, depth + 1),
    }
}

fn differences(at: &str, a: &Value, b: &Value, out: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(_)) => {
            a.iter().for_each(|(k, v)| differences(&format!("{at}.{k}"), v, &b[k], out))
        }
        (Value::Array(a), Value::Array(_)) => a.iter().enumerate().for_each(|(i, v)| differences(at, v, &b[i], out)),
        _ if a == b => {}
        _ => out.push(format!("{at}: {a} became {b}")),
    }
}

#[test]
fn lists_statuses_and_events_of_watches() {
    let list = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "7", "remainingItemCount": 3},
        "items": [{"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80, "targetPort": "x"}]}}]});
    let bytes = encode(&list).unwrap();
    let item = m()
        .below(1, m().text(1, "a"))
        .below(2, m().below(1, m().number(3, 80).below(4, m().number(1, 1).number(2, 0).text(3, "x"))));
    let raw = m().below(1, m().text(2, "7").number(4, 3)).below(2, item);
    assert_eq!(bytes, body("v1", "ServiceList", raw));

    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": "no", "reason": "NotFound",
        "details": {"name": "x", "kind": "pods", "causes": [{"reason": "R", "message": "m", "field": "f"}], "retryAfterSeconds": 1}, "code": 404});
    let cause = m().text(1, "R").text(2, "m").text(3, "f");
    let details = m().text(1, "x").text(3, "pods").below(4, cause).number(5, 1);
    let raw = m().below(1, m()).text(2, "Failure").text(3, "no").text(4, "NotFound").below(5, details).number(6, 404);
    let bytes = encode(&status).unwrap();
    assert_eq!(bytes, body("v1", "Status", raw));

    let event = m().text(1, "ERROR").below(2, m().bytes(1, &bytes)).0;
    assert_eq!(watch_frame("ERROR", &bytes), [&(event.len() as u32).to_be_bytes()[..], &event].concat());
    assert_eq!(encode(&json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table"})), None);
}

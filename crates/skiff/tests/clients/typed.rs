//! kubectl's typed commands speak protobuf both ways: what it decodes of the answer to a create is what is stored, which
//! the same kubectl reads as JSON.

use serde_json::Value;
use skiff_testkit::tools;

use super::common::{Client, Cluster, Kubectl};

const NAMESPACE: &str = "typed";
/// Kind to get, name, and the rest of `kubectl create`.
const CREATED: [(&str, &str, &str); 14] = [
    ("service", "np", "service nodeport np --tcp=80:http --tcp=81:8080"),
    ("service", "out", "service externalname out --external-name=example.org"),
    ("service", "bare", "service clusterip bare --clusterip=None"),
    ("cronjob", "cj", "cronjob cj --image=a --schedule=*/5_*_*_*_*"),
    ("ingress", "ing", "ingress ing --rule=a.example/x*=np:80,tls=t --annotation=a=b"),
    ("quota", "q", "quota q --hard=cpu=1,pods=2 --scopes=BestEffort"),
    ("pdb", "budget", "pdb budget --selector=a=b --min-available=50%"),
    ("role", "r", "role r --verb=get --resource=pods --resource-name=x"),
    ("rolebinding", "rb", "rolebinding rb --role=r --user=u --group=g --serviceaccount=default:default"),
    ("secret", "s", "secret generic s --from-literal=a=b"),
    ("configmap", "c", "configmap c --from-literal=a=b --from-file=/bin/true"),
    ("priorityclass", "high", "priorityclass high --value=5"),
    ("serviceaccount", "sa", "serviceaccount sa"),
    ("clusterrole", "cr", "clusterrole cr --verb=get --non-resource-url=/x"),
];

#[test]
fn what_kubectl_decodes_is_what_is_stored() {
    if tools::find("kubectl").is_none() {
        return tools::skip("this test needs the program kubectl");
    }
    let _turn = super::turn();
    let cluster = Cluster::up("typed", &["--nodes", "0"]);
    let k = cluster.kubectl(Kubectl::Stock);
    k.ok(&["create", "namespace", NAMESPACE]);
    for (kind, name, created) in CREATED {
        // Words may hold blanks, as `_`.
        let words: Vec<String> = created.split(' ').map(|word| word.replace('_', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answered = read(&k, &[&["create"], &words[..]].concat());
        let stored = read(&k, &["get", kind, name]);
        assert_eq!(answered, stored, "kubectl create {created}");
    }
}

/// The object as kubectl prints it, without what Go's types leave out or add, and what changes by itself.
fn read(k: &Client<'_>, words: &[&str]) -> Value {
    let said = k.ok(&[words, &["-n", NAMESPACE, "-o", "json"]].concat());
    let mut object: Value = serde_json::from_str(&said).expect("JSON");
    for path in ["managedFields", "resourceVersion"] {
        object["metadata"].as_object_mut().expect("metadata").remove(path);
    }
    object.as_object_mut().expect("an object").remove("status");
    without_nothing(&mut object);
    object
}

fn without_nothing(value: &mut Value) {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_nothing);
            fields.retain(|_, value| !is_nothing(value));
            fields.sort_keys();
        }
        Value::Array(items) => items.iter_mut().for_each(without_nothing),
        _ => {}
    }
}

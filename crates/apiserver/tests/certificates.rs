//! CertificateSigningRequests: who they are from is not theirs to say, and approving them takes a right on the signer.

mod support;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use support::Api;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn request(name: &str, group: &str) -> Value {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {"request": STANDARD.encode(pem), "signerName": SIGNER,
        "usages": ["client auth"], "username": "somebody-else", "groups": ["system:masters"], "extra": {"k": ["v"]}}})
}

fn allow(name: &str, rules: Value) -> (Value, Value) {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    let binding = json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
    (role, binding)
}

#[tokio::test]
async fn requests_say_who_made_them() {
    let api = Api::new().await;
    let whole = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests", "certificatesigningrequests/approval",
        "certificatesigningrequests/status"], "verbs": ["*"]}]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let (role, binding) = allow("jane", whole);
    api.create(&format!("{rbac}/clusterroles"), role).await;
    api.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    let jane = api.by(Identity::component("jane"));

    let made = jane.create(PATH, request("dave", "team")).await;
    assert_eq!(made["spec"]["username"], "jane");
    assert_eq!((&made["spec"]["groups"], made["spec"].get("extra")), (&json!(["system:authenticated"]), None));
    let (code, refused) = jane.json(Method::POST, PATH, request("eve", "system:masters")).await;
    assert_eq!(code, 403, "{refused}");

    let (_, changed) = jane.merge(&format!("{PATH}/dave"), json!({"spec": {"usages": ["server auth"]}})).await;
    assert_eq!(changed["spec"]["usages"], json!(["client auth"]), "a request stays what it was");
    let approved =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}});
    let certificate = json!({"status": {"certificate": STANDARD.encode("-----BEGIN CERTIFICATE-----\n")}});
    for (path, body) in [("approval", &approved), ("status", &certificate)] {
        let (code, refused) = jane.merge(&format!("{PATH}/dave/{path}"), body.clone()).await;
        assert_eq!(code, 403, "{path}: {refused}");
        assert!(refused["message"].as_str().unwrap().contains("requests with signerName"), "{refused}");
    }
    let (role, mut binding) = allow(
        "approver",
        json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
        "resourceNames": ["kubernetes.io/*"], "verbs": ["approve"]}]),
    );
    binding["subjects"][0]["name"] = "jane".into();
    api.create(&format!("{rbac}/clusterroles"), role).await;
    api.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    assert_eq!(jane.merge(&format!("{PATH}/dave/approval"), approved).await.0, 200);
    assert_eq!(jane.merge(&format!("{PATH}/dave/status"), certificate).await.0, 403, "to approve is not to sign");
}

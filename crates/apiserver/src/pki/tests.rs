use std::{os::unix::fs::PermissionsExt, sync::Arc};

use super::*;

fn names() -> Vec<String> {
    ["localhost", "127.0.0.1", "::1", "kubernetes.default.svc"].map(String::from).to_vec()
}

#[test]
fn everything_is_made_once_and_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("pki");
    let one = Pki::load_or_create(&dir, &names()).expect("made");
    let two = Pki::load_or_create(&dir, &names()).expect("loaded");
    let parts = |pki: &Pki| {
        let node = pki.node("n1", &["172.30.0.11".into()]).expect("made");
        let pems = [pki.ca_pem(), &pki.serving.key, &pki.admin.certificate, &pki.service_account_key, &node.client.key];
        pems.map(String::from)
    };
    assert_eq!(parts(&one), parts(&two));
    for entry in fs::read_dir(&dir).expect("a directory") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
    assert_eq!(fs::metadata(&dir).expect("a directory").permissions().mode() & 0o777, 0o700);
}

#[test]
fn other_names_renew_the_serving_certificate_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let one = Pki::load_or_create(dir.path(), &names()).expect("made");
    let two = Pki::load_or_create(dir.path(), &["localhost".into()]).expect("made");
    assert!(one.serving != two.serving);
    assert!(one.admin == two.admin && one.ca == two.ca);
    assert_eq!(examine(&two.serving.certificate).expect("readable").names, ["localhost"]);
}

#[test]
fn a_new_authority_signs_everything_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let one = Pki::load_or_create(dir.path(), &names()).expect("made");
    fs::remove_file(dir.path().join("ca.crt")).expect("removed");
    let two = Pki::load_or_create(dir.path(), &names()).expect("made");
    assert!(one.ca != two.ca && one.admin != two.admin && one.serving != two.serving);
    assert_eq!(one.service_account_key, two.service_account_key);
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    Pki::load_or_create(dir.path(), &names()).expect("made");
    fs::write(dir.path().join("admin.crt"), "nonsense").expect("written");
    Pki::load_or_create(dir.path(), &names()).expect("made anew, since the authority can");
    fs::write(dir.path().join("ca.key"), "nonsense").expect("written");
    let error = Pki::load_or_create(dir.path(), &names()).err().expect("refused").to_string();
    assert!(error.contains("ca.key cannot be used"), "{error}");
}

/// A handshake between the API server's certificate and a client's, through rustls alone.
#[test]
fn client_and_server_trust_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::load_or_create(dir.path(), &names()).expect("made");
    let config = Arc::new(client_config(pki.ca_pem(), pki.admin()).expect("a client"));
    for name in ["localhost", "127.0.0.1", "kubernetes.default.svc"] {
        let name = name.try_into().expect("a name");
        let mut client = rustls::ClientConnection::new(config.clone(), name).expect("a client");
        let server_config = Arc::new(pki.server_config().expect("a server"));
        let mut server = rustls::ServerConnection::new(server_config).expect("a server");
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("written");
            server.read_tls(&mut wire.as_slice()).expect("read");
            server.process_new_packets().expect("the server trusts the client");
            wire.clear();
            server.write_tls(&mut wire).expect("written");
            client.read_tls(&mut wire.as_slice()).expect("read");
            client.process_new_packets().expect("the client trusts the server");
        }
        assert_eq!(server.peer_certificates().map(<[_]>::len), Some(1));
    }
}

/// What a request must be for each signer, and that what is signed is trusted and says no more than it should.
#[test]
fn requests_are_signed_by_the_rules_of_their_signer() {
    use rcgen::SanType;
    use requests::Signer;

    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::load_or_create(dir.path(), &names()).expect("made");
    let request = |user: &str, groups: &[&str], names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        groups.iter().for_each(|group| params.distinguished_name.push(DnType::OrganizationName, *group));
        params.is_ca = IsCa::NoCa;
        if user == "mail" {
            params.subject_alt_names.push(SanType::Rfc822Name("a@example.org".try_into().expect("an address")));
        }
        let key = KeyPair::generate().expect("a key");
        params.serialize_request(&key).expect("a request").pem().expect("PEM")
    };
    let usages = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
    let node = "system:node:n1";
    let nodes: &[&str] = &["system:nodes"];
    for (signer, request, used, expected) in [
        (Signer::Client, request("jane", &["team"], &[]), "client auth,digital signature", Ok(())),
        (Signer::Client, request("jane", &[], &[]), "digital signature", Err("\"client auth\" is required")),
        (Signer::Client, request("jane", &[], &[]), "client auth,server auth", Err("\"server auth\" is not permitted")),
        (Signer::NodeClient, request(node, nodes, &[]), "client auth", Ok(())),
        (Signer::NodeClient, request(node, &["system:masters"], &[]), "client auth", Err("organization is not")),
        (Signer::NodeClient, request("n1", nodes, &[]), "client auth", Err("common name does not begin")),
        (Signer::NodeClient, request(node, nodes, &["n1"]), "client auth", Err("are not allowed")),
        (Signer::NodeServing, request(node, nodes, &["n1", "192.0.2.1"]), "server auth", Ok(())),
        (Signer::NodeServing, request(node, nodes, &[]), "server auth", Err("DNS or IP subjectAltName is required")),
        (Signer::Client, "nonsense".into(), "client auth", Err("unable to parse the certificate request")),
    ] {
        let signed = pki.authority().sign(signer, &request, &usages(used), 3600);
        match (&signed, expected) {
            (Ok(pem), Ok(())) => {
                let seen = examine(pem).expect("readable");
                assert!(
                    seen.not_after > Timestamp::now()
                        && seen.not_after < Timestamp::now() + SignedDuration::from_secs(3700)
                );
                assert_eq!(seen.issuer_key, examine(pki.ca_pem()).expect("readable").subject_key);
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            _ => panic!("{signer:?} {used}: {signed:?}, not {expected:?}"),
        }
    }
    assert_eq!(requests::groups(&request("jane", &["system:masters"], &[])), Ok(vec!["system:masters".into()]));
}

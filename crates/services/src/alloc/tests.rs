use std::collections::BTreeSet;

use serde_json::json;

use super::*;

#[derive(Default)]
struct Set {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Taken for Set {
    fn ip(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip)
    }
    fn port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }
}

fn pools(cidrs: &[&str]) -> Pools {
    Pools { service_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(), node_ports: 30000..=32767 }
}

fn taken(ips: &[&str], ports: &[u16]) -> Set {
    Set { ips: ips.iter().map(|i| i.parse().unwrap()).collect(), ports: ports.iter().copied().collect() }
}

fn run(spec: Value, old: Option<Value>, pools: &Pools, taken: &Set) -> Result<Value, Vec<String>> {
    let mut service = json!({ "spec": spec });
    let old = old.map(|o| json!({ "spec": o }));
    let mut n = 6u64;
    let result = fill(&mut service, old.as_ref(), pools, taken, &mut || {
        n += 1;
        n
    });
    match result {
        Ok(()) => Ok(service["spec"].take()),
        Err(errors) => Err(errors
            .into_iter()
            .map(|e| match e {
                Error::Invalid(e) => e.to_string(),
                Error::Exhausted(why) => why,
            })
            .collect()),
    }
}

#[test]
fn bands_are_the_documented_ones() {
    let check = |range: &str, expect: u128| assert_eq!(static_ips(&range.parse().unwrap()), expect, "{range}");
    check("10.96.0.0/24", 16);
    check("10.96.0.0/20", 256);
    check("10.96.0.0/16", 256);
    check("10.96.0.0/28", 0);
    check("fd00::/64", 256);
    assert_eq!(static_ports(&(30000..=32767)), 86);
    assert_eq!(first_ip(&"10.96.0.0/12".parse().unwrap()), Some("10.96.0.1".parse().unwrap()));
}

#[test]
fn the_server_chooses_behind_the_static_band() {
    let range: Vec<IpNet> = vec!["10.96.0.0/24".parse().unwrap()];
    let check = |random: u64, expect: &str| {
        assert_eq!(choose_ip(&range, None, &|_| false, random), Ok(expect.parse().unwrap()));
    };
    check(0, "10.96.0.17");
    check(237, "10.96.0.254");
    check(238, "10.96.0.17");
    let dynamic_full = |ip: IpAddr| ip >= "10.96.0.17".parse::<IpAddr>().unwrap();
    assert_eq!(choose_ip(&range, None, &dynamic_full, 5), Ok("10.96.0.1".parse().unwrap()));
    assert_eq!(choose_ip(&range, None, &|_| true, 5), Err(RangeError::Full));
    assert_eq!(choose_port(&(30000..=32767), None, &|_| false, 0), Ok(30086));
    assert_eq!(choose_port(&(30000..=30001), None, &|p| p == 30000, 9), Ok(30001));
}

#[test]
fn every_address_is_given_out_once() {
    let range: Vec<IpNet> = vec!["10.0.0.0/26".parse().unwrap(), "10.1.0.0/29".parse().unwrap()];
    let mut given = BTreeSet::new();
    for random in 0..68u64 {
        let ip = choose_ip(&range, None, &|ip| given.contains(&ip), random.wrapping_mul(7919)).unwrap();
        assert!(given.insert(ip), "{ip} twice");
    }
    assert_eq!(given.len(), 62 + 6);
    assert_eq!(choose_ip(&range, None, &|ip| given.contains(&ip), 1), Err(RangeError::Full));
}

#[test]
fn a_plain_service_gets_one_address() {
    let got = run(json!({"type": "ClusterIP"}), None, &pools(&["10.96.0.0/12"]), &taken(&[], &[])).unwrap();
    assert_eq!(got["clusterIP"], got["clusterIPs"][0]);
    assert_eq!(got["ipFamilies"], json!(["IPv4"]));
    assert_eq!(got["ipFamilyPolicy"], "SingleStack");
}

#[test]
fn wishes_are_kept_or_refused_with_the_reason() {
    let check = |ip: &str, expect: Result<&str, &str>| {
        let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]});
        let got = run(spec, None, &pools(&["10.96.0.0/16"]), &taken(&["10.96.0.9"], &[]));
        match expect {
            Ok(ip) => assert_eq!(got.unwrap()["clusterIPs"], json!([ip])),
            Err(why) => assert_eq!(got.unwrap_err(), [why]),
        }
    };
    check("10.96.0.10", Ok("10.96.0.10"));
    check(
        "10.96.0.9",
        Err(
            "spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: failed to allocate IP 10.96.0.9: provided IP is already allocated",
        ),
    );
    check(
        "10.97.0.1",
        Err("spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the provided IP \
        (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16"),
    );
    check(
        "10.96.0.0",
        Err("spec.clusterIPs: Invalid value: [\"10.96.0.0\"]: failed to allocate IP 10.96.0.0: the provided IP \
        (10.96.0.0) is not in the valid range. The range of valid IPs is 10.96.0.0/16"),
    );
}

#[test]
fn families() {
    let (four, both) = (pools(&["10.96.0.0/16"]), pools(&["10.96.0.0/16", "fd00::/108"]));
    let none = taken(&[], &[]);
    let check = |spec: Value, pools: &Pools, expect: Result<(&str, Value, usize), &str>| {
        let got = run(spec, None, pools, &none);
        match expect {
            Ok((policy, families, addresses)) => {
                let got = got.unwrap();
                assert_eq!((&got["ipFamilyPolicy"], &got["ipFamilies"]), (&json!(policy), &families));
                assert_eq!(got["clusterIPs"].as_array().unwrap().len(), addresses);
            }
            Err(why) => assert_eq!(got.unwrap_err(), [why]),
        }
    };
    let dual = json!(["IPv4", "IPv6"]);
    check(json!({"ipFamilyPolicy": "PreferDualStack"}), &four, Ok(("PreferDualStack", json!(["IPv4"]), 1)));
    check(json!({"ipFamilyPolicy": "PreferDualStack"}), &both, Ok(("PreferDualStack", dual.clone(), 2)));
    check(json!({"ipFamilyPolicy": "RequireDualStack"}), &both, Ok(("RequireDualStack", dual.clone(), 2)));
    check(json!({"ipFamilies": ["IPv6"]}), &both, Ok(("SingleStack", json!(["IPv6"]), 1)));
    let two = |policy: &str| json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": policy});
    check(two("RequireDualStack"), &both, Ok(("RequireDualStack", json!(["IPv6", "IPv4"]), 2)));
    check(two("PreferDualStack"), &both, Ok(("PreferDualStack", json!(["IPv6", "IPv4"]), 2)));
    let many = |what| {
        format!(
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
        )
    };
    check(json!({"ipFamilies": ["IPv6", "IPv4"]}), &both, Err(&many("IP families")));
    check(json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "fd00::8"]}), &both, Err(&many("cluster IPs")));
    check(
        json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "fd00::8"], "ipFamilyPolicy": "PreferDualStack"}),
        &both,
        Ok(("PreferDualStack", dual.clone(), 2)),
    );
    check(json!({"clusterIP": "fd00::8", "clusterIPs": ["fd00::8"]}), &both, Ok(("SingleStack", json!(["IPv6"]), 1)));
    check(
        json!({"clusterIP": "fd00::8", "clusterIPs": ["fd00::8"]}),
        &four,
        Err("spec.clusterIPs[0]: Invalid value: [\"fd00::8\"]: IPv6 is not configured on this cluster"),
    );
    check(
        json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"}),
        &four,
        Ok(("PreferDualStack", dual.clone(), 1)),
    );
    check(json!({"clusterIP": "None", "selector": {"a": "b"}}), &four, Ok(("SingleStack", json!(["IPv4"]), 1)));
    check(json!({"clusterIP": "None"}), &four, Ok(("RequireDualStack", dual, 1)));
    check(
        json!({"ipFamilyPolicy": "RequireDualStack"}),
        &four,
        Err(
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
    );
    check(
        json!({"ipFamilies": ["IPv6"]}),
        &four,
        Err("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
    );
    check(
        json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
        &both,
        Err(
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
             multiple IP families are specified",
        ),
    );
}

#[test]
fn families_on_update() {
    let both = pools(&["10.96.0.0/16", "fd00::/108"]);
    let none = taken(&["10.96.0.9"], &[]);
    let one = json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "PreferDualStack"});
    assert_eq!(run(one.clone(), Some(one.clone()), &both, &none).unwrap(), one, "no silent second family");
    let plain = json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]});
    let kept = run(plain, Some(one.clone()), &both, &none).unwrap();
    assert_eq!(kept["clusterIPs"], json!(["10.96.0.9"]), "nor for a client that says nothing of families");

    let mut two = one.clone();
    two["ipFamilyPolicy"] = json!("RequireDualStack");
    let upgraded = run(two, Some(one), &both, &none).unwrap();
    assert_eq!(upgraded["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(upgraded["clusterIP"], "10.96.0.9");

    let mut single = upgraded.clone();
    single["ipFamilyPolicy"] = json!("SingleStack");
    let downgraded = run(single, Some(upgraded), &both, &none).unwrap();
    assert_eq!(downgraded["clusterIPs"], json!(["10.96.0.9"]));
    assert_eq!(downgraded["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn node_ports() {
    let range = pools(&["10.96.0.0/16"]);
    let used = taken(&[], &[31000]);
    let check = |ports: Value, expect: Result<Value, &str>| {
        let got = run(json!({"type": "NodePort", "ports": ports}), None, &range, &used);
        match expect {
            Ok(numbers) => {
                let got = got.unwrap();
                let given: Vec<&Value> = got["ports"].as_array().unwrap().iter().map(|p| &p["nodePort"]).collect();
                assert_eq!(json!(given), numbers);
            }
            Err(why) => assert_eq!(got.unwrap_err(), [why]),
        }
    };
    check(json!([{"port": 80, "nodePort": 31001}]), Ok(json!([31001])));
    check(
        json!([{"port": 80, "nodePort": 31000}]),
        Err("spec.ports[0].nodePort: Invalid value: 31000: provided port is already allocated"),
    );
    check(
        json!([{"port": 80, "nodePort": 99}]),
        Err(
            "spec.ports[0].nodePort: Invalid value: 99: provided port is not in the valid range. The range of valid ports is \
             30000-32767",
        ),
    );
    check(
        json!([{"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]),
        Ok(json!([30053, 30053])),
    );
    check(
        json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP", "nodePort": 30053}]),
        Ok(json!([30053, 30053])),
    );
    // The address takes the first random number, so the port sees the second: 30086 + 8.
    check(json!([{"port": 80}]), Ok(json!([30094])));
    check(json!([{"port": 80}, {"port": 81}]), Ok(json!([30094, 30095])));
}

#[test]
fn node_ports_on_update_and_for_load_balancers() {
    let range = pools(&["10.96.0.0/16"]);
    let used = taken(&[], &[]);
    let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                     "ports": [{"port": 80, "nodePort": 31000}]});
    // What the Service itself holds is no obstacle.
    let got = run(old.clone(), Some(old), &range, &taken(&["10.96.0.9"], &[31000])).unwrap();
    assert_eq!((&got["clusterIP"], &got["ports"][0]["nodePort"]), (&json!("10.96.0.9"), &json!(31000)));

    // A port that comes later gets a node port of its own, though another protocol's has the same number.
    let old = json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "TCP", "nodePort": 31000}]});
    let mut both = old.clone();
    both["ports"].as_array_mut().unwrap().push(json!({"port": 53, "protocol": "UDP"}));
    let got = run(both, Some(old), &range, &used).unwrap();
    assert_ne!(got["ports"][0]["nodePort"], got["ports"][1]["nodePort"]);

    let without = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]});
    assert_eq!(run(without, None, &range, &used).unwrap()["ports"][0].get("nodePort"), None);
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let got = run(local, None, &range, &used).unwrap();
    assert_ne!(got["healthCheckNodePort"], got["ports"][0]["nodePort"]);
    assert!(got["healthCheckNodePort"].as_u64().unwrap() >= 30086);
    let mut moved = got.clone();
    moved["healthCheckNodePort"] = json!(31999);
    assert_eq!(
        run(moved, Some(got), &range, &used).unwrap_err(),
        [
            "spec.healthCheckNodePort: Invalid value: 31999: cannot change healthCheckNodePort on loadBalancer service with \
          externalTraffic=Local during update"
        ]
    );
}

#[test]
fn claims_are_everything_held() {
    let service = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
                                  "ports": [{"nodePort": 31000}, {"nodePort": 31000}, {}]}});
    let claims = claims(&service);
    assert_eq!(claims.ips.len(), 2);
    assert_eq!(claims.ports, [31000]);
    assert_eq!(super::claims(&json!({"spec": {"type": "ExternalName"}})), Claims::default());
    assert_eq!(super::claims(&json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})), Claims::default());
}

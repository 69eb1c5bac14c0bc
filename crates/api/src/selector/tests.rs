use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn label_selectors_match_as_written() {
    let labels = json!({"app": "web", "tier": "2", "example.com/x": ""});
    for (text, expected) in [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app = db", false),
        ("app!=db", true),
        ("missing!=db", true),
        ("app in (db, web)", true),
        ("app in (db)", false),
        ("app notin (db)", true),
        ("missing notin (db)", true),
        ("app", true),
        ("!app", false),
        ("!missing,app", true),
        ("tier>1", true),
        ("tier<2", false),
        ("app>1", false),
        ("example.com/x=", true),
        ("example.com/x in (,y)", true),
        ("in in (in)", false),
        ("app in (web),tier in (2,3)", true),
    ] {
        let selector = Labels::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(selector.matches(&labels), expected, "{text}");
        assert_eq!(Labels::parse(&selector.to_string()).unwrap(), selector, "{text} reads its own text");
    }
}

#[test]
fn broken_label_selectors_say_why() {
    for (text, why) in [
        ("a,", "unable to parse requirement: found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b', expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("=b", "unable to parse requirement: found '=', expected: !, identifier, or 'end of string'"),
        ("a=b c", "unable to parse requirement: found 'c', expected: ',' or 'end of string'"),
        ("!a=b", "unable to parse requirement: found '=', expected: ',' or 'end of string'"),
    ] {
        assert_eq!(Labels::parse(text).unwrap_err().to_string(), why, "{text}");
    }
    let error = Labels::parse("app=a*b").unwrap_err().to_string();
    assert!(error.starts_with("values[0][app]: Invalid value: \"a*b\": a valid label must be"), "{error}");
    let error = Labels::parse("a/b/c=d").unwrap_err().to_string();
    assert!(error.starts_with("key: Invalid value: \"a/b/c\": a qualified name must"), "{error}");
    assert!(Labels::parse("a>b").is_err() && Labels::parse("-a=b").is_err());
}

#[test]
fn typed_label_selectors() {
    let requirement = |operator: &str, values: &[&str]| LabelSelectorRequirement {
        key: "app".into(),
        operator: operator.into(),
        values: Some(values.iter().map(|v| v.to_string()).collect()),
    };
    let select =
        |r| Labels::from_label_selector(&LabelSelector { match_expressions: Some(vec![r]), ..Default::default() });
    assert!(select(requirement("In", &["web"])).unwrap().matches(&json!({"app": "web"})));
    assert!(select(requirement("DoesNotExist", &[])).unwrap().matches(&json!({})));
    assert!(select(requirement("In", &[])).is_err() && select(requirement("Like", &["a"])).is_err());
    assert!(Labels::from_label_selector(&LabelSelector::default()).unwrap().matches(&json!({})));
    assert!(!Labels::nothing().matches(&json!({})) && !Labels::nothing().is_empty());
}

#[test]
fn field_selectors_match_as_written() {
    let pod = json!({"metadata": {"name": "a,b", "namespace": "default"}, "spec": {}, "status": {"phase": "Running"}});
    for (text, expected) in [
        ("", true),
        ("metadata.name=a\\,b", true),
        ("metadata.name=a", false),
        ("status.phase!=Running", false),
        ("status.phase==Running,metadata.namespace!=kube-system", true),
        ("spec.nodeName=", true),
        ("spec.nodeName!=", false),
        ("spec.hostNetwork=false", true),
    ] {
        let fields = Fields::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(fields.matches(&pod), expected, "{text}");
        fields.check("", "pods").unwrap();
        assert_eq!(Fields::parse(&fields.to_string()).unwrap(), fields);
    }
    assert_eq!(Fields::parse("metadata.name=a\\,b").unwrap().exact("metadata.name"), Some("a,b"));
    assert!(Fields::parse("abc").is_err() && Fields::parse("a=b=c").is_err() && Fields::parse("a!b").is_err());
    let unsupported = Fields::parse("spec.color=red").unwrap().check("", "pods").unwrap_err();
    assert_eq!(unsupported.to_string(), "field label not supported: spec.color");
}

#[test]
fn the_source_of_an_event_is_its_reporter() {
    for event in [json!({"source": {"component": "kubelet"}}), json!({"reportingComponent": "kubelet"})] {
        assert!(Fields::parse("source=kubelet").unwrap().matches(&event), "{event}");
    }
}

proptest! {
    #[test]
    fn any_text_is_survived(text in any::<String>(), signs in "[a-c!=<>(), \\\\/.in]{0,40}") {
        for input in [text, signs] {
            if let Ok(selector) = Labels::parse(&input) {
                prop_assert_eq!(Labels::parse(&selector.to_string()).unwrap(), selector);
            }
            if let Ok(fields) = Fields::parse(&input) {
                prop_assert_eq!(Fields::parse(&fields.to_string()).unwrap(), fields);
            }
        }
    }
}

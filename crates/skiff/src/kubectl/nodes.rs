//! `cordon`, `uncordon` and `taint`: which nodes take new pods.

use http::Method;
use serde_json::{Value, json};
use skiff_api::json;

use super::{
    dryrun::DryRun,
    error::{Result, plain},
    flags::{Args, Flag, switch},
    kinds::{Kind, known},
    session::{Call, MERGE, Session},
    text::emit,
};

pub(super) const TAINT: &[Flag] = &[switch("overwrite", "taints that are there may be changed")];

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) async fn cordon(session: &Session, args: &Args, unschedulable: bool) -> Result<()> {
    let verb = if unschedulable { "cordon" } else { "uncordon" };
    let nodes = nodes(session, args, &args.words, &format!("{verb} NODE")).await?;
    let dry = DryRun::of(args)?;
    for (kind, node) in nodes {
        let name = json::text(&node, "metadata.name");
        if json::get(&node, "spec.unschedulable").and_then(Value::as_bool).unwrap_or(false) == unschedulable {
            emit(&format!("node/{name} already {verb}ed{}\n", dry.suffix()))?;
            continue;
        }
        let wanted = if unschedulable { json!(true) } else { Value::Null };
        change(session, &kind, &node, json!({"spec": {"unschedulable": wanted}}), dry).await?;
        emit(&format!("node/{name} {verb}ed{}\n", dry.suffix()))?;
    }
    Ok(())
}

/// The nodes named, or those with the labels asked for.
async fn nodes(session: &Session, args: &Args, words: &[String], usage: &str) -> Result<Vec<(Kind, Value)>> {
    let kind = known("", "nodes")?;
    if let Some(labels) = args.get("selector") {
        let found = session.list(&kind, "", Some(labels)).await?;
        return Ok(found.into_iter().map(|n| (kind.clone(), n)).collect());
    }
    if words.is_empty() {
        return plain(format!("USAGE: {usage} [flags]"));
    }
    let mut all = vec![];
    for word in words {
        let name = word.rsplit('/').next().unwrap_or_default();
        all.push((kind.clone(), session.object(&kind, "", name).await?));
    }
    Ok(all)
}

async fn change(session: &Session, kind: &Kind, node: &Value, patch: Value, dry: DryRun) -> Result<()> {
    if dry == DryRun::Client {
        return Ok(());
    }
    session.json(&dry.mark(Call::new(Method::PATCH, kind.path_of(node)).body(MERGE, &patch))).await.map(drop)
}

/// One word of `taint`: `key=value:Effect` sets, `key:Effect-` and `key-` remove.
#[derive(Debug, PartialEq)]
struct Taint {
    key: String,
    value: String,
    effect: String,
    remove: bool,
}

fn parse(word: &str) -> Result<Taint> {
    let (text, remove) = word.strip_suffix('-').map_or((word, false), |t| (t, true));
    let (pair, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let known = EFFECTS.contains(&effect) || (remove && effect.is_empty());
    if key.is_empty() || !known {
        return plain(format!(
            "invalid taint spec: {word}: say KEY=VALUE:EFFECT, the effect being one of {}",
            EFFECTS.join(", ")
        ));
    }
    Ok(Taint { key: key.into(), value: value.into(), effect: effect.into(), remove })
}

pub(super) async fn taint(session: &Session, args: &Args) -> Result<()> {
    let is_kind = |w: &String| matches!(w.as_str(), "node" | "nodes" | "no");
    let words: Vec<String> =
        args.words.iter().skip(usize::from(args.words.first().is_some_and(is_kind))).cloned().collect();
    let (changes, names): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|w| w.contains(':') || w.contains('=') || w.ends_with('-'));
    if changes.is_empty() {
        return plain("at least one taint update is required");
    }
    let changes = changes.iter().map(|c| parse(c)).collect::<Result<Vec<_>>>()?;
    let dry = DryRun::of(args)?;
    for (kind, node) in nodes(session, args, &names, "taint nodes NODE KEY=VALUE:EFFECT").await? {
        let name = json::text(&node, "metadata.name").to_owned();
        let before = json::list(&node, "spec.taints").to_vec();
        let after = applied(&before, &changes, args.on("overwrite"), &name)?;
        change(session, &kind, &node, json!({"spec": {"taints": after}}), dry).await?;
        let done = if changes.iter().all(|c| c.remove) { "untainted" } else { "tainted" };
        emit(&format!("node/{name} {done}{}\n", dry.suffix()))?;
    }
    Ok(())
}

fn applied(before: &[Value], changes: &[Taint], overwrite: bool, node: &str) -> Result<Vec<Value>> {
    let mut all = before.to_vec();
    for change in changes {
        let same = |t: &Value| {
            json::text(t, "key") == change.key && (change.effect.is_empty() || json::text(t, "effect") == change.effect)
        };
        let there = all.iter().any(same);
        match (there, change.remove) {
            (false, true) => {
                return plain(format!("taint {:?} not found", format!("{}:{}", change.key, change.effect)));
            }
            (true, false) if !overwrite => {
                let what = format!(
                    "{} already has {} taint(s) with same effect(s) and --overwrite is false",
                    node, change.key
                );
                return plain(format!("node {what}"));
            }
            _ => all.retain(|t| !same(t)),
        }
        if !change.remove {
            let mut taint = json!({"key": change.key, "effect": change.effect});
            if !change.value.is_empty() {
                taint["value"] = change.value.as_str().into();
            }
            all.push(taint);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints() {
        let have =
            [json!({"key": "a", "effect": "NoSchedule"}), json!({"key": "b", "value": "c", "effect": "NoExecute"})];
        let after = |words: &[&str], overwrite| {
            let changes: Vec<Taint> = words.iter().map(|w| parse(w).unwrap()).collect();
            applied(&have, &changes, overwrite, "n").map(|all| all.len()).map_err(|e| e.to_string())
        };
        assert_eq!(after(&["x=y:NoSchedule"], false), Ok(3));
        assert_eq!(after(&["a-"], false), Ok(1));
        assert_eq!(after(&["b:NoExecute-", "a:NoSchedule-"], false), Ok(0));
        assert_eq!(after(&["a=z:NoSchedule"], true), Ok(2));
        assert!(after(&["a=z:NoSchedule"], false).unwrap_err().contains("--overwrite"));
        assert!(after(&["x-"], false).unwrap_err().contains("not found"));
        for bad in ["a=b", "a=b:Never", ":NoSchedule", "a=b:Never-"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

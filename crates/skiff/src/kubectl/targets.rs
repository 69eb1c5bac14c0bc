//! Which objects a command line means: `TYPE`, `TYPE NAME…`, `TYPE,TYPE`, `TYPE/NAME…`, files.

use serde_json::Value;
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    flags::Args,
    kinds::Kind,
    manifest::{self, Manifest},
    session::{Call, Session},
};

/// One object, or all of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    /// Empty for all of the kind.
    pub(super) name: String,
    /// Empty across all namespaces, and for kinds without one.
    pub(super) namespace: String,
}

impl Target {
    pub(super) fn path(&self) -> String {
        self.kind.path(&self.namespace, &self.name)
    }

    /// `deployment.apps/web`
    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.kind.label(), self.name)
    }
}

const NEED: &str = "You must provide one or more resources by argument or filename.\n\
    Example resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'";

impl Session {
    pub(super) fn namespace_for(&self, kind: &Kind, args: &Args) -> String {
        match kind.namespaced && !args.on("all-namespaces") {
            true => self.namespace.clone(),
            false => String::new(),
        }
    }

    /// What the words mean. `TYPE` alone stands for all of that kind.
    pub(super) async fn targets(&self, words: &[String], args: &Args) -> Result<Vec<Target>> {
        if words.is_empty() && args.has("filename") {
            return self.targets_of_files(&manifest::read(args)?).await;
        }
        if args.has("filename") {
            return plain(
                "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well",
            );
        }
        let Some(first) = words.first() else { return plain(NEED) };
        let mut targets = Vec::new();
        if words.iter().any(|w| w.contains('/')) {
            for word in words {
                let (kind, name) = slashed(word)?;
                let kind = self.kind_called(kind).await?;
                targets.push(Target { namespace: self.namespace_for(&kind, args), kind, name: name.into() });
            }
            return Ok(targets);
        }
        let mut kinds = Vec::new();
        for word in first.split(',') {
            kinds.extend(self.kinds_called(word).await?);
        }
        for kind in kinds {
            let namespace = self.namespace_for(&kind, args);
            let one = |name: &str| Target { kind: kind.clone(), name: name.to_owned(), namespace: namespace.clone() };
            match &words[1..] {
                [] => targets.push(one("")),
                names => targets.extend(names.iter().map(|n| one(n))),
            }
        }
        if words.len() > 1 && args.on("all-namespaces") {
            return plain("a resource cannot be retrieved by name across all namespaces");
        }
        Ok(targets)
    }

    pub(super) async fn targets_of_files(&self, manifests: &[Manifest]) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for manifest in manifests {
            let (kind, object) = self.placed(manifest).await?;
            targets.push(Target {
                namespace: json::text(&object, "metadata.namespace").to_owned(),
                name: json::text(&object, "metadata.name").to_owned(),
                kind,
            });
        }
        Ok(targets)
    }

    /// An object from a file with its kind and in its namespace.
    pub(super) async fn placed(&self, manifest: &Manifest) -> Result<(Kind, Value)> {
        let mut object = manifest.object.clone();
        let Some(kind) = self.kind_of(&object).await? else {
            return Err(no_match(&object, &manifest.source));
        };
        if !object.get("metadata").is_some_and(Value::is_object) {
            json::set(&mut object, "metadata", serde_json::json!({}));
        }
        if kind.namespaced {
            let own = json::text(&object, "metadata.namespace").to_owned();
            if own.is_empty() {
                let namespace = self.namespace.clone();
                json::below(&mut object, "metadata")
                    .into_iter()
                    .for_each(|m| json::set(m, "namespace", namespace.clone()));
            } else if self.namespace_given && own != self.namespace {
                return plain(format!(
                    "the namespace from the provided object {own:?} does not match the namespace {:?}. You must pass '--namespace={own}' to perform this operation.",
                    self.namespace
                ));
            }
        }
        Ok((kind, object))
    }

    /// The objects that targets stand for. Objects that are missing are errors, given beside those that were found.
    pub(super) async fn fetch(&self, targets: &[Target], args: &Args) -> (Vec<(Kind, Value)>, Vec<Error>) {
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for target in targets {
            match self.fetch_one(target, args).await {
                Ok(objects) => found.extend(objects.into_iter().map(|o| (target.kind.clone(), o))),
                Err(e) if e.not_found() && args.on("ignore-not-found") => {}
                Err(e) => errors.push(e),
            }
        }
        (found, errors)
    }

    async fn fetch_one(&self, target: &Target, args: &Args) -> Result<Vec<Value>> {
        let call = Call::get(target.path());
        if !target.name.is_empty() {
            return Ok(vec![self.json(&call).await?]);
        }
        let call = call.maybe("labelSelector", args.get("selector")).maybe("fieldSelector", args.get("field-selector"));
        let mut list = self.json(&call).await?;
        let Some(Value::Array(mut items)) = list.get_mut("items").map(Value::take) else { return Ok(Vec::new()) };
        items.iter_mut().for_each(|item| target.kind.name_type(item));
        Ok(items)
    }
}

pub(super) fn slashed(word: &str) -> Result<(&str, &str)> {
    match word.split('/').collect::<Vec<_>>().as_slice() {
        [kind, name] if !kind.is_empty() && !name.is_empty() => Ok((kind, name)),
        [_] => plain(
            "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form \
             (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'",
        ),
        _ => plain(format!("arguments in resource/name form must have a single resource and name: {word:?} has not")),
    }
}

fn no_match(object: &Value, source: &str) -> Error {
    let api_version = json::text(object, "apiVersion");
    Error::Plain(format!(
        "resource mapping not found for name: {:?} namespace: {:?} from {source:?}: no matches for kind {:?} in version {api_version:?}\nensure CRDs are installed first",
        json::text(object, "metadata.name"),
        json::text(object, "metadata.namespace"),
        json::text(object, "kind"),
    ))
}

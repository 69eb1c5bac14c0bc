//! The API against a model of a few lines: whatever is asked in whatever order, answers and watches are what the model
//! says, also while the store fails. Every history is a function of its seed, which a failure prints.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use serde_json::{Value, json};
use skiff_store::Store;
use skiff_store::faulty::{Act, Faulty, Op};
use skiff_store::memory::Memory;
use support::{Api, Events};

const SPACES: [&str; 2] = ["default", "other"];
const NAMES: usize = 6;

/// xorshift64*
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

/// Namespace and name.
type Id = (&'static str, String);

/// What the model knows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    version: u64,
    app: String,
    data: String,
}

impl Object {
    fn of(value: &Value) -> Object {
        let text = |path| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        Object {
            version: text("/metadata/resourceVersion").parse().expect("a decimal number"),
            app: text("/metadata/labels/app"),
            data: text("/data/k"),
        }
    }
}

/// Everything that happened, in order; None: deleted.
#[derive(Default)]
struct Model {
    now: BTreeMap<Id, Object>,
    history: Vec<(Id, u64, Option<Object>)>,
    /// What happened up to this revision is not all remembered.
    floor: u64,
}

impl Model {
    fn put(&mut self, id: Id, object: Object) {
        let last = self.history.last().map_or(0, |(_, version, _)| *version);
        assert!(object.version > last, "{id:?}: {object:?} is not after {last}");
        self.history.push((id.clone(), object.version, Some(object.clone())));
        self.now.insert(id, object);
    }

    fn gone(&mut self, id: &Id, version: u64) {
        self.now.remove(id).unwrap_or_else(|| panic!("{id:?} was not there"));
        self.history.push((id.clone(), version, None));
    }

    /// What a watch of this kind sees after a revision.
    fn seen(&self, watch: &Watch) -> Vec<String> {
        let mut before: BTreeMap<&Id, &Object> = BTreeMap::new();
        let mut seen = vec![];
        for (id, version, object) in &self.history {
            let matches = |o: &&Object| watch.app.is_none_or(|app| app == o.app);
            let was = before.get(id).copied().filter(matches).is_some();
            let is = object.as_ref().filter(matches).is_some();
            match object {
                Some(object) => drop(before.insert(id, object)),
                None => drop(before.remove(id)),
            }
            if *version <= watch.after || watch.space.is_some_and(|space| space != id.0) {
                continue;
            }
            let kind = match (was, is) {
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
                (false, false) => continue,
            };
            seen.push(format!("{kind} {}/{} {version}", id.0, id.1));
        }
        seen
    }
}

struct Watch {
    space: Option<&'static str>,
    app: Option<&'static str>,
    after: u64,
    events: Events,
}

struct Story {
    seed: u64,
    dice: Dice,
    api: Api,
    model: Model,
    watches: Vec<Watch>,
    /// The store may fail: an answer 500 means that nobody knows.
    faults: bool,
}

fn path(space: Option<&str>) -> String {
    space.map_or("/api/v1/configmaps".into(), |space| format!("/api/v1/namespaces/{space}/configmaps"))
}

impl Story {
    async fn new(seed: u64, store: Arc<dyn Store>, faults: bool) -> Story {
        let api = Api::over(store, &["10.96.0.0/12"]).await;
        let mut story = Story { seed, dice: Dice(seed), api, model: Model::default(), watches: vec![], faults };
        let space = json!({"metadata": {"name": "other"}});
        while story.api.json(Method::POST, "/api/v1/namespaces", space.clone()).await.0 / 100 == 5 {}
        // What the server itself makes is no part of the model.
        story.watches.clear();
        story
    }

    fn id(&mut self) -> Id {
        (SPACES[self.dice.roll(2)], format!("m{}", self.dice.roll(NAMES)))
    }

    fn app(&mut self) -> &'static str {
        ["x", "y"][self.dice.roll(2)]
    }

    /// What an answer does to the model: what is there now, if it was a success; when nobody knows, the truth is read.
    async fn learn(&mut self, id: &Id, (code, value): (u16, Value), expected: u16) {
        if self.faults && code / 100 == 5 {
            return self.read(id).await;
        }
        assert_eq!(code, expected, "seed {}: {id:?}: {value}", self.seed);
        if code / 100 == 2 {
            self.model.put(id.clone(), Object::of(&value));
        }
    }

    /// Asks until there is an answer; whatever was left open has happened, or it has not.
    async fn read(&mut self, id: &Id) {
        let (code, value) = loop {
            let (code, value) = self.api.get(&format!("{}/{}", path(Some(id.0)), id.1)).await;
            if code / 100 != 5 {
                break (code, value);
            }
        };
        match (code, self.model.now.get(id)) {
            (200, Some(known)) if known.version == Object::of(&value).version => {
                assert_eq!(known, &Object::of(&value), "seed {}: {id:?}", self.seed);
            }
            (200, _) => self.model.put(id.clone(), Object::of(&value)),
            (404, Some(_)) => {
                // The revision of a removal stands in the newest list.
                let version = self.newest().await;
                self.model.gone(id, version);
            }
            (404, None) => {}
            _ => panic!("seed {}: {code} {value}", self.seed),
        }
    }

    async fn newest(&mut self) -> u64 {
        loop {
            let (code, list) = self.api.get(&path(None)).await;
            if code == 200 {
                return list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            }
        }
    }

    async fn step(&mut self) {
        match self.dice.roll(12) {
            0..=2 => self.create().await,
            3 | 4 => self.update().await,
            5 | 6 => self.patch().await,
            7 | 8 => self.delete().await,
            9 => self.list().await,
            10 => self.delete_collection().await,
            _ => self.watch().await,
        }
    }

    async fn create(&mut self) {
        let (id, app, data) = (self.id(), self.app(), self.dice.roll(100).to_string());
        let map = json!({"metadata": {"name": id.1, "labels": {"app": app}}, "data": {"k": data}});
        let there = self.model.now.contains_key(&id);
        let answer = self.api.json(Method::POST, &path(Some(id.0)), map).await;
        self.learn(&id, answer, if there { 409 } else { 201 }).await;
    }

    /// With the right version, an old one, or none; of what is not there too.
    async fn update(&mut self) {
        let (id, app, data) = (self.id(), self.app(), self.dice.roll(100).to_string());
        let known = self.model.now.get(&id).cloned();
        let version = match (self.dice.roll(3), &known) {
            (0, Some(object)) => Some(object.version),
            (1, Some(object)) => Some(object.version - 1),
            _ => None,
        };
        let mut map = json!({"metadata": {"name": id.1, "labels": {"app": app}}, "data": {"k": data}});
        if let Some(version) = version {
            map["metadata"]["resourceVersion"] = version.to_string().into();
        }
        let (stale, same) = match &known {
            Some(object) => (version.is_some_and(|v| v != object.version), object.app == app && object.data == data),
            None => (false, false),
        };
        let answer = self.api.json(Method::PUT, &format!("{}/{}", path(Some(id.0)), id.1), map).await;
        match (known, stale) {
            (None, _) => self.learn(&id, answer, 404).await,
            (Some(_), true) => self.learn(&id, answer, 409).await,
            (Some(object), false) if same => self.unchanged(&id, answer, &object).await,
            (Some(_), false) => self.learn(&id, answer, 200).await,
        }
    }

    /// A write that changes nothing is no change.
    async fn unchanged(&mut self, id: &Id, (code, value): (u16, Value), object: &Object) {
        match self.faults && code / 100 == 5 {
            true => self.read(id).await,
            false => assert_eq!((code, &Object::of(&value)), (200, object), "seed {}: {id:?}", self.seed),
        }
    }

    async fn patch(&mut self) {
        let (id, data) = (self.id(), self.dice.roll(100).to_string());
        let known = self.model.now.get(&id).cloned();
        let answer = self.api.merge(&format!("{}/{}", path(Some(id.0)), id.1), json!({"data": {"k": data}})).await;
        match known {
            None => self.learn(&id, answer, 404).await,
            Some(object) if object.data == data => self.unchanged(&id, answer, &object).await,
            Some(_) => self.learn(&id, answer, 200).await,
        }
    }

    async fn delete(&mut self) {
        let id = self.id();
        let there = self.model.now.contains_key(&id);
        let (code, value) = self.api.delete(&format!("{}/{}", path(Some(id.0)), id.1)).await;
        match (self.faults && code / 100 == 5, there) {
            (true, _) => self.read(&id).await,
            (false, false) => assert_eq!(code, 404, "seed {}: {value}", self.seed),
            (false, true) => {
                assert_eq!(code, 200, "seed {}: {value}", self.seed);
                let version = self.newest().await;
                self.model.gone(&id, version);
            }
        }
    }

    async fn delete_collection(&mut self) {
        let (space, app) = (SPACES[self.dice.roll(2)], self.app());
        let ids: Vec<Id> =
            self.model.now.iter().filter(|(id, o)| id.0 == space && o.app == app).map(|(id, _)| id.clone()).collect();
        let (code, value) = self.api.delete(&format!("{}?labelSelector=app%3D{app}", path(Some(space)))).await;
        assert!(code == 200 || self.faults && code / 100 == 5, "seed {}: {value}", self.seed);
        // In which order they went, and at which revisions, only the watches say: they are compared up to here.
        let all = ids.len();
        if all > 1 || code != 200 {
            self.compare().await;
            self.forget().await;
        } else if all == 1 {
            let version = self.newest().await;
            self.model.gone(&ids[0], version);
        }
    }

    /// The model begins anew with what is there.
    async fn forget(&mut self) {
        let newest = loop {
            let (code, list) = self.api.get(&path(None)).await;
            if code == 200 {
                break list;
            }
        };
        let floor = newest["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        self.model = Model { floor, ..Model::default() };
        let mut all: Vec<(Id, Object)> = newest["items"].as_array().unwrap().iter().filter_map(modelled).collect();
        all.sort_by_key(|(_, object)| object.version);
        all.into_iter().for_each(|(id, object)| self.model.put(id, object));
    }

    /// Whole or in pages, by label or not: one revision's objects in order.
    async fn list(&mut self) {
        let space = [None, Some(SPACES[0]), Some(SPACES[1])][self.dice.roll(3)];
        let app = [None, Some("x"), Some("y")][self.dice.roll(3)];
        let limit = self.dice.roll(4);
        let (mut seen, mut query) = (vec![], format!("limit={limit}"));
        if let Some(app) = app {
            query.push_str(&format!("&labelSelector=app%3D{app}"));
        }
        let mut next = String::new();
        loop {
            let (code, list) = self.api.get(&format!("{}?{query}{next}", path(space))).await;
            if self.faults && code / 100 == 5 {
                continue;
            }
            assert_eq!(code, 200, "seed {}: {list}", self.seed);
            seen.extend(list["items"].as_array().unwrap().iter().filter_map(modelled));
            match list.pointer("/metadata/continue").and_then(Value::as_str).filter(|token| !token.is_empty()) {
                Some(token) => next = format!("&continue={token}"),
                None => break,
            }
        }
        let expected: Vec<(Id, Object)> = self
            .model
            .now
            .iter()
            .filter(|(id, object)| space.is_none_or(|s| s == id.0) && app.is_none_or(|a| a == object.app))
            .map(|(id, object)| (id.clone(), object.clone()))
            .collect();
        assert_eq!(seen, expected, "seed {}: {space:?} {app:?} {limit}", self.seed);
    }

    /// From somewhere in what the model remembers.
    async fn watch(&mut self) {
        if self.watches.len() >= 6 || self.model.history.is_empty() {
            return;
        }
        let space = [None, Some(SPACES[0]), Some(SPACES[1])][self.dice.roll(3)];
        let app = [None, Some("x"), Some("y")][self.dice.roll(3)];
        let after = self.model.history[self.dice.roll(self.model.history.len())].1.max(self.model.floor);
        let selector = app.map_or(String::new(), |app| format!("&labelSelector=app%3D{app}"));
        let events = self.api.watch(&format!("{}?watch=1&resourceVersion={after}{selector}", path(space))).await;
        self.watches.push(Watch { space, app, after, events });
    }

    /// Every watch has seen what the model says, in order, each once. A last object shows where it ends.
    async fn compare(&mut self) {
        for mut watch in std::mem::take(&mut self.watches) {
            let expected = self.model.seen(&watch);
            let mut seen = vec![];
            while seen.len() < expected.len() {
                let Some(event) = watch.events.next().await else { break };
                if event["type"] == "ERROR" && self.faults {
                    // The store's watch was lost: the client starts again, as after any error.
                    break;
                }
                let Some((id, _)) = modelled(&event["object"]) else { continue };
                let version = event["object"]["metadata"]["resourceVersion"].as_str().unwrap();
                seen.push(format!("{} {}/{} {version}", event["type"].as_str().unwrap(), id.0, id.1));
            }
            match self.faults {
                true => assert_eq!(seen, expected[..seen.len()], "seed {}", self.seed),
                false => assert_eq!(seen, expected, "seed {}", self.seed),
            }
        }
    }

    async fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step().await;
        }
        self.list().await;
        self.compare().await;
    }
}

/// Only the test's own objects.
fn modelled(value: &Value) -> Option<(Id, Object)> {
    let text = |path| value.pointer(path).and_then(Value::as_str);
    let space = SPACES.into_iter().find(|space| text("/metadata/namespace") == Some(space))?;
    let name = text("/metadata/name").filter(|name| name.starts_with('m'))?;
    Some(((space, name.into()), Object::of(value)))
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let given = std::env::var("SKIFF_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or(0x00c0_ffee);
    (first..).take(if given.is_some() { 1 } else { count as usize })
}

#[tokio::test]
async fn answers_and_watches_are_the_models() {
    for seed in seeds(40) {
        Story::new(seed, Arc::new(Memory::new()), false).await.run(150).await;
    }
}

#[tokio::test]
async fn failing_stores_lose_nothing_that_was_acknowledged() {
    for seed in seeds(40) {
        let armed = Arc::new(AtomicBool::new(false));
        let told = armed.clone();
        let plan = move |n: u64, op: Op| {
            let dice = Dice((seed << 20 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).roll(20);
            match (op, dice) {
                // The start is not what is asked about.
                _ if !told.load(Ordering::Relaxed) => Act::Pass,
                (Op::Put | Op::Delete | Op::Commit, 0) => Act::Refuse,
                (Op::Put | Op::Delete | Op::Commit, 1) => Act::Lose,
                (Op::Put | Op::Delete | Op::Commit, 2) => Act::Delay(std::time::Duration::from_millis(1)),
                (Op::Get | Op::List, 0) => Act::Refuse,
                _ => Act::Pass,
            }
        };
        let store: Arc<dyn Store> = Arc::new(Faulty::wrap(Arc::new(Memory::new()), plan));
        let story = Story::new(seed, store, true).await;
        armed.store(true, Ordering::Relaxed);
        story.run(150).await;
    }
}

/// Many clients add to one number by reading, adding and writing back: every acknowledged addition counts once, and a watch
/// sees each, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_object_is_linearizable() {
    let api = Arc::new(Api::new().await);
    let first = api.create(&path(Some("default")), json!({"metadata": {"name": "sum"}, "data": {"k": "0"}})).await;
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = api.watch(&format!("{}?watch=1&resourceVersion={from}", path(Some("default")))).await;
    let clients = (0..8).map(|_| {
        let api = api.clone();
        tokio::spawn(async move {
            let (at, mut added, mut lost) = (format!("{}/sum", path(Some("default"))), 0, 0);
            while added < 50 {
                let (_, mut map) = api.get(&at).await;
                let sum: u32 = map["data"]["k"].as_str().unwrap().parse().unwrap();
                map["data"]["k"] = (sum + 1).to_string().into();
                match api.json(Method::PUT, &at, map).await.0 {
                    200 => added += 1,
                    409 => lost += 1,
                    other => panic!("{other}"),
                }
                tokio::task::yield_now().await;
            }
            lost
        })
    });
    let mut lost = 0;
    for client in clients.collect::<Vec<_>>() {
        lost += client.await.unwrap();
    }
    for sum in 1..=400 {
        let event = events.next().await.unwrap();
        assert_eq!(
            (event["type"].as_str(), event["object"]["data"]["k"].as_str()),
            (Some("MODIFIED"), Some(sum.to_string().as_str()))
        );
    }
    let (_, map) = api.get(&format!("{}/sum", path(Some("default")))).await;
    assert_eq!(map["data"]["k"], "400");
    assert!(lost > 0, "the clients never met: nothing was shown");
}

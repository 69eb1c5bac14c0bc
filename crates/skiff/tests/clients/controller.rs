//! kube-rs: a controller as its users write them. A ConfigMap asks for a Service; a finalizer says when it is gone.

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{
    Api, Client, Error, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{
        Controller,
        controller::Action,
        finalizer::{Error as Finalizing, Event, finalizer},
        wait::{await_condition, conditions},
        watcher,
    },
};
use serde_json::{Value, json};
use skiff_testkit::tools;
use tokio::sync::oneshot;

use super::common::{
    Cluster,
    objects::{client, object},
};

const MANAGER: &str = "ports-controller";
const FINALIZER: &str = "ports.example.test/finalizer";
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_controller_of_kube_rs() {
    if !tools::root_with(&["ip"]) {
        return;
    }
    let _turn = super::turn();
    let cluster = Cluster::up("controller", &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = client(&cluster.kubeconfig()).await;
        let (end, ended) = oneshot::channel::<()>();
        let running = tokio::spawn(run(client.clone(), ended));
        let story = tokio::time::timeout(4 * PATIENCE, life(&client)).await;
        story.unwrap_or_else(|_| panic!("the story ends in time\n{}", cluster.log()));
        drop(end);
        tokio::time::timeout(PATIENCE, running).await.expect("it ends when told to").expect("it does not panic");
    });
}

async fn run(client: Client, ended: oneshot::Receiver<()>) {
    let asked = watcher::Config::default().labels("ports=wanted");
    let controller = Controller::new(Api::<ConfigMap>::default_namespaced(client.clone()), asked)
        .owns(Api::<Service>::default_namespaced(client.clone()), watcher::Config::default())
        .graceful_shutdown_on(async move {
            // Told or forgotten: it ends.
            let _ = ended.await;
        });
    let again = |_: Arc<ConfigMap>, _: &Finalizing<Error>, _: Arc<Client>| Action::requeue(Duration::from_millis(200));
    let done = controller.run(reconcile, again, Arc::new(client));
    done.for_each(|outcome| async { outcome.err().iter().for_each(|why| eprintln!("tried again: {why}")) }).await;
}

async fn reconcile(asked: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, Finalizing<Error>> {
    let api = Api::<ConfigMap>::default_namespaced((*client).clone());
    finalizer(&api, FINALIZER, asked, |event| async {
        match event {
            Event::Apply(asked) => serve(&client, &asked).await?,
            Event::Cleanup(asked) => remember(&client, &asked).await?,
        }
        Ok(Action::await_change())
    })
    .await
}

/// The Service and what is reported of it, both by server-side apply.
async fn serve(client: &Client, asked: &ConfigMap) -> Result<(), Error> {
    let data = asked.data.clone().unwrap_or_default();
    let ports: Vec<_> =
        data.iter().map(|(name, port)| json!({"name": name, "port": port.parse::<i32>().unwrap_or(0)})).collect();
    let name = asked.name_any();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "ownerReferences": [asked.controller_owner_ref(&())]},
        "spec": {"ports": ports},
    });
    let made = apply::<Service>(client, MANAGER, service).await?;
    let ip = made.spec.and_then(|s| s.cluster_ip);
    let report =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "annotations": {"ip": ip}}});
    apply::<ConfigMap>(client, MANAGER, report).await.map(drop)
}

/// What only a finalizer can do: something about an object that is going.
async fn remember(client: &Client, asked: &ConfigMap) -> Result<(), Error> {
    let name = format!("was-{}", asked.name_any());
    apply::<ConfigMap>(client, MANAGER, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}))
        .await
        .map(drop)
}

async fn apply<K>(client: &Client, manager: &str, value: Value) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    K: Clone + Debug + serde::de::DeserializeOwned,
{
    let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
    let api = Api::<K>::default_namespaced(client.clone());
    api.patch(&name, &PatchParams::apply(manager).force(), &Patch::Apply(value)).await
}

async fn life(client: &Client) {
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let services = Api::<Service>::default_namespaced(client.clone());
    let asked = json!({"metadata": {"name": "web", "labels": {"ports": "wanted"}}, "data": {"http": "80"}});
    maps.create(&PostParams::default(), &object(asked)).await.expect("create the ConfigMap");

    let first = service(&services, "web", |s| ports(s) == [("http", 80)]).await;
    map(&maps, "web", |m| m.annotations().contains_key("ip") && m.finalizers() == [FINALIZER]).await;

    // A wish that changes takes away what it no longer has.
    let change = json!({"data": {"https": "443", "http": null}});
    maps.patch("web", &PatchParams::default(), &Patch::Merge(change)).await.expect("change the ConfigMap");
    service(&services, "web", |s| ports(s) == [("https", 443)]).await;

    // What others added stays, and what they may not take is refused.
    let other = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"sessionAffinity": "ClientIP"}});
    apply::<Service>(client, "other", other).await.expect("a field of its own");
    let theft = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"name": "mine", "port": 443}]}});
    let refused =
        services.patch("web", &PatchParams::apply("other"), &Patch::Apply(theft)).await.expect_err("a conflict");
    let words = "conflict with \"ports-controller\": .spec.ports[port=443,protocol=\"TCP\"].name";
    assert!(refused.to_string().contains(words), "{refused}");

    // What is deleted comes back, with a new identity.
    services.delete("web", &DeleteParams::default()).await.expect("delete the Service");
    service(&services, "web", |s| s.uid() != first.uid() && ports(s) == [("https", 443)]).await;

    // The end: the finalizer's work is done before the ConfigMap goes, and its Service goes with it.
    let uid = maps.get("web").await.expect("the ConfigMap").uid().expect("a uid");
    maps.delete("web", &DeleteParams::background()).await.expect("delete the ConfigMap");
    within("the ConfigMap goes", await_condition(maps.clone(), "web", conditions::is_deleted(&uid))).await;
    maps.get("was-web").await.expect("what the finalizer made");
    within("its Service goes", await_condition(services, "web", |s: Option<&Service>| s.is_none())).await;
}

fn ports(service: &Service) -> Vec<(&str, i32)> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports.map(|p| (p.name.as_deref().unwrap_or(""), p.port)).collect()
}

async fn service(api: &Api<Service>, name: &str, wanted: impl Fn(&Service) -> bool) -> Service {
    let seen = await_condition(api.clone(), name, |s: Option<&Service>| s.is_some_and(&wanted));
    within("the Service becomes as wanted", seen).await.expect("it was seen")
}

async fn map(api: &Api<ConfigMap>, name: &str, wanted: impl Fn(&ConfigMap) -> bool) -> ConfigMap {
    let seen = await_condition(api.clone(), name, |m: Option<&ConfigMap>| m.is_some_and(&wanted));
    within("the ConfigMap becomes as wanted", seen).await.expect("it was seen")
}

async fn within<T, E: Debug>(what: &str, work: impl Future<Output = Result<T, E>>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not within a minute")).unwrap_or_else(|e| panic!("{what}: {e:?}"))
}

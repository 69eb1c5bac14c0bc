//! A cluster's API in memory, asked in process.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_apiserver::{Body, Config, Server};
use skiff_store::Store;
use skiff_store::memory::Memory;

pub(crate) struct Api {
    pub(crate) server: Arc<Server>,
    who: Identity,
}

impl Api {
    pub(crate) async fn new() -> Api {
        let api = Api::over(Arc::new(Memory::new()), &["10.96.0.0/12"]).await;
        api.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        api
    }

    /// A server on a store that there is, with these ranges of service addresses.
    pub(crate) async fn over(store: Arc<dyn Store>, ranges: &[&str]) -> Api {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let mut config = Config::new("test", "192.0.2.1:6443".parse().unwrap(), &key);
        config.service_cidrs = ranges.iter().map(|r| r.parse().unwrap()).collect();
        Api::of(Server::new(config, store).await.unwrap())
    }

    /// One of several servers on a store, reached at this address.
    pub(crate) async fn one_of(store: &Arc<dyn Store>, advertise: &str) -> Api {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let config = Config { shared: true, ..Config::new("test", advertise.parse().unwrap(), &key) };
        Api::of(Server::new(config, store.clone()).await.unwrap())
    }

    /// Asked by the administrator.
    pub(crate) fn of(server: Arc<Server>) -> Api {
        Api { server, who: Identity::admin() }
    }

    /// The same server, asked by somebody else.
    pub(crate) fn by(&self, who: Identity) -> Api {
        Api { server: self.server.clone(), who }
    }

    /// Asks until the answer is as wished: for what the server does on its own account.
    pub(crate) async fn until(&self, path: &str, wished: impl Fn(u16, &Value) -> bool) -> Value {
        let asking = async {
            loop {
                let (code, value) = self.get(path).await;
                if wished(code, &value) {
                    return value;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), asking).await.expect("not within 30 s")
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: impl Into<Bytes>,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("content-type", media);
        request.extensions_mut().unwrap().insert(self.who.clone());
        self.server.handle(request.body(Full::new(body.into())).unwrap()).await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, media: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let response = self.send(method, path, media, body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn json(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.ask(method, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, "application/json", "").await
    }

    pub(crate) async fn create(&self, path: &str, body: Value) -> Value {
        let (code, value) = self.json(Method::POST, path, body).await;
        assert_eq!(code, 201, "{value}");
        value
    }

    pub(crate) async fn merge(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::PATCH, path, "application/merge-patch+json", body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        self.ask(Method::DELETE, path, "application/json", "").await
    }

    /// The events of a watch, one by one.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        Events { body: self.send(Method::GET, path, "application/json", "").await.into_body(), rest: Vec::new() }
    }
}

pub(crate) struct Events {
    body: Body,
    rest: Vec<u8>,
}

impl Events {
    /// The next event; None when the watch is over.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(10), self.body.frame());
            let frame = frame.await.expect("no event for 10 s")?.unwrap();
            self.rest.extend_from_slice(frame.data_ref().unwrap());
        }
    }

    /// `TYPE name` of the next event.
    pub(crate) async fn short(&mut self) -> String {
        let event = self.next().await.expect("the watch ended");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

//! An API server that makes its lists while they are read, so that only the proxy's own memory grows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, channel::mpsc};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};
use tower::BoxError;

use crate::cluster::{service, slice};

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SERVICES: &str = "/api/v1/services";
const PAGE: u32 = 500;

type Watches = HashMap<String, Vec<mpsc::UnboundedSender<Bytes>>>;

#[derive(Clone)]
pub(crate) struct Api {
    services: u32,
    /// Stands for Service 0 and its slice.
    first: Arc<(Value, Value)>,
    watches: Arc<Mutex<Watches>>,
}

impl Api {
    pub(crate) fn new(services: u32, first: (Value, Value)) -> Self {
        Api { services, first: Arc::new(first), watches: Arc::default() }
    }

    fn object(&self, path: &str, n: u32) -> Value {
        match (path, n) {
            (SERVICES, 0) => self.first.0.clone(),
            (SERVICES, n) => service(n),
            (_, 0) => self.first.1.clone(),
            (_, n) => slice(n, 0),
        }
    }

    fn page(&self, path: &str, from: u32) -> Bytes {
        let all = if path == SERVICES || path == SLICES { self.services } else { 0 };
        let to = all.min(from + PAGE);
        let items: Vec<Value> = (from..to).map(|n| self.object(path, n)).collect();
        let next = if to < all { to.to_string() } else { String::new() };
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": next}, "items": items});
        list.to_string().into()
    }

    pub(crate) async fn answer(self, request: Request<Body>) -> Response<UnsyncBoxBody<Bytes, BoxError>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let (sender, receiver) = mpsc::unbounded();
        if query.contains("watch=true") {
            self.watches.lock().unwrap_or_else(PoisonError::into_inner).entry(path).or_default().push(sender);
        } else {
            let from = query.split('&').find_map(|p| p.strip_prefix("continue=")).and_then(|n| n.parse().ok());
            let _ = sender.unbounded_send(self.page(&path, from.unwrap_or(0)));
        }
        let frames = receiver.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).contains_key(SLICES)
    }

    /// A slice has changed, and everybody hears of it.
    pub(crate) fn tell(&self, slice: &Value) {
        let line = Bytes::from(json!({"type": "MODIFIED", "object": slice}).to_string() + "\n");
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.get(SLICES).into_iter().flatten().for_each(|watch| drop(watch.unbounded_send(line.clone())));
    }
}

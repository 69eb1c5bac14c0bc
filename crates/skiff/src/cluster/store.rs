//! Where a cluster's objects are: in files of this machine, or in an etcd that several servers share.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use skiff_store::{
    Error, Expect, Store,
    embedded::{self, Embedded},
    etcd::{self, Etcd, TlsFiles},
};

use super::{config::Config, paths::Paths};
use crate::cli::{StoreArgs, StoreKind};

/// How to reach the etcd that has the objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct InEtcd {
    pub(crate) endpoints: Vec<String>,
    pub(crate) prefix: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
}

/// Whose certificates the cluster's servers have: written by the first, held against the others' own.
const AUTHORITY: &str = "/skiff/authority";

/// The store by the flags, and by what was kept of an existing cluster (None: it is new).
pub(crate) fn decide(name: &str, kept: Option<&Option<InEtcd>>, args: &StoreArgs) -> Result<Option<InEtcd>> {
    let wished = args.store.unwrap_or(match kept {
        Some(Some(_)) => StoreKind::Etcd,
        _ => StoreKind::Embedded,
    });
    match (kept, wished) {
        (Some(None), StoreKind::Etcd) => bail!(
            "cluster {name:?} has its objects in the embedded store; take another --name for one in etcd, or remove it with \
             `skiff down --delete --name {name}`"
        ),
        (Some(Some(_)), StoreKind::Embedded) => {
            bail!("cluster {name:?} has its objects in etcd; take another --name for one with the embedded store")
        }
        (_, StoreKind::Embedded) if args.names_etcd() => bail!("--etcd-… flags need --store etcd"),
        (_, StoreKind::Embedded) => Ok(None),
        (kept, StoreKind::Etcd) => in_etcd(name, kept.and_then(Option::as_ref), args).map(Some),
    }
}

fn in_etcd(name: &str, kept: Option<&InEtcd>, args: &StoreArgs) -> Result<InEtcd> {
    // The daemon has another working directory.
    let file = |given: &Option<PathBuf>, kept: Option<&Option<PathBuf>>| match given {
        Some(path) => std::path::absolute(path).map(Some).with_context(|| path.display().to_string()),
        None => Ok(kept.cloned().flatten()),
    };
    let endpoints = match (args.etcd_endpoints.is_empty(), kept) {
        (false, _) => args.etcd_endpoints.clone(),
        (true, Some(kept)) => kept.endpoints.clone(),
        (true, None) => bail!("--store etcd needs --etcd-endpoints, such as https://192.0.2.10:2379"),
    };
    let prefix = match (&args.etcd_prefix, kept) {
        (Some(given), Some(kept)) if *given != kept.prefix => {
            bail!("cluster {name:?} exists with --etcd-prefix {}; take another --name", kept.prefix)
        }
        (_, Some(kept)) => kept.prefix.clone(),
        (Some(given), None) => given.clone(),
        (None, None) => format!("/registry/skiff/{name}"),
    };
    Ok(InEtcd {
        endpoints,
        prefix,
        ca_file: file(&args.etcd_cafile, kept.map(|k| &k.ca_file))?,
        cert_file: file(&args.etcd_certfile, kept.map(|k| &k.cert_file))?,
        key_file: file(&args.etcd_keyfile, kept.map(|k| &k.key_file))?,
    })
}

pub(crate) async fn open(config: &Config, paths: &Paths, ca_pem: &str) -> Result<Arc<dyn Store>> {
    let Some(place) = &config.etcd else {
        let store = Embedded::open(paths.store(), embedded::Options::default()).context("open the store")?;
        return Ok(Arc::new(store));
    };
    let tls = TlsFiles { ca: place.ca_file.clone(), certificate: place.cert_file.clone(), key: place.key_file.clone() };
    let options = etcd::Options { tls, ..etcd::Options::new(place.endpoints.clone(), &place.prefix) };
    let store = Etcd::open(options).await.context("open the store in etcd")?;
    one_authority(&store, ca_pem, paths).await?;
    Ok(Arc::new(store))
}

/// Clients and tokens of one server must be good for all.
async fn one_authority(store: &Etcd, own: &str, paths: &Paths) -> Result<()> {
    let claimed = match store.put(AUTHORITY, own.to_owned().into(), Expect::Absent).await {
        Ok(_) => return Ok(()),
        Err(Error::Conflict { current: Some(current), .. }) => current.value,
        Err(error) => return Err(error).context("tell etcd whose certificates this cluster has"),
    };
    if claimed == own.as_bytes() {
        return Ok(());
    }
    bail!(
        "the servers of this cluster have other certificates: copy the directory pki of one that runs to {}",
        paths.pki().display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(endpoints: &[&str]) -> StoreArgs {
        let etcd_endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        StoreArgs { store: Some(StoreKind::Etcd), etcd_endpoints, ..StoreArgs::default() }
    }

    #[test]
    fn a_cluster_keeps_its_store() {
        let first = decide("a", None, &args(&["http://127.0.0.1:1"])).unwrap().unwrap();
        assert_eq!(first.prefix, "/registry/skiff/a");
        let kept = Some(first.clone());
        assert_eq!(decide("a", Some(&kept), &StoreArgs::default()).unwrap(), kept);
        let moved = decide("a", Some(&kept), &args(&["http://127.0.0.1:2"])).unwrap().unwrap();
        assert_eq!(moved, InEtcd { endpoints: vec!["http://127.0.0.1:2".into()], ..first });
        assert_eq!(decide("a", None, &StoreArgs::default()).unwrap(), None);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let kept = decide("a", None, &args(&["http://127.0.0.1:1"])).unwrap();
        let embedded = StoreArgs { store: Some(StoreKind::Embedded), ..StoreArgs::default() };
        let elsewhere = StoreArgs { etcd_prefix: Some("/x".into()), ..StoreArgs::default() };
        let no_kind = StoreArgs { store: None, ..args(&["http://127.0.0.1:1"]) };
        for (kept, args, words) in [
            (None, args(&[]), "--etcd-endpoints"),
            (None, no_kind, "--store etcd"),
            (Some(&kept), embedded, "in etcd"),
            (Some(&kept), elsewhere, "--etcd-prefix /registry/skiff/a"),
            (Some(&None), args(&["http://127.0.0.1:1"]), "embedded store"),
        ] {
            let error = decide("a", kept, &args).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

//! The sample applications as images: node.js and network tools from Debian packages, made once and kept with the build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use skiff_node::image::make::{Layer, Recipe, archive, digest, documents};
use skiff_testkit::{debian, registry::Registry, tools::run};

const PACKAGES: [&str; 11] = [
    "nodejs",
    "curl",
    "wget",
    "busybox",
    "telnet",
    "netcat-openbsd",
    "iputils-ping",
    "dash",
    "coreutils",
    "ca-certificates",
    "nginx-light",
];

const NGINX_CONF: &str = "user root;\npid /tmp/nginx.pid;\nerror_log /dev/stderr;\nevents {}\nhttp {\n  access_log /dev/stdout;\n  \
    include /etc/nginx/mime.types;\n  server { listen 80; root /usr/share/nginx/html; }\n}\n";

pub(crate) struct Samples {
    base: Layer,
    apps: Layer,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Samples {
    /// Made at the first call.
    pub(crate) fn get() -> &'static Samples {
        static MADE: OnceLock<Samples> = OnceLock::new();
        MADE.get_or_init(|| Samples::make().expect("sample images"))
    }

    fn make() -> Result<Samples, String> {
        Ok(Samples { base: packages("samples", &PACKAGES)?, apps: applications()? })
    }

    pub(crate) fn image<'a>(&'a self, name: &'a str, program: &'a str) -> Recipe<'a> {
        Recipe {
            name,
            layers: vec![&self.base, &self.apps],
            env: vec![PATH],
            cmd: vec!["node", program],
            working_dir: "/app",
        }
    }

    /// Pushes the image to the registry; its full name comes back.
    pub(crate) fn push(
        &self,
        recipe: &Recipe<'_>,
        registry: &Registry,
        repository: &str,
        tag: &str,
        dir: &Path,
    ) -> String {
        let (config, manifest) = documents(recipe);
        let config_digest = digest(&config);
        let layers = recipe.layers.iter().map(|l| (l.digest.as_str(), l.bytes.as_slice()));
        let blobs: Vec<_> = layers.chain([(config_digest.as_str(), config.as_slice())]).collect();
        registry.push(&blobs, &manifest, repository, tag, dir).expect("push")
    }

    /// An archive of ms-hello, both multcont images and nginx; ms-bye comes from a registry.
    pub(crate) fn archive(&self, dir: &Path) -> PathBuf {
        let nginx =
            Recipe { cmd: vec!["nginx", "-g", "daemon off;"], ..self.image("docker.io/library/nginx:latest", "") };
        let images = [
            self.image("skiff.local/ms-hello:v4", "ms-hello.js"),
            self.image("skiff.local/ms-hello:v5", "ms-hello.js"),
            self.image("skiff.local/multcont-morning:v3", "multcont-morning.js"),
            self.image("skiff.local/multcont-afternoon:v3", "multcont-afternoon.js"),
            nginx,
        ];
        let path = dir.join("samples.tar");
        archive(&path, &images).expect("an archive");
        path
    }
}

/// A root file system of Debian packages, made once and kept with the build.
pub(crate) fn packages(name: &str, packages: &[&str]) -> Result<Layer, String> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.tar", packages.len()));
    if !kept.exists() {
        keep(&kept, packages)?;
    }
    Ok(Layer::of(fs::read(&kept).map_err(|e| format!("{}: {e}", kept.display()))?))
}

/// Makes the layer; it appears under its name only when it is whole.
fn keep(path: &Path, packages: &[&str]) -> Result<(), String> {
    let said = |e: std::io::Error| format!("{}: {e}", path.display());
    let dir = tempfile::tempdir_in(path.parent().expect("a directory")).map_err(said)?;
    let root = dir.path().join("root");
    debian::unpack(packages, &dir.path().join("packages"), &root)?;
    for unneeded in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"] {
        // What is not there need not be removed.
        let _ = fs::remove_dir_all(root.join(unneeded));
    }
    let tar = dir.path().join("layer.tar");
    run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&root).args(["--sort=name", "--numeric-owner", "."]))?;
    fs::rename(tar, path).map_err(said)
}

fn applications() -> Result<Layer, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/apps");
    let mut files = vec![];
    for entry in fs::read_dir(&sources).map_err(|e| format!("{}: {e}", sources.display()))?.flatten() {
        let name = format!("app/{}", entry.file_name().to_string_lossy());
        files.push((name, fs::read(entry.path()).map_err(|e| e.to_string())?));
    }
    files.sort();
    files.push(("etc/nginx/nginx.conf".into(), NGINX_CONF.into()));
    let listed: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), 0o644, content.as_slice())).collect();
    Layer::files(&listed, &[("usr/bin/telnet", "inetutils-telnet"), ("usr/bin/nc", "nc.openbsd")])
        .map_err(|e| e.to_string())
}

pub(crate) fn manifest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/manifests").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

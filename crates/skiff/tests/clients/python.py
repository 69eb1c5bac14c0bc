"""What programs do with the Python client: every kind of call once, each checked."""

import sys
import threading

import yaml
from kubernetes import client, config, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python"


def pod(name):
    command = ["sh", "-c", "hostname > /index.html; exec httpd -f -p 8080 -h /"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "box:v1", "command": command}],
        },
    }


def objects(core, apps):
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    made = core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "a", "labels": {"k": "v"}}, "data": {"x": "1"}})
    assert made.data == {"x": "1"} and made.metadata.uid, made
    assert core.read_namespaced_config_map("a", NAMESPACE).metadata.resource_version == made.metadata.resource_version
    patched = core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"y": "2", "x": None}})
    assert patched.data == {"y": "2"}, patched
    made.data = {"z": "3"}
    try:
        core.replace_namespaced_config_map("a", NAMESPACE, made)
        raise AssertionError("a stale object was taken")
    except ApiException as error:
        assert error.status == 409 and "the object has been modified" in error.body, error
    try:
        core.read_namespaced_config_map("absent", NAMESPACE)
        raise AssertionError("there is no such object")
    except ApiException as error:
        assert error.status == 404 and 'configmaps \\"absent\\" not found' in error.body, error
    try:
        core.create_namespaced_service(NAMESPACE, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 0}]}})
        raise AssertionError("port 0 was taken")
    except ApiException as error:
        assert error.status == 422 and "spec.ports[0].port: Invalid value: 0" in error.body, error
    utils.create_from_yaml(client.ApiClient(), yaml_objects=list(yaml.safe_load_all(DEPLOYMENT)), namespace=NAMESPACE)
    scale = apps.read_namespaced_deployment_scale("d", NAMESPACE)
    assert scale.spec.replicas == 0, scale
    assert apps.patch_namespaced_deployment_scale("d", NAMESPACE, {"spec": {"replicas": 0}}).spec.replicas == 0
    apps.delete_namespaced_deployment("d", NAMESPACE, propagation_policy="Foreground")


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 0
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: c, image: "box:v1"}]}
"""


def pages(core):
    for number in range(5):
        core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": f"page-{number}", "labels": {"set": "pages"}}})
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="set=pages", limit=2, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{number}" for number in range(5)], names


def watching(core):
    since = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "seen"}})
    core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"a": "b"}})
    core.delete_namespaced_config_map("seen", NAMESPACE)
    seen = []
    watcher = watch.Watch()
    events = watcher.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=since, timeout_seconds=60)
    for event in events:
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            watcher.stop()
    assert seen == [(kind, "seen") for kind in ("ADDED", "MODIFIED", "DELETED")], seen
    short = watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, timeout_seconds=1)
    assert sum(1 for _ in short) >= 6, "a watch without a revision begins with what there is"


def ready(core, name):
    for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, field_selector=f"metadata.name={name}", timeout_seconds=60):
        conditions = event["object"].status.conditions or []
        if any(c.type == "Ready" and c.status == "True" for c in conditions):
            return
    raise AssertionError(f"pod {name} is not ready after a minute")


def streams(core):
    core.create_namespaced_pod(NAMESPACE, pod("web"))
    ready(core, "web")
    said = stream(core.connect_get_namespaced_pod_exec, "web", NAMESPACE, command=["echo", "hello"], stdout=True, stderr=True)
    assert said == "hello\n", said
    shell = stream(
        core.connect_get_namespaced_pod_exec, "web", NAMESPACE,
        command=["sh", "-c", "read x; echo got $x; echo bad >&2; exit 3"],
        stdin=True, stdout=True, stderr=True, _preload_content=False,
    )
    shell.write_stdin("word\n")
    shell.run_forever(timeout=60)
    assert (shell.read_stdout(), shell.read_stderr()) == ("got word\n", "bad\n"), "both streams"
    assert shell.returncode == 3, shell.returncode
    forward = portforward(core.connect_get_namespaced_pod_portforward, "web", NAMESPACE, ports="8080")
    socket = forward.socket(8080)
    socket.setblocking(True)
    socket.settimeout(60)
    socket.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = b""
    while chunk := socket.recv(4096):
        answer += chunk
    assert answer.endswith(b"web\n"), answer
    assert forward.error(8080) is None, forward.error(8080)
    assert core.read_namespaced_pod_log("web", NAMESPACE) == ""
    assert core.connect_get_namespaced_pod_proxy_with_path("web:8080", NAMESPACE, "index.html") == "web\n"


def everything_else(core):
    assert client.VersionApi().get_code().git_version.startswith("v1."), "a version"
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    assert {"apps", "discovery.k8s.io"} <= groups, groups
    review = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    assert client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed
    table = core.list_node(_preload_content=False, _request_timeout=60)
    assert table.status == 200 and b'"NodeList"' in table.data
    bodies = [{"metadata": {"generateName": "many-"}} for _ in range(8)]
    threads = [threading.Thread(target=core.create_namespaced_config_map, args=(NAMESPACE, body)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="set=pages")
    left = [item.metadata.name for item in core.list_namespaced_config_map(NAMESPACE).items]
    assert sum(name.startswith("many-") for name in left) == 8 and not any(name.startswith("page-") for name in left), left


def main():
    config.load_kube_config()
    core = client.CoreV1Api()
    objects(core, client.AppsV1Api())
    pages(core)
    watching(core)
    streams(core)
    everything_else(core)
    core.delete_namespace(NAMESPACE)


if __name__ == "__main__":
    sys.exit(main())

"""The manifests of k8s/ are what Kubernetes takes, and the chart renders to the same objects."""

import copy
import itertools
import json
import os
import platform
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from entrypoint.options import settings
from entrypoint.options.vips import parse_vips
from tests.cluster.manifests import K8S, ROOT, Manifest, kustomize, the
from tests.documented import the as documented

FOLDERS = [K8S / "base", *sorted((K8S / "overlays").iterdir())]
CUSTOM = {"PodMonitor", "PrometheusRule"}
OLDEST = (1, 28)


def versions() -> list[str]:
    """Return the versions of Kubernetes whose schemas kubernetes-validate has, from the oldest that is promised."""
    from kubernetes_validate.utils import all_versions

    found = {version.rpartition(".")[0] for version in all_versions()}
    return sorted((v for v in found if minor(v) >= OLDEST), key=minor)


def minor(version: str) -> tuple[int, ...]:
    """Return something to compare versions by."""
    return tuple(int(part) for part in version.split("."))


def pod_of(manifests: list[Manifest]) -> Manifest:
    """Return the pod template of what is rendered, as a Pod."""
    (workload,) = [m for m in manifests if m["kind"] in {"Deployment", "DaemonSet"}]
    template: Manifest = workload["spec"]["template"]
    return template


def breaches(pod: Manifest) -> list[str]:
    """Return what the Pod Security Standard *restricted* (and with it *baseline*) has against a pod.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    spec = pod["spec"]
    volumes = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found = [f"volume {kind}" for kind in volumes - allowed]
    found += [flag for flag in ("hostNetwork", "hostPID", "hostIPC") if spec.get(flag)]
    sysctls = {sysctl["name"] for sysctl in spec.get("securityContext", {}).get("sysctls", [])}
    found += [
        f"sysctl {name}" for name in sysctls - {"net.ipv4.ip_unprivileged_port_start"}
    ]  # of those that it permits
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        whole, own = spec.get("securityContext", {}), container.get("securityContext", {})
        both = {**whole, **own}
        capabilities = own.get("capabilities", {})
        rules = {
            "privileged": own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "capabilities": capabilities.get("drop") != ["ALL"]
            or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
            "runAsNonRoot": both.get("runAsNonRoot") is not True,
            "runAsUser": both.get("runAsUser") == 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"},
            "procMount": own.get("procMount", "Default") != "Default",
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
        }
        found += [rule for rule, broken in rules.items() if broken]
    return found


@pytest.mark.parametrize("version", versions())
def test_kubernetes_takes_every_manifest(version: str) -> None:
    """Valid, strictly, for every version from 1.28 to the newest that kubernetes-validate knows."""
    import kubernetes_validate

    manifests = {json.dumps(m): m for folder in FOLDERS for m in kustomize(folder) if m["kind"] not in CUSTOM}
    assert {m["kind"] for m in manifests.values()} >= {"Deployment", "DaemonSet", "Service", "ConfigMap"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_seen() -> None:
    """The schemas are there, from the oldest version that is promised, and strict."""
    import kubernetes_validate

    service = the("Service", kustomize(K8S / "base"))
    assert minor(versions()[0]) == OLDEST
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**service, "specs": {}}, versions()[0], strict=True)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("base", []),
        ("overlays/tls", []),
        ("overlays/http3", []),
        ("overlays/monitoring", []),
        ("overlays/daemonset", ["hostPort"]),
    ],
)
def test_the_pod_meets_the_restricted_standard(folder: str, expected: list[str]) -> None:
    """Restricted, except that the DaemonSet has the host ports that it is there for."""
    assert breaches(pod_of(kustomize(K8S / folder))) == expected


def test_the_overlay_of_the_page_sets_the_image(tmp_path: Path) -> None:
    """What docs/kubernetes.md tells everybody to write beside k8s/ is enough."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (overlay,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "newName" in text]
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(overlay)
    (container,) = pod_of(kustomize(tmp_path / "mine"))["spec"]["containers"]
    assert container["image"] == "registry.example.org/haproxy-safe-reload:1.2.3"


def test_the_sysctl_of_the_documentation_is_allowed() -> None:
    """The pod with what docs/kubernetes.md says about low ports is valid, and still restricted."""
    import kubernetes_validate

    rendered = kustomize(K8S / "base")
    pod = copy.deepcopy(pod_of(rendered))
    more = yaml.safe_load(documented("docs/kubernetes.md", "securityContext:").text)
    pod["spec"]["securityContext"] |= more["securityContext"]
    deployment = copy.deepcopy(the("Deployment", rendered))
    deployment["spec"]["template"] = pod
    kubernetes_validate.validate(deployment, versions()[0], strict=True)
    assert breaches(pod) == []


def test_a_stop_fits_into_the_grace_period() -> None:
    """The delay, the time for requests and the 5 s until the last SIGKILL are over before the kubelet kills."""
    pod = pod_of(kustomize(K8S / "base"))["spec"]
    (container,) = pod["containers"]
    seconds = {v["name"]: float(v["value"]) for v in container["env"] if v["name"].startswith("SAFE_RELOAD_STOP_")}
    assert set(seconds) == {"SAFE_RELOAD_STOP_DELAY", "SAFE_RELOAD_STOP_TIMEOUT"}
    assert sum(seconds.values()) + 5 <= pod["terminationGracePeriodSeconds"]
    assert "lifecycle" not in container, "a preStop hook would have to fit, too"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_variable_is_an_option(folder: Path) -> None:
    """No SAFE_RELOAD_ variable is one that safe_reload would only warn of."""
    (container,) = pod_of(kustomize(folder))["spec"]["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert names <= {option.variable for option in settings.OPTIONS}


def test_an_edit_is_never_a_rollout() -> None:
    """The pod names the ConfigMap without a hash, and carries no checksum of it."""
    for folder in FOLDERS:
        manifests = kustomize(folder)
        pod = pod_of(manifests)
        (mounted,) = [v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v]

        assert the("ConfigMap", manifests)["metadata"]["name"] == mounted == "haproxy"
        assert not [key for key in pod["metadata"]["annotations"] if "checksum" in key]


def test_the_service_has_udp_443_where_it_is_asked_for_and_nowhere_else() -> None:
    """Beside TCP 443 of the same Service, to a port of the container that a QUIC VIP has."""
    udp = {
        folder.name: [p for p in the("Service", kustomize(folder))["spec"]["ports"] if p["protocol"] == "UDP"]
        for folder in FOLDERS
    }
    assert {name for name, ports in udp.items() if ports} == {"http3"}
    assert udp["http3"] == [{"name": "http3", "port": 443, "targetPort": "http3", "protocol": "UDP"}]

    manifests = kustomize(K8S / "overlays/http3")
    assert (443, "TCP") in {(p["port"], p["protocol"]) for p in the("Service", manifests)["spec"]["ports"]}
    (container,) = pod_of(manifests)["spec"]["containers"]
    (port,) = [p["containerPort"] for p in container["ports"] if p["name"] == "http3" and p["protocol"] == "UDP"]
    (vips,) = [v["value"] for v in container["env"] if v["name"] == "SAFE_RELOAD_VIPS"]
    (vip,) = [vip for vip in parse_vips(vips) if vip.scheme == "quic@"]
    assert (vip.port, vip.tag) == (port, "FD_HTTP3")
    assert '"quic+fd@${FD_HTTP3}"' in the("ConfigMap", manifests)["data"]["haproxy.cfg"]


def test_no_file_is_mounted_by_its_own_name() -> None:
    """What is mounted with subPath never changes."""
    for folder in FOLDERS:
        (container,) = pod_of(kustomize(folder))["spec"]["containers"]
        assert not [mount for mount in container["volumeMounts"] if "subPath" in mount]


def test_the_alerts_are_those_that_are_tested() -> None:
    """The rules are those of the documentation, but for the number of draining generations that the pod can have."""
    text = (ROOT / "docs/monitoring/alerts.yaml").read_text()
    many, fewer = (f'safe_reload_generations{{state="draining"}} > {number}' for number in (8, 2))
    (container,) = pod_of(kustomize(K8S / "base"))["spec"]["containers"]
    assert many in text
    expected = yaml.safe_load(text.replace(many, fewer))["groups"]
    assert the("PrometheusRule", kustomize(K8S / "overlays/monitoring"))["spec"]["groups"] == expected
    assert {"name": "SAFE_RELOAD_MAX_DRAINING", "value": "4"} in container["env"]


@pytest.mark.parametrize("path", sorted(K8S.glob("*/**/*.yaml")), ids=lambda path: str(path.relative_to(K8S)))
def test_every_manifest_says_why(path: Path) -> None:
    """There is a comment in each file."""
    assert re.search(r"^\s*# \w.*", path.read_text(), re.MULTILINE)


# ---- the chart -----------------------------------------------------------------------------------------------------


def chart(values: dict[str, Any]) -> list[Manifest]:
    """Return what Helm renders: Helm 4's own engine, in a wheel."""
    helm = helm_python()
    with helm.Chart.load(K8S / "chart") as loaded:
        rendered = loaded.render(values, name="haproxy", namespace="default")
    return [manifest for text in rendered.values() for manifest in yaml.safe_load_all(text) if manifest]


def helm_python() -> Any:
    """Return Helm."""
    if platform.machine() != "x86_64" and not os.environ.get("HELM_C_LIB"):
        pytest.skip("helm-python-sdk has wheels for x86_64 only; set HELM_C_LIB to a libhelm_c of your own")
    import helm_python

    return helm_python


def normal(value: Any) -> Any:
    """Return a manifest in which the order of named things, which means nothing, is always the same."""
    if isinstance(value, dict):
        return {key: normal(one) for key, one in value.items()}
    if isinstance(value, list):
        values = [normal(one) for one in value]
        named = all(isinstance(one, dict) and "name" in one for one in values)
        return sorted(values, key=lambda one: str(one["name"])) if named else values
    return value


def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Any]:
    """Return manifests to compare."""
    return {(m["kind"], m["metadata"]["name"]): normal(m) for m in manifests}


SAME: dict[str, dict[str, Any]] = {
    "base": {},
    "overlays/daemonset": {"kind": "DaemonSet"},
    "overlays/tls": {
        "tls": {"secretName": "haproxy-tls"},
        "configuration": (K8S / "overlays/tls/haproxy.cfg").read_text(),
    },
    "overlays/http3": {
        "tls": {"secretName": "haproxy-tls"},
        "http3": {"enabled": True},
        "configuration": (K8S / "overlays/http3/haproxy.cfg").read_text(),
    },
    "overlays/monitoring": {"monitoring": {"enabled": True}},
}


def test_each_overlay_is_in_the_chart() -> None:
    """What can be had with kustomize can be had with Helm."""
    assert {K8S / name for name in SAME} == set(FOLDERS)


@pytest.mark.parametrize("folder", SAME)
def test_the_chart_renders_to_the_same_objects(folder: str) -> None:
    """Helm and kustomize agree, object by object."""
    assert by_name(chart(SAME[folder])) == by_name(kustomize(K8S / folder))


def test_the_documentation_s_helm_install_renders() -> None:
    """What `helm install` is given in docs/kubernetes.md is what the chart wants; Helm itself is not needed."""
    words = shlex.split(documented("docs/kubernetes.md", "helm install haproxy k8s/chart").text)
    values: dict[str, Any] = {}
    for option, setting in itertools.pairwise(words):
        if option == "--set":
            path, _, value = setting.partition("=")
            place = values
            *parents, last = path.split(".")
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = value
    (container,) = pod_of(chart(values))["spec"]["containers"]

    assert container["image"] == f"{values['image']['repository']}:{values['image']['tag']}"
    assert container["image"].startswith("registry.example.org/")


def test_helm_has_nothing_against_the_chart() -> None:
    """`helm lint` has no error and no warning; that an icon is recommended is information."""
    found = helm_python().lint(K8S / "chart")
    assert not found["errors"]
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicas": 0},
        {"kind": "StatefulSet"},
        {"vips": "8080:FD_HTTP"},
        {"vips": "tcp@*:8080:FD_HTTP"},
        {"http3": {"enabled": True}},
        {"http3": {"enabled": True}, "tls": {"secretName": ""}},
        {"http3": {"vips": "*:8443:FD_HTTP3"}},
        {"http3": {"vips": "udp@*:8443:FD_HTTP3"}},
        {"image": {"repository": "x", "version": "1"}},
        {"options": {"SAFE_RELOAD_DEBOUNCE": 1}},
        {"options": {"debounce": "1"}},
        {"stop": {"timeout": 0}},
        {"files": {"haproxy.cfg": ""}},
    ],
    ids=str,
)
def test_a_wrong_value_is_an_error(values: dict[str, Any]) -> None:
    """The schema refuses what the chart does not know, before anything is rendered."""
    with pytest.raises(helm_python().HelmValuesError):
        chart(values)


def test_udp_443_comes_behind_tcp_443() -> None:
    """A `kubectl apply` that takes both for one port keeps the first one: HTTPS goes on."""
    for manifests in (kustomize(K8S / "overlays/http3"), chart(SAME["overlays/http3"])):
        (container,) = pod_of(manifests)["spec"]["containers"]
        for ports in (the("Service", manifests)["spec"]["ports"], container["ports"]):
            names = [port["name"] for port in ports]
            assert names.index("https") < names.index("http3")


def test_a_daemonset_has_the_node_s_udp_port_too() -> None:
    """The same number as for HTTPS, because that is the port of the address that clients know."""
    values = {"kind": "DaemonSet", "tls": {"secretName": "x"}, "http3": {"enabled": True}, "hostPorts": {"https": 444}}
    (container,) = pod_of(chart(values))["spec"]["containers"]
    ports = [
        (p["name"], p["containerPort"], p["hostPort"], p["protocol"]) for p in container["ports"] if "hostPort" in p
    ]
    assert ports == [
        ("http", 8080, 80, "TCP"),
        ("https", 8443, 444, "TCP"),
        ("http3", 8443, 444, "UDP"),
    ]


def test_values_reach_the_pod() -> None:
    """What is not a default arrives, too, and an option of the user's wins."""
    values = {
        "image": {"repository": "registry.example.org/lb", "tag": "1", "pullSecrets": ["key"]},
        "options": {"LOG_FORMAT": "text", "DEBOUNCE": "1"},
        "files": {"errors.http": "HTTP/1.0 503\r\n\r\n"},
        "stop": {"delay": 20, "timeout": 100},
        "restartOnChange": True,
        "nodeSelector": {"role": "edge"},
        "tolerations": [{"operator": "Exists"}],
        "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
    }
    manifests = chart(values)
    pod = pod_of(manifests)
    (container,) = pod["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}

    assert container["image"] == "registry.example.org/lb:1"
    assert environment["SAFE_RELOAD_LOG_FORMAT"] == "text"
    assert environment["SAFE_RELOAD_DEBOUNCE"] == "1"
    assert len(environment) == len(container["env"])
    assert the("ConfigMap", manifests)["data"]["errors.http"] == "HTTP/1.0 503\r\n\r\n"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 130
    assert len(pod["metadata"]["annotations"]["checksum/config"]) == 64
    assert pod["spec"]["imagePullSecrets"] == [{"name": "key"}]
    assert the("Service", manifests)["spec"]["externalTrafficPolicy"] == "Local"
    assert breaches(pod) == []

"""k8s/overlays/http3 under a real kubelet and a real API server."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from tests.cluster.conftest import HTTPS, Cluster, Pod, key_pair
from tests.cluster.manifests import K8S, Manifest, kustomize, the
from tests.http3 import http3_get
from tests.waiting import eventually

Start = Callable[..., Pod]

HELLO = "Hello from haproxy behind safe_reload\n"


def test_http3_is_answered_after_edits_a_reload_and_a_crash(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    """On the UDP port of the container, beside HTTPS; each edit is one reload; the pod has no capability."""
    secret, certificate = key_pair(tmp_path, "first")
    cluster.apply(secret)
    pod = start("http3")
    status, headers, text = http3_get(cluster.datagrams(HTTPS))
    assert (status, text) == (200, HELLO)
    assert headers["alt-svc"] == 'h3=":443"; ma=3600'
    assert pod.certificate() == certificate
    assert pod.get()[0] == 308

    for number in range(3):
        pod.edit(pod.marked(f"edit {number}"))
        eventually(partial(answers, pod, f"edit {number}"))
        assert pod.certificate() == certificate
    pod.shell("safe_reload reload")
    assert pod.http3() == (200, "edit 2")
    eventually(lambda: pod.metric("reloads_total") == 4)

    (current,) = [one for one in pod.status["generations"] if one["state"] == "current"]
    pod.shell(f"kill -KILL {current['pid']}")
    assert pod.http3() == (200, "edit 2")
    assert pod.certificate() == certificate
    eventually(lambda: pod.metric("restarts_total") == 1)
    assert pod.state["restartCount"] == 0
    # Without a capability, haproxy can bind the port itself, for a socket of each connection.
    assert "shared_quic_socket" not in pod.log


def answers(pod: Pod, mark: str) -> bool:
    """Tell whether a new QUIC connection gets this mark."""
    return pod.http3() == (200, mark)


def test_only_the_server_adds_udp_443_to_a_service_that_has_tcp_443(cluster: Cluster) -> None:
    """As the page says: `kubectl apply` without --server-side changes nothing, and later removes too much."""

    def apply(service: Manifest, *words: str) -> set[str]:
        cluster.kubectl("apply", *words, "-f", "-", text=yaml.safe_dump(service))
        found = json.loads(cluster.kubectl("get", "service", "haproxy", "-o", "json"))
        return {f"{port['protocol']} {port['port']}" for port in found["spec"]["ports"]}

    tls, http3 = (the("Service", kustomize(K8S / "overlays" / name)) for name in ("tls", "http3"))
    try:
        assert apply(tls) == {"TCP 80", "TCP 443"}
        assert apply(http3) == {"TCP 80", "TCP 443"}
        assert apply(tls) == {"TCP 80"}
        cluster.kubectl("delete", "service", "haproxy")

        assert apply(tls) == {"TCP 80", "TCP 443"}
        assert apply(http3, "--server-side") == {"TCP 80", "TCP 443", "UDP 443"}
        assert apply(tls, "--server-side") == {"TCP 80", "TCP 443"}
    finally:
        cluster.kubectl("delete", "service", "haproxy", "--ignore-not-found")

"""A real Kubernetes with one node: its kubelet swaps the ConfigMaps, probes and kills. Nothing here is simulated.

The variable TEST_CLUSTER names a program that keeps such a cluster on this machine, and knows: `up`, `down`,
`load IMAGE`, `kubectl ARGS...` and `exec COMMAND...`, the last two in the network of the cluster. The cluster needs no
scheduler, no controllers and no network plugin: what runs is the pod of the Deployment, on the node's network.
"""

import base64
import ctypes
import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import certificates
from tests.cluster.manifests import Manifest, kustomize, the
from tests.http3 import http3_get
from tests.waiting import eventually

IMAGE = "haproxy-safe-reload:dev"  # the one that k8s/base names
HTTP, HTTPS, METRICS = 8080, 8443, 9101
HERE = Path(__file__).parent
FINALIZER = "example.org/look-at-the-exit-code"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the cluster: whatever asks for it."""
    for item in items:
        if isinstance(item, pytest.Function) and "cluster" in item.fixturenames:
            item.add_marker(pytest.mark.cluster)


class Cluster:
    """A running cluster, and everything a test does with it."""

    def __init__(self, script: str, state: Path) -> None:
        """Start it; this takes half a minute."""
        self._script = script
        self._environment = {**os.environ, "K8S_LAB_STATE": str(state)}
        self._network: int | None = None
        self._nudges = itertools.count()

    def run(self, *words: str, text: str | None = None) -> str:
        """Return what a command of the cluster's program writes.

        Raises:
            AssertionError: it has failed; the text is its own.

        """
        done = subprocess.run(
            [self._script, *words],
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env=self._environment,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def kubectl(self, *words: str, text: str | None = None) -> str:
        """Return what kubectl writes."""
        return self.run("kubectl", *words, text=text)

    def shell(self, command: str) -> str:
        """Return what a shell of this host writes, whose `kubectl` is the cluster's.

        Raises:
            subprocess.CalledProcessError: it has failed.

        """
        script = f'kubectl() {{ {shlex.quote(self._script)} kubectl "$@" </dev/null; }}\nset -o pipefail\n{command}'
        words = ["bash", "-c", script]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=self._environment).stdout

    def apply(self, *manifests: Manifest) -> None:
        """Do what `kubectl apply` does."""
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(manifests))

    def up(self) -> None:
        """Start everything, load the image, and remember the network."""
        # It leaves processes behind, which would keep a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            command = [self._script, "up"]
            done = subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode(errors="replace")
        self.run("load", IMAGE)
        inside = subprocess.Popen(
            [self._script, "exec", "sh", "-c", "echo $$; read -r line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        assert inside.stdout
        self._network = os.open(f"/proc/{int(inside.stdout.readline())}/ns/net", os.O_RDONLY)
        inside.communicate("\n")

    def down(self) -> None:
        """Stop everything that was started, by process id."""
        if self._network is not None:
            os.close(self._network)
        self.run("down")

    @contextmanager
    def network(self) -> Iterator[None]:
        """Create sockets in the cluster's network."""
        assert self._network is not None
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            assert libc.setns(self._network, 0) == 0
            yield
        finally:
            assert libc.setns(home, 0) == 0
            os.close(home)

    def inside(self, *words: str) -> subprocess.Popen[str]:
        """Start a program of this host in the cluster's network, with a process id that is its own."""
        there = f"--net=/proc/{os.getpid()}/fd/{self._network}"
        return subprocess.Popen(
            ["nsenter", there, "--", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def connect(self, port: int) -> socket.socket:
        """Connect over the loopback of the node."""
        with self.network():
            return socket.create_connection(("127.0.0.1", port), timeout=30)

    def datagrams(self, port: int) -> socket.socket:
        """Return a UDP socket that is connected over the loopback of the node."""
        with self.network():
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect(("127.0.0.1", port))
        return made

    def nudge(self, pod: str) -> None:
        """Change an annotation of a pod: its kubelet looks at its volumes now, and not within 90 s."""
        self.kubectl("annotate", "--overwrite", "pod", pod, f"example.org/nudge={next(self._nudges)}")


class Load:
    """ab(1) without keep-alive, which runs until it is told to end."""

    def __init__(self, cluster: Cluster) -> None:
        """Start it. More requests than it will come to; -l, because the answers change; no -r: an error ends it."""
        url = f"http://127.0.0.1:{HTTP}/"
        self._ab = cluster.inside("ab", "-q", "-l", "-s", "60", "-c", "10", "-t", "600", "-n", "3000000", url)

    def end(self) -> tuple[int, int]:
        """Return how many requests were complete, and how many of them have failed."""
        assert self._ab.poll() is None, self._ab.communicate()[0]
        self._ab.send_signal(signal.SIGINT)
        text = self._ab.communicate(timeout=60)[0]
        complete = re.search(r"Complete requests: +(\d+)", text)
        failed = re.search(r"Failed requests: +(\d+)", text)
        assert complete and failed, text
        assert "Non-2xx" not in text, text
        return int(complete[1]), int(failed[1])

    def kill(self) -> None:
        """End it, whatever has become of the test."""
        if self._ab.poll() is None:
            self._ab.kill()
        self._ab.communicate()


class Pod:
    """The pod of the Deployment, running, and its ConfigMap."""

    name = "haproxy"

    def __init__(self, cluster: Cluster, folder: str) -> None:
        """Render a folder beside this file; of the Deployment, the pod that its controllers would have made."""
        self.cluster = cluster
        manifests = kustomize(HERE / folder)
        self._map = the("ConfigMap", manifests)
        self.written: str = self._map["data"]["haproxy.cfg"]
        template = the("Deployment", manifests)["spec"]["template"]
        meta = {**template["metadata"], "name": self.name, "finalizers": [FINALIZER]}
        self._manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}

    def start(self) -> None:
        """Create it, and wait until it is ready."""
        self.cluster.apply(self._map, self._manifest)
        self.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=60s")

    def write(self, text: str) -> None:
        """Change the ConfigMap."""
        self.cluster.apply({**self._map, "data": {"haproxy.cfg": text}})

    def edit(self, text: str) -> None:
        """Change the ConfigMap, and let the kubelet know at once."""
        self.write(text)
        self.cluster.nudge(self.name)

    def edit_all(self, files: dict[str, str]) -> None:
        """Change all of the ConfigMap, and let the kubelet know at once."""
        self.cluster.apply({**self._map, "data": files})
        self.cluster.nudge(self.name)

    def marked(self, mark: str) -> str:
        """Return the configuration as written, with another answer."""
        text = re.sub(r'string ".*"', f'string "{mark}"', self.written)
        assert text != self.written
        return text

    @property
    def state(self) -> Any:
        """What the API server says of the pod's one container."""
        (container,) = json.loads(self.cluster.kubectl("get", "pod", self.name, "-o", "json"))["status"][
            "containerStatuses"
        ]
        return container

    @property
    def status(self) -> Any:
        """What `safe_reload status --json` says in the pod."""
        return json.loads(self.shell("safe_reload status --json"))

    @property
    def log(self) -> str:
        """What the container has written."""
        return self.cluster.kubectl("logs", self.name)

    def shell(self, command: str) -> str:
        """Return what a shell in the container writes."""
        return self.cluster.kubectl("exec", self.name, "--", "sh", "-c", command)

    def get(self, path: str = "/", port: int = HTTP) -> tuple[int, str]:
        """Return the status and the text of an answer."""
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.sock = self.cluster.connect(port)
        try:
            client.request("GET", path, headers={"Connection": "close"})
            answer = client.getresponse()
            return answer.status, answer.read().decode()
        finally:
            client.close()

    def serves(self, mark: str) -> None:
        """Wait until the VIP answers with this mark."""

        def answers() -> bool:
            try:
                return self.get() == (200, mark)
            except (OSError, http.client.HTTPException):
                return False

        eventually(answers)

    def http3(self) -> tuple[int, str]:
        """Return the status and the text of an answer over a new QUIC connection."""
        status, _, text = http3_get(self.cluster.datagrams(HTTPS))
        return status, text

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        status, text = self.get("/metrics", METRICS)
        assert status == 200
        found = re.findall(rf"^safe_reload_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no {name} in\n{text}"
        return sum(map(float, found))

    def certificate(self) -> bytes:
        """Return the certificate that a new TLS handshake gets, as DER."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(self.cluster.connect(HTTPS)) as client:
            der = client.getpeercert(binary_form=True)
        assert der
        return der

    def delete(self) -> None:
        """Ask for the pod's end, and do not wait. It stays visible until it is forgotten."""
        self.cluster.kubectl("delete", "pod", self.name, "--wait=false")

    def forget(self) -> None:
        """End it, whatever has become of the test, and wait until its ports are free."""
        if self.cluster.kubectl("get", "pod", self.name, "--ignore-not-found"):
            patch = json.dumps({"metadata": {"finalizers": None}})
            self.cluster.kubectl("patch", "pod", self.name, "--type=merge", "-p", patch)
        self.cluster.kubectl("delete", "pod", self.name, "--ignore-not-found", "--grace-period=1", "--timeout=90s")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, started once, and stopped with everything in it."""
    script = os.environ.get("TEST_CLUSTER")
    if not script:
        pytest.skip("TEST_CLUSTER is not set: it names a program that starts a Kubernetes of one node")
    state = Path(tempfile.mkdtemp(prefix="safe-reload-cluster-", dir="/var/tmp"))
    running = Cluster(script, state)
    try:
        running.up()
        yield running
    finally:
        running.down()
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Callable[..., Pod]]:
    """Start the one pod of a test; it is gone after it."""
    pods: list[Pod] = []

    def begin(folder: str = "http") -> Pod:
        pods.append(Pod(cluster, folder))
        pods[-1].start()
        return pods[-1]

    yield begin
    for pod in pods:
        pod.forget()


@pytest.fixture
def load(cluster: Cluster) -> Iterator[Callable[[], Load]]:
    """Start clients that ask as fast as they can."""
    clients: list[Load] = []

    def begin() -> Load:
        clients.append(Load(cluster))
        return clients[-1]

    yield begin
    for client in clients:
        client.kill()


def key_pair(folder: Path, name: str) -> tuple[Manifest, bytes]:
    """Return a Secret with a new key pair, and its certificate as DER."""
    crt, key = certificates.key_pair(folder, name)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "haproxy-tls"},
        "data": {
            f"tls.{kind}": base64.b64encode(text.encode()).decode() for kind, text in (("key", key), ("crt", crt))
        },
    }
    return secret, ssl.PEM_cert_to_DER_cert(crt)

"""The pod of k8s/ under a real kubelet: what happens to it in its life, and that no client notices."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from tests.cluster.conftest import HTTP, METRICS, Cluster, Load, Pod, key_pair
from tests.waiting import eventually

Start = Callable[..., Pod]
StartLoad = Callable[[], Load]

HELLO = "Hello from haproxy behind safe_reload\n"


def test_the_pod_starts_as_it_is_written(start: Start) -> None:
    """It becomes ready, as confined as it says: no root, no capability, no new privileges, seccomp, read-only."""
    pod = start()

    assert pod.get() == (200, HELLO)
    assert pod.get("/livez", METRICS)[0] == 200
    lines = pod.shell("cat /proc/1/status").splitlines()
    about = {key: values for key, _, values in (line.partition(":\t") for line in lines)}
    assert about["Uid"].split() == ["10001"] * 4
    assert {about[f"Cap{which}"] for which in ("Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert about["NoNewPrivs"] == "1"
    assert about["Seccomp"] == "2"
    assert "Read-only file system" in pod.shell("touch /somewhere 2>&1 || :")
    assert pod.shell("grep -c -E '^tmpfs /(run|var/lib)/safe_reload ' /proc/mounts").strip() == "2"
    assert not pod.shell("ls /var/run/secrets 2>/dev/null || :")
    status = pod.status
    assert (status["stage"], status["watch"]["mode"], status["watch"]["stale_mounts"]) == ("serving", "inotify", [])
    assert pod.state["restartCount"] == 0


def test_ten_edits_under_load_are_ten_reloads_and_no_failed_request(start: Start, load: StartLoad) -> None:
    """Each swap of the ConfigMap is one reload, and clients notice nothing but the new answers."""
    pod = start()
    clients = load()

    for number in range(10):
        pod.edit(pod.marked(f"edit {number}"))
        pod.serves(f"edit {number}")
    complete, failed = clients.end()

    assert complete > 1000
    assert failed == 0
    reloads = pod.status["reloads"]
    assert sum(row["count"] for row in reloads if row["result"] == "success") == 10
    assert sum(row["count"] for row in reloads) == 10
    assert pod.metric("reloads_total") == 10
    assert pod.state["restartCount"] == 0


def test_a_bad_edit_changes_nothing_but_what_is_said_of_it(start: Start) -> None:
    """The old configuration serves, the pod stays ready, status and metrics say it is bad; a good edit clears it."""
    pod = start()
    pod.edit(pod.marked("good"))
    pod.serves("good")

    pod.edit(pod.marked("bad") + "\nnonsense here\n")
    eventually(lambda: pod.metric("config_last_reload_successful") == 0)

    assert pod.get() == (200, "good")
    assert pod.get("/readyz", METRICS)[0] == 200
    status = pod.status
    assert status["last_reload"]["result"] == "failure"
    assert "nonsense" in status["last_reload"]["words"]
    assert status["configuration"]["pending"] is True
    assert pod.metric("config_pending") == 1
    assert pod.state["ready"] is True

    pod.edit(pod.marked("better"))
    pod.serves("better")

    eventually(lambda: pod.metric("config_last_reload_successful") == 1)
    status = pod.status
    assert status["last_reload"]["result"] == "success"
    assert status["configuration"]["pending"] is False
    assert pod.metric("config_pending") == 0


def test_a_rotated_secret_is_served_by_the_next_handshake(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    """A new key pair in the Secret is given to the haproxy that runs: no new generation."""
    secret, first = key_pair(tmp_path, "first")
    cluster.apply(secret)
    pod = start("tls")
    assert pod.certificate() == first
    assert pod.get()[0] == 308

    secret, second = key_pair(tmp_path, "second")
    cluster.apply(secret)
    cluster.nudge(pod.name)

    eventually(lambda: pod.certificate() == second)
    eventually(lambda: pod.metric("reloads_total") == 1)
    assert pod.status["last_reload"]["kind"] == "applied"
    assert [one["number"] for one in pod.status["generations"]] == [1]
    assert pod.state["restartCount"] == 0


def test_a_configmap_that_changes_the_configuration_and_a_map_at_once_is_one_reload(start: Start) -> None:
    """And one that changes only the map is none: the haproxy that runs takes it."""
    pod = start("http")
    folder = "/usr/local/etc/haproxy"
    text = re.sub(r'string ".*"', f'lf-string "%[str(x),map({folder}/x.map)] MARK"', pod.written)

    def publish(mark: str, value: str) -> None:
        pod.edit_all({"haproxy.cfg": text.replace("MARK", mark), "x.map": f"x {value}\n"})
        pod.serves(f"{value} {mark}")

    publish("first", "one")
    eventually(lambda: pod.metric("reloads_total") == 1)
    publish("second", "two")
    eventually(lambda: pod.metric("reloads_total") == 2)
    assert pod.status["last_reload"]["kind"] == "reload"
    publish("second", "three")
    eventually(lambda: pod.status["last_reload"]["kind"] == "applied")
    assert [row["count"] for row in pod.status["reloads"]] == [2, 1]
    assert [one["number"] for one in pod.status["generations"] if one["state"] == "current"] == [3]


def test_a_deleted_pod_finishes_what_it_has(start: Start, load: StartLoad) -> None:
    """Told to stop, it is not ready any more, accepts for a while, and answers every request that is in flight."""
    slow = "    http-request wait-for-body time 50s\n    http-request return"
    pod = start()
    pod.edit(pod.marked("slow").replace("    http-request return", slow))
    pod.serves("slow")
    flying = [pod.cluster.connect(HTTP) for _ in range(20)]
    for client in flying:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nha")
    clients = load()

    pod.delete()
    eventually(lambda: pod.get("/readyz", METRICS)[0] == 503)
    assert pod.get() == (200, "slow")
    complete, failed = clients.end()
    assert complete > 100
    assert failed == 0

    eventually(lambda: refuses(pod))
    for client in flying:
        client.sendall(b"lf")
    for client in flying:
        with client:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")

    terminated = eventually(lambda: pod.state["state"].get("terminated"))
    assert terminated["exitCode"] == 0


def refuses(pod: Pod) -> bool:
    """Tell whether nobody listens on the VIP any more."""
    try:
        pod.cluster.connect(HTTP).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_crash_of_haproxy_does_not_restart_the_container(start: Start) -> None:
    """The VIP stays open, a client that comes meanwhile is answered, and Kubernetes sees nothing."""
    pod = start()
    container = pod.state["containerID"]
    (crashed,) = [g for g in pod.status["generations"] if g["state"] == "current"]

    pod.shell(f"kill -KILL {crashed['pid']}")

    assert pod.get() == (200, HELLO)
    eventually(lambda: [g for g in pod.status["generations"] if g["number"] > crashed["number"]])
    status = pod.status
    assert sum(status["restarts"]["by_reason"].values()) == 1
    assert pod.metric("restarts_total") == 1
    state = pod.state
    assert state["containerID"] == container
    assert state["restartCount"] == 0
    assert state["ready"] is True


def test_a_container_that_restarts_while_the_configmap_is_bad_serves(start: Start) -> None:
    """The last good configuration is in the state volume, and serves until there is a good one again."""
    pod = start()
    pod.edit(pod.marked("treasure"))
    pod.serves("treasure")
    eventually(lambda: pod.shell("grep -rl treasure /var/lib/safe_reload || :"))

    pod.edit(pod.marked("bad") + "\nnonsense here\n")
    eventually(lambda: pod.metric("config_last_reload_successful") == 0)
    with contextlib.suppress(AssertionError):  # the shell dies with the container, and kubectl may say so
        pod.shell("kill -QUIT 1")
    eventually(lambda: pod.state["restartCount"] == 1 and pod.state["ready"])

    assert pod.get() == (200, "treasure")
    assert pod.status["configuration"]["last_known_good"] is True
    assert pod.metric("last_known_good_active") == 1

    pod.edit(pod.marked("better"))
    pod.serves("better")
    eventually(lambda: pod.metric("last_known_good_active") == 0)

"""The commands of the documentation that ask a cluster, as they stand there."""

import re
from collections.abc import Callable

from tests.cluster.conftest import Cluster, Pod
from tests.documented import the


def test_what_the_page_tells_to_ask(cluster: Cluster, start: Callable[..., Pod]) -> None:
    """A nudged pod has the edit, the loop counts what the replicas run, and a pod can be asked."""

    def run(beginning: str, page: str = "docs/kubernetes.md", **instead: str) -> str:
        command = the(page, beginning).text
        for old, new in instead.items():
            command = command.replace(old, new)
        return cluster.shell(command)

    pod = start()
    pod.write(pod.marked("edited"))
    run("kubectl annotate pods -l")
    pod.serves("edited")

    (line,) = run("for pod in $(kubectl get pods").splitlines()
    assert re.fullmatch(rf' *1 "sha256": *"{pod.status["configuration"]["sha256"]}"', line)

    assert "generation 2" in run("kubectl exec POD -- safe_reload status", POD=pod.name)
    run("kubectl exec POD -- safe_reload reload", page="README.md", POD=pod.name)
    (current,) = [g for g in pod.status["generations"] if g["state"] == "current"]
    assert current["number"] == 3
    assert "kB" in run("kubectl exec POD -- grep VmRSS", POD=pod.name, PID=str(current["pid"]))

    run("kubectl label namespace NAME", NAME="default")
    assert "restricted" in cluster.kubectl("get", "namespace", "default", "-o", "jsonpath={.metadata.labels}")
    cluster.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce-")

"""The documentation says what the code says, and every command in it is one that a test runs."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache

import pytest

from entrypoint.pid1.bootstrap import _KEPT_CAPABILITIES
from tests.documented import PAGES, ROOT, Shown, shown
from tools.draw import stale

# These run what they find in the documentation, as it stands there: they name each command by its beginning.
RUNNERS = (
    "tests/container/test_documented.py",
    "tests/container/test_places.py",
    "tests/container/test_coming_from.py",
    "tests/cluster/test_documented.py",
    "tests/cluster/test_manifests.py",
)

# These are run from top to bottom, all of it.
WHOLE = {"docs/tutorial.md": "tests/container/test_documented.py::test_the_tutorial_from_top_to_bottom"}

# What another test runs, exactly or as its name says.
ELSEWHERE = {
    "[WARN  safe_reload (1)] haproxy may not bind the QUIC port": (
        "tests/container/test_http3.py::test_a_port_that_haproxy_may_not_bind_is_warned_of"
    ),
    "global\n    limited-quic\n\ndefaults": "tests/container/test_documented.py::test_the_page_on_http3",
    "FROM haproxy:3.0-alpine": "tests/container/test_static.py::test_the_two_lines_of_the_readme_are_enough",
    "FROM haproxy:3.0\nUSER root": ("tests/container/test_vips.py::test_the_recipe_with_debian_s_python"),
    "resources:\n  - ../k8s/base": "tests/cluster/test_manifests.py::test_the_overlay_of_the_page_sets_the_image",
    "stateDiagram-v2": "tests/test_docs.py::test_the_diagrams_and_the_table_of_options_are_the_code_s",
    "count by (sha256)": "tests/test_monitoring.py::test_prometheus_understands_what_the_pages_ask",
    "gcc -D_GNU_SOURCE -O2 -o bench-client bench/client.c": (
        "tests/test_bench.py::test_the_client_counts_each_request_by_what_became_of_it"
    ),
    "global\n    server-state-file": "tests/container/test_names.py::test_the_state_file_of_the_page_has_the_addresses",
    "safe_reload reload --forget": (
        "tests/container/test_server_state.py::test_everything_about_servers_survives_everything"
    ),
    "generation 2 (pid 17) kept the state": (
        "tests/container/test_server_state.py::test_everything_about_servers_survives_everything"
    ),
    "global\n    localpeer lb": "tests/container/test_counters.py::test_a_stick_table_survives_a_reload",
    "python3 -I -S -c pass": (
        "tests/container/test_image.py::test_starting_haproxy_costs_a_few_times_what_starting_python_does"
    ),
    'bind "fd@${FD_HTTPS}" ssl crt /etc/haproxy/lb.pem': (
        "tests/container/test_tls_sessions.py::test_sessions_resume_whatever_becomes_of_haproxy_and_safe_reload"
    ),
    "docker exec -u 65534 lb safe_reload status": (
        "tests/container/test_hardening.py::test_a_stranger_in_the_runtime_directory_answers_for_nobody"
    ),
    "[WARN  safe_reload (1)] generation 2 starts although": (
        "tests/system/test_reader.py::test_a_reload_waits_for_no_reader"
    ),
    "pid1.": "tests/system/test_trips.py::test_the_trips_of_contributing_are_taken",
    "safe_reload --help": "tests/test_docs.py::test_the_help_text_has_every_option_of_the_reference",
    "python3 -m venv /opt/safe_reload": "tests/test_release.py::test_reloads_upgrades_and_status_work",
    "/opt/safe_reload/bin/pip install haproxy_safe_reload-*.whl": (
        "tests/test_release.py::test_reloads_upgrades_and_status_work"
    ),
    "ln -s /opt/safe_reload/bin/safe_reload /usr/local/bin/safe_reload": (
        "tests/test_release.py::test_the_launcher_finds_the_python_of_its_prefix"
    ),
    "apt-get install ./safe-reload_*.deb": "tests/container/test_deb.py::test_it_lives_and_dies_like_any_package",
    "pip install haproxy_safe_reload-*.whl": "tests/test_release.py::test_reloads_upgrades_and_status_work",
    "pip install .": "tests/test_release.py::test_the_sdist_is_compiled_for_this_machine",
    "docker run --init": "tests/container/test_coming_from.py::test_docker_s_own_init",
    # With its options, which the page shows below.
    "safe_reload exporter": "tests/container/test_documented.py::test_monitoring_s_exporters",
}

# What no test runs, and why not. The shorter this is, the better.
NOT_RUN = {
    "systemctl edit safe_reload@lb": "a person does; the tests of tests/container/test_systemd.py write drop-ins",
    "kubectl apply -k k8s/base": (
        "the tests' cluster is older than 1.28 and refuses it; tests/cluster/test_manifests.py has what it would apply "
        "validated for each version, and tests/cluster/test_cluster.py runs the pod"
    ),
    "(cd k8s/base && kustomize edit set image haproxy-safe-reload=registry.example.org/haproxy-safe-reload:1.2.3)": (
        "Debian has no kustomize but the one in kubectl; what the page has for those without it is rendered"
    ),
    "kubectl apply -k": "the same as with k8s/base",
    "kubectl apply --server-side -k k8s/overlays/http3": (
        "the same as with k8s/base; tests/cluster/test_http3.py applies its Service in the server"
    ),
    "helm upgrade --server-side=true": "Debian has no Helm, and the tests' cluster no chart",
    "kubectl rollout undo": "the page says not to",
    "helm rollback haproxy": "Debian has no Helm; tests/cluster/test_manifests.py renders the chart with its engine",
    "systemctl reload lb": "podman: it needs 5.5, and Debian has an older one",
    "systemctl start lb": "podman, the same",
    "podman build -t haproxy-safe-reload:dev .": "podman, the same",
    "apt-get install make": ".ci/run begins with it",
    "pip install '.[exporter]'": "takes what it needs from PyPI",
    "pytest tests/container/test_masters.py --master haproxy": "bench/conformity.py does, for the page that says it",
    "pytest tests/system/test_generic.py --init PROGRAM": "bench/conformity.py does, for the page that says it",
    "bench/watching.py": "three minutes of measuring",
    "--- a/src/sock_inet.c": "docs/upstream-epoll.md: a change to haproxy, which takes haproxy's source",
    "--- a/src/listener.c": "docs/upstream-quic-handshake.md: the same",
    "\t\tif (l->rx.flags & RX_F_BOUND)": "docs/upstream-quic-handshake.md: what haproxy's source is",
    "HAProxy version 3.2": "docs/upstream-*.md: what haproxy -vv said on the day on which the rest was measured",
    "BENCH_CLIENT=$PWD/bench-client python3 -m bench --here": "an hour of measuring; make bench does it in a container",
}


def test_the_diagrams_and_the_table_of_options_are_the_code_s() -> None:
    """`make diagram` has been run since the last change."""
    assert stale(ROOT, write=False) == []


@cache
def beginnings(runner: str) -> list[str]:
    """Return every text in a test file that is long enough to name a command."""
    tree = ast.walk(ast.parse((ROOT / runner).read_text()))
    texts = [node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if len(text) > len("docker run")]


def is_run(item: Shown, everything: set[str]) -> bool:
    """Tell whether a runner names it: wholly, or by a beginning that is no other's."""
    return any(
        text == item.text or [one for one in everything if one.startswith(text)] == [item.text]
        for runner in RUNNERS
        for text in beginnings(runner)
    )


def test_every_command_in_the_documentation_is_run() -> None:
    """Whatever a page shows is run by a test, as it stands there or by one that is named here."""
    items = [item for page in PAGES if page not in WHOLE for item in shown(page)]
    everything = {item.text for item in items}
    tables = (*ELSEWHERE, *NOT_RUN)

    def is_named(item: Shown) -> bool:
        return any(item.text == name or (not item.is_command and item.text.startswith(name)) for name in tables)

    lost = [
        f"{item.page}:{item.line}: no test runs `{item.text}`: run it in tests/container/test_documented.py, "
        "or name the test that does in ELSEWHERE in tests/test_docs.py"
        for item in items
        if not item.text.startswith("make ") and not is_named(item) and not is_run(item, everything)
    ]
    assert not lost, "\n".join(lost)
    assert [name for name in tables if not any(text.startswith(name) for text in everything)] == []


@pytest.mark.parametrize("test", [*WHOLE.values(), *ELSEWHERE.values()])
def test_a_test_that_runs_a_command_is_there(test: str) -> None:
    """What WHOLE and ELSEWHERE name exists."""
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_make_in_the_documentation_has_its_target() -> None:
    """make itself says what it would do, with the variables that are shown; most of them take too long to be done."""
    commands = {item.text for page in PAGES for item in shown(page) if item.text.startswith("make ")}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    for command in commands:
        words = ["make", "-n", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert commands >= {"make run", "make test", "make image", "make bench"}


def test_the_help_text_has_every_option_of_the_reference() -> None:
    """`safe_reload --help` and the table are one."""
    words = [sys.executable, "-m", "entrypoint", "--help"]
    text = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    table = (ROOT / "docs/reference.md").read_text().partition("<!-- options -->")[2].partition("<!-- end -->")[0]
    options = set(re.findall(r"`(--?[a-z-]+)", table))
    assert len(options) > 20
    assert {option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)} == set()


def anchors(page: str) -> set[str]:
    """Return what can stand behind `#` in a link to a page: its headings, as GitHub writes them."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_can_be_found_from_the_readme() -> None:
    """There is a link to it."""
    text = (ROOT / "README.md").read_text()
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in text] == []


def test_every_test_that_a_page_names_is_there() -> None:
    """docs/ordinary-binds.md names those that hold what it says, without `test_`."""
    names = re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+){3,})`", (ROOT / "docs/ordinary-binds.md").read_text())
    tests = "".join(path.read_text() for path in (ROOT / "tests/container").glob("test_*.py"))
    assert len(names) > 10
    assert [name for name in names if f"def test_{name}(" not in tests] == []


def test_every_link_leads_somewhere() -> None:
    """On every page each link into the tree is to a file that is there, each anchor to a heading that is there."""
    broken, count = [], 0
    for page in PAGES:
        for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", (ROOT / page).read_text()):
            path, _, anchor = link.partition("#")
            target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            count += 1
            if not target.exists() or (anchor and anchor not in anchors(str(target.relative_to(ROOT)))):
                broken.append(f"{page}: {link}")
    assert count > 20
    assert broken == []


@pytest.mark.parametrize("page", ["docs/reference.md", "docs/safe_reload.8"])
def test_the_capabilities_that_are_kept_are_named(page: str) -> None:
    """The page lists the capabilities that --drop-caps keeps, and says that CHOWN and DAC_OVERRIDE go."""
    text = (ROOT / page).read_text()
    assert [name for name in (*_KEPT_CAPABILITIES, "chown", "dac_override") if name.upper() not in text] == []


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_the_man_page_is_clean() -> None:
    """mandoc has nothing to say about it."""
    run = subprocess.run(
        ["mandoc", "-Tlint", "docs/safe_reload.8"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stdout + run.stderr == ""

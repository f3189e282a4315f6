"""The image as its users run it: any program, any uid, nothing writable, and the way it starts and stops."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

import docker
from bench import start_up_cost
from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.program import needs_a_python
from tests.waiting import eventually


def _run(engine: docker.DockerClient, image: str, *words: str, **more: Any) -> tuple[int, str]:
    """Do `docker run --rm IMAGE WORDS`; return the exit status and everything written."""
    container: Container = engine.containers.run(image, list(words), detach=True, network_mode="none", **more)
    try:
        return container.wait(timeout=60)["StatusCode"], container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -KILL $$"), 137),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("no-such-program",), 127),
        (("/no/such/program",), 127),
        (("/etc",), 126),
        (("/etc/passwd",), 126),
        (("true",), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_exit_codes_are_tini_s(engine: docker.DockerClient, image: str, words: tuple[str, ...], status: int) -> None:
    """`docker run IMAGE PROGRAM` ends as PROGRAM does."""
    assert _run(engine, image, *words)[0] == status


def test_the_environment_is_inherited_to_the_letter(engine: docker.DockerClient, image: str) -> None:
    """No variable is lost, changed or added, whatever a shell would think of its name."""
    odd = {"environment": "prod", "key": "abc", "note": "n", "IFS": "x", "OPTIND": "5", "a.b-c": "d", "SHLVL": "7"}
    _, ours = _run(engine, image, "env", environment=odd, hostname="lb")
    _, bare = _run(engine, image, environment=odd, hostname="lb", entrypoint="env")
    assert sorted(ours.splitlines()) == sorted(bare.splitlines())
    assert "environment=prod" in ours


def test_root_without_cap_kill_is_warned(start: Start) -> None:
    """It could never tell a haproxy to leave that has switched its user."""
    lb = start(NEWEST_STABLE, cap_drop=["KILL"]).begins("one")
    assert "root without CAP_KILL" in lb.log


def test_a_hundred_orphans_are_reaped(engine: docker.DockerClient, image: str) -> None:
    """PID 1 leaves no zombie."""
    script = (
        "for i in $(seq 100); do (sh -c 'exit 0' &); done; "
        "for i in $(seq 600); do [ $(wc -w < /proc/1/task/1/children) = 1 ] && break; sleep 0.05; done; "
        "wc -w < /proc/1/task/1/children"
    )
    status, text = _run(engine, image, "sh", "-c", script)
    assert status == 0
    assert text.strip() == "1"  # the shell


def test_a_program_gets_the_signals_exactly_as_docker_gave_them(engine: docker.DockerClient, image: str) -> None:
    """SigBlk, SigIgn and SigCgt of a child are those that it has without safe_reload."""
    words = ("grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status")
    _, ours = _run(engine, image, *words)
    _, bare = _run(engine, image, *words[1:], entrypoint=words[0])
    assert ours == bare
    assert ours.count("Sig") == 3


def test_ignored_and_blocked_signals_are_inherited(engine: docker.DockerClient, image: str) -> None:
    """SIGPIPE and SIGXFSZ, which CPython ignores for itself, are ignored below only if they were above."""
    script = (
        "trap '' PIPE USR2 HUP; exec env --block-signal=WINCH safe_reload -- grep -E '^Sig(Blk|Ign)' /proc/self/status"
    )
    _, text = _run(engine, image, "-c", script, entrypoint="bash")
    _, bare = _run(engine, image, "^SigIgn", "/proc/self/status", entrypoint="grep")
    blocked = 1 << (signal.SIGWINCH - 1)
    # An engine may have been started with a signal ignored, which its containers inherit.
    ignored = int(bare.split()[1], 16)
    ignored |= sum(1 << (s - 1) for s in (signal.SIGPIPE, signal.SIGUSR2, signal.SIGHUP))
    assert text == f"SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"


@pytest.mark.parametrize("tmpfs", [{}, {"/run": ""}], ids=["without /run", "with a tmpfs on /run"])
def test_it_needs_no_root_no_capability_and_nothing_writable(start: Start, image: str, tmpfs: dict[str, str]) -> None:
    """The hardest way to run it: starts, serves on port 80, reloads."""
    lb = start(image, port=80, user="65534", read_only=True, cap_drop=["ALL"], tmpfs=tmpfs).begins("one")
    lb.becomes("two")


@pytest.mark.parametrize("options", [(), ("--no-new-privs", "--drop-caps")], ids=["plainly", "with --drop-caps"])
def test_haproxy_may_switch_user_and_is_still_reloaded(start: Start, image: str, options: tuple[str, ...]) -> None:
    """`user haproxy` works, and safe_reload can signal what has another uid by then."""
    identity = "global\n  user haproxy\n  group haproxy\n"
    lb = start(image, options=options, text=configuration("one", identity)).begins("one")
    old = lb.children()[0]
    lb.becomes("two", identity)
    eventually(lambda: len(lb.children()) == 1)

    assert lb.children()[0] != old
    status = Path(f"/proc/{lb.children()[0]}/status").read_text()
    assert "Uid:\t0\t0" not in status
    if options:
        assert "NoNewPrivs:\t1" in status
        # KILL, SETGID, SETUID, NET_BIND_SERVICE, SYS_CHROOT
        assert f"CapBnd:\t{1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18:016x}" in status


def test_docker_stop_ends_with_0_while_a_request_in_flight_completes(lb: Balancer) -> None:
    """A graceful stop refuses new clients and finishes the old ones."""
    with lb.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        eventually(lambda: _has_data(lb))
        lb.kill("TERM")
        eventually(lambda: _refuses(lb))
        client.sendall(b"\r\n")

        assert b"200 OK" in client.recv(4096)
    assert lb.container.wait(timeout=30)["StatusCode"] == 0


def _has_data(lb: Balancer) -> bool:
    """Tell whether haproxy has accepted every connection."""
    text = lb.inside("ss", "-Hltn").communicate()[0]
    return all(line.split()[1] == "0" for line in text.splitlines())


def _refuses(lb: Balancer) -> bool:
    try:
        lb.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("signals", [("TERM", "TERM"), ("INT", "TERM"), ("QUIT",)], ids=" ".join)
def test_a_second_term_or_quit_ends_it_at_once(lb: Balancer, signals: tuple[str, ...]) -> None:
    """A quick stop does not wait for clients, and ends with 0 as well."""
    with lb.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        eventually(lambda: _has_data(lb))
        for name in signals:
            lb.kill(name)

        assert lb.container.wait(timeout=30)["StatusCode"] == 0


def test_a_stop_that_takes_too_long_becomes_a_quick_one(start: Start, image: str) -> None:
    """`--stop-timeout` bounds a graceful stop."""
    lb = start(image, options=("--stop-timeout", "0.5")).begins("one")
    with lb.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        eventually(lambda: _has_data(lb))
        lb.kill("TERM")

        assert lb.container.wait(timeout=30)["StatusCode"] == 0


def test_it_still_accepts_during_the_stop_delay(start: Start) -> None:
    """`--stop-delay` gives the balancers in front time to notice."""
    lb = start(NEWEST_STABLE, options=("--stop-delay", "30")).begins("one")
    lb.kill("TERM")
    eventually(lambda: "stopping gracefully" in lb.log)
    assert lb.get() == "one"
    lb.kill("TERM")
    assert lb.container.wait(timeout=30)["StatusCode"] == 0


def test_a_signal_that_arrives_during_start_up_is_not_lost(engine: docker.DockerClient, start: Start) -> None:
    """From the moment in which the launcher blocks signals, a TERM is kept until it can be handled."""
    for _ in range(5):
        lb = start(NEWEST_STABLE)
        pid = lb.pid

        def blocks(pid: int = pid) -> bool:
            status = Path(f"/proc/{pid}/status").read_text()
            # Before its exec it is the container runtime, a Go program, which catches signals as well.
            ours = not Path(f"/proc/{pid}/comm").read_text().startswith("runc")
            return ours and ("SigBlk:\t0000000000000000" not in status or "SigCgt:\t0000000000000000" not in status)

        eventually(blocks)
        lb.kill("TERM")

        assert lb.container.wait(timeout=30)["StatusCode"] == 0


def test_a_configuration_check_works_without_vips_being_bound(
    engine: docker.DockerClient, start: Start, image: str
) -> None:
    """`haproxy -c` with `fd@` binds: stand-ins take the VIPs' place, and nothing is bound."""
    lb = start(image, operands=("haproxy", "-c", "-f", "/etc/lb/haproxy.cfg"))
    assert lb.container.wait(timeout=30)["StatusCode"] == 0, lb.log


def test_the_image_stops_by_sigterm(engine: docker.DockerClient, image: str) -> None:
    """haproxy's own images set SIGUSR1, which is a reload here."""
    assert engine.images.get(image).attrs["Config"]["StopSignal"] == "SIGTERM"


def test_no_operand_means_the_official_image_s_configuration(engine: docker.DockerClient, image: str) -> None:
    """`docker run IMAGE` looks for /usr/local/etc/haproxy/haproxy.cfg."""
    status, text = _run(engine, image)
    assert status == 1
    assert "/usr/local/etc/haproxy/haproxy.cfg" in text


def test_an_idle_pid_1_never_wakes_up(lb: Balancer) -> None:
    """Nothing polls: no context switch in seconds."""
    # 10 s after it serves the timer goes off that clears the count of deaths: the last thing that happens by itself.
    serves = time.monotonic()
    eventually(lambda: time.monotonic() > serves + 12)
    before = _switches(lb)
    eventually(lambda: time.monotonic() > serves + 15)
    assert _switches(lb) == before


def _switches(lb: Balancer) -> int:
    for line in Path(f"/proc/{lb.pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    pytest.fail("no such line")


def test_pid_1_is_small(lb: Balancer) -> None:
    """After a reload, less than 7 MiB of its own, and 15.75 MiB resident.

    The rest is the interpreter's file, of which the kernel maps more or less at each fault: 180 KiB from run to run.
    """
    lb.becomes("two")
    status = Path(f"/proc/{lb.pid}/status").read_text()
    own, resident = (int(status.split(f"{name}:")[1].split()[0]) for name in ("RssAnon", "VmRSS"))
    assert own < 7 * 1024
    assert resident < 15.75 * 1024


@needs_a_python
def test_starting_haproxy_costs_a_few_times_what_starting_python_does(engine: docker.DockerClient) -> None:
    """From exec to haproxy's exec and its end: CPU time compared with a bare interpreter's in the same run."""
    script = Path(start_up_cost.__file__)
    volumes = {str(script): {"bind": "/cost.py", "mode": "ro"}}
    status, text = _run(engine, NEWEST_STABLE, "/cost.py", entrypoint="/usr/bin/python3", volumes=volumes)
    assert status == 0, text
    cost = {name: min(values) for name, values in json.loads(text).items()}
    assert cost["safe_reload"] < 6 * cost["python"], cost


def test_it_is_found_by_its_name(lb: Balancer) -> None:
    """`pgrep safe_reload` finds the process to signal, and `ps` shows what it runs."""
    assert Path(f"/proc/{lb.pid}/comm").read_text() == "safe_reload\n"
    assert b"safe_reload\0-f\0/etc/lb/" in Path(f"/proc/{lb.pid}/cmdline").read_bytes()

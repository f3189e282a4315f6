"""What a generation is made of: and that nothing is left of one that could not be made."""

import os
import resource
from pathlib import Path

import pytest

from entrypoint.births import HaproxyBirth, exporter_birth, variables_while_reading
from entrypoint.configurations import Configurations
from entrypoint.core.command import Serve
from entrypoint.system.handover import Adopted
from entrypoint.system.listeners import Listeners
from tests.core.world import settings
from tests.system.apart import apart


def test_nothing_is_remembered_of_a_generation_that_could_not_be_made(tmp_path: Path) -> None:
    """Without descriptors a storm of reloads leaves neither content nor descriptors behind."""
    path = tmp_path / "haproxy.cfg"
    path.write_text("defaults\n")

    def work() -> bool:
        command = Serve("haproxy", ("-f", str(path)), (str(path),), None)
        configurations = Configurations(command, settings(), {}, None, lambda _: None)
        birth = HaproxyBirth(command, {}, Listeners(), Adopted(), configurations)
        made = birth.of(1, kept=False, bad="")
        made.spawned()
        made.close()
        before = configurations.hand_down()["given"]
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, free + 2))
        for number in range(2, 50):
            with pytest.raises(OSError, match="Too many open files"):
                birth.of(number, kept=False, bad="")
        return bool(configurations.hand_down()["given"] == before and list(before) == [1])

    assert apart(work)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("-f", "a"), os.uname().nodename),
        (("-L", "b", "-f", "a"), "b"),
        (("-L", "b", "-f", "-L", "-L", "c", "--", "-L", "d"), "c"),
    ],
)
def test_the_local_peer_is_known_before_haproxy_reads(arguments: tuple[str, ...], name: str) -> None:
    """It is the host, or what -L says (haproxy(1)); the rest of the environment is haproxy's."""
    command = Serve("haproxy", arguments, ("a",), None)
    variables = variables_while_reading(command, {"A": "b", "NOTIFY_SOCKET": "x"})
    assert variables == {"A": "b", "HAPROXY_LOCALPEER": name}


def test_the_exporter_is_given_no_secret() -> None:
    """What Python needs to begin, and nothing else of what PID 1 was given."""
    needed = {"PATH": "/bin", "LANG": "C.UTF-8", "LC_ALL": "C", "PYTHONPATH": "/lib", "TZ": "UTC"}
    others = ("DB_PASSWORD", "SAFE_RELOAD_VIPS", "SAFE_RELOAD_INHERITED", "TINI_SUBREAPER", "NOTIFY_SOCKET", "HOME")
    birth = exporter_birth(
        settings(exporter=":9101"), "lb", {**needed, **dict.fromkeys(others, "secret")}, lambda: ("safe_reload",)
    )
    assert birth.environment == needed
    assert birth.words[:6] == ("safe_reload", "exporter", "--listen", ":9101", "--name", "lb")

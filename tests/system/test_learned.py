"""A file that only haproxy tells of: it counts from the start on, and through whatever happens to the processes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.instance import CONFIGURATION, Begin, Instance
from tests.waiting import eventually

HIDES = """
from entrypoint.system import config_snapshot
named_by = config_snapshot.named_by
def hidden(texts, variables):
    return named_by([(name, text.replace(b" -f ", b" of ")) for name, text in texts], variables)
config_snapshot.named_by = hidden
"""
"""Nothing in a configuration says any more that a word is a file."""


def _counts(lb: Instance, path: Path) -> bool:
    return str(path) in lb.status()["configuration"]["files"]


def _is_settled(lb: Instance, path: Path) -> bool:
    found = lb.status()["configuration"]
    return _counts(lb, path) and bool(found["sha256"]) and not found["pending"]


def _after_a_start(_: Instance) -> None:
    """Do nothing more."""


def _after_a_reload(lb: Instance) -> None:
    assert lb.ask(b"reload\n").startswith("Success=1")
    lb.serves(2)


def _after_the_readers_death(lb: Instance) -> None:
    os.kill(lb.reader, signal.SIGKILL)


def _after_a_crash(lb: Instance) -> None:
    os.kill(lb.haproxy(), signal.SIGKILL)
    lb.serves(2)


def _after_an_upgrade(lb: Instance) -> None:
    answer = lb.client("upgrade")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "event",
    [_after_a_start, _after_a_reload, _after_the_readers_death, _after_a_crash, _after_an_upgrade],
    ids=lambda event: event.__name__.strip("_"),
)
def test_a_file_that_only_haproxy_tells_of(begin: Begin, tmp_path: Path, event: Callable[[Instance], None]) -> None:
    """To learn of it is no reload; a change of it is applied, or is a reload where less is known of what runs."""
    path = tmp_path / "etc" / "a b.lst"
    path.parent.mkdir()
    path.write_text("10.0.0.1\n")
    text = CONFIGURATION.replace("  http-request", f'  acl x src -f "{path}"\n  http-request deny if x\n  http-request')
    lb = begin("--debounce", "0.05", code=HIDES, text=text).serves(1)
    eventually(lambda: _is_settled(lb, path))
    event(lb)
    eventually(lambda: _is_settled(lb, path))
    reloads = 1 + (event is _after_a_reload) + (event is _after_a_crash)
    assert lb.status()["generations"][-1]["number"] == reloads, lb.log
    new = tmp_path / "new"
    new.write_text("127.0.0.1\n")
    new.rename(path)

    # It is denied: whatever has read the file, it has the new one.
    eventually(lambda: lb.get().startswith("<html>"))
    eventually(lambda: _is_settled(lb, path))
    if event is not _after_the_readers_death:
        assert f"{path} without a reload" in lb.log
        assert lb.status()["generations"][-1]["number"] == reloads, lb.log


def test_what_is_learned_is_in_the_status_although_nothing_changes(begin: Begin, tmp_path: Path) -> None:
    """The status names the files of the last look, so there is one more."""
    path = tmp_path / "etc" / "ips.lst"
    path.parent.mkdir()
    path.write_text("10.0.0.1\n")
    text = CONFIGURATION.replace("  http-request", f"  acl x src -f {path}\n  http-request deny if x\n  http-request")
    lb = begin("--debounce", "3600", code=HIDES, text=text).serves(1)
    eventually(lambda: _is_settled(lb, path))
    assert lb.status()["generations"][-1]["number"] == 1, lb.log

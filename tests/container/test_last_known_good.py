"""The last configuration that was good serves when the one on the disk is bad: after a crash, and after a restart."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import docker
from tests.container.conftest import NEWEST_STABLE, Balancer, Start, configuration
from tests.container.trouble import Crowd, current, end, reload, say, status
from tests.waiting import eventually

BAD = configuration("bad", "frontend broken\n  bnid :1\n")
OFTEN = ("--restart-limit", "1000")
KEPT = "/var/lib/safe_reload"
BEGINS_WITH_BAD = {"text": BAD}


# ---- a crash -------------------------------------------------------------------------------------------------------


def _says_last_known_good(lb: Balancer, sha256: str) -> None:
    """See that status and log tell everybody what serves, and why."""
    said = status(lb)
    configured = said["configuration"]
    assert configured["last_known_good"] is True
    assert configured["pending"] is True
    assert configured["sha256"] == sha256
    assert configured["disk_sha256"] != sha256
    assert [one["last_known_good"] for one in said["generations"] if one["state"] == "current"] == [True]
    assert "LAST KNOWN GOOD" in lb.log
    assert "bnid" in lb.log


def _is_good_again(lb: Balancer, mark: str) -> None:
    """Repair the disk, reload, and see that nothing is said any more."""
    lb.becomes(mark)
    configured = eventually(lambda: _settled(lb))
    assert configured["last_known_good"] is False
    assert configured["sha256"] == configured["disk_sha256"]


def _settled(lb: Balancer) -> dict[str, object]:
    configured: dict[str, object] = status(lb)["configuration"]
    return {} if configured["pending"] else configured


def test_a_crash_while_the_disk_is_bad_brings_the_good_configuration_back(lb: Balancer) -> None:
    """Contract 6.4, without any folder to keep it in; nobody is refused, and everybody is told."""
    good = status(lb)["configuration"]["sha256"]
    lb.edit(BAD)
    with Crowd(lb, 500, 1) as crowd:
        death = end(current(lb))
        current(lb)
        lb.serves("one")
    say(crowd.ends)
    assert crowd.ends.unexplained([death]) == []
    _says_last_known_good(lb, good)
    _is_good_again(lb, "two")


def test_it_comes_back_again_and_again(start: Start) -> None:
    """Crash after crash, and after a reload that was refused: a bad configuration never replaces the good one."""
    lb = start(NEWEST_STABLE, options=OFTEN)
    current(lb)
    good = status(lb)["configuration"]["sha256"]
    lb.edit(BAD)
    deaths = []
    with Crowd(lb, 200, 1) as crowd:
        for _ in range(3):
            lb.kill("USR1")
            crowd.goes_on_for(1.1)
            deaths.append(end(current(lb)))
            current(lb)
            lb.serves("one")

    assert crowd.ends.unexplained(deaths) == []
    _says_last_known_good(lb, good)
    _is_good_again(lb, "two")


def test_a_reload_that_has_not_lived_yet_does_not_replace_the_good_one(lb: Balancer) -> None:
    """What crashes in its first 10 s may be the reason for the crash."""
    lb.edit(configuration("two"))
    served = reload(lb)
    lb.edit(BAD)
    end(served)
    current(lb)
    lb.serves("one")


@pytest.mark.parametrize("change", ["deleted", "empty", "a folder"])
def test_a_crash_while_the_file_is_gone_is_no_different(lb: Balancer, change: str) -> None:
    """Whatever has become of the file."""
    path = lb.folder / "haproxy.cfg"
    path.unlink()
    if change == "empty":
        path.touch()
    elif change == "a folder":
        path.mkdir()
    end(current(lb))
    current(lb)
    lb.serves("one")
    assert status(lb)["configuration"]["last_known_good"] is True


def test_a_good_disk_after_a_crash_is_served_as_it_is(lb: Balancer) -> None:
    """A configuration that was edited, is good, and was never asked for serves after a crash, with no alarm."""
    lb.edit(configuration("two"))
    end(current(lb))
    lb.serves("two")
    assert status(lb)["configuration"]["last_known_good"] is False
    assert "LAST KNOWN GOOD" not in lb.log


# ---- a restart of the container ------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder that outlives containers."""
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    return folder


Again = Callable[..., Balancer]


@pytest.fixture
def again(start: Start, kept: Path) -> Again:
    """Start a container with the state folder of those before."""

    def begin(image: str, **more: object) -> Balancer:
        mounts = [docker.types.Mount(KEPT, str(kept), type="bind")]
        return start(image, options=("--state-dir", KEPT, *OFTEN), mounts=mounts, **more)

    return begin


def _files(folder: Path) -> list[Path]:
    """Return the last known good configurations that are kept, without what is being written."""
    return [path for path in folder.rglob("*.last-known-good") if path.is_file()]


def _has_kept(again: Again, image: str, kept: Path) -> str:
    """Have a container serve "one" until that is kept; return the configuration's hash."""
    lb = again(image).begins("one")
    eventually(lambda: _files(kept))
    sha256 = str(status(lb)["configuration"]["sha256"])
    lb.container.stop(timeout=30)
    return sha256


def test_a_restart_with_a_bad_configuration_begins_with_the_good_one(again: Again, image: str, kept: Path) -> None:
    """Contract 6.5; log and status say so until the disk is good again."""
    good = _has_kept(again, image, kept)
    lb = again(image, **BEGINS_WITH_BAD).begins("one")
    _says_last_known_good(lb, good)
    _is_good_again(lb, "two")


def test_the_newest_good_one_is_kept(again: Again, kept: Path) -> None:
    """A reload whose generation has lived for 10 s is what the next one begins with, after a crash and a restart."""
    lb = again(NEWEST_STABLE).begins("one")
    eventually(lambda: _files(kept))
    before = _contents(kept)
    lb.becomes("two")
    eventually(lambda: _contents(kept) != before)
    kept_two = _contents(kept)
    lb.change(BAD)
    eventually(lambda: "has failed" in lb.log)
    end(current(lb))
    lb.serves("two")
    lb.container.kill()

    assert _contents(kept) == kept_two
    lb = again(NEWEST_STABLE, **BEGINS_WITH_BAD).begins("two")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder) if not path.is_symlink()}


def test_what_is_kept_is_for_its_owner_only(start: Start, image: str, tmp_path: Path) -> None:
    """Configurations hold passwords: the files are 0600, the folders 0700, those that safe_reload makes itself too."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    mounts = [docker.types.Mount("/outside", str(outside), type="bind")]
    start(image, options=("--state-dir", "/outside/made/here"), mounts=mounts).begins("one")
    made = outside / "made" / "here"
    eventually(lambda: made.is_dir() and _files(made))
    assert made.stat().st_mode & 0o777 == 0o700
    for path in made.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_without_anything_kept_a_bad_configuration_ends_the_first_start(again: Again, image: str) -> None:
    """Contract 6.5: haproxy's words, and its exit status."""
    lb = again(image, **BEGINS_WITH_BAD)
    assert lb.container.wait(timeout=60)["StatusCode"] == 1
    assert "bnid" in lb.log


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 16)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def _other_version(path: Path) -> None:
    """Replace whatever number stands first in the file."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1", b"9", 1) if b"1" in data else b"9" + data)


def _foreign(path: Path) -> None:
    os.chown(path, 12345, 12345)


def _writable(path: Path) -> None:
    path.chmod(0o666)


def _link(path: Path) -> None:
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    path.symlink_to(aside.name)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


DAMAGES = (_truncate, _empty, _garbage, _flip, _other_version, _foreign, _writable, _link, _fifo)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_state_is_ignored_with_one_line(again: Again, kept: Path, damage: Callable[[Path], None]) -> None:
    """It is as if nothing were kept: a good configuration starts, a bad one ends with haproxy's words."""
    _has_kept(again, NEWEST_STABLE, kept)
    for path in _files(kept):
        damage(path)
    lb = again(NEWEST_STABLE, **BEGINS_WITH_BAD)
    code = lb.container.wait(timeout=60)["StatusCode"]
    assert code == 1
    assert "bnid" in lb.log
    assert len([line for line in lb.log.splitlines() if KEPT in line or "state-dir" in line]) == 1, lb.log
    lb = again(NEWEST_STABLE).begins("one")


def _foreign_folder(folder: Path) -> None:
    os.chown(folder, 12345, 12345)


def _open_folder(folder: Path) -> None:
    folder.chmod(0o777)


@pytest.mark.parametrize("change", [_foreign_folder, _open_folder], ids=["foreign", "open to all"])
def test_the_file_is_trusted_for_its_owner_and_mode_whatever_the_folder(
    again: Again, kept: Path, change: Callable[[Path], None]
) -> None:
    """An emptyDir of Kubernetes is open to all; nobody but us can make a file there that is ours."""
    good = _has_kept(again, NEWEST_STABLE, kept)
    change(kept)
    lb = again(NEWEST_STABLE, **BEGINS_WITH_BAD).begins("one")
    _says_last_known_good(lb, good)


def test_a_folder_that_cannot_be_written_is_no_obstacle(start: Start, tmp_path: Path) -> None:
    """A read-only mount: nothing is kept, a line says so, everything else works."""
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o700)
    mounts = [docker.types.Mount(KEPT, str(folder), type="bind", read_only=True)]
    lb = start(NEWEST_STABLE, options=("--state-dir", KEPT), mounts=mounts).begins("one")
    lb.becomes("two")
    eventually(lambda: KEPT in lb.log)

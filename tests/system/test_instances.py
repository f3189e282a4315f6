"""The runtime folder, with sockets of our own, of root, and of strangers, who are really other users."""

import os
from pathlib import Path

import pytest

from entrypoint.system.instances import NoInstanceError, find, look, names
from tests.connections import dead_socket, put
from tests.system.strangers import OURS, STRANGER, as_user, folder_of, listening_as

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

STICKY, PLAIN, OPEN = 0o1777, 0o755, 0o777


@pytest.mark.parametrize(
    ("asks", "listens", "owner", "mode", "above", "believed"),
    [
        (0, 0, 0, STICKY, "/run", True),
        (0, 0, STRANGER, OPEN, "/tmp", True),
        (OURS, OURS, 0, STICKY, "/run", True),
        (OURS, OURS, STRANGER, OPEN, "/tmp", True),
        (OURS, 0, 0, STICKY, "/run", True),
        (OURS, STRANGER, 0, STICKY, "/run", False),
        (OURS, STRANGER, STRANGER, PLAIN, "/run", False),
        (0, OURS, OURS, PLAIN, "/run", True),
        (0, OURS, OURS, 0o700, "/run", True),
        (0, OURS, 0, STICKY, "/run", False),
        (0, OURS, 0, OPEN, "/run", False),
        (0, OURS, OURS, 0o775, "/run", False),
        (0, OURS, OURS, STICKY, "/run", False),
        (0, STRANGER, OURS, OPEN, "/run", False),
        # Who owns a folder in /tmp is who was there first.
        (0, OURS, OURS, PLAIN, "/tmp", False),
    ],
)
def test_which_listener_is_trusted(asks: int, listens: int, owner: int, mode: int, above: str, believed: bool) -> None:
    """Root and the same user. Root also trusts another user where nobody else could have created the socket."""
    with folder_of(owner, mode, above) as folder, listening_as(listens, folder / "lb.sock"):
        alive, doubt = as_user(asks, lambda: look(str(folder / "lb.sock")))
    assert alive
    assert (not doubt) is believed, doubt
    if doubt:
        assert f"uid {listens} listens there" in doubt
        assert len(doubt.splitlines()) == 1


@pytest.mark.parametrize("asks", [0, OURS])
@pytest.mark.parametrize("what", ["socket", "folder"])
def test_a_stranger_s_symlink_is_not_followed(asks: int, what: str) -> None:
    """Not even if it leads to a trusted socket: it is not the one that was meant."""
    with folder_of(asks, PLAIN) as real, folder_of(0, OPEN) as folder, listening_as(asks, real / "lb.sock"):
        link = folder / ("lb.sock" if what == "socket" else "run")
        link.symlink_to(real / "lb.sock" if what == "socket" else real)
        path = link if what == "socket" else link / "lb.sock"
        assert as_user(asks, lambda: look(str(path))) == (True, "")
        os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
        alive, doubt = as_user(asks, lambda: look(str(path)))
    assert alive
    assert f"{link} is a symbolic link that another user has made" in doubt


def test_a_socket_that_denies_access_is_judged_by_its_owner() -> None:
    """A stranger's socket is not trusted. Root's may be the right one that does not speak to us."""
    with folder_of(0, STICKY) as folder:
        for uid in (STRANGER, 0):
            path = folder / f"{uid}.sock"
            with listening_as(uid, path, mode=0o600):
                alive, doubt = as_user(OURS, lambda path=path: look(str(path)))  # type: ignore[misc]
            assert alive
            assert doubt == (f"{path}: not trusted: it belongs to uid {uid} and lets nobody in" if uid else "")


@pytest.mark.parametrize("kind", ["nothing", "dead socket", "file", "fifo", "folder"])
def test_a_path_without_a_listener_is_not_alive(kind: str, tmp_path: Path) -> None:
    """Whatever kind of file it is."""
    path = tmp_path / "lb.sock"
    if kind != "nothing":
        put(kind, path)
    assert look(str(path)) == (False, "")


def test_the_only_one_is_found_beside_the_dead_and_strangers() -> None:
    """Each stranger is named in a line; two of ours are one too many; and none is none."""
    told: list[str] = []
    with folder_of(0, STICKY) as folder:
        dead_socket(folder / "dead.sock")
        with listening_as(STRANGER, folder / "evil.sock"):
            assert names(str(folder)) == ["dead", "evil"]
            with pytest.raises(NoInstanceError, match="no instance answers there"):
                find(str(folder), None)
            with listening_as(0, folder / "lb.sock"):
                assert find(str(folder), None, told.append) == str(folder / "lb.sock")
                assert [line.partition(": not trusted")[0] for line in told] == [str(folder / "evil.sock")]
                with (
                    listening_as(0, folder / "other.sock"),
                    pytest.raises(NoInstanceError, match="with --name: lb, other"),
                ):
                    find(str(folder), None)
    assert find("/nowhere", "lb") == "/nowhere/lb.sock"

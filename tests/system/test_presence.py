"""The control socket stays in its place, whatever happens there."""

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrypoint.core.effects import Log
from entrypoint.pid1.presence import Presence
from entrypoint.system.control_socket import Control
from entrypoint.system.event_loop import EventLoop
from tests.connections import put
from tests.system.apart import apart
from tests.system.strangers import OURS, STRANGER, as_user, folder_of, listening_as
from tests.waiting import eventually

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
PATIENCE = 30.0


class Life:
    """A loop that has nothing to do but this."""

    def __init__(self, folder: Path, poll: float = 86400.0) -> None:
        """Begin; the poll is never over unless it is asked for."""
        self.folder = folder
        self.path = folder / "lb.sock"
        self.event_loop = EventLoop()
        self.lines: list[Log] = []
        self.opened: list[Control] = []
        self.presence = Presence(str(folder), "lb", poll, self.event_loop, self.lines.append)

    def begin(self) -> "Life":
        """Open the socket."""
        self.presence.begin(self._opened, None)
        return self

    def _opened(self, control: Control) -> None:
        if self.opened:
            self.opened[0].renew(control)
        else:
            self.opened.append(control)

    def until(self, condition: Callable[[], bool]) -> None:
        """Turn until something is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.lines
            self.event_loop.wait(time.monotonic() + 0.05)

    def answers(self) -> bool:
        """Tell whether who looks for us finds us."""
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(self.path))
            here = self.opened[0].accept()
            if here:
                here.close()
                return True
        return False

    @property
    def events(self) -> list[str]:
        """What has been logged."""
        return [line.event for line in self.lines]

    def close(self) -> None:
        """End."""
        self.presence.close()
        for control in self.opened:
            control.close()


@contextlib.contextmanager
def life(folder: Path, poll: float = 86400.0) -> Iterator[Life]:
    """Live for the length of a block."""
    one = Life(folder, poll)
    try:
        yield one.begin()
    finally:
        one.close()


@pytest.mark.parametrize("how", ["removed", "renamed", "a file", "a fifo", "a link", "a dead socket", "the folder"])
def test_it_is_made_again_and_said_in_one_line(tmp_path: Path, how: str) -> None:
    """Whatever takes its place, and also when the folder itself goes."""
    with life(tmp_path / "run") as one:
        assert one.answers() and not one.lines
        match how:
            case "removed":
                one.path.unlink()
            case "renamed":
                one.path.rename(one.folder / "elsewhere")
            case "the folder":
                shutil.rmtree(one.folder)
            case _:
                one.path.unlink()
                put(how.removeprefix("a "), one.path)
        one.until(one.answers)
        assert one.events == ["control_made_again"]
        assert str(one.path) in one.lines[0].message
    assert not one.path.exists()


def test_it_is_made_again_as_often_as_it_goes_and_no_more_than_once_a_second(tmp_path: Path) -> None:
    """Removing it in a loop does not fill the log."""
    with life(tmp_path) as one:
        for number in range(1, 3):
            one.path.unlink()
            one.until(one.answers)
            assert one.events == ["control_made_again"] * number


def test_where_the_kernel_reports_nothing_it_is_looked_for(tmp_path: Path) -> None:
    """Without descriptors there is no inotify; then every --poll seconds."""

    def without_inotify() -> list[str]:
        import entrypoint.pid1.presence as module

        def none() -> object:
            raise OSError

        module.Inotify = none  # type: ignore[assignment, attr-defined]
        with life(tmp_path, poll=0.05) as one:
            one.path.unlink()
            one.until(one.answers)
            return one.events

    assert apart(without_inotify) == ["control_made_again"]


def test_while_nothing_happens_nothing_wakes_it(tmp_path: Path) -> None:
    """An idle PID 1 sleeps: what waits is the watch, and no alarm."""
    with life(tmp_path / "run") as one:
        Path(one.folder, "neighbour").write_text("")
        one.until(lambda: not one.event_loop._timers)  # noqa: SLF001  # that there is none is the promise
        one.event_loop.wait(time.monotonic())
        one.until(lambda: not one.event_loop._timers)  # noqa: SLF001
        assert one.answers()
        assert not one.lines


def test_a_living_instance_keeps_its_name(tmp_path: Path) -> None:
    """Two of one name would answer for each other: the second one has no socket, until the first one is gone."""
    with life(tmp_path) as first, life(tmp_path) as second:
        assert second.events == ["no_control"]
        assert second.lines[0].message.endswith("give this one another --name")
        assert not second.opened
        first.close()
        second.until(lambda: bool(second.opened))
        assert second.answers()
        assert second.events == ["no_control"]


@root_only
def test_a_stranger_in_our_place_is_replaced_where_we_may() -> None:
    """Root may replace it, and logs the stranger's uid."""
    with folder_of(0, 0o1777) as folder, listening_as(STRANGER, folder / "lb.sock"), life(folder) as one:
        assert one.answers()
        assert one.events == ["control_of_a_stranger"]
        assert f"uid {STRANGER} listens there" in one.lines[0].message


@root_only
def test_a_stranger_in_our_place_is_named_where_we_may_not_and_followed_when_he_leaves() -> None:
    """In a sticky folder nobody removes another one's file."""
    with folder_of(0, 0o1777) as folder:
        place = folder / "lb.sock"

        def live() -> tuple[list[str], str]:
            with life(folder) as one:
                before = one.events
                (folder / "seen").write_text("")
                one.until(lambda: bool(one.opened))
                assert one.answers()
                return before, one.lines[0].message

        with listening_as(STRANGER, place):
            # Who removes it is root, when it has been seen.
            remover = os.fork()
            if not remover:
                with contextlib.suppress(AssertionError):
                    eventually((folder / "seen").exists)
                place.unlink()
                os._exit(0)
            events, message = as_user(OURS, live)
            os.waitpid(remover, 0)
    assert events == ["no_control"]
    assert f"uid {STRANGER} listens there" in message
    assert "it cannot be replaced" in message

"""inotify: real watches on real files, in the ways in which files change in practice."""

import ctypes
import errno
import os
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrypoint.system.inotify import Inotify
from tests.system.apart import apart, in_child
from tests.system.mounting import bind, own_mounts, why_no_mounts

needs_mounts = pytest.mark.skipif(bool(why_no_mounts()), reason=why_no_mounts())


@pytest.fixture
def inotify() -> Iterator[Inotify]:
    """One that is closed at the end."""
    watching = Inotify()
    yield watching
    watching.close()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder as the kubelet makes it."""
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "haproxy.cfg").write_text("one\n")
    os.symlink("..1", tmp_path / "..data")
    os.symlink("..data/haproxy.cfg", tmp_path / "haproxy.cfg")
    return tmp_path


def is_ready(inotify: Inotify) -> bool:
    """Tell whether the descriptor is readable right now."""
    return bool(select.select([inotify.fileno()], [], [], 0)[0])


def write_in_place(path: Path) -> None:
    """Change a file as `>` does."""
    path.write_text("new\n")


def write_and_rename(path: Path) -> None:
    """Change a file as editors do."""
    beside = path.with_name(".tmp")
    beside.write_text("new\n")
    beside.rename(path)


def append(path: Path) -> None:
    """Change a file as `>>` does."""
    with path.open("a") as file:
        file.write("new\n")


@pytest.mark.parametrize(
    "change",
    [
        write_in_place,
        write_and_rename,
        append,
        Path.unlink,
        lambda path: path.chmod(0o600),
        lambda path: path.rename(path.with_name("other")),
        lambda path: path.with_name("another").touch(),
        lambda path: path.with_name("folder").mkdir(),
        lambda path: path.with_name("link").symlink_to("nowhere"),
    ],
)
def test_a_change_in_a_watched_folder_is_seen(
    inotify: Inotify, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    """The descriptor becomes readable, and to read it says so, once."""
    (tmp_path / "file").write_text("old\n")
    assert inotify.watch([str(tmp_path)])
    assert not is_ready(inotify)
    change(tmp_path / "file")
    assert is_ready(inotify)
    assert inotify.read()
    assert not is_ready(inotify)
    assert not inotify.read()


def test_reading_is_not_a_change(inotify: Inotify, tmp_path: Path) -> None:
    """Neither haproxy that reads the files nor we that do wake anybody."""
    (tmp_path / "file").write_text("old\n")
    assert inotify.watch([str(tmp_path), str(tmp_path / "file")])
    (tmp_path / "file").read_text()
    os.listdir(tmp_path)
    (tmp_path / "file").stat()
    assert not is_ready(inotify)


def test_a_file_is_seen_through_its_own_watch(inotify: Inotify, tmp_path: Path) -> None:
    """Where nobody watches the folder, the file's own watch sees it written, replaced and gone."""
    path = tmp_path / "file"
    path.write_text("old\n")
    assert inotify.watch([str(path)])
    write_in_place(path)
    assert inotify.read()
    write_and_rename(path)
    assert inotify.read()
    write_in_place(path)
    assert not inotify.read()  # that is another file now,
    assert inotify.watch([str(path)])
    assert inotify.fresh  # and here it says so
    write_in_place(path)
    assert inotify.read()


def swap_new(volume: Path) -> None:
    """Publish a second version in the order of a kubelet of today."""
    (volume / "..2").mkdir()
    (volume / "..2" / "haproxy.cfg").write_text("two\n")
    (volume / "..2" / "new.map").write_text("two\n")
    os.symlink("..2", volume / "..data_tmp")
    os.rename(volume / "..data_tmp", volume / "..data")
    os.symlink("..data/new.map", volume / "new.map")
    (volume / "..1" / "haproxy.cfg").unlink()
    (volume / "..1").rmdir()


def swap_old(volume: Path) -> None:
    """Publish it in the order of 1.20: new links first, and the owner's mode afterwards."""
    (volume / "..2").mkdir()
    (volume / "..2" / "haproxy.cfg").write_text("two\n")
    os.symlink("..data/new.map", volume / "new.map")
    os.symlink("..2", volume / "..data_tmp")
    os.rename(volume / "..data_tmp", volume / "..data")
    (volume / "..1" / "haproxy.cfg").unlink()
    (volume / "..1").rmdir()
    (volume / "..2" / "haproxy.cfg").chmod(0o440)


@pytest.mark.parametrize("swap", [swap_new, swap_old])
def test_a_config_map_is_seen_again_and_again(inotify: Inotify, volume: Path, swap: Callable[[Path], None]) -> None:
    """After the swap the new file is watched, and the old one's end is no news."""
    paths = [str(volume), str(volume / "haproxy.cfg")]
    assert inotify.watch(paths)
    swap(volume)
    assert inotify.read()
    assert inotify.watch(paths)
    assert inotify.fresh
    assert not inotify.read()
    write_in_place(volume / "..2" / "haproxy.cfg")
    assert inotify.read()


def test_watching_the_same_is_not_fresh(inotify: Inotify, tmp_path: Path) -> None:
    """Only a watch that was not there before calls for another look."""
    (tmp_path / "a").touch()
    assert inotify.watch([str(tmp_path)])
    assert inotify.fresh
    assert inotify.watch([str(tmp_path), str(tmp_path)])
    assert not inotify.fresh
    assert inotify.watch([str(tmp_path), str(tmp_path / "a")])
    assert inotify.fresh
    assert inotify.watch([str(tmp_path)])
    assert not inotify.fresh


def test_what_is_not_asked_for_any_more_is_not_watched(inotify: Inotify, tmp_path: Path) -> None:
    """A path that is left out is forgotten, and forgetting is no event."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert inotify.watch([str(tmp_path / "a"), str(tmp_path / "b")])
    assert inotify.watch([str(tmp_path / "b")])
    assert not inotify.read()
    (tmp_path / "a" / "x").touch()
    assert not inotify.read()
    (tmp_path / "b" / "x").touch()
    assert inotify.read()


def test_what_has_just_gone_calls_for_another_look_and_for_nothing_else(inotify: Inotify, tmp_path: Path) -> None:
    """A file that is replaced between the read and the watch is no reason to poll; the rest is watched."""
    assert inotify.watch([str(tmp_path)])
    for gone in ("a", "b"):
        assert inotify.watch([str(tmp_path / gone), str(tmp_path)])
        assert inotify.fresh
    assert inotify.watch([str(tmp_path)])
    assert not inotify.fresh
    (tmp_path / "x").touch()
    assert inotify.read()


def test_what_is_never_there_cannot_be_watched(inotify: Inotify, tmp_path: Path) -> None:
    """It calls for one more look and no others, or they would never end; then it is said that not all is watched."""
    paths = [str(tmp_path / "none"), str(tmp_path / "none" / "below"), str(tmp_path)]
    assert inotify.watch(paths)
    assert inotify.fresh
    for _ in range(3):
        assert not inotify.watch(paths)
        assert not inotify.fresh
    assert inotify.watch([str(tmp_path)])


@in_child
def test_what_may_not_be_read_cannot_be_watched(tmp_path: Path) -> None:
    """It is said at once, and no other look would help."""
    (tmp_path / "private").mkdir(mode=0)
    watching = Inotify()
    watching.watch(["/"])
    if not os.geteuid():
        os.setuid(65534)
    assert not watching.watch(["/", str(tmp_path / "private")])
    assert not watching.fresh


def test_many_events_are_one_answer(inotify: Inotify, tmp_path: Path) -> None:
    """More than one read's worth is drained."""
    assert inotify.watch([str(tmp_path)])
    for number in range(3000):
        (tmp_path / f"{number:0200}").touch()
    assert inotify.read()
    assert not is_ready(inotify)


def test_lost_events_are_an_event(inotify: Inotify, tmp_path: Path) -> None:
    """When the kernel's queue overflows, something has happened, and the next event is seen as well."""
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    assert inotify.watch([str(tmp_path)])
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for _ in range(room // 2 + 10):
        # Two names in turn, because equal events in a row are merged.
        os.utime(tmp_path / "a")
        os.utime(tmp_path / "b")
    assert inotify.read()
    assert not inotify.read()
    os.utime(tmp_path / "a")
    assert inotify.read()


def test_no_descriptor_is_an_error() -> None:
    """Where there is none to be had, whoever asks is told why in one line."""

    def work() -> tuple[int | None, str]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 500))
        os.closerange(3, 400)
        try:
            Inotify()
        except OSError as error:
            return error.errno, str(error)
        return None, ""

    Inotify().close()  # what it imports is imported
    code, text = apart(work)
    assert code == errno.EMFILE
    assert "inotify: Too many open files" in text
    assert "\n" not in text


def test_too_many_watches_are_reported(tmp_path: Path) -> None:
    """At the limit of watches the answer is no, and what could be watched is."""
    folders = [tmp_path / str(number) for number in range(8)]
    for folder in folders:
        folder.mkdir()

    def work() -> tuple[bool, bool, bool] | str:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x10000000):  # CLONE_NEWUSER: the limit is the namespace's own
            return os.strerror(ctypes.get_errno())
        try:
            Path("/proc/sys/user/max_inotify_watches").write_text("5")
        except OSError as error:
            return str(error)
        watching = Inotify()
        complete = watching.watch(map(str, folders))
        (folders[0] / "x").touch()
        return complete, watching.read(), watching.watch(map(str, folders[:5]))

    answer = apart(work)
    if isinstance(answer, str):
        pytest.skip(answer)
    assert answer == (False, True, True)


@in_child
def test_a_closed_one_holds_no_descriptor() -> None:
    """Closing gives the descriptor back, and closing twice is no error."""
    before = sorted(os.listdir("/proc/self/fd"))
    watching = Inotify()
    inheritable = os.get_inheritable(watching.fileno())
    watching.close()
    watching.close()
    Inotify().close()
    after = sorted(os.listdir("/proc/self/fd"))
    assert before == after
    assert not inheritable


def test_nothing_dear_is_loaded() -> None:
    """The module costs nothing until the first watch, and then not the package ctypes."""
    program = (
        "import sys\n"
        "import entrypoint.system.inotify as i\n"
        "assert '_ctypes' not in sys.modules\n"
        "i.Inotify()\n"
        "assert '_ctypes' in sys.modules and 'ctypes' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-S", "-c", program], check=True, cwd=Path(__file__).parents[2])


@needs_mounts
@in_child
def test_a_bind_mounted_file_needs_its_own_watch(tmp_path: Path) -> None:
    """Of what happens to it on the host the folder's watch in the container sees nothing, and the file's all."""
    host, inside = tmp_path / "host", tmp_path / "inside"
    for folder in (host, inside):
        folder.mkdir()
        (folder / "x.cfg").write_text("old\n")
    own_mounts()
    bind(host / "x.cfg", inside / "x.cfg")
    of_folder, of_file = Inotify(), Inotify()
    of_folder.watch([str(inside)])
    of_file.watch([str(inside / "x.cfg")])
    seen = []
    for change in (write_in_place, append, write_and_rename):
        change(host / "x.cfg")
        seen.append((of_folder.read(), of_file.read()))
    assert seen == [(False, True)] * 3

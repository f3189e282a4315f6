"""Files: the pid file, what is read of a configuration, and the descriptors that children get or do not get."""

import os
from pathlib import Path

import pytest

from entrypoint.system.files import (
    PidFile,
    configuration_files,
    fill_standard_descriptors,
    keep_from_children,
    read,
    replace_file,
)
from tests.system.apart import apart, in_child

# ---- the pid file --------------------------------------------------------------------------------------------------


def test_the_pid_file_holds_the_pid_that_was_written_last(tmp_path: Path) -> None:
    """Each write replaces the content, and nothing else is left in the folder."""
    path = tmp_path / "pid"
    pid_file = PidFile(str(path))
    for pid in (1, 22222, 7):
        pid_file.write(pid)
        assert path.read_text() == f"{pid}\n"
        assert os.listdir(tmp_path) == ["pid"]


def test_the_pid_file_is_replaced_atomically(tmp_path: Path) -> None:
    """A reader that has the old file open reads the old pid whole; the new pid is in another file."""
    path = tmp_path / "pid"
    pid_file = PidFile(str(path))
    pid_file.write(11111)
    with path.open() as old:
        pid_file.write(2)
        assert old.read() == "11111\n"
        assert os.fstat(old.fileno()).st_ino != path.stat().st_ino


def test_there_is_no_pid_file_before_there_is_a_pid(tmp_path: Path) -> None:
    """To see that the file can be written leaves nothing behind, and an older file as it was."""
    PidFile(str(tmp_path / "new"))
    assert os.listdir(tmp_path) == []
    (tmp_path / "old").write_text("5\n")
    PidFile(str(tmp_path / "old"))
    assert (tmp_path / "old").read_text() == "5\n"


def test_the_pid_files_folder_is_made(tmp_path: Path) -> None:
    """A folder that is not there is made, as in the original."""
    path = tmp_path / "ha1" / "run" / "pid"
    PidFile(str(path)).write(3)
    assert path.read_text() == "3\n"


def test_a_pid_file_without_a_folder_is_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name works."""
    monkeypatch.chdir(tmp_path)
    pid_file = PidFile("pid")
    pid_file.write(3)
    assert (tmp_path / "pid").read_text() == "3\n"
    pid_file.remove()
    assert os.listdir(tmp_path) == []


def test_a_pid_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    """A path under a file, and a path that is a folder, are refused before anything is started."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        PidFile(str(tmp_path / "file" / "pid"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        PidFile(str(tmp_path / "folder"))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_pid_that_cannot_be_written_takes_the_old_one_along(tmp_path: Path) -> None:
    """The old one belongs to a haproxy that leaves, and soon to anybody: no file is better."""
    path = tmp_path / "pid"
    pid_file = PidFile(str(path))
    pid_file.write(3)
    blocked = tmp_path / f".pid.{os.getpid()}"
    blocked.mkdir()
    with pytest.raises(OSError, match="pid"):
        pid_file.write(4)
    assert not path.exists()
    blocked.rmdir()
    pid_file.write(5)
    assert path.read_text() == "5\n"
    pid_file.remove()
    assert not path.exists()


def test_a_pid_file_is_removed_at_the_end(tmp_path: Path) -> None:
    """It goes, and that it is gone already does not matter."""
    path = tmp_path / "pid"
    pid_file = PidFile(str(path))
    pid_file.write(3)
    pid_file.remove()
    assert not path.exists()
    pid_file.remove()
    assert not path.exists()


@pytest.mark.parametrize("content", ["4\n", ""])
def test_a_pid_file_that_somebody_else_wrote_is_left(tmp_path: Path, content: str) -> None:
    """A second instance's file survives the end of the first."""
    path = tmp_path / "pid"
    pid_file = PidFile(str(path))
    pid_file.write(3)
    path.write_text(content)
    pid_file.remove()
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["4\n", ""])
def test_a_pid_file_that_was_never_written_is_not_removed(tmp_path: Path, content: str) -> None:
    """An instance that has published no pid leaves an existing file alone, even an empty one."""
    path = tmp_path / "pid"
    path.write_text(content)
    PidFile(str(path)).remove()
    assert path.exists()


# ---- the configuration ---------------------------------------------------------------------------------------------


def test_a_file_is_itself_and_a_folder_its_cfg_files(tmp_path: Path) -> None:
    """The order is haproxy's: as given, and by name within a folder; hidden and other files are not read."""
    folder = tmp_path / "conf.d"
    folder.mkdir()
    for name in ("20-b.cfg", "10-a.cfg", ".hidden.cfg", "c.cfg.bak", "README"):
        (folder / name).write_text("")
    first, missing = str(tmp_path / "z.cfg"), str(tmp_path / "a.cfg")
    assert list(configuration_files([first, str(folder), missing], None)) == [
        first,
        str(folder / "10-a.cfg"),
        str(folder / "20-b.cfg"),
        missing,
    ]


def test_relative_files_are_in_the_folder_of_the_option(tmp_path: Path) -> None:
    """With -C a relative name is looked for there, and an absolute one where it says."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.cfg").write_text("")
    assert list(configuration_files(["b.cfg", "conf.d", "/etc/c.cfg"], str(tmp_path))) == [
        f"{tmp_path}/b.cfg",
        f"{tmp_path}/conf.d/a.cfg",
        "/etc/c.cfg",
    ]


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """The bytes are those of the file, whatever they are."""
    (tmp_path / "a").write_bytes(b"\xff\0\r\n" * 100_000)
    assert read(str(tmp_path / "a")) == b"\xff\0\r\n" * 100_000


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    """A file that is not there, a folder or a device is haproxy's to complain of."""
    assert read(str(tmp_path / "none")) == b""
    assert read(str(tmp_path)) == b""
    assert read("/dev/null") == b""


def test_a_file_without_permission_is_empty(tmp_path: Path) -> None:
    """What only haproxy may read is haproxy's business."""
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(0)

    def as_nobody() -> bytes:
        if os.getuid() == 0:
            os.chmod(tmp_path, 0o755)
            os.setuid(65534)
        return read(str(path))

    assert apart(as_nobody) == b""


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    """A pipe keeps for haproxy what is in it, and nobody waits for a writer."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    assert read(path) == b""
    reader, writer = os.pipe()
    os.write(writer, b"global\n")
    os.close(writer)
    assert read(f"/dev/fd/{reader}") == b""
    assert os.read(reader, 100) == b"global\n"
    os.close(reader)


# ---- descriptors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("inheritable", [False, True])
@in_child
def test_closed_standard_descriptors_become_dev_null(closed: tuple[int, ...], inheritable: bool) -> None:
    """Nothing that is opened later gets 0 to 2, and children see /dev/null or a closed descriptor as before."""
    for descriptor in closed:
        os.close(descriptor)
    before = {descriptor: os.fstat(descriptor) for descriptor in range(3) if descriptor not in closed}
    fill_standard_descriptors(inheritable=inheritable)
    null = os.stat("/dev/null")
    assert all(os.path.sameopenfile(d, d) and os.fstat(d)[:3] == before[d][:3] for d in before)
    are_null = [os.path.samestat(os.fstat(descriptor), null) for descriptor in closed]
    inherited = [os.get_inheritable(descriptor) for descriptor in closed]
    next_one = os.dup(closed[0])
    assert are_null == [True] * len(closed)
    assert inherited == [inheritable] * len(closed)
    assert next_one > 2


@in_child
def test_open_standard_descriptors_are_left_alone() -> None:
    """What is open stays what it is, and stays inheritable."""
    before = [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in range(3)]
    fill_standard_descriptors(inheritable=False)
    assert before == [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in range(3)]


@in_child
def test_only_the_standard_descriptors_are_for_children() -> None:
    """What our parent left open, at any number, does not reach haproxy; 0 to 2 do."""
    for descriptor in (5, 9, 100):
        os.dup2(0, descriptor)
    for descriptor in range(3):
        os.set_inheritable(descriptor, True)
    keep_from_children()
    assert [os.get_inheritable(descriptor) for descriptor in (0, 1, 2, 5, 9, 100)] == [True] * 3 + [False] * 3


def test_a_replaced_file_keeps_its_mode_and_its_links(tmp_path: Path) -> None:
    """And one that is new is private."""
    target, link, new = tmp_path / "target", tmp_path / "link", tmp_path / "new"
    target.write_text("old")
    target.chmod(0o664)
    link.symlink_to(target)
    replace_file(str(link), b"content")
    replace_file(str(new), b"content")
    assert link.is_symlink()
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("content", 0o664)
    assert (new.read_text(), new.stat().st_mode & 0o777) == ("content", 0o600)
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link", "new"}


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    """Such as /dev/null, whose place a private file would take."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        replace_file(str(pipe), b"content")
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]

"""The last known good configuration on disk is read back whole, or not at all."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.system.state_file import DamagedError, Files, StateFile, _entries, digest_of, in_memory, is_sealed

DIGEST = "ab" * 32
HEAD = b"safe_reload last known good 1\n"
FILES = (("/etc/haproxy.cfg", b"global\n"), ("/etc/\udcff", b"\0\n1 1\n"))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file that was written."""
    (tmp_path / "state").mkdir(0o700)
    write(StateFile(str(tmp_path / "state"), "lb"), DIGEST, FILES)
    return tmp_path / "state" / "lb.last-known-good"


def write(state_file: StateFile, digest: str, files: Files) -> None:
    """Write this."""
    texts = in_memory(digest, files)
    try:
        state_file.write(texts)
    finally:
        os.close(texts)


def content(texts: int | None) -> tuple[str, Files] | None:
    """Return what is in a memory file, which is closed."""
    if texts is None:
        return None
    try:
        assert is_sealed(texts)
        files = tuple((path, os.pread(texts, size, at)) for path, at, size in _entries(texts))
        return digest_of(texts), files
    finally:
        os.close(texts)


def read(path: Path) -> object:
    """Read what is there."""
    return content(StateFile(str(path.parent), "lb").read())


def test_it_is_private_and_read_back(written: Path) -> None:
    """Nobody else may read a configuration, and nothing else is left behind."""
    assert read(written) == (DIGEST, FILES)
    assert written.stat().st_mode & 0o777 == 0o600
    assert written.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(written.parent) == [written.name]


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.binary()), min_size=1))
def test_any_files_come_back(files: list[tuple[str, bytes]]) -> None:
    """Whatever they are called and contain."""
    assert content(in_memory(DIGEST, tuple(files))) == (DIGEST, tuple(files))


@pytest.mark.parametrize("name", ["lb" * 120, "lb" * 127, "\u00e4" * 127])
def test_an_instance_may_have_any_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    """What is added to it never makes it too long, and two of them are not the same."""
    others = [StateFile(str(tmp_path), name[:-1] + last) for last in "xy"]
    for number, other in enumerate(others):
        write(other, str(number), FILES)
    assert [content(other.read()) for other in others] == [("0", FILES), ("1", FILES)]


def test_nothing_is_nothing(tmp_path: Path) -> None:
    """No file and no folder are no error."""
    assert read(tmp_path / "none" / "x") is None


def test_every_damage_is_noticed(written: Path) -> None:
    """Every byte that is another, and every length that is shorter."""
    whole = written.read_bytes()
    for index in range(len(whole)):
        for damaged in (whole[:index], whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :]):
            written.write_bytes(damaged)
            with pytest.raises(DamagedError):
                read(written)


@given(st.binary())
def test_any_content_with_a_right_checksum_is_no_crash(body: bytes) -> None:
    """It is refused in one line, or it is what was written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lb.last-known-good"
        path.touch(0o600)
        path.write_bytes(HEAD + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        with contextlib.suppress(DamagedError):
            read(path)


@pytest.mark.parametrize("what", ["symlink", "folder", "fifo", "mode", "owner"])
def test_what_is_not_ours_is_refused(written: Path, what: str) -> None:
    """It is said, and never followed, opened for ever, or believed."""
    whole = written.read_bytes()
    if what == "mode":
        written.chmod(0o640)
    elif what == "owner":
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown(written, 65534, 65534)
    else:
        written.unlink()
        if what == "symlink":
            other = written.with_name("other")
            other.write_bytes(whole)
            other.chmod(0o600)
            written.symlink_to(other)
        elif what == "folder":
            written.mkdir(0o700)
        else:
            os.mkfifo(written, 0o600)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DamagedError):
        read(written)

    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    """Nothing that is in the way is harmed, and no half of a new one is left."""
    state = tmp_path / "lb.last-known-good"
    state.mkdir()
    with pytest.raises(IsADirectoryError):
        write(StateFile(str(tmp_path), "lb"), DIGEST, FILES)
    assert os.listdir(tmp_path) == [state.name]


def test_a_name_that_no_file_can_have_is_damage(tmp_path: Path) -> None:
    """A zero byte in it would be an error of another kind, later and in PID 1."""
    write(StateFile(str(tmp_path), "lb"), DIGEST, (("/etc/\0", b"global\n"),))
    with pytest.raises(DamagedError):
        read(tmp_path / "lb.last-known-good")


def test_what_is_in_memory_cannot_be_changed() -> None:
    """The writer cannot change it after it was handed over."""
    texts = in_memory(DIGEST, FILES)
    with pytest.raises(PermissionError):
        os.pwrite(texts, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(texts, 0)
    os.close(texts)

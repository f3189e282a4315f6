"""The control socket's file, and one connection to it."""

import os
import socket
from pathlib import Path

import pytest

from entrypoint.system.control_socket import Client, Control, listen
from tests.connections import put
from tests.waiting import eventually


def connected(control: Control) -> tuple[socket.socket, Client]:
    """Connect to it; return both ends."""
    other = socket.socket(socket.AF_UNIX)
    other.connect(control.path)
    client = control.accept()
    assert client
    return other, client


def test_the_file_is_private_and_goes_with_us(tmp_path: Path) -> None:
    """Nothing else is in the folder, during or after."""
    control = listen(str(tmp_path), "lb")
    assert os.listdir(tmp_path) == ["lb.sock"]
    assert Path(control.path).stat().st_mode & 0o777 == 0o600
    control.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["dead socket", "file", "fifo", "link", "dangling"])
def test_what_has_our_place_loses_it(tmp_path: Path, kind: str) -> None:
    """A dead socket, a file, a FIFO without anybody at its other end, a link, which is not followed."""
    place, other = tmp_path / "lb.sock", tmp_path / "other"
    put("link" if kind == "dangling" else kind, place, other)
    if kind == "link":
        other.write_text("precious")
    control = listen(str(tmp_path), "lb")
    other_end, client = connected(control)
    other_end.close()
    client.close()
    assert place.is_socket() and not place.is_symlink()
    assert kind != "link" or other.read_text() == "precious"
    control.close()


def test_a_file_that_has_gone_is_known_and_another_socket_can_take_its_place(tmp_path: Path) -> None:
    """Clients find the new socket, also those that come back at the end of the old one."""
    control = listen(str(tmp_path), "lb")
    assert control.is_in_place
    Path(control.path).unlink()
    assert not control.is_in_place
    control.renew(listen(str(tmp_path), "lb"))
    assert control.is_in_place
    other, client = connected(control)
    assert client.number == 1
    other.close()
    client.close()
    control.close()
    assert not Path(control.path).exists()


def test_a_file_that_replaced_the_socket_stays(tmp_path: Path) -> None:
    """It is not removed at the end."""
    control = listen(str(tmp_path), "lb")
    Path(control.path).unlink()
    Path(control.path).write_text("")
    Path(tmp_path / "x").write_text("")
    control.close()
    assert Path(control.path).exists()


@pytest.mark.parametrize("name", ["x" * 100, "folder"])
def test_what_cannot_be_had_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    """A path that is too long, or one that is taken by a folder."""
    (tmp_path / "folder.sock").mkdir()
    (tmp_path / "folder.sock" / "x").mkdir()
    with pytest.raises(OSError, match=r".+"):
        listen(str(tmp_path), name)
    assert os.listdir(tmp_path) == ["folder.sock"]


def test_what_comes_is_taken_as_it_is(tmp_path: Path) -> None:
    """Nothing yet is told from the end."""
    control = listen(str(tmp_path), "lb")
    other, client = connected(control)
    assert client.receive() == b""
    other.sendall(b"one\r\ntw\xff")
    assert client.receive() == b"one\r\ntw\xff"
    other.close()
    assert client.receive() is None
    client.close()
    control.close()


def test_a_hang_up_is_distinguished_from_a_half_close(tmp_path: Path) -> None:
    """socat half-closes, and waits for its answer."""
    control = listen(str(tmp_path), "lb")
    other, client = connected(control)
    other.shutdown(socket.SHUT_WR)
    assert client.receive() is None
    assert not client.has_gone()
    assert client.send(b"x" * 5_000_000)
    assert client.waits
    other.close()
    assert client.has_gone()
    eventually(lambda: not client.flush())
    assert not client.waits
    client.close()
    control.close()

"""What a wheel is named after: the program that the compiler has made for it."""

import struct
import sysconfig

import pytest

from tools.build_launcher import tag

LOAD, INTERPRETER = 1, 3
HERE = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def program(bits: int, order: str, machine: int, *segments: int) -> bytes:
    """Return the beginning of a program (elf(5))."""
    word, sizes = ("Q", (64, 56)) if bits == 64 else ("I", (52, 32))
    ident = b"\x7fELF" + bytes((bits // 32, 1 if order == "<" else 2, 1)) + bytes(9)
    rest = (2, machine, 1, 0, sizes[0], 0, 0, *sizes, len(segments), 0, 0, 0)
    headers = b"".join(struct.pack(f"{order}I", one).ljust(sizes[1], b"\0") for one in segments)
    return ident + struct.pack(f"{order}HHI{word}{word}{word}IHHHHHH", *rest) + headers


@pytest.mark.parametrize(("machine", "name"), [(62, "x86_64"), (183, "aarch64")])
def test_a_static_program_runs_on_any_linux(machine: int, name: str) -> None:
    """Whatever its C library is."""
    anywhere = f"py3-none-manylinux_2_17_{name}.manylinux2014_{name}.musllinux_1_1_{name}"
    assert tag(program(64, "<", machine, LOAD, LOAD)) == anywhere


@pytest.mark.parametrize(
    "other",
    [
        program(64, "<", 62, LOAD, INTERPRETER),
        program(64, "<", 243, LOAD),
        program(64, ">", 22, LOAD),
        program(32, "<", 40, LOAD),
        program(32, "<", 62, LOAD),
    ],
    ids=["needs a loader", "riscv64", "s390x", "armhf", "x32"],
)
def test_any_other_is_for_machines_like_this_one(other: bytes) -> None:
    """Pip can compile it there, too."""
    assert tag(other) == HERE

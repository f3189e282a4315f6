"""A program that becomes another one in odd surroundings: `exec_in.py ENTRIES [HOW]... WORDS...`.

ENTRIES is a file with the environment, each entry ended by a NUL, in which anything may stand. `hide=PATH` lays an
empty file system over a folder; `deny=prctl` has prctl(2) fail for want of a permission; `block=32` and `ignore=32`
do so with a signal, by system calls, for the C library would not with its own two.
"""

import ctypes
import os
import struct
import sys
from pathlib import Path

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD | BPF_W | BPF_ABS; BPF_JMP | BPF_JEQ; BPF_RET
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
PRCTL, SIGACTION, SIGPROCMASK = {"x86_64": (157, 13, 14), "aarch64": (167, 134, 135)}[os.uname().machine]
SIG_BLOCK, SIG_IGN, MASK_BYTES = 0, 1, 8

libc = ctypes.CDLL(None, use_errno=True)


def must(result: int) -> None:
    """See that a call has succeeded."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def hide(folder: str) -> None:
    """Lay an empty file system over a folder, for this process and its children."""
    must(libc.unshare(CLONE_NEWNS))
    must(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    must(libc.mount(b"none", folder.encode(), b"tmpfs", 0, None))


def deny_prctl() -> None:
    """Have prctl(2) fail, by a seccomp(2) filter."""
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (LOAD, 0, 0, 0),  # the number of the system call
            (JUMP_IF_EQUAL, 0, 1, PRCTL),
            (RETURN, 0, 0, FAIL_WITH | 1),  # EPERM
            (RETURN, 0, 0, ALLOW),
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    filters = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    must(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters, 0, 0))


def block(signum: str) -> None:
    """Block a signal."""
    must(libc.syscall(SIGPROCMASK, SIG_BLOCK, (ctypes.c_uint64 * 1)(1 << int(signum) - 1), None, MASK_BYTES))


def ignore(signum: str) -> None:
    """Ignore a signal."""
    must(libc.syscall(SIGACTION, int(signum), (ctypes.c_ulong * 16)(SIG_IGN), None, MASK_BYTES))


HOW = {"hide": hide, "deny": lambda _: deny_prctl(), "block": block, "ignore": ignore}


def main() -> None:
    """Become it."""
    entries = Path(sys.argv[1]).read_bytes().split(b"\0")[:-1]
    words = sys.argv[2:]
    while "=" in words[0]:
        what, _, which = words.pop(0).partition("=")
        HOW[what](which)
    argv = (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)
    envp = (ctypes.c_char_p * (len(entries) + 1))(*entries, None)
    must(libc.execve(os.fsencode(words[0]), argv, envp))


if __name__ == "__main__":
    main()

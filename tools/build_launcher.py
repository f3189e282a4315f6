"""The build hook of the wheel: its command `safe_reload` is the compiled launcher, not a script of pip's.

Such a script runs Python, which imports much before it can block a signal; PID 1 would lose a signal that arrives
meanwhile. CC names the compiler, as in `CC="musl-gcc -static"`: a static launcher runs on any Linux.
"""

import os
import shlex
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FLAGS = ("-DBESIDE", "-O2", "-s", "-Wall", "-Wextra")
_ANYWHERE = "py3-none-manylinux_2_17_{0}.manylinux2014_{0}.musllinux_1_1_{0}"
_ELF64 = b"\x7fELF\x02\x01"
"""What a program of 64 bits, the low byte first, begins with (elf(5))."""
_MACHINES = {62: "x86_64", 183: "aarch64"}
"""e_machine of elf.h, and what a wheel's name calls it."""
_PT_INTERP = 3


class LauncherHook(BuildHookInterface[Any]):
    """Adds the launcher to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # hatchling's
        """Compile it, and name the wheel after where it runs."""
        self._folder = tempfile.TemporaryDirectory(prefix="launcher.")
        program = Path(self._folder.name) / "safe_reload"
        compiler = shlex.split(os.environ.get("CC") or "cc")
        try:
            subprocess.run([*compiler, *_FLAGS, "-o", program, Path(self.root, "docker/launcher.c")], check=True)
        except OSError as error:
            sys.exit(
                f"safe_reload's launcher needs a C compiler: {compiler[0]}: {error.strerror}; install one or set CC"
            )
        except subprocess.CalledProcessError:
            sys.exit("safe_reload's launcher cannot be compiled: see what the compiler says above")
        build_data["shared_scripts"][str(program)] = "safe_reload"
        build_data["tag"] = tag(program.read_bytes())

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002  # hatchling's
        """Remove what was compiled: the wheel has it."""
        self._folder.cleanup()


def tag(program: bytes) -> str:
    """Return where a program runs, in the words of wheels: a static one for a known machine on any Linux."""
    (machine,) = struct.unpack_from("<H", program, 18)
    if program.startswith(_ELF64) and machine in _MACHINES and _PT_INTERP not in _segments(program):
        return _ANYWHERE.format(_MACHINES[machine])
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _segments(program: bytes) -> set[int]:
    """Return the types of the segments of a program of 64 bits."""
    (headers,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return {struct.unpack_from("<I", program, headers + number * size)[0] for number in range(count)}

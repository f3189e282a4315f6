"""The launcher of the image, built for this machine: it starts this Python, and what is in this repository."""

import functools
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.program import PROGRAM, STATIC

_ROOT = Path(__file__).parents[2]
_FOLDER = tempfile.TemporaryDirectory(prefix="launcher.")  # as long as this process


@functools.cache
def launcher(python: str = sys.executable) -> Path:
    """Build it, once, as the Dockerfile does, for this interpreter; return the program.

    The static file needs none: it is returned itself.
    """
    if STATIC:
        return Path(PROGRAM[0])
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    start = folder / "lib" / "safe_reload"
    start.parent.mkdir()
    text = (_ROOT / "docker" / "start.py").read_text()
    for path in (str(_ROOT), sysconfig.get_path("purelib")):
        text = text.replace("sys.path.append(", f"sys.path.append({path!r})\nsys.path.append(", 1)
    start.write_text(text)
    program = folder / "safe_reload"
    words = [python, "-I", "-S", "-X", "utf8", str(start)]
    command = "-DCOMMAND=" + ", ".join(f'"{word}"' for word in words)
    source = _ROOT / "docker" / "launcher.c"
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(["musl-gcc", "-static", "-O2", *warnings, command, "-o", program, source], check=True)
    for readable in (Path(_FOLDER.name), folder):
        readable.chmod(0o755)
    return program

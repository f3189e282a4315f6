"""What is released: the tracked files, the version, its date, what the changelog says of it.

    python -m tools.release.source FOLDER

puts the tracked files into a new folder.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def version() -> str:
    """Return the version, which is written in one place only."""
    text = (ROOT / "entrypoint/__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert found, "entrypoint/__init__.py has no __version__"
    return found[1]


def git(*words: str) -> str:
    """Return what git says about the working tree."""
    return subprocess.run(["git", "-C", ROOT, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def epoch() -> int:
    """Return the date of everything that is made: SOURCE_DATE_EPOCH, or that of the commit."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct"))


def revision() -> str:
    """Return the commit, with a mark if the working tree has something else."""
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD").strip() + ("-dirty" if changed else "")


def machine(architecture: str) -> str:
    """Return what the kernel calls an architecture of Debian's."""
    return {"amd64": "x86_64", "arm64": "aarch64"}[architecture]


def own_architecture() -> str:
    """Return what Debian calls this machine's."""
    return subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()


def compiler(architecture: str) -> list[str]:
    """Return what links a static program for it: musl's is 42 KB, and the cross compiler has only glibc's."""
    return ["musl-gcc" if architecture == own_architecture() else f"{machine(architecture)}-linux-gnu-gcc", "-static"]


def export(folder: Path) -> None:
    """Copy the tracked files, and nothing else that lies about here, with the modes that a umask of 022 makes.

    The modes are part of an image. The same commit makes the same bits, whatever the umask of the clone was.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in git("ls-files", "-z").split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def changes(text: str, wanted: str) -> str:
    """Return the section of a changelog about a version; what is unreleased, if it has none yet."""
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    for heading in (wanted, "Unreleased"):
        for section in sections:
            if re.match(rf"## \[?{re.escape(heading)}\b", section):
                return section.strip() + "\n"
    raise ValueError(f"the changelog has a section neither for {wanted} nor for what is unreleased")


if __name__ == "__main__":
    export(Path(sys.argv[1]))

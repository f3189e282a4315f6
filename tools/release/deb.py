"""The Debian package: `python -m tools.release.deb FOLDER [ARCHITECTURE]`, with nothing but the standard library.

The package has no fixed Python: its bytecode is compiled on the host, by systemd/debian/postinst.
"""

import email.utils
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.release.source import ROOT, compiler, epoch, export, own_architecture, version

NAME = "safe-reload"
MAINTAINER = "safe_reload maintainers <safe_reload@users.noreply.github.com>"
LIBRARY = "/usr/lib/safe_reload"
REVISION = 1
_COMMAND = f'"/usr/bin/python3", "-I", "-S", "-X", "utf8", "{LIBRARY}/safe_reload"'


def make(folder: Path, architecture: str) -> Path:
    """Make the package in a folder; return it."""
    full = f"{version()}-{REVISION}"
    package = folder / f"{NAME}_{full}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="deb.") as work:
        tree, root = Path(work, "tree"), Path(work, "root")
        export(tree)
        _install(tree, root, architecture)
        _document(tree, root, full)
        _control(tree, root, full, architecture)
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or _is_program(path) else 0o644)
        folder.mkdir(parents=True, exist_ok=True)
        # The format of 2008, which every apt can read, and a level that is the same everywhere.
        words: list[str | Path] = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z9", "--build", root, package]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
    return package


def _is_program(path: Path) -> bool:
    return path.parent.name == "bin" or (path.parent.name == "DEBIAN" and path.read_bytes().startswith(b"#!"))


def _install(tree: Path, root: Path, architecture: str) -> None:
    library = root / LIBRARY[1:]
    program = root / "usr/bin/safe_reload"
    program.parent.mkdir(parents=True)
    flags = ["-O2", "-s", f"-DCOMMAND={_COMMAND}", "-o", str(program)]
    subprocess.run([*compiler(architecture), *flags, str(tree / "docker/launcher.c")], check=True)

    shutil.copytree(tree / "entrypoint", library / "entrypoint")
    # The package is in no folder that Python knows, so that it is in nobody's way.
    first = "sys.path.append("
    text = (tree / "docker/start.py").read_text()
    assert first in text
    (library / "safe_reload").write_text(text.replace(first, f'{first}"{LIBRARY}")\n{first}', 1))

    variables = {
        "DESTDIR": root,
        "PREFIX": "/usr",
        "EXAMPLES": f"/usr/share/doc/{NAME}/examples",
        "SYSTEMD_VERSION": "0",  # what the host has decides: postinst
    }
    words = ["make", "-s", "-C", str(tree / "systemd"), "install"]
    words += [f"{name}={value}" for name, value in variables.items()]
    # Without what `make dist` tells the make that it calls: its own flags and variables.
    subprocess.run(words, check=True, env={key: value for key, value in os.environ.items() if "MAKE" not in key})
    shutil.copy(tree / "systemd/notify-reload.conf", library)


def _document(tree: Path, root: Path, full: str) -> None:
    documents = root / "usr/share/doc" / NAME
    shutil.copy(tree / "systemd/debian/copyright", documents)
    overrides = root / "usr/share/lintian/overrides" / NAME
    overrides.parent.mkdir(parents=True)
    shutil.copy(tree / "systemd/debian/lintian-overrides", overrides)
    date = email.utils.formatdate(epoch())
    entry = f"{NAME} ({full}) unstable; urgency=medium\n\n  * Version {version()}: see changelog.gz.\n\n"
    _compress(f"{entry} -- {MAINTAINER}  {date}\n".encode(), documents / "changelog.Debian.gz")
    _compress((tree / "CHANGELOG.md").read_bytes(), documents / "changelog.gz")
    page = root / "usr/share/man/man8/safe_reload.8"
    _compress(page.read_bytes(), page.with_suffix(".8.gz"))
    page.unlink()


def _compress(content: bytes, path: Path) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def _control(tree: Path, root: Path, full: str, architecture: str) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)
    values = {
        "VERSION": full,
        "ARCHITECTURE": architecture,
        "MAINTAINER": MAINTAINER,
        # In KiB, each file rounded up, as dpkg-gencontrol counts; a folder or a link is 1.
        "SIZE": str(sum(-(-path.stat().st_size // 1024) if path.is_file() else 1 for path in root.rglob("*"))),
    }
    control = root / "DEBIAN"
    control.mkdir()
    text = (tree / "systemd/debian/control").read_text()
    (control / "control").write_text(re.sub(r"@(\w+)@", lambda found: values[found[1]], text))
    (control / "md5sums").write_text(sums)
    for name in ("postinst", "prerm", "postrm", "triggers"):
        shutil.copy(tree / "systemd/debian" / name, control)


def main() -> None:
    """Make it, and print its name."""
    architecture = sys.argv[2] if len(sys.argv) > 2 else own_architecture()
    print(os.path.relpath(make(Path(sys.argv[1]).resolve(), architecture), ROOT))


if __name__ == "__main__":
    main()

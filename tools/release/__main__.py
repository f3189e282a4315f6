"""Makes a release in dist/: `make dist` has first made the images and the static programs that are named here."""

import argparse
import email
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model.component import Component, ComponentType

from tools.release import deb, oci, sbom
from tools.release.packages import Contents
from tools.release.source import ROOT, changes, compiler, epoch, export, own_architecture, revision, version


class Release:
    """A folder, and what is in it."""

    def __init__(self, folder: Path, tree: Path, architecture: str) -> None:
        """Begin with an empty one; `tree` is a new folder for the tracked files."""
        self.folder = folder
        self.tree = tree
        self.architecture = architecture
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        export(tree)
        self.project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def add_python(self) -> None:
        """Make the sdist and the wheel, whose launcher runs on any Linux."""
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch()), "CC": " ".join(compiler(self.architecture))}
        words = [sys.executable, "-m", "hatchling", "build", "-d", str(self.folder)]
        subprocess.run(words, cwd=self.tree, check=True, env=environment, stdout=subprocess.DEVNULL)
        needed = sbom.of_requirements("pypi", *self.project["dependencies"])
        needed += sbom.of_requirements("pypi", *self.project["optional-dependencies"]["exporter"], optional=True)
        (wheel,) = self.folder.glob("*.whl")
        self._describe(wheel, sbom.APPLICATION, [sbom.program(), *needed, self._c_library()])

    def add_debian(self) -> None:
        """Make the Debian package."""
        package = deb.make(self.folder, self.architecture)
        fields = email.message_from_string((self.tree / "systemd/debian/control").read_text())
        needed = sbom.of_requirements("deb", *fields["Depends"].split(","))
        needed += sbom.of_requirements("deb", *fields["Recommends"].split(","), optional=True)
        self._describe(package, sbom.APPLICATION, [sbom.program(), *needed, self._c_library()])

    def add_chart(self) -> None:
        """Package the Helm chart, as `helm package --app-version` does: it uses the image of this version."""
        name = "haproxy-safe-reload"
        root, content = self.tree / "k8s/chart", io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                text = path.read_text()
                if path.name == "Chart.yaml":
                    text = text.replace("appVersion: dev", f"appVersion: {version()}")
                entry = tarfile.TarInfo(f"{name}/{path.relative_to(root)}")
                entry.size, entry.mtime = len(text.encode()), epoch()
                tar.addfile(entry, io.BytesIO(text.encode()))
        (self.folder / f"{name}-{version()}.tgz").write_bytes(gzip.compress(content.getvalue(), mtime=0))

    def _c_library(self) -> Component:
        """Return what is linked into the launcher."""
        package = "musl-dev" if compiler(self.architecture)[0] == "musl-gcc" else f"libc6-dev-{self.architecture}-cross"
        asked = ["dpkg-query", "-W", "-f", "${Version} ${source:Package}", package]
        number, source = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
        return sbom.of_debian(package, number, source, ["MIT"] if source == "musl" else ["LGPL-2.1-or-later"])

    def add_static(self, folder: Path) -> None:
        """Take a static program, the list of what it is made of, and the licences of that."""
        name = f"safe_reload-{version()}-linux-{folder.name}"
        shutil.copyfile(folder / "safe_reload", self.folder / name)
        (self.folder / name).chmod(0o755)
        shutil.copyfile(folder / "licences.txt", self.folder / f"{name}.licences.txt")
        parts = [sbom.program(), *sbom.of_sources((folder / "sources.txt").read_text())]
        self._describe(self.folder / name, sbom.APPLICATION, parts)

    def add_image(self, image: str, static: Path) -> None:
        """Take an image of the engine; `static` is where the program of those without Python was made."""
        tag = image.rpartition(":")[2]
        # `dev` is the one without a suffix: haproxy-safe-reload:0.1.0, and 0.1.0-bookworm, 0.1.0-minimal.
        suffix = tag.removeprefix("dev").strip("-")
        tag = f"{version()}-{suffix}" if suffix else version()
        name = f"haproxy-safe-reload:{tag}"
        path = self.folder / f"{name.replace(':', '-')}.oci.tar"
        contents = Contents()
        for layer in oci.make(image, name, path):
            contents.add(layer)
        self._describe(path, sbom.CONTAINER, sbom.of_image(contents, static / self.architecture / "sources.txt"))

    def _describe(self, artifact: Path, kind: ComponentType, parts: list[Component]) -> None:
        sbom.write(artifact, kind, parts, self.folder / f"{artifact.name}.cdx.json")

    def finish(self) -> None:
        """Write what is said about a release, and the digest of every file."""
        text = changes((ROOT / "CHANGELOG.md").read_text(), version())
        (self.folder / f"CHANGELOG-{version()}.md").write_text(text)
        sums = "".join(f"{_digest(path)}  {path.name}\n" for path in sorted(self.folder.iterdir()))
        (self.folder / "SHA256SUMS").write_text(sums)

    def table(self) -> Iterator[str]:
        """Yield a line for each file, with its size."""
        yield f"safe_reload {version()}, commit {revision()}, in {os.path.relpath(self.folder)}:"
        for path in sorted(self.folder.iterdir()):
            yield f"{path.stat().st_size:>12,}  {path.name}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Make all of it, and say what has been made."""
    parser = argparse.ArgumentParser(prog="tools.release")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist", help="is emptied first")
    parser.add_argument("--static", type=Path, default=ROOT / "build/static", help="has amd64/safe_reload")
    parser.add_argument("images", nargs="*", help="such as haproxy-safe-reload:dev")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="release.") as work:
        release = Release(asked.folder.resolve(), Path(work, "tree"), own_architecture())
        release.add_python()
        release.add_debian()
        release.add_chart()
        for program in sorted(asked.static.glob("*/safe_reload")):
            release.add_static(program.parent)
        for image in asked.images:
            release.add_image(image, asked.static)
        release.finish()
    print("\n".join(release.table()))


if __name__ == "__main__":
    main()

"""An image of the engine as an archive that says the same whenever it is made from the same content.

It has the layout of OCI (image-spec, image-layout.md), and what `docker load` of any age reads. The engine's own export
has the time of each build step, and names of containers. Here every time is at most the commit's, and logs that the
package manager writes are left out, because no program needs them.
"""

import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from tools.release.source import epoch, revision, version

_LEFT_OUT = re.compile(
    r"var/log/(apt/.*|dpkg\.log|alternatives\.log|bootstrap\.log|fontconfig\.log)"
    r"|var/cache/(ldconfig/aux-cache|debconf/.*-old|apt/.*\.bin)|var/lib/dpkg/.*-old|var/lib/apt/lists/.+|etc/(passwd|group|shadow|gshadow)-"
)
_KEPT = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal")
"""What a configuration of OCI has; the engine adds its own."""
_TYPE = "application/vnd.oci.image."
_DAY = re.compile(rb"^([^:\n]*:[^:\n]*:)(\d+)", re.MULTILINE)
_TIMES = ("mtime", "atime", "ctime")


class Archive:
    """An archive that grows."""

    def __init__(self, path: Path) -> None:
        """Begin it."""
        self._tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115  # `close` closes it
        self._names: set[str] = set()

    def add(self, name: str, content: bytes) -> None:
        """Add a file; the same one only once."""
        if name not in self._names:
            self._names.add(name)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), epoch(), 0o644
            self._tar.addfile(entry, io.BytesIO(content))

    def add_blob(self, content: bytes, kind: str) -> dict[str, Any]:
        """Add a file that is named by its digest; return its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.add(f"blobs/sha256/{digest}", content)
        return {"mediaType": _TYPE + kind, "digest": f"sha256:{digest}", "size": len(content)}

    def add_json(self, value: object, kind: str) -> dict[str, Any]:
        """Add a blob of JSON."""
        return self.add_blob(_json(value), kind)

    def close(self) -> None:
        """End it."""
        self._tar.close()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def make(image: str, name: str, path: Path) -> Iterator[tarfile.TarFile]:
    """Write the archive of an image under another name; yield each layer, the lowest first."""
    with tempfile.TemporaryDirectory(prefix="oci.") as work:
        saved = Path(work, "saved.tar")
        subprocess.run(["docker", "save", "-o", saved, image], check=True)
        archive = Archive(path)
        with tarfile.open(saved) as tar:
            (manifest,) = json.loads(_read(tar, "manifest.json"))
            theirs = json.loads(_read(tar, manifest["Config"]))
            layers, numbers = [], []
            for layer in manifest["Layers"]:
                with tarfile.open(fileobj=tar.extractfile(layer)) as before:
                    content = canonical(before)
                    numbers.append(f"sha256:{hashlib.sha256(content).hexdigest()}")
                    layers.append(archive.add_blob(gzip.compress(content, 6, mtime=0), "layer.v1.tar+gzip"))
                with tarfile.open(fileobj=io.BytesIO(content)) as after:
                    yield after
        created = datetime.fromtimestamp(epoch(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        configuration = archive.add_json(configured(theirs, numbers, created), "config.v1+json")
        whole = {"schemaVersion": 2, "mediaType": f"{_TYPE}manifest.v1+json", "annotations": labels(created)}
        described = archive.add_json({**whole, "config": configuration, "layers": layers}, "manifest.v1+json")
        tag = name.rpartition(":")[2]
        platform = {"os": theirs["os"], "architecture": theirs["architecture"]}
        described |= {"annotations": {"org.opencontainers.image.ref.name": tag}, "platform": platform}
        index = {"schemaVersion": 2, "mediaType": f"{_TYPE}index.v1+json", "manifests": [described]}
        archive.add("index.json", _json(index))
        archive.add("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        blobs = [f"blobs/sha256/{one['digest'].partition(':')[2]}" for one in (configuration, *layers)]
        archive.add("manifest.json", _json([{"Config": blobs[0], "RepoTags": [name], "Layers": blobs[1:]}]))
        archive.close()


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file, name
    return file.read()


def labels(created: str) -> dict[str, str]:
    """Return what names the version, as annotations and as labels."""
    values = {"created": created, "revision": revision(), "version": version()}
    return {f"org.opencontainers.image.{name}": value for name, value in values.items()}


def configured(theirs: dict[str, Any], layers: list[str], created: str) -> dict[str, Any]:
    """Return the engine's configuration of an image without what only this build has, and with its version."""
    history = [{**step, "created": created} for step in theirs.get("history", [])]
    config = {name: theirs["config"][name] for name in _KEPT if theirs["config"].get(name)}
    config["Labels"] = config.get("Labels", {}) | labels(created)
    return {
        "created": created,
        "architecture": theirs["architecture"],
        "os": theirs["os"],
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": history,
    }


def canonical(layer: tarfile.TarFile) -> bytes:
    """Return a layer without logs, in the order that it has, with no time after the commit's.

    Such a time is also the day on which a user was added, in /etc/shadow (shadow(5)).
    """
    result = io.BytesIO()
    latest = epoch()
    with tarfile.open(fileobj=result, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in layer:
            if _LEFT_OUT.fullmatch(entry.name.removeprefix("./")):
                continue
            entry.mtime = min(int(entry.mtime), latest)
            entry.uname = entry.gname = ""
            entry.pax_headers = {key: value for key, value in entry.pax_headers.items() if key not in _TIMES}
            file: IO[bytes] | None = layer.extractfile(entry) if entry.isreg() else None
            if file and entry.name.removeprefix("./") == "etc/shadow":
                content = _DAY.sub(lambda found: b"%s%d" % (found[1], min(int(found[2]), latest // 86400)), file.read())
                entry.size, file = len(content), io.BytesIO(content)
            tar.addfile(entry, file)
    return result.getvalue()

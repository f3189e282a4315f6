"""Opened: the haproxy of every image opens nothing that is not watched; on this host, so that it can be traced."""

import subprocess
from pathlib import Path

import pytest

import docker
from tests.opened import CASES, KEYWORDS, STRACE, lay_out, tell


@pytest.mark.long
@pytest.mark.skipif(not STRACE, reason="there is no strace here")
def test_every_version_opens_only_what_is_watched(engine: docker.DockerClient, image: str, tmp_path: Path) -> None:
    """Every keyword, once; and what it opens it tells, where it can."""
    root, files = tmp_path / "root", tmp_path / "files"
    root.mkdir()
    files.mkdir()
    container = engine.containers.create(image)
    try:
        with subprocess.Popen(["tar", "-x", "-C", root], stdin=subprocess.PIPE) as tar:
            assert tar.stdin
            for piece in container.export():
                tar.stdin.write(piece)  # type: ignore[call-overload]  # bytes, not what the stubs say
    finally:
        container.remove(force=True)
    loader = min(root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
    haproxy = [str(loader), "--library-path", str(loader.parent), str(root / "usr/sbin/haproxy")]
    lay_out(files)
    for case in CASES:
        case.holds(files, haproxy)
    assert {*KEYWORDS} <= {*tell(files, haproxy)}

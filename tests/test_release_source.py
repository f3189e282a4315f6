"""What a release is made from: the tracked files of any clone."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tools.release import source


@pytest.fixture(params=[0o022, 0o077, 0o002])
def clone(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A clone that was made with this umask, and has a file that is not tracked."""
    before = os.umask(request.param)
    try:
        folder = tmp_path / "clone"
        (folder / "a/b").mkdir(parents=True)
        (folder / "a/b/text").write_text("text")
        (folder / "a/script").write_text("#!/bin/sh\n")
        (folder / "a/script").chmod(0o777 & ~request.param)
        for words in (("init", "-q"), ("add", ".")):
            subprocess.run(["git", "-C", folder, *words], check=True)
        (folder / "a/stray").write_text("stray")
    finally:
        os.umask(before)
    return folder


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_of_a_clone_does_not_matter(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    """Only the tracked files are copied, readable for everybody and writable for one."""
    monkeypatch.setattr(source, "ROOT", clone)
    before = os.umask(umask)
    try:
        source.export(tmp_path / "tree")
    finally:
        os.umask(before)
    tree = tmp_path / "tree"
    found = {str(path.relative_to(tree)): path.stat().st_mode & 0o7777 for path in (tree, *tree.rglob("*"))}
    assert found == {".": 0o755, "a": 0o755, "a/b": 0o755, "a/b/text": 0o644, "a/script": 0o755}


def test_the_images_of_a_release_are_built_from_these() -> None:
    """`make dist` gives the engine nothing else, and builds each of them from nothing."""
    done = subprocess.run(["make", "-n", "dist"], cwd=source.ROOT, capture_output=True, text=True, check=True)
    builds = re.findall(r"docker build ([^;|\n]*)", done.stdout.replace("\\\n", ""))
    assert len(builds) == 6
    for line in builds:
        assert line.startswith("--no-cache ")
        assert line.split()[-1] == "build/tree"
        assert all(file.startswith("build/tree/") for file in re.findall(r" -f (\S+)", line))

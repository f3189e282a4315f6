"""Opened: what haproxy opens when it reads a configuration is watched, whatever names it.

Longer, and on whole configurations of others: HAPROXY_CONFIGURATIONS is a folder of HAProxy's own tests (`reg-tests` in
its source), HAPROXY the haproxy to ask. What stands in their `haproxy ... -conf {...}` is tried as it is.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.opened import CASES, HAPROXY, KEYWORDS, NOTHING, STRACE, Case, lay_out, opened, tell, tells, version, watched

pytestmark = pytest.mark.skipif(not (HAPROXY and STRACE), reason="there is no haproxy or no strace here")

_CONFIGURATIONS = os.environ.get("HAPROXY_CONFIGURATIONS", "")
_WORDS = (os.environ.get("HAPROXY") or HAPROXY or "").split()


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every kind that a configuration may name."""
    return lay_out(tmp_path_factory.mktemp("opened"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_keyword_is_known(laid_out: Path, case: Case) -> None:
    """haproxy opens nothing that is not watched; and what the case is about is opened."""
    case.holds(laid_out, _WORDS)


def test_haproxy_tells_what_it_has_loaded(laid_out: Path) -> None:
    """Where a keyword is not known, what haproxy tells makes up for it; it tells no file that it has not read.

    The keywords that it tells of are hidden, one after the other, and then the whole configuration.
    """
    told = tell(laid_out, _WORDS)
    assert told[""] > 80
    assert {*KEYWORDS, NOTHING} <= {*told}


def test_a_name_may_hold_the_version_of_haproxy(tmp_path: Path) -> None:
    """Which only haproxy knows: what fits counts, in a folder's name and a file's, and a list's files as well."""
    said = subprocess.run([*_WORDS, "-v"], capture_output=True, text=True, check=True).stdout
    here = said.split()[2]
    for folder in (f"of {here}", "of another", "of none", "else"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"a-{here}-{here}.lst").write_text("10.0.0.1\n")
        (tmp_path / folder / "spoe").write_text(f'[e]\nspoe-agent a\n acl x src -f "{folder}/b.lst"\n')
        (tmp_path / folder / "b.lst").write_text("10.0.0.2\n")
    (tmp_path / "haproxy.cfg").write_text("""\
listen l
  bind :2
  timeout client 9s
  acl x src -f "of ${HAPROXY_STARTUP_VERSION}/a-$HAPROXY_STARTUP_VERSION-${HAPROXY_STARTUP_VERSION}.lst"
  filter spoe engine e config "of ${HAPROXY_STARTUP_VERSION}/spoe"
  acl y src -f "not ${HAPROXY_STARTUP_VERSION}/there"
""")
    read, _ = opened(["-f", "haproxy.cfg"], tmp_path, {}, _WORDS)
    counted = watched(["haproxy.cfg"], tmp_path, {})

    assert {tmp_path / f"of {here}" / name for name in (f"a-{here}-{here}.lst", "spoe")} <= read
    assert read <= counted
    assert tmp_path / f"of {here}" / "b.lst" in counted
    assert not [path for path in counted if path.parent.name == "else"]
    # Whoever sets it is not asked again.
    counted = watched(["haproxy.cfg"], tmp_path, {"HAPROXY_STARTUP_VERSION": "another"})
    assert {path.parent.name for path in counted} == {tmp_path.name, "of another"}


def _written_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the options and the text of each configuration in one of HAProxy's tests."""
    for found in re.finditer(r"^[ \t]*haproxy\s+\S+([^{\n]*?)-conf(?:-OK|-BAD)?\s*\{", text, re.MULTILINE):
        depth, at = 1, found.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 2 if text[at] == "\\" else 1
        yield found[1], text[found.end() : at - 1]


@pytest.mark.long
@pytest.mark.skipif(not _CONFIGURATIONS, reason="HAPROXY_CONFIGURATIONS names no folder with HAProxy's own tests")
def test_haproxys_own_tests(tmp_path: Path) -> None:
    """On hundreds of configurations that were not written for this; but for a file that haproxy writes itself."""
    tried = files = ran = 0
    missed: list[str] = []
    for test in sorted(Path(_CONFIGURATIONS).rglob("*.vtc*")):
        for options, text in _written_in(test.read_text("utf-8", "replace")):
            folder = tmp_path / str(tried)
            folder.mkdir()
            for macro, value in (
                (r"\$\{testdir\}", str(test.parent)),
                (r"\$\{tmpdir\}", str(folder)),
                (r"\$\{VTC_SOCK_TYPE\}\+?", ""),
                (r"\$\{\w+_addr\}", "127.0.0.1"),
                (r"\$\{\w+_port\}", "12345"),
                (r"\$\{\w+_sock\}", "127.0.0.1:12345"),
            ):
                text = re.sub(macro, value, text)  # noqa: PLW2901  # step by step
            (folder / "haproxy.cfg").write_text(text)
            local = re.findall(r"-L (\w+)", options)
            given = ["-f", "haproxy.cfg", *(("-L", local[0]) if local else ())]
            read, _ = opened(given, folder, {}, _WORDS)
            named = {Path(line.split()[1]) for line in text.splitlines() if line.split()[:1] == ["stats-file"]}
            missed += map(str, read - watched(["haproxy.cfg"], folder, {}) - named)
            told = tells(read - named, ["haproxy.cfg"], given, folder, {}, _WORDS)
            tried, files, ran = tried + 1, files + len(read), ran + bool(told)
    what = f"haproxy {version(_WORDS)}: {tried} configurations, {files} files opened, {len(missed)} missed"
    what += f", {ran} were run, and told"
    print(what)  # noqa: T201  # the numbers are the result, with pytest -s
    assert ran > 100
    assert not missed


def test_a_keyword_that_is_not_known_shows(laid_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is known of `errorfile`, the comparison fails: it is one."""
    monkeypatch.setattr("entrypoint.haproxy.referenced_files._Reader._line", lambda *_: None)
    with pytest.raises(AssertionError, match=r"503\.http"):
        next(case for case in CASES if case.name == "errorfile").holds(laid_out, _WORDS)

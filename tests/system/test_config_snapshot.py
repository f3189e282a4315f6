"""Config snapshots: what is on the disk, in one piece, whatever happens to it meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from entrypoint.haproxy.file_names import Named
from entrypoint.haproxy.referenced_files import named_by
from entrypoint.system import config_snapshot as system
from entrypoint.system.config_snapshot import ConfigFiles, ConfigSnapshot
from entrypoint.system.config_snapshot.look import Look
from tests.certificates import key_pair
from tests.system.apart import apart, in_child
from tests.system.mounting import bind, mount, own_mounts, why_no_mounts

needs_mounts = pytest.mark.skipif(bool(why_no_mounts()), reason=why_no_mounts())

PAST = 1_600_000_000


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A configuration that names a few files."""
    for name in ("503.http", "a.map", "crts/one.pem", "crts/two.pem", "extra/x", "extra/.hidden", "extra/deep/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "haproxy.cfg").write_text(
        f"global\n crt-base {tmp_path}\nlisten l\n errorfile 503 {tmp_path}/503.http\n"
        f" bind :1 ssl crt crts\n acl a path -f {tmp_path}/a.map\n acl b path -f {tmp_path}/later/b.map\n"
    )
    return tmp_path


def disk(*paths: Path, extra: tuple[Path, ...] = (), follow: bool = True, folder: Path | None = None) -> ConfigFiles:
    """Return what reads these."""
    given = [str(path) for path in paths]
    return ConfigFiles(given, str(folder) if folder else None, [str(path) for path in extra], {}, follow=follow)


def names(contents: ConfigSnapshot, folder: Path) -> list[str]:
    """Return the files relative to a folder."""
    return [os.path.relpath(file, folder) for file in contents.files]


# ---- what counts ---------------------------------------------------------------------------------------------------


def test_all_that_is_named_counts(etc: Path) -> None:
    """The configuration is kept, and what it names counts if it is there, a folder's files one by one."""
    contents = disk(etc / "haproxy.cfg").read()
    assert contents.texts == ((str(etc / "haproxy.cfg"), (etc / "haproxy.cfg").read_bytes()),)
    assert names(contents, etc) == ["haproxy.cfg", "503.http", "crts/one.pem", "crts/two.pem", "a.map"]
    assert contents.unreadable is None
    assert contents.stale == ()
    assert len(contents.digest) == 64


def test_what_may_change_is_watched(etc: Path) -> None:
    """The folders of all files, the configuration itself, and where something that is missing would appear."""
    watched = disk(etc / "haproxy.cfg").read().watched
    assert set(watched) == {str(etc), str(etc / "crts"), str(etc / "haproxy.cfg")}
    (etc / "later").mkdir()
    assert str(etc / "later") in disk(etc / "haproxy.cfg").read().watched


@pytest.mark.parametrize("name", ["haproxy.cfg", "503.http", "a.map", "crts/two.pem"])
def test_every_content_is_in_the_digest(etc: Path, name: str) -> None:
    """One byte more anywhere is another digest, and the byte less the first one."""
    reader = disk(etc / "haproxy.cfg")
    before = reader.read().digest
    old = (etc / name).read_bytes()
    (etc / name).write_bytes(old + b"\n")
    assert reader.read().digest != before
    (etc / name).write_bytes(old)
    assert reader.read().digest == before


def test_what_comes_and_goes_is_in_the_digest(etc: Path) -> None:
    """A file that appears where one was missing, or in a folder, is a change; that it goes is one back."""
    reader = disk(etc / "haproxy.cfg")
    before = reader.read().digest
    for name in ("later/b.map", "crts/three.pem"):
        (etc / name).parent.mkdir(exist_ok=True)
        (etc / name).write_text("x\n")
        assert reader.read().digest != before
        (etc / name).unlink()
        assert reader.read().digest == before


def test_what_does_not_count_changes_nothing(etc: Path) -> None:
    """Time stamps, modes and files that nobody has named are no content."""
    reader = disk(etc / "haproxy.cfg")
    before = reader.read().digest
    (etc / "unnamed").write_text("x\n")
    (etc / "crts" / ".hidden").write_text("x\n")
    os.utime(etc / "a.map", (PAST, PAST))
    (etc / "a.map").chmod(0o640)
    shutil.copy(etc / "503.http", etc / "copy")
    (etc / "copy").rename(etc / "503.http")
    assert reader.read().digest == before


def test_moving_text_between_files_is_a_change(tmp_path: Path) -> None:
    """Which file holds which bytes matters, not only what all hold together."""
    reader = disk(tmp_path / "a", tmp_path / "b")
    digests = set()
    for first, second in ((b"x\ny\n", b"z\n"), (b"x\n", b"y\nz\n"), (b"z\n", b"x\ny\n")):
        (tmp_path / "a").write_bytes(first)
        (tmp_path / "b").write_bytes(second)
        digests.add(reader.read().digest)
    assert len(digests) == 3


def test_a_folder_of_configurations(tmp_path: Path) -> None:
    """Of a folder haproxy's *.cfg are kept in order, and a new one is a change."""
    for name in ("20.cfg", "10.cfg", ".0.cfg", "README"):
        (tmp_path / name).write_text(f"# {name}\n")
    reader = disk(tmp_path)
    contents = reader.read()
    assert contents.texts == tuple((str(tmp_path / name), f"# {name}\n".encode()) for name in ("10.cfg", "20.cfg"))
    assert str(tmp_path) in contents.watched
    (tmp_path / "30.cfg").write_text("# 30\n")
    assert reader.read().digest != contents.digest


def test_relative_paths_are_haproxys(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are relative to -C, or to where we are; `default-path config` is about the configuration's own folder."""
    (etc / "sub").mkdir()
    (etc / "sub" / "x.cfg").write_text("errorfile 503 503.http\ndefault-path config\nerrorfile 503 y.http\n")
    (etc / "sub" / "y.http").write_text("y\n")
    found = ["sub/x.cfg", "503.http", "sub/y.http"]
    assert names(disk(Path("sub/x.cfg"), folder=etc).read(), etc) == found
    monkeypatch.chdir(etc)
    contents = disk(Path("sub/x.cfg")).read()
    assert contents.files == tuple(found)
    assert set(contents.watched) == {str(etc), str(etc / "sub"), str(etc / "sub" / "x.cfg")}


@in_child
def test_where_we_are_may_have_been_deleted(tmp_path: Path) -> None:
    """Then nothing can be looked for, which is a reason to wait, and no error."""
    os.chdir(tmp_path)
    reader = disk(Path("x.cfg"))
    Path("x.cfg").write_text("# x\n")
    before = reader.read().unreadable
    Path("x.cfg").unlink()
    tmp_path.rmdir()
    contents = reader.read()
    assert not before
    assert contents.unreadable == "x.cfg cannot be searched for: No such file or directory"
    assert contents.texts == ()
    assert contents.digest == ""
    assert contents.polled


def test_more_files_and_folders_can_count(etc: Path) -> None:
    """Extra paths count, of a folder its visible files, one level; and what is named need not."""
    reader = disk(etc / "haproxy.cfg", extra=(etc / "extra", etc / "a.map"), follow=False)
    assert names(reader.read(), etc) == ["haproxy.cfg", "extra/x", "a.map"]


def test_a_crt_list_is_followed(etc: Path) -> None:
    """The certificates that a crt-list names count, with what haproxy finds beside them."""
    (etc / "list").write_text("one.pem a.example\n")
    for name in ("one.pem.key", "one.pem.ocsp", "one.pem.old"):
        (etc / "crts" / name).write_text("x\n")
    (etc / "haproxy.cfg").write_text(f"global\n crt-base {etc}/crts\nlisten l\n bind :1 ssl crt-list {etc}/list\n")
    found = ["haproxy.cfg", "list", "crts/one.pem", "crts/one.pem.key", "crts/one.pem.ocsp"]
    assert names(disk(etc / "haproxy.cfg").read(), etc) == found


def test_a_bundle_is_found(etc: Path) -> None:
    """A certificate that is only there by kind of key counts, with its keys; and so does a key beside a .crt."""
    for name in ("b.pem.rsa", "b.pem.ecdsa", "b.pem.rsa.key", "c.crt", "c.key"):
        (etc / "crts" / name).write_text("x\n")
    (etc / "haproxy.cfg").write_text(f"listen l\n bind :1 ssl crt {etc}/crts/b.pem crt {etc}/crts/c.crt\n")
    found = {
        "haproxy.cfg",
        *(f"crts/{name}" for name in ("b.pem.rsa", "b.pem.ecdsa", "b.pem.rsa.key", "c.crt", "c.key")),
    }
    assert set(names(disk(etc / "haproxy.cfg").read(), etc)) == found


def test_what_has_not_changed_is_searched_for_names_once(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large configuration takes a tenth of a second of CPU: that is spent when its content is new, and only then."""
    searched: list[str] = []

    def count(given: Iterable[tuple[str, bytes]], variables: Mapping[str, str]) -> Named:
        given = tuple(given)
        searched.extend(path for path, _ in given)
        return named_by(given, variables)

    monkeypatch.setattr(system, "named_by", count)
    reader = disk(etc / "haproxy.cfg")
    before = reader.read()
    (etc / "a.map").write_text("new\n")
    assert reader.read().files == before.files
    assert searched == [str(etc / "haproxy.cfg")]
    with (etc / "haproxy.cfg").open("a") as file:
        file.write(f" acl c path -f {etc}/extra/x\n")
    assert names(reader.read(), etc) == [*names(before, etc), "extra/x"]
    assert searched == [str(etc / "haproxy.cfg")] * 2


# ---- what cannot be read -------------------------------------------------------------------------------------------


def test_it_is_too_early_for_what_is_missing_or_empty(tmp_path: Path) -> None:
    """One line says which file and why, until it is there."""
    path = tmp_path / "haproxy.cfg"
    reader = disk(path)
    missing = reader.read()
    assert missing.unreadable == f"{path} cannot be read: No such file or directory"
    assert str(tmp_path) in missing.watched
    path.write_text("global\n")
    assert reader.read().unreadable is None


def test_an_empty_configuration_is_one_that_looks_incomplete(etc: Path) -> None:
    """haproxy takes it: it has a digest, is kept, and all that the others name is watched; and somebody is told."""
    (etc / "90-local.cfg").write_text("")
    reader = disk(etc / "haproxy.cfg", etc / "90-local.cfg")
    empty = reader.read()
    assert empty.unreadable is None
    assert empty.digest
    assert [content for _, content in empty.texts] == [(etc / "haproxy.cfg").read_bytes(), b""]
    assert empty.incomplete == (f"{etc}/90-local.cfg is empty",)
    assert str(etc / "503.http") in empty.files
    (etc / "90-local.cfg").write_text("global\n")
    full = reader.read()
    assert full.incomplete == ()
    assert full.digest != empty.digest
    (etc / "haproxy.cfg").write_text("")
    assert reader.read().incomplete == (f"{etc}/haproxy.cfg is empty",)


def test_a_key_that_does_not_fit_its_certificate_is_reported(tmp_path: Path) -> None:
    """Wherever a `key` names it, until both fit. Keys that haproxy finds by itself are left to haproxy."""
    made = {name: key_pair(tmp_path, name) for name in ("old", "new")}

    def put(certificate: str, key: str) -> tuple[str, ...]:
        (tmp_path / "site.crt").write_text(made[certificate][0])
        (tmp_path / "site.key").write_text(made[key][1])
        return reader.read().incomplete

    (tmp_path / "list").write_text("site.crt [key site.key]\n")
    for text in (
        "crt-store\n load crt site.crt key site.key\n",
        "frontend f\n bind :1 ssl\n ssl-f-use crt site.crt key site.key\n",
        "frontend f\n bind :1 ssl crt-list list\n",
    ):
        (tmp_path / "haproxy.cfg").write_text(f"global\n default-path origin {tmp_path}\n{text}")
        reader = disk(tmp_path / "haproxy.cfg")
        assert put("old", "old") == ()
        assert put("new", "old") == (f"{tmp_path}/site.key does not fit {tmp_path}/site.crt",)
        assert put("new", "new") == ()
        assert put("old", "new") == (f"{tmp_path}/site.key does not fit {tmp_path}/site.crt",)
        (tmp_path / "site.key").write_text("")
        assert reader.read().incomplete == (f"{tmp_path}/site.key has no private key",)
        (tmp_path / "site.key").unlink()
        assert reader.read().incomplete == (f"{tmp_path}/site.key has no private key",)
    (tmp_path / "haproxy.cfg").write_text(f"frontend f\n bind :1 ssl crt {tmp_path}/site.crt\n")
    assert put("old", "new") == ()


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Key pairs with their names, made elsewhere."""
    (tmp_path / "made").mkdir()
    return {name: key_pair(tmp_path / "made", name) for name in ("old", "new")}


BESIDE = {
    "a `bind`": ("bind :1 ssl crt ETC/crts/site.crt", "site.crt", "site.crt.key"),
    "ssl-load-extra-del-ext": ("bind :1 ssl crt ETC/crts/site.crt", "site.crt", "site.key"),
    "a server": ("server s x:1 ssl crt ETC/crts/site.pem", "site.pem", "site.pem.key"),
    "a folder": ("bind :1 ssl crt ETC/crts", "site.pem", "site.pem.key"),
    "a crt-list": ("bind :1 ssl crt-list ETC/list", "site.pem", "site.pem.key"),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_a_changed_certificate_without_its_key_is_reported(
    etc: Path, pairs: dict[str, tuple[str, str]], kind: str
) -> None:
    """Beside it or in it; haproxy would refuse it, but a moment later the key may be there."""
    line, certificate, key = BESIDE[kind]
    crt, where = etc / "crts" / certificate, etc / "crts" / key
    (etc / "list").write_text(f"{crt} a.example\n")
    (etc / "haproxy.cfg").write_text(f"listen l\n {line.replace('ETC', str(etc))}\n")
    crt.write_text(pairs["old"][0])
    where.write_text(pairs["old"][1])
    reader = disk(etc / "haproxy.cfg")
    before = reader.read()
    assert before.incomplete == ()

    def now() -> tuple[str, ...]:
        assert reader.read().incomplete == ()
        return reader.read((), before.digests).incomplete

    assert now() == ()
    crt.write_text(pairs["new"][0])
    assert now() == (f"{where} does not fit {crt}",)
    where.write_text(pairs["new"][1])
    assert now() == ()
    where.unlink()
    assert now() == (f"{crt} has no private key",)
    crt.write_text("".join(pairs["new"]))
    assert now() == ()
    where.write_text(pairs["old"][1])
    # haproxy does not look for another one.
    assert now() == ()
    crt.write_text("")
    assert now() == (f"{crt} is empty",)
    crt.write_text("garbage")
    assert now() == ()
    where.unlink()
    assert now() == ()
    crt.unlink()
    assert now() == ()


def test_what_belongs_to_a_certificate_needs_no_key(etc: Path, pairs: dict[str, tuple[str, str]]) -> None:
    """In a folder everything is a certificate, but for an issuer's."""
    (etc / "crts" / "one.pem").write_text("".join(pairs["old"]))
    reader = disk(etc / "haproxy.cfg")
    before = reader.read()
    (etc / "crts" / "one.pem.issuer").write_text(pairs["new"][0])
    (etc / "crts" / "one.pem.ocsp").write_text("")
    assert reader.read((), before.digests).incomplete == ()
    (etc / "crts" / "three.pem").write_text(pairs["new"][0])
    assert reader.read((), before.digests).incomplete == (f"{etc}/crts/three.pem has no private key",)


def test_certificates_are_read_only_if_they_have_changed(
    etc: Path, pairs: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There can be ten thousand, and there is a look every few seconds."""
    read: list[str] = []
    right = Look.text_of

    def text_of(look: Look, path: str) -> bytes:
        read.append(os.path.basename(path))
        return right(look, path)

    monkeypatch.setattr(Look, "text_of", text_of)
    for name in ("one.pem", "two.pem"):
        (etc / "crts" / name).write_text("".join(pairs["old"]))
    for name, text in zip(("site.crt", "site.key"), pairs["old"], strict=True):
        (etc / name).write_text(text)
    with (etc / "haproxy.cfg").open("a") as file:
        file.write(f"crt-store\n load crt {etc}/site.crt key {etc}/site.key\n")
    reader = disk(etc / "haproxy.cfg")
    before = reader.read()
    assert read == ["site.crt", "site.key"]
    read.clear()
    reader.read((), before.digests)
    assert read == []
    (etc / "crts" / "two.pem").write_text("".join(pairs["new"]))
    (etc / "site.key").write_text(pairs["new"][1])
    assert reader.read((), before.digests).incomplete == (f"{etc}/site.key does not fit {etc}/site.crt",)
    assert sorted(read) == ["site.crt", "site.key", "two.pem"]


def test_what_only_another_haproxy_can_read_is_known(etc: Path) -> None:
    """The configuration itself, and each file of a folder; also what comes later. What is watched besides is not it."""
    (etc / "list").write_text("one.pem\n")
    (etc / "haproxy.cfg").write_text(
        f"global\n crt-base {etc}/crts\n issuers-chain-path {etc}/extra\n lua-load {etc}/a.map\nlisten l\n"
        f" bind :1 ssl crt-list {etc}/list\n acl a path -f {etc}/a.map -f {etc}/503.http\n"
        f" errorfile 503 {etc}/later\n"
    )
    (etc / "more").write_text("")
    (etc / "said").write_text("")
    contents = disk(etc / "haproxy.cfg", extra=(etc / "more",)).read([str(etc / "said")])
    fixed = {os.path.relpath(path, etc) for path in contents.fixed}
    assert fixed >= {"haproxy.cfg", "extra/x", "a.map", "later"}
    assert {*names(contents, etc)} - fixed == {"list", "crts/one.pem", "503.http", "more", "said"}
    assert {*contents.digests} == {*contents.files}
    assert contents.crt_lists == {str(etc / "list"): b"one.pem\n"}
    assert [(one.name, one.crt) for one in contents.stores] == [(f"{etc}/crts/one.pem",) * 2]


def test_a_key_beside_its_certificate_is_reported_while_it_is_empty_or_its_link_leads_nowhere(tmp_path: Path) -> None:
    """So it is after a `cp` has begun, and after a volume of Kubernetes was replaced by one without it."""
    crt, key = key_pair(tmp_path, "made")
    site, beside = tmp_path / "site.crt", tmp_path / "site.key"
    text = f"global\n ssl-load-extra-del-ext\nfrontend f\n bind :1 ssl crt {site}\n"
    (tmp_path / "haproxy.cfg").write_text(text)
    site.write_text(crt)
    beside.write_text(key)
    reader = disk(tmp_path / "haproxy.cfg")
    before = reader.read().digests
    beside.write_text("")
    assert reader.read(before=before).incomplete == (f"{beside} has no private key",)
    beside.write_text(key)
    assert reader.read(before=before).incomplete == ()
    beside.unlink()
    beside.symlink_to("nowhere")
    site.write_text(crt + "\n")
    assert reader.read(before=before).incomplete == (f"{beside} has no private key",)


def test_our_own_output_never_counts(tmp_path: Path) -> None:
    """A log in a watched folder: each line about a change would be a change."""
    log = tmp_path / "log"
    code = (
        "import sys; from entrypoint.system.config_snapshot import ConfigFiles\n"
        "disk = ConfigFiles([], None, [sys.argv[1]], {})\n"
        "before = disk.read().digest; print('a line', file=sys.stderr, flush=True); assert disk.read().digest == before"
    )
    (tmp_path / "other").write_text("x")
    with log.open("w") as stderr:
        subprocess.run([sys.executable, "-c", code, tmp_path], stderr=stderr, check=True)
    assert log.read_text() == "a line\n"


def test_what_we_write_ourselves_never_counts(tmp_path: Path) -> None:
    """The pid file and the last known good configuration, through whatever link the folder is watched."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "link").symlink_to("etc")
    (tmp_path / "etc" / "haproxy.cfg").write_text("global\n")
    (tmp_path / "etc" / "other").write_text("x")
    extra = [str(tmp_path / "link"), str(tmp_path / "etc" / "x.pid")]
    reader = ConfigFiles([str(tmp_path / "etc/haproxy.cfg")], None, extra, {}, ours=[str(tmp_path / "link" / "x.pid")])
    before = reader.read()
    for content in ("1", "2"):
        (tmp_path / "etc" / "x.pid").write_text(content)
        (tmp_path / "etc" / "safe_reload.last-known-good").write_text(content)
        assert reader.read().digest == before.digest
    assert names(reader.read(), tmp_path) == ["etc/haproxy.cfg", "link/haproxy.cfg", "link/other"]


def test_a_folder_without_configurations_is_too_early(tmp_path: Path) -> None:
    """As long as there is nothing at all to start haproxy with."""
    unreadable = disk(tmp_path).read().unreadable
    assert unreadable == f"no *.cfg file in {tmp_path}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_it_is_too_early_for_what_may_not_be_read() -> None:
    """A mode that is set right a moment later shows as another digest, of a named file too."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        etc = Path(name)
        etc.chmod(0o755)
        (etc / "a.map").write_text("x\n")
        (etc / "haproxy.cfg").write_text(f"acl a path -f {etc}/a.map\n")

        def as_nobody() -> ConfigSnapshot:
            os.setuid(65534)
            return disk(etc / "haproxy.cfg").read()

        open_to_all = apart(as_nobody)
        assert (open_to_all.unreadable, len(open_to_all.files)) == (None, 2)
        (etc / "a.map").chmod(0)
        without_map = apart(as_nobody)
        assert without_map.unreadable is None
        assert without_map.digest != open_to_all.digest
        (etc / "haproxy.cfg").chmod(0)
        without_all = apart(as_nobody)
        assert without_all.unreadable == f"{etc}/haproxy.cfg cannot be read: Permission denied"


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    """What haproxy would not find in a pipe any more is left there, whoever names it, and nobody waits."""
    for name in ("cfg", "map"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "haproxy.cfg").write_text(f"acl a path -f {tmp_path}/map -f /dev/null\n")
    contents = disk(tmp_path / "haproxy.cfg", tmp_path / "cfg", Path("/dev/null")).read()
    assert [path for path, _ in contents.texts] == [str(tmp_path / "haproxy.cfg")]
    assert contents.unreadable is None
    assert str(tmp_path / "map") not in contents.files


@pytest.mark.parametrize("target", ["self", "../x/self", "a/" * 1200])
def test_links_that_lead_nowhere(tmp_path: Path, target: str) -> None:
    """A loop, or a path of a thousand folders, is a file that cannot be read."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "self").symlink_to(target)
    contents = disk(tmp_path / "x" / "self").read()
    assert contents.unreadable
    assert contents.unreadable.startswith(f"{tmp_path}/x/self cannot be read: ")
    assert str(tmp_path / "x") in contents.watched


# ---- what is read again --------------------------------------------------------------------------------------------


@in_child
def test_what_has_not_changed_is_not_read_again(etc: Path) -> None:
    """A settled file is not even opened the second time; a change is seen, and so is one of the same size."""
    big = etc / "a.map"
    # Settled: the kernel sets ctime, so that a test can only look from later.
    real = time.time_ns
    time.time_ns = lambda: real() + 10_000_000_000
    reader = disk(etc / "haproxy.cfg")
    before = reader.read().digest
    opened: list[str] = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    same = reader.read().digest == before
    first = [path for path in opened if path.startswith(str(etc))]
    big.write_bytes(big.read_bytes().swapcase())
    noticed = same and reader.read().digest != before
    assert first == [str(etc / "haproxy.cfg")]
    assert noticed


@in_child
def test_what_has_just_changed_is_read_again(etc: Path) -> None:
    """A file changed a second ago is opened again, though it looks the same: its clock may not have ticked since."""
    a_second_later = (etc / "a.map").stat().st_ctime_ns + 1_000_000_000
    time.time_ns = lambda: a_second_later
    reader = disk(etc / "haproxy.cfg")
    reader.read()
    opened: list[str] = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    reader.read()
    assert str(etc / "a.map") in opened


# ---- links that change ---------------------------------------------------------------------------------------------

SWAPPER = """
import os, random, sys, time
folder, order = sys.argv[1:]
os.chdir(folder)
number = int(os.readlink("..data").lstrip("."))
while True:
    old, number = number, number + 1
    os.mkdir(f"..{number}")
    for name in ("haproxy.cfg", "b.cfg", "a.map"):
        with open(f"..{number}/{name}", "w") as file:
            file.write(f"# {number}\\n" if name == "a.map" else f"# {number}\\nacl a path -f {folder}/a.map\\n")
    os.symlink(f"..{number}", "..data_tmp")
    os.rename("..data_tmp", "..data")
    for name in ("haproxy.cfg", "b.cfg", "a.map"):
        os.unlink(f"..{old}/{name}")
    os.rmdir(f"..{old}")
    time.sleep(random.random() / 500)
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder as the kubelet makes it, three files in it."""
    (tmp_path / "..1").mkdir()
    os.symlink("..1", tmp_path / "..data")
    for name in ("haproxy.cfg", "b.cfg", "a.map"):
        text = "# 1\n" if name == "a.map" else f"# 1\nacl a path -f {tmp_path}/a.map\n"
        (tmp_path / "..1" / name).write_text(text)
        os.symlink(f"..data/{name}", tmp_path / name)
    return tmp_path


@pytest.fixture
def swapping(volume: Path) -> Iterator[None]:
    """Another process publishes one version after the other, with pauses as long as a few reads."""
    with subprocess.Popen([sys.executable, "-c", SWAPPER, str(volume), "new"]) as process:
        yield
        process.send_signal(signal.SIGKILL)


def test_a_volume_is_watched_where_it_changes(volume: Path) -> None:
    """The folder with `..data` in it is watched, and the file that it leads to right now."""
    watched = disk(volume / "haproxy.cfg").read().watched
    assert {str(volume), str(volume / "..1"), str(volume / "..1" / "haproxy.cfg")} == set(watched)


def test_the_same_content_under_a_new_link_is_no_change(volume: Path) -> None:
    """What was published anew, unchanged, has the same digest; and what is new has another."""
    reader = disk(volume / "haproxy.cfg", volume / "b.cfg")
    before = reader.read().digest
    for version, same in ((2, True), (3, False)):
        shutil.copytree(volume / "..1", volume / f"..{version}")
        if not same:
            (volume / f"..{version}" / "a.map").write_text("# new\n")
        os.symlink(f"..{version}", volume / "..data_tmp")
        os.rename(volume / "..data_tmp", volume / "..data")
        assert (reader.read().digest == before) == same


def test_two_versions_are_never_mixed(volume: Path, swapping: None) -> None:
    """In 2,000 reads while another process swaps, all kept files are of one version each time, or it says too early."""
    reader = disk(volume / "haproxy.cfg", volume / "b.cfg", volume)
    versions: set[bytes] = set()
    digests: dict[bytes, str] = {}
    for _ in range(2000):
        contents = reader.read()
        if contents.unreadable:
            continue
        seen = {content.split(b"\n")[0] for _, content in contents.texts}
        assert len(seen) == 1
        assert len(contents.texts) == 4
        (version,) = seen
        versions.add(version)
        # The map is no kept file: that it is of the same version shows in the digest.
        assert digests.setdefault(version, contents.digest) == contents.digest
    assert len(versions) > 20


def test_links_are_followed_all_the_way(tmp_path: Path) -> None:
    """Every folder in which one of the links could be replaced is watched."""
    for name in ("etc", "releases/1", "store"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "store" / "x.cfg").write_text("global\n")
    os.symlink(tmp_path / "store" / "x.cfg", tmp_path / "releases" / "1" / "haproxy.cfg")
    os.symlink("releases/1", tmp_path / "now")
    os.symlink("../now/haproxy.cfg", tmp_path / "etc" / "haproxy.cfg")
    watched = disk(tmp_path / "etc" / "haproxy.cfg").read().watched
    folders = {"etc", ".", "releases/1", "store", "store/x.cfg"}
    assert {os.path.relpath(path, tmp_path) for path in watched} == folders


# ---- mounts --------------------------------------------------------------------------------------------------------


@needs_mounts
def test_a_file_renamed_over_on_the_host_is_stale(tmp_path: Path) -> None:
    """A mounted file is watched itself; it is stale when, on the host, another has taken its place."""
    host, inside = tmp_path / "host", tmp_path / "in side"
    for folder in (host, inside):
        folder.mkdir()
        (folder / "x.cfg").write_text("global\n")
        (folder / "x.map").write_text("old\n")
    (host / "x.cfg").write_text(f"acl a path -f '{inside}/x.map'\n")

    def work() -> list[tuple[tuple[str, ...], bool, bool]]:
        own_mounts()
        for name in ("x.cfg", "x.map"):
            bind(host / name, inside / name)
        reader = disk(inside / "x.cfg")
        seen = []
        for name in ("", "x.map", "x.cfg"):
            if name:
                (host / "new").write_bytes((host / name).read_bytes())
                (host / "new").rename(host / name)
            contents = reader.read()
            seen.append((contents.stale, str(inside / "x.map") in contents.watched, contents.polled))
        return seen

    x_cfg, x_map = str(inside / "x.cfg"), str(inside / "x.map")
    stales = [stale for stale, _, _ in apart(work)]
    assert stales == [(), (x_map,), (x_cfg, x_map)]
    assert all(watched and not polled for _, watched, polled in apart(work))


@needs_mounts
@in_child
def test_a_folder_mount_is_not_stale(tmp_path: Path) -> None:
    """A mounted folder goes on changing, until it is itself removed on the host."""
    host, inside = tmp_path / "host", tmp_path / "inside"
    for folder in (host, inside):
        folder.mkdir()
    (host / "x.cfg").write_text("global\n")
    own_mounts()
    bind(host, inside)
    reader = disk(inside / "x.cfg")
    seen = [reader.read().stale]
    (host / "new").write_text("global\n")
    (host / "new").rename(host / "x.cfg")
    seen.append(reader.read().stale)
    (host / "x.cfg").unlink()
    host.rmdir()
    seen.append(reader.read().stale)
    assert seen == [(), (), (str(inside / "x.cfg"),)]


@needs_mounts
@pytest.mark.parametrize(("kind", "polled"), [("tmpfs", False), ("ramfs", False), ("proc", True), ("sysfs", True)])
@in_child
def test_where_changes_go_unreported_there_is_polling(tmp_path: Path, kind: str, polled: bool) -> None:
    """It is the type of the file system that tells, of whatever is watched."""
    own_mounts()
    (tmp_path / "there").mkdir()
    (tmp_path / "x.cfg").write_text(f"acl a path -f {tmp_path}/there/version\n")
    reader = disk(tmp_path / "x.cfg")
    before = reader.read().polled
    mount("none", tmp_path / "there", kind)
    assert not before
    assert reader.read().polled == polled


def test_a_hard_link_is_watched_itself(etc: Path) -> None:
    """A write through the other name is not seen by the watch on any folder."""
    os.link(etc / "a.map", etc / "other")
    assert str(etc / "a.map") in disk(etc / "haproxy.cfg").read().watched

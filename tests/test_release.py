"""What `make dist` makes, but for images and what a host does with the Debian package: tests/container/ has these."""

import functools
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.output.json import JsonV1Dot6

import entrypoint
from tests.system.instance import instances
from tests.system.lives import Life, Program, Upbringing, command_line, lives, status_fields, why_not_pid1
from tests.waiting import eventually
from tools.release import oci, sbom
from tools.release.packages import Contents, licences
from tools.release.source import ROOT, changes, own_architecture, version

ANYWHERE = "-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64.whl"


SOURCES = "python3.13 3.13.5-2 PSF-2.0\nmusl 1.2.5-3 MIT\ngcc-14 14.2.0-19 GPL-3.0-or-later WITH GCC-exception-3.1\n"


def made(folder: Path, umask: int = 0o022, **variables: str) -> dict[str, bytes]:
    """Return what a release has without images, by name, made with this umask and these variables."""
    static = folder / "static/amd64"
    static.mkdir(parents=True)
    (static / "safe_reload").write_bytes(b"\x7fELF")
    (static / "sources.txt").write_text(SOURCES)
    (static / "licences.txt").write_text("Permission is hereby granted\n")
    words = [sys.executable, "-m", "tools.release", "--folder", str(folder / "dist"), "--static", str(static.parent)]
    environment = os.environ | variables
    done = subprocess.run(words, cwd=ROOT, check=False, env=environment, umask=umask, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = {path.name: path.read_bytes() for path in (folder / "dist").iterdir()}
    assert all(f"{len(content):,}  {name}\n" in done.stdout for name, content in files.items())
    return files


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a release has, by name."""
    return made(tmp_path_factory.mktemp("release"))


def the(release: dict[str, bytes], ending: str) -> str:
    """Return the name of the only file that ends so."""
    (name,) = (name for name in release if name.endswith(ending))
    return name


def put(release: dict[str, bytes], ending: str, folder: Path) -> Path:
    """Write a file of a release into a folder."""
    path = folder / the(release, ending)
    path.write_bytes(release[path.name])
    return path


# ---- all of it -----------------------------------------------------------------------------------------------------


def test_the_same_commit_makes_the_same_bits(release: dict[str, bytes], tmp_path: Path) -> None:
    """A second release has the same files, and each is the same, whoever makes it, and where."""
    elsewhere = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "USER": "nobody", "HOME": "/nowhere", "PYTHONHASHSEED": "7"}
    assert made(tmp_path, 0o077, **elsewhere) == release


def test_everything_is_there_under_one_version(release: dict[str, bytes]) -> None:
    """The version is in every name, and no file is missing."""
    number = entrypoint.__version__
    assert version() == number
    described = [
        the(release, ".whl"),
        f"safe-reload_{number}-1_{own_architecture()}.deb",
        f"safe_reload-{number}-linux-amd64",
    ]
    assert set(release) == {
        *described,
        *(f"{name}.cdx.json" for name in described),
        f"safe_reload-{number}-linux-amd64.licences.txt",
        f"haproxy_safe_reload-{number}.tar.gz",
        f"haproxy-safe-reload-{number}.tgz",
        f"CHANGELOG-{number}.md",
        "SHA256SUMS",
    }
    assert the(release, ".whl").startswith(f"haproxy_safe_reload-{number}-")


def test_the_sums_are_those_of_the_files(release: dict[str, bytes], tmp_path: Path) -> None:
    """`sha256sum -c` finds every file as it should be."""
    for name, content in release.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK\n") == len(release) - 1


def test_the_version_is_written_in_one_place(release: dict[str, bytes]) -> None:
    """The chart in the repository has the same, and the chart of a release uses the image of this version."""
    chart = yaml.safe_load((ROOT / "k8s/chart/Chart.yaml").read_text())
    assert chart["version"] == entrypoint.__version__
    with tarfile.open(fileobj=io.BytesIO(release[the(release, ".tgz")])) as tar:
        assert {"haproxy-safe-reload/values.yaml", "haproxy-safe-reload/templates/workload.yaml"} <= {*tar.getnames()}
        file = tar.extractfile("haproxy-safe-reload/Chart.yaml")
        assert file
        assert yaml.safe_load(file) == {**chart, "appVersion": entrypoint.__version__}


def test_the_section_of_the_changelog() -> None:
    """It is that of the version; before there is one, that of what is not released."""
    text = "# Changelog\n\n## Unreleased\n\n- new\n\n## 1.2.0 - 2026-01-02\n\n### Added\n\n- old\n\n## 1.1.0\n"
    assert changes(text, "1.2.0") == "## 1.2.0 - 2026-01-02\n\n### Added\n\n- old\n"
    assert changes(text, "1.3.0") == "## Unreleased\n\n- new\n"
    with pytest.raises(ValueError, match=r"neither for 1\.3\.0"):
        changes("# Changelog\n", "1.3.0")


# ---- the wheel -----------------------------------------------------------------------------------------------------


def installed(wheel: Path, folder: Path, *options: str) -> Path:
    """Make a virtual environment with a wheel, which has python-prctl as this one has; return its safe_reload."""
    prefix = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    pip(wheel, "--python", str(prefix), "install", *options)
    (packages,) = prefix.glob("lib/python*/site-packages")
    (packages / "prctl.pth").write_text(sysconfig.get_path("purelib"))
    return prefix / "bin/safe_reload"


def pip(what: Path, *words: str, **environment: str) -> None:
    """Have pip install something without an index."""
    line = [sys.executable, "-m", "pip", "-q", *words, "--no-index", "--no-deps", str(what)]
    subprocess.run(line, check=True, env={**os.environ, "PIP_BREAK_SYSTEM_PACKAGES": "1", **environment})


@pytest.fixture(scope="module")
def command(release: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `safe_reload` of a virtual environment with the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    return installed(put(release, ".whl", folder), folder)


def run(*words: str | Path, **environment: str) -> str:
    """Return what a program prints, which may not fail."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_a_program_for_any_linux(release: dict[str, bytes]) -> None:
    """Its command is a static program, and what it is named after is true."""
    name = the(release, ".whl")
    with zipfile.ZipFile(io.BytesIO(release[name])) as archive:
        (command,) = (entry for entry in archive.namelist() if entry.endswith(".data/scripts/safe_reload"))
        assert archive.read(command).startswith(b"\x7fELF")
        assert b"ld-linux" not in archive.read(command)
        (tags,) = (archive.read(entry).decode() for entry in archive.namelist() if entry.endswith(".dist-info/WHEEL"))
        assert not any(entry.endswith("entry_points.txt") for entry in archive.namelist())
    if os.uname().machine == "x86_64":
        assert name.endswith(ANYWHERE)
        assert "Tag: py3-none-musllinux_1_1_x86_64\n" in tags


def test_the_launcher_finds_the_python_of_its_prefix(command: Path, tmp_path: Path) -> None:
    """From a copied prefix, through a link: with all signals blocked, isolated, with the file that `ps` then names.

    Also as the interpreter of a script, which is in another prefix.
    """
    prefix = tmp_path / "any where"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/safe_reload").write_bytes(command.read_bytes())
    (prefix / "bin/python3").write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\nexec grep ^SigBlk: /proc/self/status\n')
    for program in (prefix / "bin").iterdir():
        program.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(prefix / "bin/safe_reload")
    *words, blocked = run(link, "--name", "a b").splitlines()
    assert words == [str(prefix / "bin/python3"), "-I", "-X", "utf8", f"{prefix}/lib/safe_reload", "--name", "a b"]
    assert int(blocked.split()[1], 16) & 0x7FFFFFFF == 0x7FFFFFFF & ~(1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1)
    script = tmp_path / "script"
    script.write_text(f"#!{link} --\n")
    script.chmod(0o755)
    assert run(script).splitlines()[:-1] == [*words[:-2], "--", str(script)]


def blocks(life: Life, number: int) -> bool:
    """Tell whether an init has blocked a signal."""
    return bool(int(status_fields(life.init)["SigBlk"], 16) & 1 << number - 1)


def test_a_signal_to_pid_1_is_not_lost(command: Path) -> None:
    """One that arrives before Python has begun is handed on to the program, and `ps` shows safe_reload."""
    if reason := why_not_pid1():
        pytest.skip(reason)
    with lives(Program((str(command),))) as start:
        for _ in range(5):
            life = start("--", "sleep", "600", up=Upbringing(as_pid1=True))
            eventually(functools.partial(blocks, life, signal.SIGUSR1))
            words = [os.fsdecode(word) for word in command_line(life.init)]
            assert words[0] in {str(command), f"{command.parent}/python3"}
            life.signal(signal.SIGTERM)
            assert life.status() == 128 + signal.SIGTERM


def test_a_name_that_pgrep_finds(command: Path) -> None:
    """`pgrep -f '/safe_reload -- sleep 607'` finds the process."""
    with lives(Program((str(command),))) as start:
        life = start("-s", "--", "sleep", "607")
        life.main("sleep", "607")
        assert int(run("pgrep", "-f", "/safe_reload -s -- sleep 607$")) == life.init


def test_reloads_upgrades_and_status_work(command: Path, tmp_path: Path) -> None:
    """With haproxy behind the wheel's command, and the wheel's command as the client."""
    with instances(tmp_path) as begin:
        instance = begin("--name", "lb", program=[str(command)], PYTHONPATH="/nowhere").serves(1)
        where = ("--runtime-dir", str(tmp_path / "run"))
        before = command_line(instance.pid)
        run(command, "upgrade", *where)
        run(command, "reload", *where)
        instance.serves(2)
        assert command_line(instance.pid) == before
        assert f"safe_reload {version()}" in run(command, "status", *where)
        modules = {line.split()[-1] for line in Path(f"/proc/{instance.pid}/maps").read_text().splitlines()}
        assert any("prctl" in path for path in modules)


def test_it_works_where_a_user_installs_it(release: dict[str, bytes], tmp_path: Path) -> None:
    """`pip install --user`: no Python is beside it, and the one in PATH does not look there by itself."""
    python = Path(os.path.realpath(sys.executable))
    home = tmp_path / "home"
    base = {"PYTHONUSERBASE": str(home), "PATH": f"{python.parent}:/usr/bin:/bin"}
    pip(put(release, ".whl", tmp_path), "--python", str(python), "install", "--user", "--ignore-installed", **base)
    assert run(home / "bin/safe_reload", "--version", PATH=base["PATH"]) == f"safe_reload {version()}\n"


def test_the_sdist_is_compiled_for_this_machine(release: dict[str, bytes], tmp_path: Path) -> None:
    """What pip makes of it has this machine's tag, and works."""
    source = put(release, f"{version()}.tar.gz", tmp_path)
    pip(source, "wheel", "--no-build-isolation", "-w", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-linux_{os.uname().machine}.whl")
    assert run(installed(wheel, tmp_path), "--version") == f"safe_reload {version()}\n"


def test_without_a_compiler_one_line_says_so(release: dict[str, bytes], tmp_path: Path) -> None:
    """The end of the build names the compiler and the variable."""
    run("tar", "-xf", str(put(release, f"{version()}.tar.gz", tmp_path)), "-C", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=tmp_path / f"haproxy_safe_reload-{version()}",
        env={**os.environ, "CC": "no-such-compiler -static"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs a C compiler: no-such-compiler: No such file or directory; install one or set CC" in done.stderr


# ---- the Debian package --------------------------------------------------------------------------------------------


def test_the_debian_package_has_its_files(release: dict[str, bytes], tmp_path: Path) -> None:
    """Each where Debian expects it, of root, and nothing that an administrator has to change."""
    package = put(release, ".deb", tmp_path)
    rows = [line.split(None, 5) for line in run("dpkg-deb", "-c", package).splitlines()]
    assert {row[1] for row in rows} == {"root/root"}
    modes = {row[5].removeprefix("."): row[0] for row in rows}
    assert {name for name, mode in modes.items() if "x" in mode and not name.endswith("/")} == {"/usr/bin/safe_reload"}
    assert set(modes) >= {
        "/usr/bin/safe_reload",
        "/usr/lib/safe_reload/entrypoint/__main__.py",
        "/usr/lib/systemd/system/safe_reload@.service",
        "/usr/share/doc/safe-reload/examples/safe_reload@.socket",
        "/usr/share/man/man8/safe_reload.8.gz",
    }
    assert not [name for name in modes if "python3" in name or name.startswith(("/etc", "/var", "/run", "/usr/local"))]


@pytest.mark.skipif(not shutil.which("lintian"), reason="lintian is not installed")
def test_lintian_has_nothing_to_say(release: dict[str, bytes], tmp_path: Path) -> None:
    """It finds no error in the package, and no warning that is not known."""
    # No author has a name; it is in no archive of Debian's; there is no debhelper here to call deb-systemd-invoke.
    known = "copyright-without-copyright-notice,initial-upload-closes-no-bugs,maintainer-script-calls-systemctl"
    words = ("lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags", known)
    done = subprocess.run([*words, put(release, ".deb", tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- images and SBOMs ----------------------------------------------------------------------------------------------


def layer(*entries: tuple[str, bytes], mtime: float = 0, **headers: str) -> tarfile.TarFile:
    """Return a layer with files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in entries:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.uname, entry.pax_headers = len(text), mtime, "builder", dict(headers)
            tar.addfile(entry, io.BytesIO(text))
    content.seek(0)
    return tarfile.open(fileobj=content)


def test_when_a_layer_was_built_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times after the commit, days in /etc/shadow, logs: all else is kept, with older times and attributes."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(20000 * 86400))
    capability = {"SCHILY.xattr.security.capability": "net"}
    made = []
    for day in (20001, 20002):
        shadow = b"root:*:19000:0::::\nhaproxy:!:%d::::::\n" % day
        files = ("usr/bin/x", b"x"), ("etc/shadow", shadow), ("var/log/dpkg.log", b"%d" % day)
        made.append(oci.canonical(layer(*files, mtime=day * 86400.5, **capability)))
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as tar:
        assert tar.getnames() == ["usr/bin/x", "etc/shadow"]
        assert tar.getmember("usr/bin/x").mtime == 20000 * 86400
        assert capability.items() <= tar.getmember("usr/bin/x").pax_headers.items()
        file = tar.extractfile("etc/shadow")
        assert file
        assert file.read() == b"root:*:19000:0::::\nhaproxy:!:20000::::::\n"
    with tarfile.open(fileobj=io.BytesIO(oci.canonical(layer(("a", b""), mtime=5)))) as tar:
        assert tar.getmember("a").mtime == 5


def test_packages_are_read_without_dpkg(tmp_path: Path) -> None:
    """From the database, or from the fragments of an image without one; only what is installed, by the top layer."""
    contents = Contents()
    old = b"Package: haproxy\nStatus: install ok installed\nVersion: 2\nArchitecture: amd64\n"
    new = old.replace(b"Version: 2", b"Version: 3").replace(
        b"Package: haproxy\n", b"Package: haproxy\nSource: ha (1)\n"
    )
    gone = b"\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n"
    copyright_file = b"Format: x\nLicense: GPL-2+\n text\nLicense:  Expat\n"
    contents.add(layer(("var/lib/dpkg/status", old), ("var/lib/dpkg/status.d/b", b"Package: bb\n")))
    contents.add(layer(("var/lib/dpkg/status.d/.wh.b", b""), ("etc/os-release", b'ID=debian\nVERSION_ID="13"\n')))
    contents.add(layer(("var/lib/dpkg/status", new + gone), ("usr/share/doc/haproxy/copyright", copyright_file)))
    fragment = b"Package: libc6\nVersion: 2.41\nArchitecture: amd64\n"
    contents.add(
        layer(("var/lib/dpkg/status.d/libc6", fragment), ("var/lib/dpkg/status.d/libc6.md5sums", b"Package: x\n"))
    )
    assert contents.packages() == [
        ("haproxy", "3", "amd64", "ha", ("Expat", "GPL-2+")),
        ("libc6", "2.41", "amd64", "libc6", ()),
    ]
    # There is no Python among them, so it is the static program that is described.
    sources = tmp_path / "sources.txt"
    with pytest.raises(FileNotFoundError):
        sbom.of_image(contents, sources)
    sources.write_text(SOURCES)
    found = sbom.of_image(contents, sources)
    assert [part.name for part in found] == ["safe_reload", "haproxy", "libc6", "python3.13", "musl", "gcc-14"]
    assert str(found[1].purl) == "pkg:deb/debian/haproxy@3?arch=amd64&distro=debian-13&upstream=ha"
    assert licences("Free text.\nLicense: GPL\n") == ()


def parts(release: dict[str, bytes], ending: str) -> dict[str, Any]:
    """Return the components of a SBOM by name, after a look at what it is about."""
    name = the(release, ending)
    bom = json.loads(release[f"{name}.cdx.json"])
    (digest,) = bom["metadata"]["component"]["hashes"]
    assert digest["content"] == hashlib.sha256(release[name]).hexdigest()
    return {part["name"]: part for part in bom["components"]}


def test_an_sbom_says_what_is_in_it_and_what_it_needs(release: dict[str, bytes]) -> None:
    """The C library that is linked into the launcher; python-prctl; the sources of the static program."""
    wheel, package, static = (parts(release, ending) for ending in (".whl", ".deb", "-linux-amd64"))
    for found in (wheel, package, static):
        assert found["safe_reload"]["version"] == version()
        assert found["safe_reload"]["licenses"] == [{"license": {"id": "GPL-3.0-or-later"}}]
    assert wheel["musl-dev"]["version"] == package["musl-dev"]["version"]
    assert (wheel["python-prctl"]["scope"], wheel["prometheus-client"]["scope"]) == ("required", "optional")
    assert (package["python3-prctl"]["scope"], package["haproxy"]["scope"]) == ("required", "optional")
    assert static["python3.13"]["purl"] == "pkg:deb/debian/python3.13@3.13.5-2?arch=source"
    assert static["gcc-14"]["licenses"] == [{"expression": "GPL-3.0-or-later WITH GCC-exception-3.1"}]
    assert static["musl"]["licenses"] == [{"license": {"id": "MIT"}}]


def test_an_sbom_that_is_not_valid_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CycloneDX's own schema has the last word."""
    artifact = tmp_path / "a"
    artifact.write_bytes(b"")
    sbom.write(artifact, sbom.APPLICATION, [sbom.program()], tmp_path / "good")
    monkeypatch.setattr(JsonV1Dot6, "output_as_string", lambda *_, **__: '{"bomFormat": "CycloneDX"}')
    with pytest.raises(ValueError, match="specVersion"):
        sbom.write(artifact, sbom.APPLICATION, [sbom.program()], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()

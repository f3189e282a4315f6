"""What haproxy opens when it reads a configuration, as the kernel saw it, held against what is watched."""

import os
import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from entrypoint.haproxy import referenced_files
from entrypoint.pid1 import applying
from entrypoint.system import config_snapshot
from entrypoint.system.config_snapshot import ConfigFiles
from entrypoint.system.haproxy_cli import CliChannel

STRACE = shutil.which("strace")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")

_OF_THE_SYSTEM = (
    "/dev/",
    "/proc/",
    "/sys/",
    "/lib",
    "/usr/lib",
    "/usr/share/",
    "/usr/local/lib/",
    "/usr/local/share/",
    "/etc/ld.so",
    "/etc/ssl/",
    *(f"/etc/{name}" for name in ("gai.conf", "group", "host.conf", "hosts", "localtime", "nsswitch.conf", "passwd")),
    *(f"/etc/{name}" for name in ("protocols", "resolv.conf", "services", "timezone")),
)
"""Libraries, the name service, what OpenSSL finds by itself: not of the configuration."""
_OPENED = re.compile(r'^\d+ +(?:open|openat)\((?:AT_FDCWD(?:<.*?>)?, )?".*", ([A-Z_|]+).*\) = \d+<(.*)>$')
_ADDRESS = re.compile(r"^(\s*(?:bind|stats socket) +)[^\s:@\"]*:(\d+)", re.MULTILINE)
_TAG = re.compile(r"fd@\$\{(\w+)\}")


def version(haproxy: Sequence[str]) -> float:
    """Return the branch of a haproxy, such as 3.2."""
    said = subprocess.run([*haproxy, "-v"], capture_output=True, text=True, check=True).stdout
    return float(re.findall(r"version (\d+\.\d+)", said)[0])


def opened(
    arguments: Sequence[str], folder: Path, variables: Mapping[str, str], haproxy: Sequence[str]
) -> tuple[set[Path], str]:
    """Return the regular files that haproxy has read while it checked its configuration, and what it said.

    Args:
        arguments: its own, such as -f and a file.
        folder: where it is started.
        variables: its environment.
        haproxy: which one.

    """
    assert STRACE
    trace = folder / "trace"
    with _tags(folder) as tags:
        run = subprocess.run(
            [STRACE, "-f", "-qq", "-y", "-s4096", "-e", "trace=open,openat", "-o", trace, *haproxy, "-c", *arguments],
            cwd=folder,
            env={"PATH": "/usr/sbin:/usr/bin:/bin", **variables, **tags},
            pass_fds=[int(number) for number in tags.values()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    found = set(_read(trace.read_text("utf-8", "surrogateescape")))
    return found - {Path(os.path.realpath(word)) for word in haproxy}, run.stdout.decode("utf-8", "replace")


@contextmanager
def _tags(folder: Path) -> Iterator[dict[str, str]]:
    """Make a listening socket for each tag of the configurations here; provide haproxy's variables."""
    text = b"".join(path.read_bytes() for path in folder.glob("*.cfg")).decode("utf-8", "replace")
    with ExitStack() as stack:
        tags = {}
        for tag in dict.fromkeys(_TAG.findall(text)):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            tags[tag] = str(listener.fileno())
        yield tags


@contextmanager
def running(
    arguments: Sequence[str], folder: Path, variables: Mapping[str, str], haproxy: Sequence[str]
) -> Iterator[CliChannel]:
    """Run haproxy, with addresses that nobody else has; for the arguments see `opened`.

    The CLI answers only if it has started.
    """
    files = [folder / name for option, name in pairwise(arguments) if option == "-f"]
    texts = {file: file.read_text("utf-8", "surrogateescape") for file in files if file.is_file()}
    with closing(CliChannel()) as channel, _tags(folder) as tags:
        for file, text in texts.items():
            file.write_text(_ADDRESS.sub(rf"\1abns@opened-{os.getpid()}-\2", text), "utf-8", "surrogateescape")
        process = subprocess.Popen(
            [*haproxy, "-db", *arguments, "-f", channel.configuration],
            cwd=folder,
            env={"PATH": "/usr/sbin:/usr/bin:/bin", **variables, **tags},
            pass_fds=[*map(int, tags.values()), *channel.inherited],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        channel.spawned()
        try:
            yield channel
        finally:
            process.kill()
            process.wait()
            for file, text in texts.items():
                file.write_text(text, "utf-8", "surrogateescape")


def _read(trace: str) -> Iterator[Path]:
    for line in trace.splitlines():
        found = _OPENED.match(line)
        if not found or "O_WRONLY" in found[1] or "O_RDWR" in found[1] or "O_DIRECTORY" in found[1]:
            continue
        path = Path(found[2].encode("latin-1", "surrogateescape").decode("unicode_escape"))
        if not str(path).startswith(_OF_THE_SYSTEM) and ".so" not in path.name and path.is_file():
            yield path


def watched(configurations: Sequence[str], folder: Path, variables: Mapping[str, str]) -> set[Path]:
    """Return the files whose content counts, as they really are."""
    with chdir(folder):
        return {Path(os.path.realpath(path)) for path in _files(configurations, variables).read().files}


def _files(configurations: Sequence[str], variables: Mapping[str, str]) -> ConfigFiles:
    return ConfigFiles(configurations, None, (), {"HAPROXY_LOCALPEER": os.uname().nodename, **variables})


@dataclass(frozen=True)
class Learned:
    """What haproxy has told besides what the configuration names."""

    told: frozenset[Path]
    """The files, and folders of files, that it has told."""
    watched: frozenset[Path]
    """The files whose content counts then."""


def learned(channel: CliChannel, configurations: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Learned:
    """Ask a running haproxy as the reader does, for the arguments see `running`.

    Raises:
        OSError: it has not started.

    """
    with chdir(folder):
        disk = _files(configurations, variables)
        names = tuple(applying.reported(channel, disk, disk.read()))
        files = disk.read(names).files
        return Learned(
            frozenset(Path(os.path.realpath(name)) for name in names),
            frozenset(Path(os.path.realpath(path)) for path in files),
        )


# ---- a parser that does not know a keyword ---------------------------------------------------------------------------

_WORD = r"(?<=[\s\[]){}(?=\s)"
KEYWORDS = {
    "crt": _WORD.format("(?:default-)?crt"),
    "crt-list": _WORD.format("crt-list"),
    "ca-file": _WORD.format("ca-file"),
    "ca-verify-file": _WORD.format("ca-verify-file"),
    "crl-file": _WORD.format("crl-file"),
    "-f": _WORD.format("-f"),
    "map": r"\bmap(?:_\w+)?(?=\()",
}
"""Keywords with files that haproxy tells, and how they are found in a text."""
NOTHING = "nothing"


@contextmanager
def blind(keyword: str) -> Iterator[None]:
    """Hide a keyword from what looks for files in a configuration; with NOTHING it sees no line at all."""
    pattern = re.compile((KEYWORDS.get(keyword) or ".+").encode())

    def hidden(function: Callable[..., object], texts: Callable[[object], object]) -> Callable[..., object]:
        return lambda first, second: function(texts(first), second)

    def hide(text: object) -> object:
        assert isinstance(text, bytes)
        return pattern.sub(b"hidden", text)

    def hide_all(texts: object) -> object:
        assert isinstance(texts, list)
        return [(name, hide(text)) for name, text in texts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_snapshot, "named_by", hidden(referenced_files.named_by, hide_all))
        patch.setattr(config_snapshot, "named_in", hidden(referenced_files.named_in, hide))
        yield


def tells(
    read: set[Path],
    configurations: Sequence[str],
    arguments: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    haproxy: Sequence[str],
) -> dict[str, int]:
    """Assert that haproxy tells what it has read where a keyword is hidden, and nothing else; for `read` see `opened`.

    Returns, by hidden keyword, how many files it tells; nothing for a configuration that it refuses.
    """
    text = (folder / configurations[-1]).read_text("utf-8", "replace")
    # Nobody else knows what a relative name is relative to.
    is_moved = "default-path" in text
    found = {}
    with running(arguments, folder, variables, haproxy) as channel:
        try:
            told = learned(channel, configurations, folder, variables).told
        except OSError:
            return {}
        assert not told, f"haproxy tells what is known, of\n{text}"
        for keyword in (*KEYWORDS, NOTHING):
            with blind(keyword):
                now = learned(channel, configurations, folder, variables)
            wrong = now.told - read - {path.parent for path in read}
            assert not wrong, f"haproxy has not read {sorted(map(str, wrong))} of\n{text}"
            missed = read - now.watched
            assert keyword == NOTHING or is_moved or not missed, f"no {keyword}: {sorted(map(str, missed))} of\n{text}"
            found[keyword] = len(now.told)
    return found


# ---- every keyword, once -------------------------------------------------------------------------------------------


def lay_out(folder: Path) -> Path:
    """Make a file of every kind that a configuration may name."""
    for name in (
        "crts",
        "pems",
        "keys",
        "cas",
        "conf.d",
        "chains",
        "odd dir",
        "f1",
        "main",
        "3",
        "of a",
        f"of {os.uname().nodename}",
    ):
        (folder / name).mkdir()
    subject = ("-subj", "/CN=a.example", "-days", "30")
    make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject)
    subprocess.run([*make, "-keyout", "a.key", "-out", "a.crt"], cwd=folder, check=True, capture_output=True)
    both = (folder / "a.crt").read_text() + (folder / "a.key").read_text()
    for name in ("a", "b", "crts/a", "crts/b", "pems/a", "pems/b", "f1/a"):
        (folder / f"{name}.pem").write_text(both)
    for name in (
        "crts/a.crt",
        "crts/sep.crt",
        "pems/c.crt",
        "sep.crt",
        "ca.crt",
        "cas/ca.pem",
        "cas/verify.pem",
        "chains/a.pem",
    ):
        (folder / name).write_text((folder / "a.crt").read_text())
    for name in ("crts/a.key", "crts/sep.key", "keys/a.key", "pems/c.crt.key", "sep.key", "sep.crt.key", "pub.pem"):
        (folder / name).write_text((folder / "a.key").read_text())
    (folder / "cas" / "sign.pem").write_text(both)
    (folder / "crts" / "bundle.pem.ecdsa").write_text(both)
    for name in ("a.lst", "b.lst", "odd dir/a,b) c.lst", "3/a.lst"):
        (folder / name).write_text("10.0.0.1\n")
    for name in ("a.map", "b.map", "main/a.map", "f1/a.map"):
        (folder / name).write_text("10.0.0.1 x\n")
    for name in (f"of {os.uname().nodename}", "of a"):
        (folder / name / "a.map").write_text("10.0.0.1 x\n")
    for branch in ("", *(f"{major}.{minor}" for major in (2, 3, 4) for minor in range(10))):
        (folder / f"of branch {branch}").mkdir()
        (folder / f"of branch {branch}" / "a.lst").write_text("10.0.0.1\n")
    http = "HTTP/1.0 503 No\r\nContent-Length: 0\r\n\r\n"
    for name in ("503.http", "500.http", "body"):
        (folder / name).write_text(http)
    (folder / "body.lf").write_text("%[src,map_ip(a.map)] %[path,map(b.map)]\n")
    (folder / "a.lua").write_text("core.log(core.info, 'x')\n")
    (folder / "case").write_text("content-type Content-Type\n")
    (folder / "tickets").write_text(f"{'A' * 64}\n" * 3)
    (folder / "dh").write_text("x\n")
    (folder / "eab").write_text("x\n")
    for name in ("a.ocsp", "a.issuer", "a.sctl", "crts/a.ocsp", "crts/a.issuer", "crts/a.sctl"):
        (folder / name).write_bytes(b"")
    (folder / "spoe").write_text(
        "[e]\nspoe-agent a\n messages m\n option var-prefix x\n timeout processing 1s\n use-backend b\n"
        "spoe-message m\n args a=src,map_ip(a.map)\n acl x src -f a.lst\n"
        ' event on-frontend-http-request if x !{ src -f "${LIST-b.lst}" }\n'
    )
    (folder / "list").write_text("a.pem\n")
    (folder / "list-with-key").write_text("# b.pem\nsep.crt [key sep.key ocsp a.ocsp issuer a.issuer sctl a.sctl] x\n")
    (folder / "list-with-options").write_text(
        "a.pem[ca-file ca.pem verify optional]*.example\nb.pem [ca-verify-file verify.pem ca-file ca.pem] y\n"
    )
    (folder / "odd dir" / "a b.pem").write_text(both)
    (folder / "odd dir" / "a b.pem.key").write_text((folder / "a.key").read_text())
    (folder / "linked.pem").symlink_to("pems/a.pem")
    (folder / "linked cas").symlink_to("cas")
    (folder / "conf.d" / "bases.cfg").write_text("global\n crt-base crts\n ca-base cas\n")
    return folder


@dataclass(frozen=True)
class Case:
    """A few lines of configuration, and which files make haproxy read them."""

    name: str
    text: str
    opens: tuple[str, ...]
    since: float = 2.6
    """The first version that knows it."""
    variables: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()

    def holds(self, folder: Path, haproxy: Sequence[str]) -> None:
        """Assert that haproxy opens these files, and none that is not watched."""
        names, arguments = self._write(folder)
        read, words = opened(arguments, folder, dict(self.variables), haproxy)
        unwatched = read - watched(names, folder, dict(self.variables))
        assert not unwatched, f"{sorted(map(str, unwatched))} of\n{self.text}\n{words}"
        if version(haproxy) >= self.since:
            missing = {str(folder / name) for name in self.opens} - set(map(str, read))
            assert not missing, f"haproxy did not read {sorted(missing)} of\n{self.text}\n{words}"

    def tells(self, folder: Path, haproxy: Sequence[str]) -> dict[str, int]:
        """Assert that haproxy tells what it has opened, and nothing else; see `tells`."""
        names, arguments = self._write(folder)
        read, _ = opened(arguments, folder, dict(self.variables), haproxy)
        return tells(read, names, arguments, folder, dict(self.variables), haproxy)

    def _write(self, folder: Path) -> tuple[list[str], list[str]]:
        """Write the configuration; return the names of all of them, and haproxy's arguments."""
        (folder / "haproxy.cfg").write_text(self.text)
        names = ["haproxy.cfg"]
        if self.text.startswith("# with bases"):
            names.insert(0, "conf.d/bases.cfg")
        return names, [*(word for name in names for word in ("-f", name)), *self.arguments]


def tell(folder: Path, haproxy: Sequence[str]) -> Counter[str]:
    """Assert of each case that haproxy tells what it has opened; return in how many it tells a file, by hidden keyword.

    The key "" has the number of configurations that it takes.
    """
    found: Counter[str] = Counter()
    for case in CASES:
        told = case.tells(folder, haproxy)
        found += Counter([""] * bool(told) + [keyword for keyword, files in told.items() if files])
    return found


def _in_listen(name: str, line: str, *opens: str, since: float = 2.6, with_bases: bool = False) -> Case:
    text = f"listen l\n mode http\n bind 127.0.0.1:1\n {line}\nbackend b\n"
    return Case(f"{name}{' with bases' * with_bases}", "# with bases\n" * with_bases + text, opens, since)


def _in_global(name: str, line: str, *opens: str, since: float = 2.6, more: str = "") -> Case:
    return Case(name, f"global\n {line}\nlisten l\n mode http\n bind 127.0.0.1:1\n{more}", opens, since)


def _condition(name: str, line: str) -> Case:
    return _in_listen(f"condition in {name}", line, "a.lst")


CASES = (
    # conditions, wherever they may stand
    _in_listen("acl", "acl x src -f a.lst -f b.lst", "a.lst", "b.lst"),
    _in_listen("acl with a blank", 'acl x src -f "odd dir/a,b) c.lst"', "odd dir/a,b) c.lst"),
    _in_listen("acl with flags", "acl x path -i -m beg -M -f a.lst c", "a.lst"),
    _condition("a rule", "http-request deny if { src -f a.lst }"),
    _condition("a rule, negated", "http-request deny if !{ src -f a.lst }"),
    _condition("a rule, negated twice", "http-request deny if !!{ src -f a.lst }"),
    _condition("a rule, negated apart", "http-request deny if ! { src -f a.lst }"),
    _condition("a rule, unless", "http-request deny unless !{ src -f a.lst }"),
    _condition("a rule, quoted", "http-request deny if '!{' src -f a.lst }"),
    _condition("a rule, after or", "http-request deny if { src 10.1.1.1 } or !{ src -f a.lst }"),
    _condition("a rule, after ||", "http-request deny if { src 10.1.1.1 } || !{ src -f a.lst }"),
    _condition("a rule, the second term", "http-request deny if LOCALHOST !{ src -f a.lst }"),
    _condition("http-response", "http-response del-header x if !{ src -f a.lst }"),
    _condition("http-after-response", "http-after-response del-header x if !{ src -f a.lst }"),
    _condition("tcp-request connection", "tcp-request connection reject if !{ src -f a.lst }"),
    _condition("tcp-request session", "tcp-request session reject if !{ src -f a.lst }"),
    _condition("tcp-request content", "tcp-request content reject if !{ src -f a.lst }"),
    _condition("tcp-response content", "tcp-response content reject if !{ src -f a.lst }"),
    _condition("redirect", "redirect prefix /x if !{ src -f a.lst }"),
    _condition("use_backend", "use_backend b if !{ src -f a.lst }"),
    _condition("use-server", "server s 127.0.0.1:1\n use-server s if !{ src -f a.lst }"),
    _condition("force-persist", "force-persist if !{ src -f a.lst }"),
    _condition("ignore-persist", "ignore-persist unless !{ src -f a.lst }"),
    _condition("monitor fail", "monitor fail if !{ src -f a.lst }"),
    _condition("stats", "stats enable\n stats admin if !{ src -f a.lst }"),
    _condition("stick", "stick-table type ip size 9\n stick on src if !{ src -f a.lst }"),
    _condition("http-request auth", "stats http-request auth unless !{ src -f a.lst }"),
    Case("condition in fcgi-app", "fcgi-app f\n docroot /\n pass-header x if !{ src -f a.lst }\n", ("a.lst",)),
    # converters, wherever they may stand
    _in_listen("map", "http-request set-header a %[path,map(a.map)]", "a.map"),
    _in_listen("map in a condition", "http-request deny if { path,map_beg(a.map) x }", "a.map"),
    _in_listen("two maps in a word", "use_backend %[src,map_ip(a.map)]%[path,map_dom(b.map,b)]", "a.map", "b.map"),
    _in_listen("map in balance", "balance hash path,map(a.map)\n server s 127.0.0.1:1", "a.map"),
    _in_listen("map in a log format", 'log-format "%ci %[src,map_ip(a.map)]"', "a.map"),
    _in_listen("map, quoted", "http-request set-header a %[path,map('odd\\ dir/a,b)\\ c.lst')]"),
    _in_listen("map, quoted twice", "acl x path,map(\\'odd\\ dir/a,b)\\ c.lst\\') -m found", "odd dir/a,b) c.lst"),
    _in_listen("map in sni", "server s 127.0.0.1:1 ssl verify none sni path,map(a.map)", "a.map"),
    _in_listen("jwt_verify", "http-request deny unless { hdr(a),jwt_verify(ES256,pub.pem) 1 }", "pub.pem"),
    _in_global("map in global", "set-var proc.x str(a),map(a.map)", "a.map"),
    _in_listen("map that may be missing", "http-request set-header a %[path,map(opt@a.map)]", "a.map", since=3.0),
    # answers
    _in_listen("errorfile", "errorfile 503 503.http", "503.http"),
    Case("errorfile in http-errors", "http-errors e\n errorfile 503 503.http\n", ("503.http",)),
    Case("errorfile in defaults", "defaults\n errorfile 503 503.http\nlisten l\n bind :2\n", ("503.http",)),
    _in_listen("return file", "http-request return content-type a/b file body", "body"),
    _in_listen("return lf-file", "http-request return content-type a/b lf-file body.lf", "body.lf", "a.map", "b.map"),
    _in_listen("return errorfile", "http-request return errorfile 500.http status 500", "500.http"),
    _in_listen("deny errorfile", "http-request deny deny_status 503 errorfile 503.http", "503.http"),
    _in_listen("http-error file", "http-error status 404 content-type a/b file body", "body"),
    _in_listen("http-error lf-file", "http-error status 404 content-type a/b lf-file body.lf", "body.lf", "a.map"),
    # certificates
    _in_listen("crt", "bind :2 ssl crt a.pem", "a.pem"),
    _in_listen("crt", "bind :2 ssl crt a.pem", "crts/a.pem", with_bases=True),
    _in_listen("crt and its key", "bind :2 ssl crt sep.crt", "sep.crt", "sep.crt.key"),
    _in_global(
        "crt and its key, with another ending",
        "ssl-load-extra-del-ext",
        *("sep.crt", "sep.key"),
        more=" bind :2 ssl crt sep.crt\n",
    ),
    _in_listen("a folder of crts", "bind :2 ssl crt pems", "pems/a.pem", "pems/b.pem", "pems/c.crt", "pems/c.crt.key"),
    _in_listen("crt with a blank", 'bind :2 ssl crt "odd dir/a b.pem"', "odd dir/a b.pem"),
    _in_listen("crt of a link", "bind :2 ssl crt linked.pem", "pems/a.pem"),
    _in_listen("one crt by two names", "bind :2 ssl crt a.pem crt ./a.pem crt linked.pem", "a.pem", "pems/a.pem"),
    _in_listen(
        "a link to a folder of cas",
        'bind :2 ssl crt a.pem ca-file "linked cas" verify optional',
        "cas/ca.pem",
        since=3.0,
    ),
    _in_listen("a bundle", "bind :2 ssl crt bundle.pem", "crts/bundle.pem.ecdsa", with_bases=True),
    _in_listen("ca-file", "bind :2 ssl crt a.pem ca-file ca.crt verify optional", "ca.crt"),
    _in_listen("ca-file", "bind :2 ssl crt a.pem ca-file ca.pem verify optional", "cas/ca.pem", with_bases=True),
    _in_listen("a folder of cas", "bind :2 ssl crt a.pem ca-file cas verify optional", "cas/ca.pem", since=3.0),
    _in_listen("ca-verify-file", "bind :2 ssl crt a.pem ca-verify-file ca.crt verify optional", "ca.crt"),
    _in_listen("ca-sign-file", "bind :2 ssl crt a.pem generate-certificates ca-sign-file cas/sign.pem", "cas/sign.pem"),
    _in_listen(
        "ca-sign-file",
        "bind :2 ssl crt a.pem generate-certificates ca-sign-file sign.pem",
        "cas/sign.pem",
        with_bases=True,
    ),
    _in_listen("crl-file", "bind :2 ssl crt a.pem ca-file ca.crt crl-file cas/ca.pem verify optional", "cas/ca.pem"),
    _in_listen("tls-ticket-keys", "bind :2 ssl crt a.pem tls-ticket-keys tickets", "tickets"),
    _in_listen("tls-ticket-keys", "bind :2 ssl crt a.pem tls-ticket-keys tickets", "tickets", with_bases=True),
    _in_listen("server", "server s 127.0.0.1:1 ssl ca-file ca.crt crt a.pem crl-file cas/ca.pem", "ca.crt", "a.pem"),
    _in_listen("server", "server s 127.0.0.1:1 ssl ca-file ca.pem crt a.pem", "cas/ca.pem", with_bases=True),
    _in_listen("default-server", "default-server ssl ca-file ca.crt\n server s 127.0.0.1:1", "ca.crt"),
    _in_listen("server-template", "server-template s 1-2 127.0.0.1:1 ssl ca-file ca.crt", "ca.crt"),
    Case("peers", "peers p\n bind 127.0.0.1:3 ssl crt a.pem\n server x 127.0.0.1:1 ssl ca-file ca.crt\n", ("a.pem",)),
    Case(
        "default-bind", "peers p\n default-bind ssl crt a.pem\n bind 127.0.0.1:1\n server x 127.0.0.1:1\n", ("a.pem",)
    ),
    Case("ring", "ring r\n format rfc5424\n server x 127.0.0.1:1 ssl verify required ca-file ca.crt\n", ("ca.crt",)),
    Case("log-forward", "log-forward r\n bind 127.0.0.1:3 ssl crt a.pem\n log stderr local0\n", ("a.pem",)),
    _in_global("stats socket", "stats socket 127.0.0.1:3 ssl crt a.pem", "a.pem"),
    # crt-lists, stores
    _in_listen("crt-list", "bind :2 ssl crt-list list", "list", "a.pem"),
    _in_listen("crt-list", "bind :2 ssl crt-list list", "list", "crts/a.pem", with_bases=True),
    _in_listen("crt-list with a key", "bind :2 ssl crt-list list-with-key", "sep.crt", "sep.key", since=3.0),
    _in_listen(
        "crt-list with a key",
        "bind :2 ssl crt-list list-with-key",
        *("crts/sep.crt", "sep.key"),
        since=3.0,
        with_bases=True,
    ),
    _in_listen(
        "crt-list with options",
        "bind :2 ssl crt-list list-with-options",
        *("crts/a.pem", "crts/b.pem", "cas/ca.pem", "cas/verify.pem"),
        with_bases=True,
    ),
    Case(
        "crt-store",
        "crt-store\n load crt sep.crt key sep.key ocsp a.ocsp issuer a.issuer sctl a.sctl alias x\n",
        ("sep.crt", "sep.key", "a.ocsp"),
        3.0,
    ),
    Case(
        "crt-store with the global bases",
        "# with bases\ncrt-store\n load crt sep.crt key sep.key ocsp a.ocsp\n",
        ("crts/sep.crt", "sep.key", "crts/a.ocsp"),
        3.0,
    ),
    Case(
        "crt-store with its own bases",
        "# with bases\ncrt-store web\n crt-base ./crts\n key-base keys\n load crt a.crt key a.key issuer a.issuer\n",
        ("crts/a.crt", "keys/a.key", "crts/a.issuer"),
        3.0,
    ),
    _in_listen("ssl-f-use", "bind :2 ssl\n ssl-f-use crt sep.crt key sep.key", "sep.crt", "sep.key", since=3.2),
    _in_listen(
        "ssl-f-use",
        "bind :2 ssl\n ssl-f-use ca-file ca.pem verify optional crt sep.crt key sep.key ocsp a.ocsp",
        *("crts/sep.crt", "cas/ca.pem", "sep.key", "a.ocsp"),
        since=3.2,
        with_bases=True,
    ),
    # global
    _in_global("lua-load", "lua-load a.lua x", "a.lua"),
    _in_global("lua-load-per-thread", "lua-load-per-thread a.lua x", "a.lua"),
    _in_global("issuers-chain-path", "issuers-chain-path chains", "chains/a.pem"),
    _in_global("ssl-dh-param-file", "ssl-dh-param-file dh", "dh"),
    _in_global("h1-case-adjust-file", "h1-case-adjust-file case", "case"),
    _in_global("httpclient.ssl.ca-file", "httpclient.ssl.ca-file ca.crt\n httpclient.ssl.verify required", "ca.crt"),
    _in_global(
        "acme",
        "expose-experimental-directives",
        "eab",
        since=3.5,
        more="acme x\n directory https://127.0.0.1/\n eab-key-id eab\n eab-mac-key eab\n account-key a.key\n",
    ),
    # filters
    _in_listen("spoe", "filter spoe engine e config spoe", "spoe", "a.map", "a.lst", "b.lst"),
    # where it is
    *(
        Case(f"default-path {policy}", f"global\n default-path {policy}\n lua-load a.lua\n", (opens,))
        for policy, opens in (("current", "a.lua"), ("config", "a.lua"), ("origin conf.d/..", "a.lua"))
    ),
    *(
        Case(
            f"default-path with {name}",
            f"global\n default-path origin f1\nlisten l\n mode http\n bind :2{option}\n {line}\n",
            opens,
        )
        for name, option, line, opens in (
            ("a map", "", "http-request set-header a %[path,map(a.map)]", ("f1/a.map",)),
            ("a list", "", "acl x src -f ../b.lst", ("b.lst",)),
            ("a crt", " ssl crt a.pem", "", ("f1/a.pem",)),
        )
    ),
    # variables
    _in_listen(".FILE", 'acl x src -f "${.FILE}"'),
    _in_listen(".SECTION", 'acl x src -f "f${.LINE}/../${.SECTION}.lst"'),
    Case(".SECTION", 'frontend main\n bind :2\n acl x src,map_ip("${.SECTION}/a.map") -m found\n', ("main/a.map",)),
    Case(".LINE", 'frontend main\n bind :2\n acl x src -f "${.LINE}/a.lst"\n', ("3/a.lst",)),
    _in_listen("HAPROXY_LOCALPEER", 'acl x src -f "of ${HAPROXY_LOCALPEER}/a.map"', f"of {os.uname().nodename}/a.map"),
    _in_listen("HAPROXY_BRANCH", 'acl x src -f "of branch ${HAPROXY_BRANCH}/a.lst"'),
    _in_global("localpeer", "localpeer a", "of a/a.map", more=' acl x src -f "of ${HAPROXY_LOCALPEER}/a.map"\n'),
    Case(
        "localpeer and -L",
        'global\n localpeer b\nlisten l\n bind :2\n acl x src -f "of ${HAPROXY_LOCALPEER}/a.map"\n',
        (),
        variables=(("HAPROXY_LOCALPEER", "a"),),
        arguments=("-L", "a"),
    ),
    _in_global("setenv", "setenv M a.map", "a.map", more=' acl x src -f "$M"\n'),
    _in_global("setenv, later", 'lua-load "${L-b.lua}"\n setenv L a.lua'),
    _in_global(
        "setenv in a branch",
        ".if !defined(NOT)\n setenv M a.map\n .else\n setenv M b.map\n .endif",
        *("a.map",),
        more=' acl x src -f "$M"\n',
    ),
    _in_global(
        "setenv in the other branch",
        ".if defined(NOT)\n setenv M b.map\n .else\n setenv M a.map\n .endif\n .if defined(NOT)\n unsetenv M\n .endif",
        *("a.map",),
        more=' acl x src -f "$M"\n',
    ),
    _in_global(
        "bases in a branch",
        ".if !defined(NOT)\n crt-base crts\n .else\n crt-base keys\n .endif",
        *("crts/a.pem",),
        more=" bind :2 ssl crt a.pem\n",
    ),
)

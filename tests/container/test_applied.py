"""Changed files that haproxy takes while it runs: nobody notices but the next handshake, the next request.

All with real haproxy, real handshakes and clients that stay. TEST_APPLIED says how many rounds the long test has.
"""

import os
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import RSA, Authority, key_pair
from tests.container.cli import OURS, ask
from tests.container.conftest import DEFAULTS, IMAGES, NEWEST_STABLE, Balancer, Start
from tests.container.trouble import current, end, haproxies, inner_pid, reload, say, status
from tests.container.visitors import Visitors, certificate_at, get
from tests.container.volumes import replace
from tests.waiting import eventually

MANY = int(os.environ.get("TEST_APPLIED", "100"))
DEBOUNCE = 0.1
QUICK = ("--debounce", f"{DEBOUNCE}", "--restart-limit", "100")
A_WHILE = 10 * DEBOUNCE
ADMIN = "/tmp/admin.sock"
LINES = 100_000
VIP, ORDINARY, KNOWS, KNOWS_TOO, CHECKS, CHECKS_TOO = range(8443, 8449)
VIPS = f"127.0.0.1:8080:FD_WEB,127.0.0.1:{VIP}:FD_VIP,127.0.0.1:{KNOWS}:FD_KNOWS,127.0.0.1:{CHECKS}:FD_CHECKS"
APPLIED = ("files", "success", "applied")
RELOADED = ("files", "success", "reload")
HEAD = f"""\
global
    nbthread 2
    maxconn 500
    stats socket {ADMIN} level admin
    ssl-load-extra-del-ext
{DEFAULTS}"""
ANSWER = """\
    http-request set-header x-reg %[path,map_reg(/etc/lb/regs.map,none)]
    http-request return status 403 if { path -f /etc/lb/paths.acl }
    http-request return status 403 if { src -f /etc/lb/ips.acl }
    http-request return status 200 content-type text/plain lf-string "%[path,map(/etc/lb/big.map,one)]"
"""
TEXT = f"""\
{HEAD}frontend web
    bind "fd@${{FD_WEB}}"
    bind "fd@${{FD_VIP}}" ssl crt /etc/lb/site.pem alpn h2,http/1.1
    bind 127.0.0.1:{ORDINARY} ssl crt /etc/lb/site.pem alpn h2,http/1.1
    bind "fd@${{FD_KNOWS}}" ssl crt /etc/lb/other.pem alpn h2 ca-file /etc/lb/ca.pem verify required
    bind 127.0.0.1:{KNOWS_TOO} ssl crt /etc/lb/other.pem alpn h2 ca-file /etc/lb/ca.pem verify required
    bind "fd@${{FD_CHECKS}}" ssl crt /etc/lb/other.pem alpn h2 ca-file /etc/lb/first.pem crl-file /etc/lb/crl.pem \
verify required
    bind 127.0.0.1:{CHECKS_TOO} ssl crt /etc/lb/other.pem alpn h2 ca-file /etc/lb/first.pem crl-file /etc/lb/crl.pem \
verify required
{ANSWER}"""


def reloads(lb: Balancer) -> dict[tuple[str, str, str], int]:
    """Return how many reloads there were, by trigger, result and kind."""
    return {(row["trigger"], row["result"], row["kind"]): row["count"] for row in status(lb)["reloads"]}


def is_one_truth(lb: Balancer) -> bool:
    """Tell whether status and metrics say that what runs is what is on the disk."""
    said: dict[str, Any] = status(lb)["configuration"]
    info = re.findall(
        r'^safe_reload_config_info\{.*sha256="(\w+)".*\} 1', lb.run("safe_reload", "metrics")[1], re.MULTILINE
    )
    return said["sha256"] == said["disk_sha256"] and not said["pending"] and info == [said["sha256"]]


@dataclass
class Instance:
    """A container with its authorities and files."""

    lb: Balancer
    pki: Path
    first: Authority
    pid: int = 0

    def puts(self, name: str, content: str) -> None:
        """Replace one of its files."""
        replace(self.lb.folder / name, content)

    def renews(self, file: str = "site.pem", name: str = "a") -> bytes:
        """Put a new certificate; return it as clients get it."""
        crt, key = key_pair(self.pki, name)
        self.puts(file, crt + key)
        return der(crt)

    def client(self, name: str, authority: Authority | None = None) -> Path:
        """Return a file with the certificate and the key of a new client."""
        path = self.pki / f"{name}.client"
        path.write_text("".join((authority or self.first).signs(name)))
        return path

    def has_applied(self, count: int) -> None:
        """Wait until so many changes are applied, and see that nothing else has happened."""
        eventually(lambda: reloads(self.lb).get(APPLIED) == count)
        assert reloads(self.lb) == {APPLIED: count}
        self.is_the_same()

    def is_the_same(self) -> None:
        """See that there is one haproxy, which is the one of the beginning."""
        assert haproxies(self.lb) == [self.pid]
        assert [one["pid"] for one in status(self.lb)["generations"]] == [inner_pid(self.pid)]


def der(crt: str) -> bytes:
    """Return a certificate as clients get it."""
    return ssl.PEM_cert_to_DER_cert(crt)


def big_map(*lines: str) -> str:
    """Return a map of many lines."""
    return "".join(f"/key{number} value{number}\n" for number in range(LINES)) + "".join(f"{line}\n" for line in lines)


Begin = Callable[..., Instance]


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Begin:
    """Start containers that watch their files, with all of the files that TEXT names."""

    def one(
        image: str, *, text: str = TEXT, more: Mapping[str, str] = {}, options: tuple[str, ...] = (), **rest: Any
    ) -> Instance:
        pki = tmp_path / f"pki{len(list(tmp_path.iterdir()))}"
        pki.mkdir()
        first = Authority(pki, "first")
        site, other = key_pair(pki, "a"), key_pair(pki, "other")
        files = {
            "haproxy.cfg": text,
            "site.pem": "".join(site),
            "other.pem": "".join(other),
            "ca.pem": first.crt,
            "first.pem": first.crt,
            "crl.pem": first.revokes(),
            "big.map": "/x x\n",
            "regs.map": "^/never 1\n",
            "paths.acl": "/never\n",
            "ips.acl": "10.0.0.0/8\n",
            **more,
        }

        def prepare(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_text(content)

        lb = start(image, options=(*QUICK, *options), vips=VIPS, prepare=prepare, watch="auto", **rest).begins("one")
        return Instance(lb, pki, first, current(lb))

    return one


# ---- under load ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [5, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("version", IMAGES)
def test_whatever_is_applied_again_and_again_nobody_notices(begin: Begin, version: str, rounds: int) -> None:
    """Certificates, a map of 100,000 lines, an ACL file, a CA, a CRL: no request fails, no connection ends.

    Always the same haproxy; each change is there with the next handshake or request, on a VIP and beside it.
    """
    one = begin(IMAGES[version], more={"big.map": big_map()})
    good = one.client("good")
    ports = {VIP: None, ORDINARY: None, KNOWS: good, KNOWS_TOO: good, CHECKS: good, CHECKS_TOO: good}
    kinds = (_certificates, _maps, _acls, _authorities, _revocations)
    with Visitors(one.lb, ports) as visitors:
        for done, kind in enumerate(kinds):
            for number in range(rounds):
                kind(one, number)
                # Cheaper than to ask.
                count = done * rounds + number + 1
                eventually(lambda count=count: one.lb.log.count(" without a reload (") == count)  # type: ignore[misc]
            one.has_applied(done * rounds + rounds)
        eventually(lambda: is_one_truth(one.lb))
    say(version, dict(visitors.answers), f"{sum(map(len, visitors.seen.values()))} handshakes")
    assert len({*visitors.seen[VIP]}) > rounds / 2
    assert len({*visitors.seen[KNOWS]}) == 1
    one.is_the_same()

    # Before 3.2.8 it would not reach every listener.
    _certificates(one, 0)
    last = {APPLIED: 5 * rounds + 1} if version == "3.2" else {APPLIED: 5 * rounds, RELOADED: 1}
    eventually(lambda: reloads(one.lb) == last)


def _certificates(one: Instance, _: int) -> None:
    new = one.renews()
    for port in (VIP, ORDINARY):
        eventually(lambda port=port: certificate_at(one.lb, port) == new)  # type: ignore[misc]


def _maps(one: Instance, number: int) -> None:
    one.puts("big.map", big_map(f"/new{number} found{number}"))
    eventually(lambda: get(one.lb, VIP, f"/new{number}") == f"found{number}")
    assert get(one.lb, ORDINARY, f"/key{LINES - 1}") == f"value{LINES - 1}"
    assert get(one.lb, ORDINARY, f"/new{number - 1}") == "one"


def _acls(one: Instance, number: int) -> None:
    one.puts("paths.acl", f"/never\n/denied{number}\n")
    eventually(lambda: get(one.lb, VIP, f"/denied{number}") != "one")
    assert get(one.lb, ORDINARY, f"/denied{number}") != "one"
    assert get(one.lb, ORDINARY, f"/denied{number - 1}") == "one"


def _authorities(one: Instance, number: int) -> None:
    authority = Authority(one.pki, f"next{number}")
    client = one.client(f"client{number}", authority)
    assert not _gets_in(one, KNOWS, client)
    one.puts("ca.pem", one.first.crt + authority.crt)
    for port in (KNOWS, KNOWS_TOO):
        eventually(lambda port=port: _gets_in(one, port, client))  # type: ignore[misc]


def _revocations(one: Instance, number: int) -> None:
    client = one.client(f"revoked{number}")
    for port in (CHECKS, CHECKS_TOO):
        assert _gets_in(one, port, client)
    one.puts("crl.pem", one.first.revokes(f"revoked{number}"))
    for port in (CHECKS, CHECKS_TOO):
        eventually(lambda port=port: not _gets_in(one, port, client))  # type: ignore[misc]


def _gets_in(one: Instance, port: int, client: Path) -> bool:
    try:
        return get(one.lb, port, identity=client) == "one"
    except OSError:
        return False


# ---- certificate and key, one after the other ----------------------------------------------------------------------

BESIDE, STRIPPED, LISTED, STORED = range(8443, 8447)
_IN_TWO = {BESIDE: ("beside.pem", "beside.pem.key"), STRIPPED: ("tls.crt", "tls.key")}
_IN_TWO_BY_NAME = {LISTED: ("listed.pem", "listed.key"), STORED: ("stored.crt", "stored.key")}
"""HAProxy 3.0 and later."""
_STORE = "crt-store web\n    load crt /etc/lb/stored.crt key /etc/lb/stored.key alias one\n"


def _text_in_two(pairs: Mapping[int, tuple[str, str]]) -> str:
    crt = {BESIDE: "crt /etc/lb/beside.pem", STRIPPED: "crt /etc/lb/tls.crt", STORED: "crt @web/one"}
    crt[LISTED] = "crt-list /etc/lb/list"
    binds = "".join(
        f"    bind {'fd@${FD_VIP}' if port == VIP else f'127.0.0.1:{port}'} ssl {crt[port]} alpn h2,http/1.1\n"
        for port in pairs
    )
    web = '    bind "fd@${FD_WEB}"\n    http-request return status 200 content-type text/plain string one\n'
    return f"{HEAD}{_STORE if STORED in pairs else ''}frontend web\n{binds}{web}"


@pytest.mark.parametrize("version", IMAGES)
def test_half_of_a_certificate_never_reaches_a_handshake(start: Start, version: str, tmp_path: Path) -> None:
    """Certificate and key arrive a second apart, in both orders, wherever the key is: one haproxy, no failure."""
    pairs = {**_IN_TWO, **(_IN_TWO_BY_NAME if version != "2.6" else {})}
    known: dict[int, list[bytes]] = {}

    def prepare(folder: Path) -> None:
        for port, names in pairs.items():
            texts = key_pair(tmp_path, "a")
            known[port] = [der(texts[0])]
            for name, text in zip(names, texts, strict=True):
                (folder / name).write_text(text)
        (folder / "list").write_text("/etc/lb/listed.pem [key /etc/lb/listed.key]\n")
        (folder / "haproxy.cfg").write_text(_text_in_two(pairs))

    vips = f"127.0.0.1:8080:FD_WEB,127.0.0.1:{VIP}:FD_VIP"
    lb = start(IMAGES[version], options=QUICK, vips=vips, prepare=prepare, watch="auto").begins("one")
    one = Instance(lb, tmp_path, Authority(tmp_path, "first"), current(lb))
    done = 0
    with Visitors(lb, dict.fromkeys(pairs)) as visitors:
        for port, names in pairs.items():
            for first in (0, 1):
                texts = key_pair(tmp_path, "a")
                one.puts(names[first], texts[first])
                eventually(lambda names=names: names[0] in str(status(lb)["configuration"]["incomplete"]))  # type: ignore[misc]
                visitors.go_on_for(1)
                assert {*visitors.seen[port]} <= {*known[port]}
                known[port].append(der(texts[0]))
                one.puts(names[1 - first], texts[1 - first])
                eventually(lambda port=port: visitors.seen[port][-1] == known[port][-1])  # type: ignore[misc]
                done += 1
                one.has_applied(done)
    assert {port: {*seen} for port, seen in visitors.seen.items()} == {port: {*all_} for port, all_ in known.items()}
    eventually(lambda: is_one_truth(lb))


# ---- what haproxy refuses ------------------------------------------------------------------------------------------


def _encrypted(pki: Path, name: str) -> str:
    words = ("openssl", "pkcs8", "-topk8", "-in", pki / f"{name}.key", "-passout", "pass:x")
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _bad_certificates(one: Instance) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each case, the file's text, and what haproxy says."""
    (crt, key), (_, other) = key_pair(one.pki, "bad"), key_pair(one.pki, "stranger")
    yield "garbage", "garbage\n", "unable to load certificate from file"
    yield "a key that is cut off", crt + key[: len(key) // 2], "unable to load certificate chain|must contain at least"
    yield "the key of another", crt + other, "inconsistencies between private key and certificate"
    yield "two keys", crt + other + key, "inconsistencies between private key and certificate"


def _good_certificates(one: Instance) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each case, the file's text, and the certificate in it."""
    crt, key = key_pair(one.pki, "a")
    yield "a good one", crt + key, crt
    crt, key = key_pair(one.pki, "a", RSA)
    yield "RSA for EC", crt + key, crt
    crt, key = key_pair(one.pki, "a")
    yield "EC for RSA, with the key first", key + crt, crt
    crt, key = one.first.signs("a")
    yield "without its issuer, with comments and blank lines", f"# one\n{crt}\n\nx y z\n{key}\n", crt
    crt, key = one.first.signs("a")
    yield "with its issuer, in CRLF", (crt + one.first.crt + key).replace("\n", "\r\n"), crt
    yield "one that has expired", (expired := one.first.signs_what_has_expired("a")) + key, expired


@pytest.mark.parametrize("version", IMAGES)
def test_what_haproxy_refuses_leaves_the_old_one(begin: Begin, version: str) -> None:
    """Each bad certificate, CA, CRL, ACL file and map: the reason is said everywhere, the next good one is taken."""
    one = begin(IMAGES[version])
    lb, good = one.lb, one.client("good")
    serves = certificate_at(lb, VIP)
    with Visitors(lb, {VIP: None, CHECKS_TOO: good}) as visitors:
        count = 0
        for name, text, words in _bad_certificates(one):
            one.puts("site.pem", text)
            _is_refused(lb, name, words)
            assert certificate_at(lb, VIP) == certificate_at(lb, ORDINARY) == serves
            one.is_the_same()
            count += 1
            serves = one.renews()
            eventually(lambda serves=serves: certificate_at(lb, VIP) == serves)  # type: ignore[misc]
            _is_well(lb)
        # A key that does not fit is a reload, which a new haproxy refuses.
        assert reloads(lb) == {APPLIED: count, ("files", "failure", "applied"): 2, ("files", "failure", "reload"): 2}

        for _, text, crt in _good_certificates(one):
            one.puts("site.pem", text)
            eventually(lambda crt=crt: certificate_at(lb, VIP) == der(crt))  # type: ignore[misc]
            count += 1
        eventually(lambda: reloads(lb)[APPLIED] == count)

        # What is no certificate may be haproxy's own limit, and a key that is encrypted keeps it waiting: so these are
        # reloads, which fail.
        crt, key = key_pair(one.pki, "bad")
        for file, bad, words, again in (
            ("site.pem", crt + _encrypted(one.pki, "bad"), "No Private Key found in", crt + key),
            ("ips.acl", "10.0.0.0/8\nnot an ip\n", "'not an ip' is not a valid IPv4 or IPv6 address", "10.0.0.1\n"),
            ("regs.map", "^( x\n", "regex '\\^\\(' is invalid", "^/never 2\n"),
            ("ca.pem", "garbage\n", "Couldn't open the ca-file '/etc/lb/ca.pem' ", one.first.crt + one.first.crt),
            ("ca.pem", one.first.crt[:200], "Couldn't open the ca-file '/etc/lb/ca.pem' ", one.first.crt),
            (
                "crl.pem",
                "garbage\n",
                "Couldn't open the ca-file '/etc/lb/crl.pem' ",
                one.first.revokes("good2") if one.client("good2") else "",
            ),
            ("crl.pem", one.first.revokes()[:200], "Couldn't open the ca-file '/etc/lb/crl.pem' ", one.first.revokes()),
        ):
            one.puts(file, bad)
            _is_refused(lb, file, words)
            assert "ALERT" in status(lb)["last_reload"]["words"]
            one.is_the_same()
            one.puts(file, again)
            count += 1
            eventually(lambda count=count: reloads(lb)[APPLIED] == count)  # type: ignore[misc]
            _is_well(lb)
        one.is_the_same()
        eventually(lambda: is_one_truth(lb))
        assert {*reloads(lb)} == {APPLIED, ("files", "failure", "applied"), ("files", "failure", "reload")}
    assert visitors.seen[CHECKS_TOO]

    # Whoever asks for a reload hears haproxy's words, too.
    one.puts("paths.acl", "/x\n")
    one.puts("ips.acl", "bogus\n")
    code, text = lb.run("safe_reload", "reload")
    assert code != 0
    assert "'bogus' is not a valid IPv4 or IPv6 address" in text
    one.is_the_same()


def _is_refused(lb: Balancer, name: str, words: str) -> None:
    eventually(lambda: re.search(words, lb.log))

    def last() -> dict[str, Any]:
        found: dict[str, Any] = status(lb)["last_reload"] or {}
        return found if found.get("result") == "failure" else {}

    assert re.search(words, eventually(last)["words"]), name
    assert re.search(words, lb.run("safe_reload", "status")[1]), name


def _is_well(lb: Balancer) -> None:
    eventually(lambda: status(lb)["last_reload"]["result"] == "success")


_HALVES: Mapping[str, Callable[[str, str], str]] = {
    "no key": lambda crt, _: crt,
    "cut off": lambda crt, _: crt[: len(crt) // 2],
}


def test_what_stays_incomplete_is_given_to_haproxy_which_refuses_it(begin: Begin) -> None:
    """A certificate without a key, and one that is cut off, which are waited for: all at once, it takes 10 s."""
    all_ = [(begin(image), kind) for image in IMAGES.values() for kind in _HALVES]
    before = [certificate_at(one.lb, VIP) for one, _ in all_]
    for one, kind in all_:
        one.puts("site.pem", _HALVES[kind](*key_pair(one.pki, "a")))
    for (one, kind), serves in zip(all_, before, strict=True):
        words = "must contain at least a certificate and a private key|unable to load certificate"
        _is_refused(one.lb, kind, words)
        assert "waited for, for up to 10 s" in one.lb.log
        assert certificate_at(one.lb, VIP) == certificate_at(one.lb, ORDINARY) == serves
        new = one.renews()
        eventually(lambda one=one, new=new: certificate_at(one.lb, VIP) == new)  # type: ignore[misc]
        eventually(lambda one=one: is_one_truth(one.lb))  # type: ignore[misc]
        assert reloads(one.lb) == {APPLIED: 1, ("files", "failure", "applied"): 1}
        one.is_the_same()


def test_an_encrypted_key_never_makes_a_serving_haproxy_wait_for_its_pass_phrase(begin: Begin) -> None:
    """Its stdin is open, and nobody types: every listener goes on, and the next good certificate is taken."""
    one = begin(NEWEST_STABLE, stdin_open=True, options=("--ready-timeout", "2"))
    with Visitors(one.lb, {VIP: None, ORDINARY: None}) as visitors:
        crt, _ = key_pair(one.pki, "a")
        one.puts("site.pem", crt + _encrypted(one.pki, "a"))
        eventually(lambda: "its private key is encrypted" in one.lb.log)
        visitors.go_on_for(A_WHILE)
        new = one.renews()
        eventually(lambda: certificate_at(one.lb, VIP) == new)
    one.is_the_same()


# ---- the truth stays one -------------------------------------------------------------------------------------------


@contextmanager
def _nothing_more(lb: Balancer) -> Iterator[None]:
    """See that after the block there is no reload of any kind for a while."""
    yield
    before = reloads(lb)
    with Visitors(lb, {ORDINARY: None}, old_ones=False) as visitors:
        visitors.go_on_for(A_WHILE)
    assert reloads(lb) == before
    eventually(lambda: is_one_truth(lb))


@pytest.mark.parametrize("version", IMAGES)
def test_what_runs_is_known_whatever_becomes_of_haproxy_and_safe_reload(begin: Begin, version: str) -> None:
    """A crash just after, an upgrade, an edit of the configuration at the same time, edits that others have made."""
    one = begin(IMAGES[version])
    lb = one.lb
    new = one.renews()
    one.puts("big.map", "/x y\n")
    eventually(lambda: certificate_at(lb, VIP) == new and get(lb, VIP, "/x") == "y")
    eventually(lambda: APPLIED in reloads(lb))
    applied = reloads(lb)[APPLIED]  # together, or one after the other
    one.is_the_same()
    eventually(lambda: is_one_truth(lb))

    with _nothing_more(lb):
        end(current(lb))
        one.pid = current(lb)
        assert certificate_at(lb, VIP) == certificate_at(lb, ORDINARY) == new
        assert get(lb, VIP, "/x") == "y"
    new = one.renews()
    eventually(lambda: certificate_at(lb, ORDINARY) == new)
    applied += 1
    one.has_applied(applied)

    with _nothing_more(lb):
        assert lb.run("safe_reload", "upgrade")[0] == 0
    one.has_applied(applied)
    new = one.renews()
    eventually(lambda: certificate_at(lb, VIP) == certificate_at(lb, ORDINARY) == new)
    applied += 1
    one.has_applied(applied)

    # What others set is theirs.
    ask(lb, ADMIN, "set map /etc/lb/big.map /x theirs\n")
    assert "safe_reload" not in ask(lb, OURS, "@1 add map /etc/lb/big.map /z theirs-too\n")
    ask(lb, ADMIN, "add acl /etc/lb/ips.acl 192.0.2.1\n")
    assert [get(lb, VIP, path) for path in ("/x", "/z")] == ["theirs", "theirs-too"]
    one.puts("paths.acl", "/denied\n")
    eventually(lambda: get(lb, VIP, "/denied") != "one")
    new = one.renews()
    eventually(lambda: certificate_at(lb, VIP) == new)
    applied += 2
    one.has_applied(applied)
    assert [get(lb, VIP, path) for path in ("/x", "/z")] == ["theirs", "theirs-too"]
    assert "192.0.2.1" in ask(lb, ADMIN, "show acl /etc/lb/ips.acl\n")

    # A file of which something needs a reload: so does everything else.
    with _nothing_more(lb):
        one.puts("big.map", "/x z\n")
        one.puts("haproxy.cfg", TEXT.replace("maxconn 500", "maxconn 600"))
        eventually(lambda: get(lb, VIP, "/x") == "z")
        eventually(lambda: reloads(lb).get(RELOADED) == 1)
    assert reloads(lb) == {APPLIED: applied, RELOADED: 1}
    assert get(lb, VIP, "/z") == "one"
    eventually(lambda: haproxies(lb) == [current(lb)])
    one.pid = current(lb)

    # A signal is a reload, and the file that has changed is part of it.
    new = one.renews()
    one.pid = reload(lb)
    assert certificate_at(lb, VIP) == certificate_at(lb, ORDINARY) == new


# ---- crt-lists -----------------------------------------------------------------------------------------------------

_LIST = ("/etc/lb/site.pem a", "/etc/lb/b.pem [alpn h2] b")


@pytest.mark.parametrize("version", IMAGES)
def test_lines_at_the_end_of_a_crt_list(begin: Begin, version: str, tmp_path: Path) -> None:
    """Added with a new certificate, renewed, removed: no reload. One in the middle is a reload: order counts."""
    text = TEXT.replace("ssl crt /etc/lb/site.pem", "ssl crt-list /etc/lb/list")
    b = key_pair(tmp_path, "b")
    one = begin(IMAGES[version], text=text, more={"list": "\n".join(_LIST) + "\n", "b.pem": "".join(b)})
    lb = one.lb
    default, second = (certificate_at(lb, VIP, name) for name in "ab")
    assert default != second == der(b[0])

    def answers(name: str) -> tuple[bytes, bytes]:
        return certificate_at(lb, VIP, name), certificate_at(lb, ORDINARY, name)

    with Visitors(lb, {VIP: None, ORDINARY: None}) as visitors:
        new = one.renews("c.pem", "c")
        one.puts("list", "\n".join((*_LIST, "/etc/lb/c.pem [ssl-min-ver TLSv1.2] c")) + "\n")
        eventually(lambda: answers("c") == (new, new))
        one.has_applied(1)
        new = one.renews("c.pem", "c")
        eventually(lambda: answers("c") == (new, new))
        one.has_applied(2)
        one.puts("list", "\n".join(_LIST) + "\n")
        eventually(lambda: answers("c") == (default, default))
        assert answers("b") == (second, second)
        one.has_applied(3)
        # Away and back, with another content in the meantime.
        new = one.renews("c.pem", "c")
        one.puts("list", "\n".join((*_LIST, "/etc/lb/c.pem c")) + "\n")
        eventually(lambda: answers("c") == (new, new))
        one.has_applied(4)
        one.puts("list", "\n".join((_LIST[0], "/etc/lb/c.pem c")) + "\n")
        eventually(lambda: answers("b") == (default, default))
        one.has_applied(5)
        eventually(lambda: is_one_truth(lb))
    assert {*visitors.seen[VIP], *visitors.seen[ORDINARY]} == {default}

    with _nothing_more(lb):
        one.puts("list", "\n".join((_LIST[0], _LIST[1], "/etc/lb/c.pem c")) + "\n")
        eventually(lambda: answers("b") == (second, second))
        eventually(lambda: reloads(lb) == {APPLIED: 5, RELOADED: 1})


# ---- where it is not wanted ----------------------------------------------------------------------------------------


def test_with_apply_off_and_with_a_signal_it_is_a_reload(begin: Begin) -> None:
    """As it was before, and as somebody wants it who asks."""
    off = begin(NEWEST_STABLE, options=("--apply", "off"))
    slow = begin(NEWEST_STABLE, options=("--debounce", "2"))
    asked = slow.renews()
    slow.lb.kill("USR1")
    new = off.renews()
    eventually(lambda: certificate_at(off.lb, VIP) == new)
    eventually(lambda: reloads(off.lb) == {RELOADED: 1})
    off.puts("big.map", "/x y\n")
    eventually(lambda: get(off.lb, VIP, "/x") == "y")
    eventually(lambda: reloads(off.lb) == {RELOADED: 2})
    eventually(lambda: certificate_at(slow.lb, VIP) == certificate_at(slow.lb, ORDINARY) == asked)
    with Visitors(slow.lb, {ORDINARY: None}, old_ones=False) as visitors:
        visitors.go_on_for(2 + A_WHILE)
    assert reloads(slow.lb) == {("SIGUSR1", "success", "reload"): 1}

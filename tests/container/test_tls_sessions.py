"""TLS sessions outlive a haproxy whose `bind` lines name the ticket keys of safe_reload, and no other haproxy's."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest

from entrypoint.system.ticket_keys import ROTATE_AFTER, TicketKeys
from tests.certificates import key_pair
from tests.container.conftest import ANSWER, DEFAULTS, HEAD, NEWEST_STABLE, Balancer, Start
from tests.container.trouble import current, end, reload
from tests.documented import the
from tests.waiting import eventually

KEYS = the("docs/tls-sessions.md", 'bind "fd@').text.partition("lb.pem ")[2]
ROTATIONS = range(4)
VIP, ORDINARY, OTHER_FILE, WITHOUT, VERIFIES, ROTATED = 8443, 8444, 8445, 8446, 8447, 9000
KEPT = (VIP, ORDINARY, OTHER_FILE)
VIPS = f"127.0.0.1:8080:FD_WEB,127.0.0.1:{VIP}:FD_TLS"
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
Ports = Mapping[tuple[ssl.TLSVersion, int], bool]


def text(mark: str) -> str:
    """Return a configuration whose tickets are valid for longer than this test takes."""
    rotated = "".join(
        f"    bind 127.0.0.1:{ROTATED + after} ssl crt /etc/lb/lb.pem tls-ticket-keys /etc/lb/{after}.keys\n"
        for after in ROTATIONS
    )
    return (
        HEAD.replace("    nbthread 2\n", "    nbthread 2\n    tune.ssl.lifetime 3600\n")
        + 'frontend web\n    bind "fd@${FD_WEB}"\n'
        + f'    bind "fd@${{FD_TLS}}" ssl crt /etc/lb/lb.pem {KEYS}\n'
        + f"    bind 127.0.0.1:{ORDINARY} ssl crt-list /etc/lb/list {KEYS}\n"
        + f"    bind 127.0.0.1:{WITHOUT} ssl crt /etc/lb/lb.pem\n"
        + f"    bind 127.0.0.1:{VERIFIES} ssl crt /etc/lb/lb.pem ca-file /etc/lb/lb.crt verify required\n"
        + rotated
        + ANSWER.replace("MARK", mark)
    )


def prepare(folder: Path) -> None:
    """Write the configuration in two files, a certificate, and files of keys that were rotated again and again."""
    crt, key = key_pair(folder, "lb")
    (folder / "lb.pem").write_text(crt + key)
    (folder / "list").write_text("/etc/lb/lb.pem [alpn http/1.1] lb\n")
    (folder / "haproxy.cfg").write_text(text("one"))
    (folder / "more.cfg").write_text(
        f"{DEFAULTS}frontend more\n    bind 127.0.0.1:{OTHER_FILE} ssl crt /etc/lb/lb.pem {KEYS}\n{ANSWER}"
    )
    # Not one of the files that haproxy is given.
    (folder / "shared.cfg").write_text(f"frontend x\n    bind :1 ssl crt a verify required ca-file b {KEYS}\n")
    now = [0.0]
    keys = TicketKeys(clock=lambda: now[0])
    for after in ROTATIONS:
        (folder / f"{after}.keys").write_bytes(Path(f"/dev/fd/{keys.of_a_candidate()}").read_bytes())
        keys.promoted()
        now[0] += ROTATE_AFTER
    for path in folder.iterdir():
        path.chmod(0o644)


class Client:
    """A client of every port, with the sessions that it has."""

    def __init__(self, lb: Balancer) -> None:
        """Begin without any."""
        self._lb = lb
        self._contexts = {version: self._context(version) for version in VERSIONS}
        self._sessions: dict[tuple[ssl.TLSVersion, int], ssl.SSLSession | None] = {}

    @staticmethod
    def _context(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        return context

    def resumes(self, version: ssl.TLSVersion, port: int, given_by: int | None = None) -> bool:
        """Ask one port with the session that a port has given; tell whether the session was resumed."""
        offered = self._sessions.get((version, given_by or port))
        raw = self._lb.connect(port)
        with self._contexts[version].wrap_socket(raw, server_hostname="lb", session=offered) as tls:
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            # With TLS 1.3 the ticket comes after the handshake.
            while tls.recv(65536):
                pass
            if given_by is None:
                self._sessions[version, port] = tls.session
            return bool(tls.session_reused)

    def resumed(self) -> Ports:
        """Ask every port again, with its own session; tell which of them was resumed."""
        ports = (*KEPT, WITHOUT)
        return {(version, port): self.resumes(version, port) for version in VERSIONS for port in ports}


EXPECTED = {(version, port): port != WITHOUT for version in VERSIONS for port in (*KEPT, WITHOUT)}


@pytest.fixture
def lb(start: Start, image: str) -> Balancer:
    """A container that serves TLS on many ports, from two files."""
    operands = ("-f", "/etc/lb/haproxy.cfg", "-f", "/etc/lb/more.cfg")
    options = ("--restart-limit", "100")
    return start(image, options=options, operands=operands, vips=VIPS, prepare=prepare).begins("one")


def test_sessions_resume_whatever_becomes_of_haproxy_and_safe_reload(lb: Balancer) -> None:
    """A reload, a crash, an upgrade, a start from the last known good configuration: both versions of TLS.

    A VIP, an ordinary listener with a crt-list, and one in another file; a `bind` without the keys proves that it is
    the keys. Nothing but a path is seen of them.
    """
    client = Client(lb)
    assert not any(client.resumed().values())
    assert all(client.resumed().values())

    reload(lb)
    assert client.resumed() == EXPECTED
    end(current(lb))
    current(lb)
    assert client.resumed() == EXPECTED
    assert lb.run("safe_reload", "upgrade")[0] == 0
    assert "has taken over" in lb.log
    assert all(client.resumed().values())
    reload(lb)
    assert client.resumed() == EXPECTED
    lb.edit("nonsense\n")
    end(current(lb))
    current(lb)
    assert "LAST KNOWN GOOD" in lb.log
    assert client.resumed() == EXPECTED

    lb.edit(text("one"))
    given = ("-f", "/etc/lb/haproxy.cfg", "-f", "/etc/lb/more.cfg")
    status, words = lb.run("safe_reload", "check", *given)
    assert status == 0, words
    assert "verify clients differently" not in words + lb.log
    words = lb.run("safe_reload", "check", *given, "-f", "/etc/lb/shared.cfg")[1]
    assert "/shared.cfg:2 have the same TLS ticket keys and verify clients differently" in words
    for version in VERSIONS:
        with pytest.raises(ssl.SSLError, match="alert"):
            client.resumes(version, VERIFIES, VIP)
    _see_what_can_be_read(lb)
    _see_what_rotations_do(client)

    lb.change(text("two").replace(f"{VERIFIES} ssl", f"{VERIFIES} ssl {KEYS}"))
    lb.serves("two")
    eventually(lambda: "verify clients differently" in lb.log)


def _see_what_can_be_read(lb: Balancer) -> None:
    haproxy = current(lb)
    environment = Path(f"/proc/{haproxy}/environ").read_bytes().split(b"\0")
    (path,) = [word.partition(b"=")[2] for word in environment if word.startswith(b"SAFE_RELOAD_TLS_TICKET_KEYS=")]
    number = path.decode().removeprefix("/dev/fd/")
    keys = Path(f"/proc/{haproxy}/fd/{number}").read_text().split()
    assert len(keys) == 3
    seen = lb.log + lb.run("safe_reload", "status", "--json")[1] + lb.run("safe_reload", "status")[1]
    assert not [key for key in keys if key in seen]
    for path_of_1 in ("/proc/1/fd", "/proc/1/environ"):
        assert "Permission denied" in lb.run("sh", "-c", f"cat {path_of_1}/* {path_of_1}", user="65534")[1]


def _see_what_rotations_do(client: Client) -> None:
    """Tickets of before and after one rotation are good on both sides of it; after two the first are forgotten."""
    for version in VERSIONS:
        for after in ROTATIONS:
            assert not client.resumes(version, ROTATED + after)
        for given_by, asked, resumes in ((0, 1, True), (1, 0, True), (0, 2, False), (0, 3, False)):
            assert client.resumes(version, ROTATED + asked, ROTATED + given_by) is resumes, (version, given_by, asked)


def test_a_haproxy_that_gives_up_its_rights_reads_them_before(start: Start) -> None:
    """As root with `user haproxy`, as another user, with a root that is read-only, and without capabilities."""
    unprivileged = start(NEWEST_STABLE, vips=VIPS, prepare=prepare, user="65534", read_only=True, cap_drop=["ALL"])
    strict = ("--drop-caps", "--no-new-privs")
    switches = start(NEWEST_STABLE, vips=VIPS, prepare=_prepare_for_another_user, options=strict)
    for lb in (unprivileged, switches):
        client = Client(lb.begins("one"))
        assert not client.resumes(ssl.TLSVersion.TLSv1_3, VIP)
        reload(lb)
        assert client.resumes(ssl.TLSVersion.TLSv1_3, VIP)


def _prepare_for_another_user(folder: Path) -> None:
    prepare(folder)
    path = folder / "haproxy.cfg"
    path.write_text(path.read_text().replace("global\n", "global\n    user haproxy\n    group haproxy\n", 1))

"""What is checked differently: a server is not down because another question was not answered."""

import pytest

from entrypoint.haproxy.health_checks import changed

BEFORE = b"""\
defaults common
  option httpchk GET /health
defaults quick from common
  timeout check 1s
backend app from quick
  http-check expect status 200
  server one 192.0.2.1:80 check inter 2s
  server two 192.0.2.2:80 check check-sni app.test
backend other from common
  option tcp-check
  server-template s 3 192.0.2.3:80 check agent-check agent-send hello
backend last from common
  server one 192.0.2.4:80 check
"""
BACKENDS = ("app", "other", "last")


@pytest.mark.parametrize(
    ("old", "new", "different"),
    [
        (b"expect status 200", b"expect status 204", {"app"}),
        (b"timeout check 1s", b"timeout check 2s", {"app"}),
        (b"GET /health", b"GET /ready", {"app", "other", "last"}),
        (b"option tcp-check", b"no option tcp-check", {"other"}),
        (b"option tcp-check\n", b"option tcp-check\n  tcp-check connect\n", {"other"}),
        (b"check-sni app.test", b"check-sni www.test", {"app/two"}),
        (b"agent-send hello", b"agent-send bye", {"other"}),
        (b"app from quick", b"app from common", {"app"}),
        # Nothing of this says what is asked.
        (b"inter 2s", b"inter 3s rise 9", set()),
        (b"  server one 192.0.2.1", b"  server new 192.0.2.9:80 check\n  server one 192.0.2.1", set()),
        (b"backend last", b"# option httpchk GET /other\nfrontend web\n  bind :80\nbackend last", set()),
        (b"GET /health", b'"GET" /health', set()),
    ],
)
def test_what_is_asked_is_compared(old: bytes, new: bytes, different: set[str]) -> None:
    """Of each backend with its defaults, and of each server."""
    after = BEFORE.replace(old, new)
    assert after != BEFORE
    assert set(changed([BEFORE], [after], BACKENDS)) == different
    assert set(changed([after], [BEFORE], BACKENDS)) == different


def test_only_these_backends_are_compared() -> None:
    """Whatever else has changed."""
    assert changed([BEFORE], [BEFORE.replace(b"/health", b"/ready")], ("last",)) == ("last",)


def test_defaults_hold_in_the_files_that_follow() -> None:
    """As for haproxy, to which all files are one text."""
    whole, (head, tail) = BEFORE, (BEFORE[:60], BEFORE[60:])
    assert changed([whole], [head[: head.rindex(b"\n") + 1], head[head.rindex(b"\n") + 1 :] + tail], BACKENDS) == ()

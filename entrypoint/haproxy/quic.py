"""What safe_reload asks haproxy about QUIC, and what it adds to the configuration for it.

The commands are in HAProxy's management guide, section 9.3; `show quic` is for debugging. What it prints is from the
source (`dump_quic_full`); it is the same from HAProxy 3.0 to 3.5.
"""

from __future__ import annotations

from entrypoint.haproxy.runtime_api import WHO
from entrypoint.lean.collections import Collection

_NOT_ACCEPTED = "mux=null"
"""Of a connection from its first packet until haproxy has accepted it, which is just after the handshake."""
_NO_SOCKET = " fd=-1 "
_BINDS = ("quic4@", "quic6@", "quic+")
_SECRET = "cluster-secret"  # noqa: S105  # the keyword
_RETRY = "quic-force-retry"
MENTIONS = (*_BINDS, _SECRET, _RETRY)
"""Words of a configuration that matter here."""


def of_handshakes() -> tuple[str, ...]:
    """Return the commands that ask for the connections. `show info` comes last: without it the answer is cut off."""
    return ("show quic sock", WHO)


def handshakes(answer: str) -> int:
    """Return how many QUIC handshakes are under way, from `show quic`; 0 if haproxy has no QUIC.

    One without a socket of its own cannot be finished: its packets go to the next haproxy.
    """
    return sum(_NOT_ACCEPTED in one and _NO_SOCKET not in one for one in answer.split("\n* "))


def always_retries(mentions: Collection[str] | None) -> bool:
    """Tell whether each handshake needs the answer of the process that has begun it, or of one with its secret.

    Args:
        mentions: those of MENTIONS that the configuration has; None if they are not known.

    """
    return mentions is not None and _RETRY in mentions


def secret_fragment(secret: str, mentions: Collection[str] | None) -> str:
    """Return lines for the `global` section that set `cluster-secret`, or nothing.

    A process that has the secret of a dead one can tell clients of that one that their connection is gone (stateless
    reset, RFC 9000, 10.3). Without `cluster-secret` haproxy makes one at random. If it is set twice, haproxy does not
    start.

    Args:
        secret: any text without blanks.
        mentions: those of MENTIONS that the configuration has; None if they are not known.

    """
    if mentions is None or _SECRET in mentions or not any(word in mentions for word in _BINDS):
        return ""
    return f".if feature(QUIC)\n  {_SECRET} {secret}\n.endif\n"

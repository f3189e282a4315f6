"""`safe_reload exporter`: serves /livez, /readyz and /metrics of a running instance over HTTP.

It is a process of its own: PID 1 uses no network and never imports this package. It asks PID 1 over the control socket.

**Privileges.** The control socket answers only root and the instance's uid, and it is asked once per request, so the
exporter keeps its uid. It gives up everything else once the port is bound: it sets no_new_privs and drops every
capability and the bounding set. Root without capabilities can still do what files owned by root allow their owner.
Other processes of its uid cannot trace it. PID 1 gives it none of its own variables but those that Python needs.

**Lifetime.** If its parent is the process that listens on the control socket, that is PID 1 and the exporter dies with
it (PR_SET_PDEATHSIG). Started by anything else, the exporter goes on and reports that nobody answers.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import Any

from entrypoint.client.exporter.metrics import MissingError, render, require
from entrypoint.client.exporter.server import Server
from entrypoint.core.effects import Log
from entrypoint.lean.level import Level
from entrypoint.lean.one_line import reason
from entrypoint.options.settings import OptionError
from entrypoint.options.verbs import Question
from entrypoint.system import signals
from entrypoint.system.log import Logger, text_line, write_to_stderr

__all__ = ["MissingError", "main", "render"]

_NAME = "reload_exporter"
"""For ps(1), at most 15 bytes. It must not contain safe_reload, so that `pgrep safe_reload` finds PID 1 only."""
_BACKLOG = 128


class AddressError(Exception):
    """An address that cannot be listened on; its text is one line for the user."""


def main(question: Question) -> int:
    """Serve until TERM, INT or QUIT; return the exit status.

    Args:
        question: which instance, and the address to listen on.

    Raises:
        OptionError: no address is given.

    """
    if not question.listen:
        raise OptionError("--listen ADDR is missing: give an address such as :9101 or 127.0.0.1:9101")
    try:
        return _serve(question, question.listen)
    except (AddressError, MissingError, signals.PrctlError) as error:
        write_to_stderr(text_line("FATAL", f"exporter: {error}"))
    except OSError as error:
        write_to_stderr(text_line("FATAL", f"exporter: cannot start: {reason(error)}"))
    return 1


def _serve(question: Question, address: str) -> int:
    require()
    logger = Logger(Level.INFO, question.log_format, question.name)
    arrivals = signals.Arrivals()
    signals.set_name(_NAME)
    listener = listen(address)
    _drop_privileges(logger)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    logger.write(Log(Level.INFO, "exporter_listening", f"exporter: listening on {shown}"))
    counters = "exporter_counters" in question.flags
    Server(listener, arrivals, question.runtime_dir, question.name, counters=counters).run()
    return 0


def _drop_privileges(logger: Logger) -> None:
    try:
        signals.forbid_tracing()
        signals.forbid_new_privileges()
        signals.keep_capabilities()
    except signals.PrctlError as error:
        if os.geteuid() == 0:
            what = f"exporter: root keeps its capabilities: {error}; install python3-prctl, or run it as another user"
            logger.write(Log(Level.WARNING, "privileges_kept", what))


def listen(address: str) -> socket.socket:
    """Return a listening socket.

    Args:
        address: `127.0.0.1:9101`, `[::1]:9101`, or `:9101` or `*:9101` for all addresses of both families. Port 0 takes
            any free port.

    Raises:
        AddressError: it has another form, or cannot be bound.

    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        what = f"{port[:100]!r} is not the number of a port" if colon and port else f"{address[:100]!r} has no port"
        raise AddressError(f"{what}: give an address such as :9101 or 127.0.0.1:9101")
    if ":" in host and not bracketed:
        raise AddressError(f"{address[:100]!r} is not an address: IPv6 is written in brackets, such as [::1]:9101")
    everywhere = ((socket.AF_INET6, ("::", int(port)), False), (socket.AF_INET, ("0.0.0.0", int(port)), False))
    try:
        if host in {"", "*"}:
            return first_that_exists(everywhere)
        # As bytes: for a string Python imports its codec for international names, and 1 MB of tables.
        numeric = (host[1:-1] if bracketed else host).encode(errors="surrogateescape")
        found = socket.getaddrinfo(numeric, int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return first_that_exists([(family, where, True) for family, _, _, _, where in found])
    except socket.gaierror:
        raise AddressError(
            f"{address[:100]!r} is not an address: give :PORT, IPv4:PORT or [IPv6]:PORT, and no host name"
        ) from None
    except OSError as error:
        raise AddressError(f"cannot listen on {address[:100]}: {error.strerror or error}") from error


def first_that_exists(choices: Iterable[tuple[int, Any, bool]]) -> socket.socket:
    """Listen on the first of these addresses that this machine supports.

    Args:
        choices: the family, the address, and whether IPv6 means only IPv6 (IPV6_V6ONLY).

    Raises:
        OSError: none can be listened on; the last error.

    """
    last = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, where, only in choices:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            last = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
            listener.bind(where)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            last = error
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                break
        else:
            return listener
    raise last

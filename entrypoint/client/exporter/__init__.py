"""`safe_reload exporter`: /livez, /readyz and /metrics of a running instance, from a process of its own.

PID 1 speaks to no network; this process does, and asks PID 1 through its control socket. It is a separate program that
happens to live in the same package, so the import budget of PID 1 is not its own. PID 1's modules never import it.

**Privileges.** The control socket speaks to root and to the uid of the instance only, and it is asked once per request:
a process that changed its uid could not ask any more. So the uid stays, and everything else goes once the port is
bound: no_new_privs, every capability, and the bounding set. What is left to a root that has no capabilities is what
files owned by root allow their owner; a container that runs as another user leaves not even that. It cannot be traced
by others of its uid, and PID 1 gives it none of its own variables but those that Python needs.

**Lifetime.** Whoever listens on the control socket and is our parent supervises us: then its death is ours
(PR_SET_PDEATHSIG). An exporter that was started by anything else stays, and says that nobody answers.
"""

import os
import socket

from entrypoint.client.exporter.address import AddressError, listen
from entrypoint.client.exporter.collector import MissingError, render, require
from entrypoint.client.exporter.instance import Instance
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
"""For ps(1), at most 15 bytes; not safe_reload, so that `pgrep safe_reload` goes on to mean PID 1."""


def main(question: Question) -> int:
    """Serve until TERM, INT or QUIT; return the exit status.

    Args:
        question: of which instance, on which address.

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
    instance = Instance(question.runtime_dir, question.name)
    logger.write(Log(Level.INFO, "exporter_listening", f"exporter: listening on {_shown(listener)}"))
    Server(listener, arrivals, instance).run()
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


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

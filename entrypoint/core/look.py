"""Messages between PID 1 and the reader, the process that reads files for it.

A file name may have any byte but zero, so a message is a list of fields with zero bytes between them. PID 1 checks
each message: the reader interprets what others have written.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from entrypoint.lean.record import record

MOST_BYTES = 128 * 1024
"""Of a message. If there are more names than fit, their count says so."""
LOOK, LOOK_WITH_TEXTS = b"look", b"look with texts"
KEEP, RESTORE = b"keep", b"restore"
KEEP_SERVERS, RESTORE_SERVERS = b"keep servers", b"restore servers"
KEEP_TABLE = b"keep table"
"""Requests. LOOK_WITH_TEXTS may come with the texts of the current generation, and after a zero byte each with the
backends whose health checks are compared with those. KEEP comes with the texts to keep, KEEP_SERVERS and
KEEP_TABLE with the states of servers. Each has one answer: FOUND, KEPT or RESTORED."""
FOUND, KEPT, RESTORED, STIRRED, POLLING = b"found", b"kept", b"restored", b"stirred", b"polling"
"""What the reader sends: three answers, and STIRRED and POLLING by itself. A zero byte and the rest follow."""

_MOST_OF_A_LIST = 24 * 1024
"""Bytes of the names of one list."""
_LONGEST_LINE = 1024
_FIELDS = 15


@record(frozen=True)
class Found:
    """What was there, without the content of any file."""

    digest: str = ""
    """SHA-256, in hex, of everything that counts; empty if something could not be read."""
    unreadable: str = ""
    """Why it could not, in one line."""
    unfinished: bool = False
    """The look was given up: what is on disk is not known."""
    polled: bool = False
    """The kernel does not report every change of some of the files."""
    master_worker: str = ""
    """FILE:LINE where `master-worker` stands; empty where it does not."""
    conditional_master_worker: str = ""
    """FILE:LINE where it stands in a conditional block."""
    shared_ticket_keys: str = ""
    """A warning: see `sharing_ticket_keys`."""
    server_state_file: str = ""
    """See `haproxy.config_text.server_state_file`."""
    count: int = 0
    """How many files there are."""
    files: tuple[str, ...] = ()
    """The first of them."""
    stale: tuple[str, ...] = ()
    """The first of those whose mount never changes again."""
    tags: tuple[str, ...] = ()
    """The first tags of `fd@${TAG}` that the configuration does not set itself."""
    incomplete: tuple[str, ...] = ()
    """The first of what looks half written, a line each."""
    mentions: tuple[str, ...] = ()
    """Which of `haproxy.server_state.MENTIONS` occur in the -f files, if only in comments or conditional blocks."""

    changed_checks: tuple[str, ...] = ()
    """The first of those backends, and servers as BACKEND/SERVER, that are checked differently now."""


def to_message(found: Found) -> bytes:
    """Write it, with as many names as there is room for."""
    lists = [
        _first(names)
        for names in (found.files, found.stale, found.tags, found.incomplete, found.mentions, found.changed_checks)
    ]
    fields = [
        found.digest,
        found.unreadable[:_LONGEST_LINE],
        "1" if found.unfinished else "",
        "1" if found.polled else "",
        found.master_worker,
        found.conditional_master_worker,
        found.shared_ticket_keys[:_LONGEST_LINE],
        found.server_state_file[:_LONGEST_LINE],
        str(found.count),
        *(str(len(names)) for names in lists),
        *(name for names in lists for name in names),
    ]
    return b"\0".join(field.replace("\0", "").encode("utf-8", "surrogateescape") for field in fields)


def _first(names: Iterable[str]) -> list[str]:
    first: list[str] = []
    room = _MOST_OF_A_LIST
    for name in names:
        room -= len(name.encode("utf-8", "surrogateescape")) + 1
        if room < 0:
            break
        first.append(name)
    return first


def from_message(message: bytes) -> Found:
    """Read what `to_message` wrote.

    Raises:
        ValueError: it did not.

    """
    fields = [field.decode("utf-8", "surrogateescape") for field in message.split(b"\0")]
    if len(fields) < _FIELDS:
        raise ValueError(f"{len(fields)} fields")
    digest, unreadable, unfinished, polled, master_worker, conditional_master_worker, *rest = fields[:8]
    shared_ticket_keys, server_state_file = rest
    count, *lengths = (int(field) for field in fields[8:_FIELDS])
    names = fields[_FIELDS:]
    if min(count, *lengths) < 0 or sum(lengths) != len(names) or len(digest) not in {0, 64}:
        raise ValueError("fields that do not fit")
    if not set(digest) <= set("0123456789abcdef") or {unfinished, polled} - {"", "1"}:
        raise ValueError("fields that are none")
    if bool(digest) == bool(unreadable):
        raise ValueError("either there is a digest or a reason why not")
    left = iter(names)
    files, stale, tags, incomplete, mentions, changed_checks = (tuple(islice(left, length)) for length in lengths)
    return Found(
        digest,
        unreadable,
        bool(unfinished),
        bool(polled),
        master_worker,
        conditional_master_worker,
        shared_ticket_keys,
        server_state_file,
        count,
        files,
        stale,
        tags,
        incomplete,
        mentions,
        changed_checks,
    )

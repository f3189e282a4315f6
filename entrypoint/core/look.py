"""Messages between PID 1 and the reader, the process that reads files for it.

A file name may have any byte but zero, so a message is a list of fields with zero bytes between them. PID 1 checks
each message: the reader interprets what others have written.
"""

from __future__ import annotations

from itertools import islice

from entrypoint.lean.collections import Iterable, Sequence
from entrypoint.lean.record import record

MOST_BYTES = 128 * 1024
"""Of a message. If there are more names than fit, their count says so."""
LOOK, LOOK_WITH_TEXTS = b"look", b"look with texts"
KEEP, RESTORE = b"keep", b"restore"
KEEP_SERVERS, RESTORE_SERVERS = b"keep servers", b"restore servers"
KEEP_TABLE = b"keep table"
APPLY, LEARN = b"apply", b"learn"
"""Requests. All but those about the state directory say what is `Known`. LOOK_WITH_TEXTS may come with the texts of the
current generation, and with the backends whose health checks are compared with those. KEEP comes with the texts to
keep, KEEP_SERVERS and KEEP_TABLE with the states of servers. APPLY and LEARN come with our end of the current
generation's private CLI. Each has one answer."""
FOUND, KEPT, RESTORED, APPLIED, LEARNED = b"found", b"kept", b"restored", b"applied", b"learned"
STIRRED, POLLING = b"stirred", b"polling"
"""What the reader sends: five answers, and STIRRED and POLLING by itself. A zero byte and the rest follow."""

_MOST_OF_A_LIST = 24 * 1024
"""Bytes of the names of one list."""
_LONGEST_LINE = 1024
_FIELDS = 16


@record(frozen=True)
class Known:
    """What PID 1 knows of the current generation."""

    digest: str = ""
    """Of what it runs; empty if that is not known."""
    reported: tuple[str, ...] = ()
    """The files that it has read, as it says, and that the configuration seems not to name."""
    has_authorities: bool = False
    """It has taken a CA or CRL file while it runs."""


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
    applicable: bool = False
    """It differs from what the current generation runs, but in no file that only another haproxy can read."""
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
        first(names)
        for names in (found.files, found.stale, found.tags, found.incomplete, found.mentions, found.changed_checks)
    ]
    fields = [
        found.digest,
        found.unreadable[:_LONGEST_LINE],
        "1" if found.unfinished else "",
        "1" if found.polled else "",
        "1" if found.applicable else "",
        found.master_worker,
        found.conditional_master_worker,
        found.shared_ticket_keys[:_LONGEST_LINE],
        found.server_state_file[:_LONGEST_LINE],
        str(found.count),
        *(str(len(names)) for names in lists),
        *(name for names in lists for name in names),
    ]
    return b"\0".join(field.replace("\0", "").encode("utf-8", "surrogateescape") for field in fields)


def first(names: Iterable[str]) -> tuple[str, ...]:
    """Return as many names as fit into a list of a message."""
    found: list[str] = []
    room = _MOST_OF_A_LIST
    for name in names:
        room -= len(name.encode("utf-8", "surrogateescape")) + 1
        if room < 0:
            break
        found.append(name)
    return tuple(found)


def from_message(message: bytes) -> Found:
    """Read what `to_message` wrote.

    Raises:
        ValueError: it did not.

    """
    fields = [field.decode("utf-8", "surrogateescape") for field in message.split(b"\0")]
    if len(fields) < _FIELDS:
        raise ValueError(f"{len(fields)} fields")
    digest, unreadable, unfinished, polled, applicable, master_worker, conditional_master_worker, *rest = fields[:9]
    shared_ticket_keys, server_state_file = rest
    count, *lengths = (int(field) for field in fields[9:_FIELDS])
    names = fields[_FIELDS:]
    if min(count, *lengths) < 0 or sum(lengths) != len(names) or len(digest) not in {0, 64}:
        raise ValueError("fields that do not fit")
    if not set(digest) <= set("0123456789abcdef") or {unfinished, polled, applicable} - {"", "1"}:
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
        bool(applicable),
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


def known_to_message(known: Known, names: Iterable[str] = ()) -> bytes:
    """Write it, and more names."""
    fields = [known.digest, "1" if known.has_authorities else "", str(len(known.reported)), *known.reported, *names]
    return b"\0".join(field.encode("utf-8", "surrogateescape") for field in fields)


def known_from(fields: Sequence[bytes]) -> tuple[Known, tuple[str, ...]]:
    """Return what `known_to_message` wrote, and the names.

    Raises:
        ValueError: it did not.

    """
    digest, has_authorities, count, *names = (field.decode("utf-8", "surrogateescape") for field in fields)
    if not 0 <= int(count) <= len(names) or len(digest) not in {0, 64}:
        raise ValueError("fields that do not fit")
    return Known(digest, tuple(names[: int(count)]), bool(has_authorities)), tuple(names[int(count) :])

"""Compares how two configurations check the health of servers: a check that asks something else has not failed yet.

Section numbers are those of HAProxy's configuration manual.
"""

from __future__ import annotations

from entrypoint.haproxy.config_text import QUOTES
from entrypoint.lean.collections import Collection, Iterable, Mapping

_SECTIONS = frozenset(
    b"global defaults frontend backend listen peers resolvers mailers userlist cache program ring log-forward"
    b" log-profile http-errors fcgi-app crt-store traces acme".split()
)
"""The keywords that begin a section (chapters 3 to 12)."""
_PROXIES = (b"backend", b"listen")
_SERVERS = (b"server", b"server-template")
_RULES = (b"http-check", b"tcp-check", b"external-check")
_ENDINGS = (b"chk", b"-check")
"""Of the names of `option` lines that choose the kind of check (section 4.2)."""
_WORDS = (b"check-", b"agent-")
"""How the words of a `server` line begin that say what is asked (section 5.2)."""

Checks = Mapping[str, tuple[bytes, ...]]


def changed(before: Iterable[bytes], after: Iterable[bytes], backends: Collection[str]) -> tuple[str, ...]:
    """Return what is checked differently: names of backends, and of servers as BACKEND/SERVER.

    Args:
        before: the texts of one configuration, in haproxy's order.
        after: of the other.
        backends: which ones to compare.

    """
    old, new = _checks(before, backends), _checks(after, backends)
    return tuple(name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name))


def _checks(texts: Iterable[bytes], backends: Collection[str]) -> Checks:
    """Return the lines, or words, that say what is asked, by backend and by server."""
    found: dict[str, tuple[bytes, ...]] = {}
    defaults: dict[bytes, tuple[bytes, ...]] = {}
    latest: tuple[bytes, ...] = ()
    section, name = b"", ""
    for line in (line for text in texts for line in text.translate(None, QUOTES).splitlines()):
        words = line.partition(b"#")[0].split()
        if not words:
            continue
        first, second = words[0], words[1] if len(words) > 1 else b""
        if first in _SECTIONS:
            section, name = first, second.decode(errors="replace")
            origin = defaults.get(words[3], ()) if words[2:3] == [b"from"] and len(words) > 3 else latest
            if first == b"defaults":
                latest = origin if words[2:3] == [b"from"] else ()
            elif first in _PROXIES and name in backends:
                found[name] = origin
        elif first in _SERVERS and name in found:
            about = tuple(sorted(_of_server(words)))
            # The servers of a template have other names than the template.
            whose = name if first == b"server-template" else f"{name}/{second.decode(errors='replace')}"
            if about:
                found[whose] = (*found.get(whose, ()), *about)
        elif section == b"defaults" and _is_about_checks(first, second, words):
            latest = (*latest, b" ".join(words))
        elif section in _PROXIES and name in found and _is_about_checks(first, second, words):
            found[name] = (*found[name], b" ".join(words))
        if section == b"defaults" and name:
            defaults[name.encode()] = latest
    return found


def _of_server(words: list[bytes]) -> Iterable[bytes]:
    for index, word in enumerate(words):
        if word.startswith(_WORDS):
            yield b" ".join(words[index : index + 2])


def _is_about_checks(first: bytes, second: bytes, words: list[bytes]) -> bool:
    return (
        first in _RULES
        or (first == b"option" and second.endswith(_ENDINGS))
        or (first, second) == (b"timeout", b"check")
        or (first == b"default-server" and any(word.startswith(_WORDS) for word in words))
        or (first == b"no" and second == b"option" and words[-1].endswith(_ENDINGS))
    )

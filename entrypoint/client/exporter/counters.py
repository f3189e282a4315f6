"""haproxy's own counters: parses `show stat` and sums them over generations. Touches nothing outside.

Each haproxy process counts from zero. A total is what the living generations have counted, plus what the dead ones had
when they were last read, so it never goes down while the object exists.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Collection, Sequence
from operator import lt

MOST_OBJECTS = 20_000
"""Frontends, backends and servers that are read of one generation. Each costs 0.4 KB, and 1.5 KB of the answer."""
_LONGEST_LINE = 1 << 16
_MOST_DIGITS = 18
_LARGEST = (1 << 63) - 1
"""Of an array's element."""
_MISSING = -1
"""In place of a counter that an object does not have: those of HTTP in mode tcp, for instance."""

_KINDS = {"0": "frontend", "1": "backend", "2": "server"}
"""By the column `type` (management guide, section 9.1); the fourth type, listeners, is left out."""

_RESPONSES = "HTTP responses, by class of status."
# The column of `show stat`, the name and the label that HAProxy's own exporter (addons/promex) gives it, which kinds
# have it there, and a description. All versions from 2.6 on have these columns. What later versions add is left out.
_COLUMNS = (
    ("stot", "sessions_total", "", "FBS", "Sessions."),
    ("conn_tot", "connections_total", "", "F", "Accepted connections."),
    ("bin", "bytes_in_total", "", "FBS", "Bytes of requests."),
    ("bout", "bytes_out_total", "", "FBS", "Bytes of responses."),
    ("req_tot", "http_requests_total", "", "FBS", "HTTP requests."),
    ("hrsp_1xx", "http_responses_total", "1xx", "FBS", _RESPONSES),
    ("hrsp_2xx", "http_responses_total", "2xx", "FBS", _RESPONSES),
    ("hrsp_3xx", "http_responses_total", "3xx", "FBS", _RESPONSES),
    ("hrsp_4xx", "http_responses_total", "4xx", "FBS", _RESPONSES),
    ("hrsp_5xx", "http_responses_total", "5xx", "FBS", _RESPONSES),
    ("hrsp_other", "http_responses_total", "other", "FBS", _RESPONSES),
    ("intercepted", "intercepted_requests_total", "", "F", "Requests that haproxy has answered itself."),
    ("dreq", "requests_denied_total", "", "FB", "Denied requests."),
    ("dresp", "responses_denied_total", "", "FBS", "Denied responses."),
    ("dcon", "denied_connections_total", "", "F", "Connections that a rule has rejected."),
    ("dses", "denied_sessions_total", "", "F", "Sessions that a rule has rejected."),
    ("ereq", "request_errors_total", "", "F", "Invalid requests."),
    ("econ", "connection_errors_total", "", "BS", "Failed connections to servers."),
    ("eresp", "response_errors_total", "", "BS", "Invalid responses."),
    ("wretr", "retry_warnings_total", "", "BS", "Retried connections."),
    ("wredis", "redispatch_warnings_total", "", "BS", "Requests sent to another server than planned."),
    ("wrew", "failed_header_rewriting_total", "", "FBS", "Failed rewritings of a header."),
    ("eint", "internal_errors_total", "", "FBS", "Internal errors."),
    ("cli_abrt", "client_aborts_total", "", "BS", "Transfers that the client has aborted."),
    ("srv_abrt", "server_aborts_total", "", "BS", "Transfers that the server has aborted."),
    ("connect", "connection_attempts_total", "", "BS", "Connections that were attempted."),
    ("reuse", "connection_reuses_total", "", "BS", "Connections that were used again."),
    ("lbtot", "loadbalanced_total", "", "BS", "Times that the load balancing has chosen it."),
    ("chkfail", "check_failures_total", "", "S", "Failed health checks."),
    ("chkdown", "check_up_down_total", "", "BS", "Times that it went down."),
    ("comp_in", "http_comp_bytes_in_total", "", "FB", "Bytes before compression."),
    ("comp_out", "http_comp_bytes_out_total", "", "FB", "Bytes after compression."),
    ("comp_byp", "http_comp_bytes_bypassed_total", "", "FB", "Bytes that were not compressed for want of resources."),
    ("comp_rsp", "http_comp_responses_total", "", "FB", "Compressed responses."),
    ("cache_lookups", "http_cache_lookups_total", "", "FB", "Requests looked up in the cache."),
    ("cache_hits", "http_cache_hits_total", "", "FB", "Requests answered from the cache."),
)
_OF = {kind: tuple(column for column in _COLUMNS if kind[0].upper() in column[3]) for kind in _KINDS.values()}

Key = tuple[str, str]
"""An object: its kind, and its labels as text."""


class Table:
    """The answer to `show stat`, parsed as it arrives."""

    def __init__(self) -> None:
        """Begin before the first line."""
        self.rows: dict[Key, array[int]] = {}
        """The counters of each object, in the order of the columns of its kind."""
        self.is_complete = False
        """The last line has arrived; without it the rows are right, but some may be missing."""
        self.left_out = 0
        """How many objects are more than MOST_OBJECTS."""
        self._rest = b""
        self._columns: dict[str, int] = {}
        self._places: dict[str, list[int]] = {}

    def feed(self, data: bytes) -> bool:
        """Parse the next part; False if this is no such answer."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            return False
        rows = csv.reader(line.decode(errors="replace") for line in lines)
        try:
            for row in rows:
                if not self._columns:
                    self._read_header(row)
                elif row:
                    self._read(row)
                elif self.rows:
                    self.is_complete = True
        except csv.Error:
            return False
        return True

    def _read_header(self, row: Sequence[str]) -> None:
        if row[:1] == ["# pxname"]:
            columns = self._columns = {"pxname": 0, **{name: place for place, name in enumerate(row) if place}}
            self._places = {kind: [columns.get(name, len(row)) for name, *_ in of] for kind, of in _OF.items()}

    def _read(self, row: list[str]) -> None:
        kind = _KINDS.get(_field(row, self._columns.get("type", -1)))
        if not kind:
            return
        if len(self.rows) >= MOST_OBJECTS:
            self.left_out += 1
            return
        labels = f'proxy="{_escaped(row[0])}"'
        if kind == "server":
            labels += f',server="{_escaped(_field(row, 1))}"'
        self.rows[kind, labels] = array("q", [_count(_field(row, place)) for place in self._places[kind]])


def _field(row: Sequence[str], place: int) -> str:
    return row[place] if 0 <= place < len(row) else ""


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else _MISSING


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Totals:
    """The sums over all generations. A generation is any value that tells it from others."""

    def __init__(self) -> None:
        """Begin without generations."""
        self._before: dict[Key, array[int]] = {}
        """What cannot be read any more: of the dead, and of the living from before their counters were cleared."""
        self._living: dict[object, dict[Key, array[int]]] = {}
        self._read: set[object] = set()
        """The living ones of which there is a whole table."""
        self._keys: dict[Key, Key] = {}
        """One copy of each key for all generations."""
        self.left_out = 0
        """How many objects the latest whole table had no room for."""

    def read(self, generation: object, table: Table) -> None:
        """Take the counters of a living generation.

        An object that a whole table lacks has been deleted. If a counter of an object is lower than it was, all of that
        object's were cleared (`clear counters all`), or it was deleted and added again: it counts from zero.
        """
        rows = self._living.setdefault(generation, {})
        for key, row in table.rows.items():
            last = rows.get(key)
            if last:
                if any(map(lt, row, last)):
                    row = self._continued(key, row, last)  # noqa: PLW2901  # what is kept
                rows[key] = row
            else:
                rows[self._keys.setdefault(key, key)] = row
        if table.is_complete:
            self._read.add(generation)
            self.left_out = table.left_out
            for key in rows.keys() - table.rows.keys():
                self._add(key, rows.pop(key))

    def _continued(self, key: Key, row: array[int], last: array[int]) -> array[int]:
        """Return a row of which a counter is lower than it was."""
        # haproxy does not show the counters of checks while they are disabled.
        whole = array("q", (new if new >= 0 else old for new, old in zip(row, last, strict=True)))
        if any(map(lt, whole, last)):
            self._add(key, last)
            return row
        return whole

    def _add(self, key: Key, row: array[int]) -> None:
        before = self._before.get(key)
        self._before[key] = _sum(before, row) if before else row

    def living(self, generations: Collection[object]) -> None:
        """Say which generations live: all others are dead.

        The series of an object end when all that live have been read and none has it.
        """
        for dead in self._living.keys() - generations:
            for key, row in self._living.pop(dead).items():
                self._add(key, row)
        self._read.intersection_update(generations)
        if generations and self._read.issuperset(generations):
            known = {key for rows in self._living.values() for key in rows}
            for keys in (self._before, self._keys):
                for key in keys.keys() - known:
                    del keys[key]

    def knows(self, generation: object) -> bool:
        """Tell whether this generation lives and has been read."""
        return generation in self._living

    def text(self, *, openmetrics: bool) -> bytes:
        """Return all series in the text format 0.0.4, or for OpenMetrics 1.0 without its last line."""
        sums: dict[str, list[tuple[str, array[int]]]] = {kind: [] for kind in _OF}
        for key in dict.fromkeys(key for rows in (self._before, *self._living.values()) for key in rows):
            found = [rows[key] for rows in (self._before, *self._living.values()) if key in rows]
            total = found[0]
            for row in found[1:]:
                total = _sum(total, row)
            sums[key[0]].append((key[1], total))
        text, begun = bytearray(), ""
        for kind, objects in sums.items():
            for place, (_, name, code, _, what) in enumerate(_OF[kind]):
                full, label = f"haproxy_{kind}_{name}", f',code="{code}"' if code else ""
                lines = [f"{full}{{{labels}{label}}} {row[place]}\n" for labels, row in objects if row[place] >= 0]
                if lines and full != begun:
                    begun, family = full, full.removesuffix("_total") if openmetrics else full
                    text += f"# HELP {family} {what}\n# TYPE {family} counter\n".encode()
                text += "".join(lines).encode(errors="replace")
        return bytes(text)


def _sum(one: array[int], other: array[int]) -> array[int]:
    return array(
        "q",
        (min(a + b, _LARGEST) if a >= 0 <= b else max(a, b) for a, b in zip(one, other, strict=True)),
    )

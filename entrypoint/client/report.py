"""The output of `status`, `list` and `reload` for people.

The instance may be of another version: a field that is missing or has another type is shown as `-`. Control characters
are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from entrypoint.client.formatting import Style, ago, duration, printable, seconds, several, short, table
from entrypoint.client.status_fields import Status, current_generation, is_number, mapping, mappings, sequence, serves
from entrypoint.core.history import APPLIED, START
from entrypoint.options.vips import needs_v6only

_MOST = 20
"""The most rows of a table; --json shows all."""
_ALERT = "[ALERT]"
_PLACE = re.compile(r"(?<!for )\[(?![0-9a-fA-F.:*]+\])([^\[\]]+):(\d+)\]")
"""The place in an error message: `config : parsing [/etc/lb/haproxy.cfg:14] : unknown keyword ...`.

It does not match an address that cannot be bound: `for [127.0.0.1:80]`.
"""
_SERVES = re.compile(r"generation (\d+) \(pid (\d+)\) (?:is current|serves)")

_OR_FILE = ", or the file that it names"
_KILLED = "was killed by SIGKILL"
"""In the message about a candidate that was not killed by safe_reload, which words its own kills differently."""
_STAGES = {
    "backing_off": "haproxy has died, and is started again after a pause",
    "lingering": "stopping, and still accepting (--stop-delay)",
}
"""Texts for two stages; the names of the others are clear."""

_RED, _YELLOW, _GREEN, _BOLD = "31", "33", "32", "1"


# ---- the status ----------------------------------------------------------------------------------------------------


def report(status: Status, now: float, style: Style) -> list[str]:
    """Return the lines of `safe_reload status`.

    Args:
        status: what the instance answered.
        now: seconds since the epoch.
        style: adds colours, or not.

    """
    facts = [
        *_configuration(status, style),
        *_last_reload(status, now, style),
        *_watch(status, style),
        *_restarts(status, style),
        *_server_state(status),
        *(("adopted", _adopted(printable(address))) for address in several(sequence(status.get("adopted")), 5)),
        *_log(status, style),
    ]
    width = max((len(name) for name, _ in facts), default=0)
    lines = [_head(status, style), "", *_generations(status, style), ""]
    lines += [f"{name:<{width}}  {text}".rstrip() for name, text in facts]
    return [*lines, "", *_vips(status, style)] if mappings(status.get("vips")) else lines


def _adopted(address: str) -> str:
    unless = " (bound anew by each generation unless its `bind` says v6only)"
    return address + (unless if needs_v6only(address) else "")


def _head(status: Status, style: Style) -> str:
    stage = _stage(status)
    code = _GREEN if serves(status) else _RED
    return (
        f"{style(printable(status.get('name')), _BOLD)}  pid {printable(status.get('pid'))}  "
        f"{style(stage if serves(status) or stage != 'serving' else 'no generation is current', code)}  "
        f"up {duration(status.get('uptime_seconds'))}  safe_reload {printable(status.get('version'))}"
    )


def _stage(status: Status) -> str:
    stage = printable(status.get("stage"))
    return _STAGES.get(stage, stage)


def _generations(status: Status, style: Style) -> list[str]:
    rows = [["generation", "pid", "state", "age", "connections", "configuration", "asked by"]]
    generations = mappings(status.get("generations"))
    for one in generations[:_MOST]:
        known = "  last known good" if one.get("last_known_good") is True else ""
        rows.append([
            printable(one.get("number")),
            printable(one.get("pid")),
            printable(one.get("state")),
            duration(one.get("age_seconds")),
            printable(one.get("connections")),
            short(one.get("sha256")) + known,
            printable(one.get("asked_by")),
        ])  # fmt: skip
    return _titled(rows, style, len(generations), right={0, 1, 3, 4})


def _titled(rows: Sequence[Sequence[str]], style: Style, many: int, right: AbstractSet[int] = frozenset()) -> list[str]:
    """Return a table's lines, the title in bold, and at its end how many of so many rows are left out."""
    title, *lines = table(rows, right)
    return [style(title, _BOLD), *lines, *([f"and {many - _MOST} more: --json has all"] if many > _MOST else [])]


def _configuration(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    configuration = mapping(status.get("configuration"))
    if not configuration:
        return
    running, code = _running(status, configuration)
    disk, more = _disk(status, configuration)
    yield "configuration", style(f"{running}; {disk}", code or more)


def _running(status: Status, configuration: Status) -> tuple[str, str]:
    """Describe the configuration that runs; return the text and its colour."""
    if configuration.get("last_known_good") is True:
        return f"{short(configuration.get('sha256'))}, the LAST KNOWN GOOD one", f"{_BOLD};{_RED}"
    if configuration.get("sha256"):
        return short(configuration["sha256"]), ""
    if current_generation(status):
        return "not known: the files could not be read when haproxy was started", _YELLOW
    return "none runs", _RED


def _disk(status: Status, configuration: Status) -> tuple[str, str]:
    """Describe the configuration on disk, as far as it is known; return the text and its colour."""
    if configuration.get("unreadable"):
        return f"the disk: {printable(configuration['unreadable'])}", _RED
    incomplete = sequence(configuration.get("incomplete"))
    if incomplete:
        return f"the disk: {'; '.join(map(printable, incomplete))}; waited for", _YELLOW
    watch = mapping(status.get("watch"))
    known = bool(configuration.get("sha256"))
    # Without a watch the disk is read only for a reload. If the running configuration is not known, it was read before.
    has = "had, when it was last read," if watch.get("mode") == "off" or not known else "has"
    on_disk = configuration.get("disk_sha256")
    if configuration.get("pending") is True or (on_disk and not known):
        fails = on_disk and on_disk == configuration.get("failed_sha256")
        what = "it has FAILED" if fails else "a reload would take it"
        return f"the disk {has} {'another one, ' if known else ''}{short(on_disk)}: {what}", _YELLOW
    if not on_disk or configuration.get("last_known_good") is True:
        return "what the disk has is not known", _YELLOW
    if sequence(watch.get("stale_mounts")):
        return f"the disk {has} the same, but some of it can never change again: STALE MOUNT", _YELLOW
    return f"the disk {has} the same", ""


def _last_reload(status: Status, now: float, style: Style) -> Iterator[tuple[str, str]]:
    last = mapping(status.get("last_reload"))
    if not last:
        yield "last reload", "none since the start"
        return
    failed = last.get("result") != "success"
    result = style("FAILURE", f"{_BOLD};{_RED}") if failed else style("success", _GREEN)
    facts = [f"{result} {ago(last.get('at'), now)}"]
    if last.get("trigger") == START:
        yield "last start", ", ".join([*facts, f"generation {printable(last.get('generation'))}"])
    else:
        if not failed and last.get("message") and (last.get("seconds") is None or last.get("kind") == APPLIED):
            facts.append(printable(last["message"]))
        elif failed and last.get("kind") == APPLIED:
            facts.append("a changed file was refused")
        else:
            facts.append(f"asked for by {printable(last.get('trigger'))}")
            facts.append(f"generation {printable(last.get('generation'))}")
            facts.append(f"in {seconds(last.get('seconds'))}")
        yield "last reload", ", ".join(facts)
    if not failed:
        return
    if last.get("message"):
        yield "", printable(last["message"])
    output = "\n".join(map(printable, str(last.get("words") or "").split("\n")))
    error = first_error(output)
    if error and error not in str(last.get("message") or ""):
        yield "", style(error, _RED)
    yield "", _advice(status, printable(last.get("message")), output)
    at = status.get("last_success_at")
    yield "", f"the last success was {ago(at, now)}" if is_number(at) else "none has succeeded since the start"


def _advice(status: Status, message: str, output: str) -> str:
    """Say what to do about a failed reload or start."""
    is_applied = mapping(status.get("last_reload")).get("kind") == APPLIED
    configuration = mapping(status.get("configuration"))
    facts = []
    # If the last known good configuration runs after a crash, it may be older than the one that ran before.
    if current_generation(status) and configuration.get("last_known_good") is not True:
        facts.append("the current generation still serves")
    if configuration.get("retries"):
        facts.append("the configuration is not the cause: it is tried again")
        if _KILLED in message:
            facts.append("SIGKILL comes mostly from the kernel, out of memory: look at its log and at the memory limit")
        return "; ".join(facts)
    place = place_of(output)
    if place:
        # haproxy puts the line that names a file in front of what is wrong with the file.
        where = f"correct line {place[1]} of {place[0]}{_OR_FILE if _names_a_file(output) else ''}"
    else:
        where = "correct the file" if is_applied else "correct the configuration"
    what = f", and it is {'taken' if is_applied else 'loaded'}"
    if mapping(status.get("watch")).get("mode") == "off":
        what = ", try it with `safe_reload check`, then `safe_reload reload`"
    return "; ".join([*facts, f"{where}{what}"])


def _watch(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    watch = mapping(status.get("watch"))
    if watch:
        mode = printable(watch.get("mode"))
        many = watch.get("files")
        files = f"{printable(many)} file{'' if many == 1 else 's'}"
        yield "watch", "off: only signals and commands reload" if mode == "off" else f"{mode}, {files}"
    for path in several(sequence(watch.get("stale_mounts")), _MOST):
        what = "what is mounted has been replaced outside, and this is the old one; mount the folder above it instead"
        yield "", style(f"STALE MOUNT {printable(path)}: {what}", _YELLOW)


def _restarts(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    restarts = mapping(status.get("restarts"))
    reasons = mapping(restarts.get("by_reason"))
    if not reasons:
        yield "restarts", "none"
        return
    text = ", ".join(f"{printable(count)} after {printable(reason)}" for reason, count in reasons.items())
    in_a_row = restarts.get("in_a_row")
    if is_number(in_a_row) and in_a_row:
        text += style(f"; {printable(in_a_row)} in a row, the limit is {printable(restarts.get('limit'))}", _RED)
    yield "restarts", text


def _server_state(status: Status) -> Iterator[tuple[str, str]]:
    state = mapping(status.get("server_state"))
    kept, names = state.get("kept"), [printable(name) for name in sequence(state.get("servers"))]
    if state.get("mode") == "forget":
        yield "server state", "forgotten at each start (--server-state)"
    elif is_number(kept) and kept:
        more = f" and {printable(kept - len(names))} more" if kept > len(names) else ""
        servers = "1 server" if kept == 1 else f"{printable(kept)} servers"
        yield "server state", f"kept of {servers}: {', '.join(names)}{more}"


def _log(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    lost = mapping(status.get("log")).get("lines_lost")
    if is_number(lost) and lost:
        lines = "1 line is" if lost == 1 else f"{printable(lost)} lines are"
        yield "log", style(f"{lines} lost: stderr was full, and nobody read it", _YELLOW)


def _vips(status: Status, style: Style) -> list[str]:
    # Those that do not accept come first, in case there are too many to show.
    vips = sorted(mappings(status.get("vips")), key=lambda vip: vip.get("accepts") is True)
    rows = [["VIP", "address", ""]]
    for vip in vips[:_MOST]:
        accepts = vip.get("accepts")
        state = "accepts"
        if accepts is None:
            state = style("listens; haproxy does not say whether a bind uses it", _YELLOW)
        elif accepts is not True:
            state = style("refuses: no bind of the current generation uses it", _YELLOW)
        rows.append([printable(vip.get("tag")), printable(vip.get("address")), state])
    return _titled(rows, style, len(vips))


def tags(status: Status) -> dict[str, list[str]]:
    """Return the tags of the VIPs, each with the scheme of each of its sockets."""
    found: dict[str, list[str]] = {}
    for vip in mappings(status.get("vips")):
        scheme, at, _ = printable(vip.get("address")).rpartition("@")
        found.setdefault(printable(vip.get("tag")), []).append(scheme + at)
    return found


# ---- all instances -------------------------------------------------------------------------------------------------


def instances(found: Sequence[tuple[str, Status | str]], now: float, style: Style) -> list[str]:
    """Return the lines of `safe_reload list`.

    Args:
        found: each instance's name, with its status or why there is none.
        now: seconds since the epoch.
        style: adds colours, or not.

    """
    rows = [["name", "pid", "stage", "generation", "last reload"]]
    for name, status in found:
        if isinstance(status, str):
            rows.append([printable(name), "-", style(printable(status), _RED), "", ""])
            continue
        last = mapping(status.get("last_reload"))
        result = "-"
        if last:
            good = last.get("result") == "success"
            result = f"{style(printable(last.get('result')), _GREEN if good else _RED)} {ago(last.get('at'), now)}"
        rows.append([
            printable(name), printable(status.get("pid")), _stage(status),
            printable(current_generation(status).get("number")), result,
        ])  # fmt: skip
    return _titled(rows, style, 0)


def records(found: Sequence[tuple[str, Status | str]]) -> list[Mapping[str, object]]:
    """Return what `safe_reload list --json` prints: each instance's status, or null and an error."""
    return [
        {"name": name, "status": None, "error": status}
        if isinstance(status, str)
        else {"name": name, "status": status, "error": None}
        for name, status in found
    ]


# ---- the answer to a reload ----------------------------------------------------------------------------------------


def read_reload(answer: str) -> tuple[bool | None, str, list[str]]:
    """Parse the answer to `reload`, which has the form in section 9.4 of HAProxy's management guide.

    Returns:
        Whether the reload succeeded (None: the answer has another form), the generation that serves now if the answer
        names it, and all other lines, such as haproxy's own messages.

    """
    head, *rest = answer.split("\n")
    results = {"Success=1": True, "Success=0": False}
    lines = rest[1:] if rest[:1] == ["--"] else rest
    found = ""
    others = []
    for line in lines:
        match = _SERVES.search(line)
        if match:
            found = f"generation {match[1]} (pid {match[2]}) serves"
        elif line.strip():
            others.append(printable(line))
    return results.get(head.strip()), found, others


def current(status: Status) -> str:
    """Say which generation serves."""
    one = current_generation(status)
    if not one:
        return "no generation is current"
    return f"generation {printable(one.get('number'))} (pid {printable(one.get('pid'))}) serves"


# ---- haproxy's output ----------------------------------------------------------------------------------------------


def first_error(output: str) -> str:
    """Return haproxy's first alert, because the others follow from it; without an alert, the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next(iter(_alerts(lines)), lines[-1] if lines else "")


def place_of(output: str) -> tuple[str, int] | None:
    """Return the file and line that haproxy's first alert with a place names. Warnings do not count."""
    matches = (_PLACE.search(alert) for alert in _alerts(output.split("\n")))
    return next(((match[1], int(match[2])) for match in matches if match), None)


def _names_a_file(output: str) -> bool:
    """Tell whether haproxy's first alert with a place names another file behind it, such as a certificate."""
    alerts = (alert for alert in _alerts(output.split("\n")) if _PLACE.search(alert))
    alert = next(alerts, "")
    return "'/" in alert or "</" in alert


def _alerts(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line.startswith(_ALERT)]

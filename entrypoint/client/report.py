"""What an instance says of itself, as lines for a person. Not for PID 1: it is what a client makes of an answer.

An answer comes from another process, perhaps of another version: what is missing or of another type is shown as `-`,
and what a terminal would take for a command is taken out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from entrypoint.client.formatting import Style, ago, duration, printable, seconds, several, short, table
from entrypoint.client.status_fields import Status, has_current, is_number, mapping, mappings, sequence
from entrypoint.core.history import START
from entrypoint.options.vips import needs_v6only

_MOST = 20
"""Rows of a table that may be as long as a VIP list; --json has all."""
_ALERT = "[ALERT]"
_PLACE = re.compile(r"(?<!for )\[(?![0-9a-fA-F.:*]+\])([^\[\]]+):(\d+)\]")
"""Where haproxy says what it does not like: `config : parsing [/etc/lb/haproxy.cfg:14] : unknown keyword ...`.

An address that cannot be bound, `for [127.0.0.1:80]`, looks much the same.
"""
_SERVES = re.compile(r"generation (\d+) \(pid (\d+)\) (?:is current|serves)")

_KILLED = "was killed by SIGKILL"
"""How the end of a candidate is told that somebody else has killed; of one that we have, other words are."""
_STAGES = {
    "backing_off": "haproxy has died, and is started again after a pause",
    "lingering": "stopping, and still accepting (--stop-delay)",
}
"""What two stages are for a person; the others are words of their own."""

_RED, _YELLOW, _GREEN, _BOLD = "31", "33", "32", "1"


# ---- the status ----------------------------------------------------------------------------------------------------


def serves(status: Status) -> bool:
    """Tell whether clients get answers, and will: a generation is current and it is not being stopped."""
    leaving = printable(status.get("stage")) in {"lingering", "stopping"}
    return not leaving and has_current(status)


def report(status: Status, now: float, style: Style) -> list[str]:
    """Return the lines of `safe_reload status`.

    Args:
        status: what the instance answered.
        now: seconds since the epoch.
        style: how words stand out.

    """
    facts = [
        *_configuration(status, style),
        *_last_reload(status, now, style),
        *_watch(status, style),
        *_restarts(status, style),
        *(("adopted", _adopted(printable(text))) for text in several(sequence(status.get("adopted")), 5)),
        *_log(status, style),
    ]
    width = max((len(name) for name, _ in facts), default=0)
    lines = [_head(status, style), "", *_generations(status, style), ""]
    lines += [f"{name:<{width}}  {text}".rstrip() for name, text in facts]
    vips = list(_vips(status, style))
    return [*lines, "", *vips] if vips else lines


def _adopted(address: str) -> str:
    return (
        f"{address} (bound anew by each generation unless its `bind` says v6only)" if needs_v6only(address) else address
    )


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
    lines = table(rows, right={0, 1, 3, 4})
    lines[0] = style(lines[0], _BOLD)
    if len(generations) > _MOST:
        lines.append(f"and {len(generations) - _MOST} more: --json has all")
    return lines


def _configuration(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    configuration = mapping(status.get("configuration"))
    if not configuration:
        return
    running, code = _running(status, configuration)
    disk, more = _disk(status, configuration)
    yield "configuration", style(f"{running}; {disk}", code or more)


def _running(status: Status, configuration: Status) -> tuple[str, str]:
    """Return what runs, and its colour."""
    if configuration.get("last_known_good") is True:
        return f"{short(configuration.get('sha256'))}, the LAST KNOWN GOOD one", f"{_BOLD};{_RED}"
    if configuration.get("sha256"):
        return short(configuration["sha256"]), ""
    if has_current(status):
        return "not known: the files could not be read when haproxy was started", _YELLOW
    return "none runs", _RED


def _disk(status: Status, configuration: Status) -> tuple[str, str]:
    """Return what the disk has, as far as that is known, and its colour."""
    if configuration.get("unreadable"):
        return f"the disk: {printable(configuration['unreadable'])}", _RED
    incomplete = sequence(configuration.get("incomplete"))
    if incomplete:
        return f"the disk: {'; '.join(map(printable, incomplete))}; waited for", _YELLOW
    watch = mapping(status.get("watch"))
    known = bool(configuration.get("sha256"))
    # Nobody looks again but for a reload; and the last look was before one that was started without.
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
        if last.get("seconds") is None and last.get("message"):
            facts.append(printable(last["message"]))
        else:
            facts.append(f"asked for by {printable(last.get('trigger'))}")
            facts.append(f"generation {printable(last.get('generation'))}")
            facts.append(f"in {seconds(last.get('seconds'))}")
        yield "last reload", ", ".join(facts)
    if not failed:
        return
    if last.get("message"):
        yield "", printable(last["message"])
    words = "\n".join(map(printable, str(last.get("words") or "").split("\n")))
    error = last_error(words)
    if error:
        yield "", style(error, _RED)
    yield "", _advice(status, printable(last.get("message")), words)
    at = status.get("last_success_at")
    yield "", f"the last success was {ago(at, now)}" if is_number(at) else "none has succeeded since the start"


def _advice(status: Status, message: str, words: str) -> str:
    """Say what is to be done about a reload, or a start, that has failed."""
    configuration = mapping(status.get("configuration"))
    facts = []
    # A crash since then may have brought the last known good one, which can be older than what served.
    if has_current(status) and configuration.get("last_known_good") is not True:
        facts.append("what serves is as before")
    if configuration.get("retries"):
        facts.append("the configuration is not to blame: it is tried again")
        if _KILLED in message:
            facts.append(
                "who sends SIGKILL is most often the kernel, for want of memory: look at its log, or the limit"
            )
        return "; ".join(facts)
    place = place_of(words)
    where = f"look at line {place[1]} of {place[0]}" if place else "correct the configuration"
    watched = mapping(status.get("watch")).get("mode") != "off"
    what = ": once it is corrected it is loaded"
    if not watched:
        what = ", try it with `safe_reload check`, then `safe_reload reload`"
    return "; ".join([*facts, f"{where}{what}"])


def _watch(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    watch = mapping(status.get("watch"))
    if watch:
        mode = printable(watch.get("mode"))
        yield "watch", "off: only signals and commands reload" if mode == "off" else f"{mode}, {_count(watch, 'files')}"
    for path in several(sequence(watch.get("stale_mounts")), _MOST):
        what = "what is mounted has been replaced outside, and this is the old one; mount the folder above it instead"
        what = f"STALE MOUNT {printable(path)}: {what}"
        yield "", style(what, _YELLOW)


def _count(record: Status, name: str) -> str:
    number = record.get(name)
    return f"{printable(number)} {name.removesuffix('s') if number == 1 else name}"


def _restarts(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    restarts = mapping(status.get("restarts"))
    reasons = mapping(restarts.get("by_reason"))
    if not reasons:
        yield "restarts", "none"
        return
    told = ", ".join(f"{printable(count)} after {printable(reason)}" for reason, count in reasons.items())
    in_a_row = restarts.get("in_a_row")
    if is_number(in_a_row) and in_a_row:
        told += style(f"; {printable(in_a_row)} in a row, the limit is {printable(restarts.get('limit'))}", _RED)
    yield "restarts", told


def _log(status: Status, style: Style) -> Iterator[tuple[str, str]]:
    lost = mapping(status.get("log")).get("lines_lost")
    if is_number(lost) and lost:
        lines = "1 line is" if lost == 1 else f"{printable(lost)} lines are"
        yield "log", style(f"{lines} lost: stderr was full, and nobody read it", _YELLOW)


def _vips(status: Status, style: Style) -> Iterator[str]:
    # Those that do not accept first, in case there are too many to show.
    vips = sorted(mappings(status.get("vips")), key=lambda vip: vip.get("accepts") is True)
    if not vips:
        return
    rows = [["VIP", "address", ""]]
    for vip in vips[:_MOST]:
        accepts = vip.get("accepts")
        state = "accepts"
        if accepts is None:
            state = style("listens; haproxy does not say whether a bind uses it", _YELLOW)
        elif accepts is not True:
            state = style("refuses: no bind of the current generation uses it", _YELLOW)
        rows.append([printable(vip.get("tag")), printable(vip.get("address")), state])
    lines = table(rows)
    yield style(lines[0], _BOLD)
    yield from lines[1:]
    if len(vips) > _MOST:
        yield f"and {len(vips) - _MOST} more: --json has all"


def tags(status: Status) -> dict[str, int]:
    """Return the tags of its VIPs, each with the number of its sockets."""
    found: dict[str, int] = {}
    for vip in mappings(status.get("vips")):
        tag = printable(vip.get("tag"))
        found[tag] = found.get(tag, 0) + 1
    return found


# ---- all instances -------------------------------------------------------------------------------------------------


def instances(found: Sequence[tuple[str, Status | str]], now: float, style: Style) -> list[str]:
    """Return the lines of `safe_reload list`.

    Args:
        found: each instance's name, with its status or the reason why there is none.
        now: seconds since the epoch.
        style: how words stand out.

    """
    rows = [["name", "pid", "stage", "generation", "last reload"]]
    for name, status in found:
        if isinstance(status, str):
            rows.append([printable(name), "-", style(printable(status), _RED), "", ""])
            continue
        current = next((g for g in mappings(status.get("generations")) if g.get("state") == "current"), {})
        last = mapping(status.get("last_reload"))
        told = "-"
        if last:
            good = last.get("result") == "success"
            told = f"{style(printable(last.get('result')), _GREEN if good else _RED)} {ago(last.get('at'), now)}"
        rows.append([
            printable(name), printable(status.get("pid")), _stage(status),
            printable(current.get("number")), told,
        ])  # fmt: skip
    lines = table(rows)
    return [style(lines[0], _BOLD), *lines[1:]]


def records(found: Sequence[tuple[str, Status | str]]) -> list[Mapping[str, object]]:
    """Return what `safe_reload list --json` shows: of each instance its status, or why there is none, and null."""
    return [
        {"name": name, "status": None, "error": status}
        if isinstance(status, str)
        else {"name": name, "status": status, "error": None}
        for name, status in found
    ]


# ---- the answer to a reload ----------------------------------------------------------------------------------------


def read_reload(answer: str) -> tuple[bool | None, str, list[str]]:
    """Take the answer to `reload` apart: HAProxy's management guide, section 9.4, has its form.

    Returns:
        Whether it succeeded (None: this is no such answer); the generation that serves now, when the answer says so;
        and every other line, haproxy's own words among them.

    """
    head, *rest = answer.split("\n")
    results = {"Success=1": True, "Success=0": False}
    lines = rest[1:] if rest[:1] == ["--"] else rest
    found = ""
    words = []
    for line in lines:
        match = _SERVES.search(line)
        if match:
            found = f"generation {match[1]} (pid {match[2]}) serves"
        elif line.strip():
            words.append(printable(line))
    return results.get(head.strip()), found, words


def current(status: Status) -> str:
    """Return which generation serves, for people."""
    for one in mappings(status.get("generations")):
        if one.get("state") == "current":
            return f"generation {printable(one.get('number'))} (pid {printable(one.get('pid'))}) serves"
    return "no generation is current"


# ---- words ---------------------------------------------------------------------------------------------------------


def last_error(words: str) -> str:
    """Return the line that says what haproxy did not like: of its alerts the first, which the others follow from."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return next(iter(_alerts(lines)), lines[-1] if lines else "")


def place_of(words: str) -> tuple[str, int] | None:
    """Return the file and the line that haproxy's first alert with any names: what a warning names is not why."""
    for alert in _alerts(words.split("\n")):
        found = _PLACE.search(alert)
        if found:
            return found[1], int(found[2])
    return None


def _alerts(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line.startswith(_ALERT)]

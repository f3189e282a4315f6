"""Turns a status into Prometheus metrics. Nothing is remembered, so a series that has ended disappears."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client import generate_latest as _text
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
    from prometheus_client.openmetrics.exposition import generate_latest as _openmetrics
except ImportError as _error:
    _WHY_NOT = (
        "the metrics need prometheus_client: install python3-prometheus-client (Debian) or prometheus-client (PyPI)"
        f" [{_error}]"
    )
else:
    _WHY_NOT = ""

from entrypoint.client.exporter.counters import MOST_OBJECTS, Totals
from entrypoint.client.status_fields import Status, is_number, mapping, mappings, sequence
from entrypoint.core.history import APPLIED, RELOAD

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PREFIX = "safe_reload_"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_END = b"# EOF\n"
"""The last line of OpenMetrics."""
_STATES = ("candidate", "current", "draining")
_MODES = ("inotify", "poll", "off")
_ACCEPTS = (("true", True), ("false", False), ("unknown", None))
# The counters of these begin at 0 instead of with the first event: increase() does not see a first sample.
_LEFT_OUT = f"Frontends, backends and servers beyond the {MOST_OBJECTS} whose counters are read."
_REASONS = ("SIGKILL", "SIGSEGV", "SIGABRT", "status 1")
_TRIGGERS = ("files", "retry", "the control socket", "SIGHUP", "SIGUSR1", "SIGUSR2")
_RESULTS = ("success", "failure")


class MissingError(ImportError):
    """prometheus_client is not installed; its text is one line for the user."""


def require() -> None:
    """Raise MissingError if prometheus_client is not installed."""
    if _WHY_NOT:
        raise MissingError(_WHY_NOT)


def render(
    status: Status | None,
    openmetrics: bool = False,  # noqa: FBT002  # the content type
    totals: Totals | None = None,
) -> bytes:
    """Return the metrics of a status as text.

    Args:
        status: what PID 1 answered to `status`; None if it did not: then `safe_reload_up` is the only metric.
        openmetrics: OpenMetrics 1.0 instead of the Prometheus text format 0.0.4.
        totals: haproxy's own counters, which come after those of safe_reload.

    Raises:
        MissingError: prometheus_client is not installed.

    """
    require()
    registry = CollectorRegistry()
    registry.register(_Status(status, totals))
    text: bytes = (_openmetrics if openmetrics else _text)(registry)
    if not totals:
        return text
    # prometheus_client would take seconds and 100 MB for 10,000 servers.
    end = _END if openmetrics else b""
    return text.removesuffix(end) + totals.text(openmetrics=openmetrics) + end


class _Status:
    """A custom collector (prometheus_client) for one status."""

    def __init__(self, status: Status | None, totals: Totals | None) -> None:
        self._status = status
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield _gauge("up", "Whether PID 1 answers on its control socket.", self._status is not None)
        if self._status is not None:
            for families in (_configuration, _reloads, _generations, _watch, _log):
                yield from families(self._status)
        if self._totals:
            yield _gauge("counters_left_out", _LEFT_OUT, self._totals.left_out)


# ---- families ------------------------------------------------------------------------------------------------------


def _configuration(status: Status) -> Iterator[Metric]:
    about = mapping(status.get("configuration"))
    build = {"version": _word(status.get("version")), "python_version": platform.python_version()}
    yield InfoMetricFamily(f"{PREFIX}build", "The version of safe_reload and of its Python.", build)
    yield _gauge("uptime_seconds", "For how long PID 1 has been running.", _number(status.get("uptime_seconds")))
    config = InfoMetricFamily(f"{PREFIX}config", "The configuration that the current generation runs.")
    if about.get("sha256"):
        config.add_metric((), {"sha256": _word(about["sha256"])})
    yield config
    yield _gauge(
        "config_pending", "Whether the configuration on disk differs from the running one.", about.get("pending")
    )
    yield _gauge(
        "config_unreadable",
        "Whether what is on disk cannot be read, is gone, or looks incomplete, and is waited for.",
        bool(about.get("unreadable") or about.get("incomplete")),
    )
    yield _gauge(
        "last_known_good_active",
        "Whether the last known good configuration runs, instead of the one on disk.",
        about.get("last_known_good"),
    )


def _reloads(status: Status) -> Iterator[Metric]:
    yield _gauge(
        "config_last_reload_successful",
        "Whether the last reload succeeded; 1 before the first one.",
        mapping(status.get("last_reload")).get("result", "success") == "success",
    )
    moment = GaugeMetricFamily(
        f"{PREFIX}config_last_reload_success_timestamp_seconds", "When a configuration was last loaded successfully."
    )
    if status.get("last_success_at") is not None:
        moment.add_metric((), _number(status["last_success_at"]))
    yield moment
    counts: dict[tuple[str, ...], float] = {
        **{(trigger, result, RELOAD): 0 for trigger in _TRIGGERS for result in _RESULTS},
        **{("files", result, APPLIED): 0 for result in _RESULTS},
    }
    for row in mappings(status.get("reloads")):
        labels = (_word(row.get("trigger")), _word(row.get("result")), _word(row.get("kind")))
        counts[labels] = counts.get(labels, 0) + _number(row.get("count"))
    what = "Reloads, by what asked for them, how they ended, and kind: applied if no new generation was needed."
    yield _counter("reloads", what, ("trigger", "result", "kind"), counts)
    durations = mapping(status.get("reload_seconds"))
    count = _number(durations.get("count"))
    buckets = [(repr(_number(le)), _number(many)) for le, many in durations.get("buckets", ())]
    yield HistogramMetricFamily(
        f"{PREFIX}reload_duration_seconds",
        "From the start of a candidate to its proof that it is ready, or its failure.",
        buckets=[*buckets, ("+Inf", count)],
        sum_value=_number(durations.get("sum")),
    )


def _generations(status: Status) -> Iterator[Metric]:
    generations = mappings(status.get("generations"))
    yield _by(
        "generations",
        "Generations of haproxy, by state.",
        "state",
        {state: sum(g.get("state") == state for g in generations) for state in _STATES},
    )
    counts = {state: [g.get("connections") for g in generations if g.get("state") == state] for state in _STATES}
    yield _by(
        "generation_connections",
        "Client connections of the generations, by state, of those that answer; no sample where none does.",
        "state",
        {s: sum(map(_number, found)) for s, found in counts.items() if not found or found.count(None) < len(found)},
    )
    yield _gauge(
        "draining_oldest_seconds",
        "The age of the oldest generation that drains; 0 without one.",
        max((_number(g.get("age_seconds")) for g in generations if g.get("state") == "draining"), default=0),
    )
    restarts = mapping(status.get("restarts"))
    reasons: dict[tuple[str, ...], float] = {(reason,): 0 for reason in _REASONS}
    for reason, count in mapping(restarts.get("by_reason")).items():
        reasons[(_word(reason),)] = _number(count)
    yield _counter("restarts", "Deaths of the current haproxy that nobody asked for, by reason.", ("reason",), reasons)
    yield _gauge(
        "restarts_in_a_row", "Deaths since a generation last lived long enough.", _number(restarts.get("in_a_row"))
    )
    yield _gauge(
        "server_states_kept",
        "Servers whose state the current generation has from the one before it.",
        _number(mapping(status.get("server_state")).get("kept")),
    )
    vips = mappings(status.get("vips"))
    yield _by(
        "vips",
        "VIPs, by whether the current generation accepts connections on them.",
        "accepts",
        {word: sum(vip.get("accepts") is accepts for vip in vips) for word, accepts in _ACCEPTS},
    )


def _watch(status: Status) -> Iterator[Metric]:
    watch = mapping(status.get("watch"))
    mode = _word(watch.get("mode"))
    yield _by(
        "watch_mode",
        "How changes of the configuration are noticed: 1 for the mode that is in use.",
        "mode",
        {name: float(name == mode) for name in dict.fromkeys((*_MODES, mode))},
    )
    yield _gauge("watched_files", "Files and folders that are watched.", _number(watch.get("files")))
    yield _gauge(
        "stale_mounts",
        "Watched mounts that can never change again, such as a subPath.",
        len(sequence(watch.get("stale_mounts"))),
    )


def _log(status: Status) -> Iterator[Metric]:
    lost = _number(mapping(status.get("log")).get("lines_lost"))
    yield _counter("log_lines_lost", "Lines that stderr had no room for, haproxy's included.", (), {(): lost})


# ---- samples -------------------------------------------------------------------------------------------------------


def _gauge(name: str, text: str, value: object) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=_number(value))


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for keys, value in values.items():
        family.add_metric(keys, value)
    return family


def _number(value: object) -> float:
    """Return 0 for what is no number: a scrape must not fail because of one value of an instance of another version."""
    return float(value) if is_number(value) or isinstance(value, bool) else 0.0


def _word(value: object) -> str:
    # JSON can contain a lone surrogate, which UTF-8 cannot encode.
    return str(value).encode(errors="replace").decode() if value is not None else "unknown"

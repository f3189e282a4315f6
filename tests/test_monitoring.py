"""The alerts, the dashboard and the page about them name what the exporter exports, and Prometheus understands them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoint.client.exporter import render
from entrypoint.client.exporter.counters import Totals
from tests.documented import PAGES, shown
from tests.promtool import needs_promtool, promtool

DOCS = Path(__file__).parents[1] / "docs"
ALERTS = DOCS / "monitoring" / "alerts.yaml"
DASHBOARD = DOCS / "monitoring" / "grafana.json"
STANDARD_INTERVALS = {"$__rate_interval": "5m", "$__interval": "1m"}


def exported() -> set[str]:
    """Return the names of all samples and families, from an instance of which nothing is known but that it reloads."""
    durations = {"buckets": [[1, 1]], "sum": 1, "count": 1}
    text = render({"reload_seconds": durations}).decode()
    families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    return {*families, *re.findall(r"^(safe_reload_\w+)", text, re.MULTILINE)}


def expressions() -> Iterator[str]:
    """Yield each expression of the dashboard, variables and annotations included."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in dashboard["annotations"]["list"])


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_that_is_used_is_exported(path: Path) -> None:
    """No alert and no panel asks for a series that cannot be."""
    used = set(re.findall(r"\bsafe_reload_\w+", path.read_text()))
    assert len(used) >= 10
    assert used <= exported()


def test_every_metric_is_documented() -> None:
    """The page has each family that the exporter exports, and no other."""
    page = (DOCS / "monitoring.md").read_text().partition("## Metrics")[2].partition("## Alerts")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = {f"safe_reload_{name}" for row in rows for name in re.findall(r"`(\w+)", row)}
    families = re.findall(r"^# TYPE (\S+)", render({}, totals=Totals()).decode(), re.MULTILINE)
    assert documented == set(families)


def test_the_dashboard_can_be_laid_out() -> None:
    """Panels have numbers of their own and do not overlap."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & mine
        assert max(x for x, _ in mine) < 24
        cells |= mine


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    """The rules are valid, and do what their own tests say."""
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml", cwd=ALERTS.parent)


def test_each_alert_has_a_test() -> None:
    """No rule is there on trust."""
    alerts = set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
    tested = re.findall(r"alertname: (\w+)\n        exp_alerts", (ALERTS.parent / "alerts_test.yaml").read_text())
    assert alerts == set(tested)


@needs_promtool
def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    """Each expression is valid, with usual values for Grafana's variables."""
    rules = []
    for number, expression in enumerate(expressions()):
        for variable, value in STANDARD_INTERVALS.items():
            expression = expression.replace(variable, value)  # noqa: PLW2901
        rules.append({"record": f"panel:{number}", "expr": expression})
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


@needs_promtool
def test_prometheus_understands_what_the_pages_ask(tmp_path: Path) -> None:
    """Each expression in the documentation is valid, and asks for metrics that are there."""
    asked = [item.text for page in PAGES for item in shown(page) if item.language == "promql"]
    rules = [{"record": f"page:{number}", "expr": text} for number, text in enumerate(asked)]
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "pages", "rules": rules}]}))
    assert asked
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))
    assert set(re.findall(r"\bsafe_reload_\w+", " ".join(asked))) <= exported()

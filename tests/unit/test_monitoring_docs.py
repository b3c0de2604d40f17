"""docs/reference.md lists every alert, and the dashboard and the alert rules use metrics that
exist; Prometheus's own tool loads them and tries the rules. The table of metrics is
test_tables.py's."""

import json
import re
from pathlib import Path
from typing import Any

from raida_uring.observe.counters import COUNTERS, Family, metric_of
from raida_uring.observe.prometheus import FAMILIES, PROCESS_METRICS
from tests.support.command_line import output_of
from tests.support.needs import require

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = DOCS / "grafana-dashboard.json"
ALERTS = DOCS / "alerts.yml"
ALERT_TESTS = DOCS / "alerts_test.yml"

PROMETHEUS_LABELS = {"instance", "job", "le"}
PROMETHEUS_METRICS = {"up"}
HISTOGRAM_SUFFIXES = ("_bucket", "_count", "_sum")


def rows_under(heading: str) -> list[str]:
    lines = (DOCS / "reference.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(heading) + 2
    ends = (at for at in range(start, len(lines)) if not lines[at].startswith("|"))
    end = next(ends, len(lines))
    return lines[start:end]


def test_metrics_of_the_process_are_documented() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert all(f"`{name}`" in text for name in PROCESS_METRICS)


def test_alerts_are_documented_with_severity_and_duration() -> None:
    rules = ALERTS.read_text(encoding="utf-8").split("- alert: ")[1:]
    expected = []
    for rule in rules:
        severity, lasts = re.search(r"severity: (\w+)", rule), re.search(r"for: (\w+)", rule)
        assert severity is not None
        after = lasts[1] if lasts is not None else "–"
        expected.append([f"`{rule.split()[0]}`", severity[1], after])
    rows = rows_under("| alert | severity | after | what to do |")
    assert [[cell.strip() for cell in row.split("|")[1:4]] for row in rows] == expected


# --- Dashboard and rules ------------------------------------------------------------------------


def dashboard() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return told


def dashboard_queries() -> list[str]:
    """Every query, its variables filled in as Grafana would."""
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [query.replace("$instance", ".*").replace("$__rate_interval", "1m") for query in queries]


def rule_queries() -> list[str]:
    """The value of each `expr:`, on its line or folded below it."""
    text = ALERTS.read_text(encoding="utf-8")
    found = re.findall(r"^ +expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", text, re.M)
    queries = [" ".join((folded or plain).split()) for folded, plain in found]
    assert len(queries) == text.count("- alert:")
    return queries


def family_of(name: str) -> Family | None:
    family = FAMILIES.get(name)
    if family is None or family.kind != "histogram":
        for suffix in HISTOGRAM_SUFFIXES:
            base = FAMILIES.get(name.removesuffix(suffix))
            if name.endswith(suffix) and base is not None and base.kind == "histogram":
                return base
    return family if family is None or family.kind != "histogram" else None


def faults_of(query: str) -> list[str]:
    """Metrics, labels and reasons in `query` that the node does not have."""
    faults = []
    for name, matchers in re.findall(r"\b((?:raida|process)_\w+|up\b)(?:\{([^}]*)\})?", query):
        family = family_of(name)
        if family is None and name not in (*PROCESS_METRICS, *PROMETHEUS_METRICS):
            faults.append(f"no metric {name}")
            continue
        labels = set(() if family is None else family.labels) | PROMETHEUS_LABELS
        for label, value in re.findall(r'(\w+)\s*[!=]=?~?\s*"([^"]*)"', matchers):
            if label not in labels:
                faults.append(f"{name} has no label {label}")
            elif label == "reason":
                known = {metric_of(counter) for counter in COUNTERS}
                faults += [
                    f"{name} has no reason {reason}"
                    for reason in value.split("|")
                    if (name, reason) not in known
                ]
    grouped = {
        label for names in re.findall(r"\bby \(([^)]*)\)", query) for label in names.split(", ")
    }
    every = {label for family in FAMILIES.values() for label in family.labels}
    faults += [f"no label {label}" for label in grouped - every - PROMETHEUS_LABELS]
    return faults


def test_the_check_finds_faults() -> None:
    assert faults_of("rate(raida_nothing_total[1m])") == ["no metric raida_nothing_total"]
    assert faults_of("raida_lap_seconds") == ["no metric raida_lap_seconds"]
    assert faults_of("raida_lap_seconds_bucket") == []
    assert faults_of('raida_ready{reason="x"}') == ["raida_ready has no label reason"]
    assert faults_of('raida_udp_dropped_total{reason=~"pool|eof"}') == [
        "raida_udp_dropped_total has no reason eof"
    ]
    assert faults_of("sum by (client) (raida_ready)") == ["no label client"]


def test_the_dashboard_uses_metrics_that_exist() -> None:
    queries = dashboard_queries()
    assert len(queries) > 20
    assert {query: faults for query in queries if (faults := faults_of(query))} == {}


def test_the_rules_use_metrics_that_exist() -> None:
    assert {query: faults for query in rule_queries() if (faults := faults_of(query))} == {}


def test_the_dashboard_is_whole() -> None:
    told = dashboard()
    numbers = [panel["id"] for panel in told["panels"]]
    assert len(set(numbers)) == len(numbers)
    covered: set[tuple[int, int]] = set()
    for panel in told["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & covered, f"{panel['title']} lies on another panel"
        covered |= cells
    variables = {variable["name"] for variable in told["templating"]["list"]}
    text = DASHBOARD.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == variables


def promtool(*arguments: str, directory: Path) -> None:
    output_of(require("promtool"), *arguments, cwd=directory)


def test_prometheus_loads_the_rules() -> None:
    promtool("check", "rules", ALERTS.name, directory=DOCS)


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", ALERT_TESTS.name, directory=DOCS)


def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{number}", "expr": query}
        for number, query in enumerate(dashboard_queries())
    ]
    # JSON is YAML.
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "q", "rules": rules}]}))
    promtool("check", "rules", "queries.yml", directory=tmp_path)

"""Alerts, dashboard and documentation speak of metrics that exist, and the documentation of all of them."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from apps import metrics

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "compose/prometheus/alerts.yml"
DASHBOARD = ROOT / "compose/grafana/notify.json"
DOCUMENT = ROOT / "docs/observability.md"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
NAME = re.compile(r"\b(?:notify|http)_[a-z_]+\b")
SELECTOR = re.compile(r"\b((?:notify|http)_[a-z_]+)\{([^}]*)\}")
BY = re.compile(r"\bby \(([^)]*)\)")


def labels_by_series() -> dict[str, set[str]]:
    series = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for suffix in SUFFIXES[metric._type]:
                series[metric._name + suffix] = {*metric._labelnames, "le"}
    for gauge in metrics.registered_gauges():
        series[gauge.name] = set(gauge.labels)
    return series


def alert_rules():
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard_expressions():
    return [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]


EXPRESSIONS = [rule["expr"] for rule in alert_rules()] + dashboard_expressions()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_in_an_expression_exists(expression):
    series = labels_by_series()
    names = set(NAME.findall(expression))
    assert names
    assert names <= series.keys()
    for name, selector in SELECTOR.findall(expression):
        used = {pair.split("=")[0].strip(" !~") for pair in selector.split(",")}
        assert used <= series[name]
    known = set().union(*(series[name] for name in names))
    for group in BY.findall(expression):
        assert {label.strip() for label in group.split(",")} <= known


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_is_balanced(expression):
    pairs = {")": "(", "]": "[", "}": "{"}
    text, open_brackets = re.sub(r'"[^"]*"', "", expression), []
    for char in text:
        if char in pairs.values():
            open_brackets.append(char)
        elif char in pairs:
            assert open_brackets.pop() == pairs[char]
    assert open_brackets == []


def test_every_alert_says_what_it_means_and_what_to_do():
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "action"}


def test_the_dashboards_panels_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_every_metric_is_documented_and_every_documented_one_exists():
    base_names = {re.sub("_(bucket|sum|count)$", "", name) for name in labels_by_series()}
    table = DOCUMENT.read_text().split("## Metrics")[1].split("Gauges are read")[0]
    documented = {name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in NAME.findall(row)}
    assert documented == base_names


def test_the_queries_of_the_documentation_use_metrics_that_exist():
    for block in re.findall(r"```promql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        assert set(NAME.findall(block)) <= labels_by_series().keys()


def test_prometheus_loads_the_rules_that_are_there():
    config = yaml.safe_load((ALERTS.parent / "prometheus.yml").read_text())
    for name in config["rule_files"]:
        assert (ALERTS.parent / name).is_file()
    assert config["scrape_configs"][0]["metrics_path"] == "/metrics"

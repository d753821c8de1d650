"""The README and the pages beside it name what there is."""

import re
from pathlib import Path

from django.core.management import get_commands
from django.urls import get_resolver

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = "\n".join(path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
SETTINGS = (ROOT / "notify_project" / "settings" / "base.py").read_text()


def test_every_setting_is_documented():
    names = set(re.findall(r"env\.[a-z_]+\(\s*\"([A-Z][A-Z0-9_]+)\"", SETTINGS))
    assert len(names) > 60
    assert sorted(name for name in names if name not in PAGES) == []


def test_commands_named_in_the_readme_exist():
    named = set(re.findall(r"manage\.py ([a-z_]+)", PAGES))
    assert len(named) > 5
    assert sorted(named - set(get_commands())) == []


def test_every_route_of_the_api_is_in_the_readme():
    routes = {str(pattern.pattern) for pattern in get_resolver().url_patterns if str(pattern.pattern) != "v1/"}
    assert {"healthz", "readyz", "metrics"} <= routes
    for word in ("users:bulk", "dead-letters", "providers", "categories", "suppressions", "webhooks", "/devices"):
        assert word in PAGES


def test_links_between_pages_lead_somewhere():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

"""The figures in README and docs/capacity.md are those of the committed results."""

import pytest

from benchmarks import capacity, readme, results, simulate

BROADCAST = {
    "at": "2026-11-22T10:00:00+00:00",
    "commit": "abc",
    "machine": {"cores": 2, "cpu": "a CPU"},
    "parameters": {"people": 200_000},
    "ratios": {
        name: {"median": 0.8765, "low": 0.8, "high": 0.95}
        for name in ("product_to_limit", "product_to_plain", "product_to_firebase", "email_to_push")
    },
    "contestants": {
        name: {
            "rate_per_s": 12_345.6,
            "cpu_us": {"worker": 80.0, "database": 20.0, "all": 160.0},
            "peak_worker_mib": 150.4,
        }
        for name in ("product", "limit", "plain", "firebase", "email")
    },
    "storage": {"bytes_per_delivery": 212.3},
}


def between(text, begin, end):
    return text.split(begin, 1)[1].split(end, 1)[0]


def test_readme_has_the_figures_of_the_committed_results():
    assert between(readme.README.read_text(), readme.BEGIN, readme.END) == readme.render()


def test_figures_come_from_the_results():
    text = readme.render({"broadcast": BROADCAST}.get)
    for figure in (
        "0.88 : 1 (0.80 to 0.95)",
        "12,346 a second",
        "80 + 20 + 60 µs",
        "150 MiB",
        "212 bytes",
        "commit abc",
    ):
        assert figure in text
    assert "bench-intake" not in text


def test_every_result_that_readme_quotes_names_its_command():
    rows = [line for line in readme.render().splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 4
    assert rows[0].startswith("| `make ")


def test_capacity_page_has_the_figures_of_the_committed_results():
    page = capacity.PAGE.read_text()
    assert between(page, capacity.BEGIN, capacity.END) == capacity.render(capacity.read_measured())
    assert between(page, simulate.BEGIN, simulate.END) == simulate.render(results.read("simulation"))


def test_cores_follow_from_microseconds():
    # 60 µs × 10,000/s keep 0.6 cores busy: one core at 60 % load
    assert capacity.cores(60.0, 10_000) == pytest.approx(1.0)


def test_the_fleet_is_computed_from_the_mix():
    broadcast = capacity.Costs({"worker": 80.0, "database": 20.0}, {"wal_bytes": 300.0, "transactions": 0.01})
    single = capacity.Costs({"worker": 880.0, "database": 220.0}, {"wal_bytes": 2_300.0, "transactions": 3.0})
    text = capacity.render(capacity.Measured(broadcast, single, 200.0))
    assert "| cores: worker | 160.0 µs | 3.1 | 30.9 |" in text  # 160 µs × 11,574/s ÷ 10⁶ ÷ 0.6
    assert "| write-ahead log | 500 bytes | 6 MiB/s | 55 MiB/s |" in text
    assert "5.5 TiB" in text  # 200 bytes × 10⁹ × 30

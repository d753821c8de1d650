"""The demo's result as figures, a table and JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table

from notify_project.demo.traffic import OPEN_STATUSES, Sent


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99 and the maximum of ``seconds`` in milliseconds (nearest rank); ``None`` if there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    ranks = {f"p{share}": ordered[max(0, -(-len(ordered) * share // 100) - 1)] for share in (50, 95, 99)}
    return {name: round(value * 1000, 1) for name, value in {**ranks, "max": ordered[-1]}.items()}


def summarise(sent: Sequence[Sent], notifications: Iterable[dict[str, Any]], elapsed_s: float) -> dict[str, Any]:
    """All figures of a run as plain data: counts of deliveries by channel and status, reasons, retries, latencies."""
    found = {notification["id"]: notification for notification in notifications}
    pairs = [(notification, delivery) for notification in found.values() for delivery in notification["deliveries"]]
    deliveries = [delivery for _, delivery in pairs]
    return {
        "accepted": len(sent),
        "missing": sum(1 for one in sent if one.id not in found),
        "deliveries": len(deliveries),
        "not_terminal": sum(1 for one in deliveries if one["status"] in OPEN_STATUSES),
        "not_terminal_ids": [one["id"] for one in deliveries if one["status"] in OPEN_STATUSES],
        "missing_ids": [one.id for one in sent if one.id not in found],
        "by_status": dict(Counter(one["status"] for one in deliveries).most_common()),
        "by_channel": {
            channel: dict(Counter(one["status"] for one in deliveries if one["channel"] == channel).most_common())
            for channel in ("push", "sms", "email")
        },
        "suppressed_by_reason": dict(Counter(one["reason"] for one in deliveries if one["status"] == "suppressed")),
        "by_provider": dict(Counter(one["provider"] for one in deliveries if one["sent_at"]).most_common()),
        "retried": sum(1 for one in deliveries if one["attempt_count"] > 1),
        "dead": sum(1 for one in deliveries if one["status"] == "dead"),
        "ms": {
            "accept": percentiles_ms([one.accept_s for one in sent]),
            "accept_to_provider": {
                lane: percentiles_ms(
                    [_span_s(n, d["sent_at"]) for n, d in pairs if d["sent_at"] and n["priority"] == lane]
                )
                for lane in ("high", "bulk")
            },
            "accept_to_delivered": percentiles_ms(
                [_span_s(n, d["delivered_at"]) for n, d in pairs if d["delivered_at"]]
            ),
        },
        "elapsed_s": round(elapsed_s, 1),
    }


def _span_s(notification: dict[str, Any], moment: str) -> float:
    span = datetime.fromisoformat(moment) - datetime.fromisoformat(notification["created_at"])
    return max(0.0, span.total_seconds())


def to_tables(figures: dict[str, Any]) -> list[Table]:
    """The figures for a terminal."""
    counts = Table(title="Deliveries", title_justify="left")
    statuses = list(figures["by_status"])
    counts.add_column("channel")
    for status in statuses:
        counts.add_column(status, justify="right")
    for channel, by_status in figures["by_channel"].items():
        counts.add_row(channel, *(str(by_status.get(status, 0)) for status in statuses))
    counts.add_section()
    counts.add_row("all", *(str(figures["by_status"][status]) for status in statuses))

    facts = Table(title="Run", title_justify="left", show_header=False)
    for name in ("accepted", "missing", "deliveries", "not_terminal", "retried", "dead", "elapsed_s"):
        facts.add_row(name.replace("_", " "), str(figures[name]))
    for provider, count in figures["by_provider"].items():
        facts.add_row(f"through {provider}", str(count))
    for reason, count in figures["suppressed_by_reason"].items():
        facts.add_row(f"suppressed: {reason}", str(count))

    times = Table(title="Milliseconds", title_justify="left")
    for heading in ("", "p50", "p95", "p99", "max"):
        times.add_column(heading, justify="right" if heading else "left")
    ms = figures["ms"]
    rows = {
        "POST answered": ms["accept"],
        "accept → provider, high": ms["accept_to_provider"]["high"],
        "accept → provider, bulk (retries included)": ms["accept_to_provider"]["bulk"],
        "accept → delivered (retries included)": ms["accept_to_delivered"],
    }
    for label, row in rows.items():
        times.add_row(label, *(str(row[name]) if row else "—" for name in ("p50", "p95", "p99", "max")))
    return [counts, facts, times]

"""What the demo says of a run."""

from typing import Any

from notify_project.demo.report import summarise
from notify_project.demo.traffic import Sent


def make_delivery(**changes: Any) -> dict[str, Any]:
    return {
        "id": "d-1",
        "channel": "push",
        "status": "delivered",
        "reason": "",
        "provider": "fcm",
        "sent_at": None,
        "delivered_at": None,
        "attempt_count": 1,
        **changes,
    }


def test_what_did_not_end_is_named() -> None:
    deliveries = [make_delivery(), make_delivery(id="d-2", status="queued"), make_delivery(id="d-3", status="sending")]
    notification = {
        "id": "n-1",
        "priority": "high",
        "created_at": "2026-01-01T00:00:00+00:00",
        "deliveries": deliveries,
    }
    figures = summarise([Sent("n-1", 0.1), Sent("n-2", 0.1)], [notification], 1.0)
    assert (figures["not_terminal"], figures["not_terminal_ids"]) == (2, ["d-2", "d-3"])
    assert (figures["missing"], figures["missing_ids"]) == (1, ["n-2"])

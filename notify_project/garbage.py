"""Where messages that no worker can use are kept, so that somebody can look at them: ``notif.dead``.

On RabbitMQ it is a queue that the broker itself fills with what was rejected; on Redis a list whose newest entries are
kept.
"""

import base64
import json
from datetime import UTC, datetime

import structlog
from redis import Redis

from apps import metrics
from apps.delivery.queues import DEAD, DEAD_LIMIT

KEPT_BODY_BYTES = 16_384
log = structlog.get_logger("notify.garbage")


def keep_on_redis(client: Redis, queue: str, reason: str, *, headers: object, body: object) -> None:
    """Puts a message at the head of the list ``notif.dead``, cut to a size that cannot hurt."""
    raw = body if isinstance(body, bytes) else str(body).encode("utf-8", "replace")
    entry = {
        "queue": queue,
        "reason": reason,
        "at": datetime.now(UTC).isoformat(),
        "headers": str(headers)[:KEPT_BODY_BYTES],
        "body": base64.b64encode(raw[:KEPT_BODY_BYTES]).decode(),
        "body_bytes": len(raw),
    }
    with client.pipeline() as pipe:
        pipe.lpush(DEAD, json.dumps(entry))
        pipe.ltrim(DEAD, 0, DEAD_LIMIT - 1)
        pipe.execute()


def report(queue: str, reason: str) -> None:
    """Counts and logs it. Neither says what was in it: it may be anything."""
    metrics.garbage(queue, reason)
    log.error("message_buried", queue=queue, reason=reason, hint=f"it is kept in {DEAD}")

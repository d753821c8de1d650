"""Accepting a broadcast: checked, and written together with its idempotency key, or not at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.utils import OperationalError
from psycopg.errors import LockNotAvailable

from apps.channels import Channel
from apps.delivery.broadcasts import services
from apps.delivery.broadcasts.audience import Audience, Upload, parse_audience
from apps.delivery.broadcasts.models import Broadcast
from apps.delivery.broadcasts.orders import BroadcastOrder
from apps.delivery.broadcasts.preview import ChannelPreview, preview_audience
from apps.delivery.broadcasts.uploads import seal_upload, select_upload, unknown_upload
from apps.delivery.keys import Key, find_answers, key_in_progress, key_reused
from apps.delivery.orders import Answer
from apps.delivery.templating.resolving import check_everywhere
from apps.preferences.categories import CategoryRules
from apps.preferences.selectors import find_category
from apps.problems import invalid_field


def accept(
    key: Key,
    fingerprint: bytes,
    make_order: Callable[[], BroadcastOrder],
    *,
    now: datetime,
    describe: Callable[[Broadcast], bytes],
) -> Answer:
    """Makes the broadcast or raises a ``Problem``; ``describe`` makes the answer. With the same key and fingerprint it
    answers what it answered before, without looking at the order again. ``now`` is aware."""
    if (replay := _find_replay(key, fingerprint)) is not None:
        return replay
    order, audience, _ = check_order(make_order(), now=now)
    try:
        with transaction.atomic():
            if not _take_key(key, fingerprint):
                body = None
            else:
                body = describe(create(order, audience))
                _store_answer(key, body)
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise key_in_progress() from None
        raise
    answer = Answer(body) if body is not None else _find_replay(key, fingerprint)
    if answer is None:
        raise key_in_progress()
    return answer


def create(order: BroadcastOrder, audience: Audience) -> Broadcast:
    """Makes the broadcast of a checked order, in the caller's transaction."""
    if isinstance(audience, Upload):
        seal_upload(order.client_id, audience.id)
    return services.create(order)


def preview(order: BroadcastOrder, *, now: datetime) -> dict[Channel, ChannelPreview]:
    """What the order would do; raises a ``Problem`` as ``accept`` does and writes nothing."""
    order, audience, category = check_order(order, now=now)
    return preview_audience(audience, order.channels, category, due=order.send_at or now, expires_at=order.expires_at)


def preview_people(
    client_id: int,
    audience: Mapping[str, Any],
    channels: Sequence[Channel],
    category: str,
    *,
    now: datetime,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> dict[Channel, ChannelPreview]:
    """As ``preview``, of an order that has no content yet."""
    send_at = _check_times(send_at, expires_at, now)
    people = _check_audience(client_id, audience)
    return preview_audience(people, channels, _check_category(category), due=send_at or now, expires_at=expires_at)


def check_order(order: BroadcastOrder, *, now: datetime) -> tuple[BroadcastOrder, Audience, CategoryRules]:
    """The order as it is to be carried out, with its audience and its category; raises a 422 ``Problem``."""
    order = replace(order, send_at=_check_times(order.send_at, order.expires_at, now))
    category = _check_category(order.category)
    check_everywhere(order.content, order.channels)
    return order, _check_audience(order.client_id, order.audience), category


def _check_times(send_at: datetime | None, expires_at: datetime | None, now: datetime) -> datetime | None:
    """``send_at``, or ``None`` if that is now."""
    furthest = now + timedelta(days=settings.DELIVERY_RETENTION_DAYS)
    if send_at is not None and send_at > furthest:
        raise invalid_field("/send_at", f"at most {settings.DELIVERY_RETENTION_DAYS} days ahead")
    if expires_at is not None and expires_at <= max(now, send_at or now):
        raise invalid_field("/expires_at", "must lie in the future and after send_at")
    return None if send_at is None or send_at <= now else send_at


def _check_category(key: str) -> CategoryRules:
    category = find_category(key)
    if category is None:
        raise invalid_field("/category", "there is no such category; GET /v1/categories lists them", "unknown_category")
    return category


def _check_audience(client_id: int, data: Mapping[str, Any]) -> Audience:
    audience = parse_audience(data, is_category=lambda key: find_category(key) is not None)
    if isinstance(audience, Upload) and select_upload(client_id, audience.id) is None:
        raise unknown_upload("/audience/upload_id")
    return audience


def _find_replay(key: Key, fingerprint: bytes) -> Answer | None:
    stored = find_answers([key]).get(key)
    if stored is None:
        return None
    if stored.fingerprint != fingerprint:
        raise key_reused()
    return Answer(stored.body, is_replay=True)


def _take_key(key: Key, fingerprint: bytes) -> bool:
    """Whether the key is new. Waits for another request that is using it, at most for ``lock_timeout``."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO idempotency_key (client_id, key, created_at, fingerprint, response)"
            " VALUES (%s, %s, now(), %s, '') ON CONFLICT DO NOTHING",
            [key.client_id, key.key, fingerprint],
        )
        return bool(cursor.rowcount)


def _store_answer(key: Key, body: bytes) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE idempotency_key SET response = %s WHERE client_id = %s AND key = %s", [body, key.client_id, key.key]
        )

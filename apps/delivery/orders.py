"""What a client asks for, checked and typed, and what it is told."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
import orjson
from django.conf import settings

from apps.channels import Channel, Lane
from apps.delivery.content import Content
from apps.keyed_hash import hmac_sha256


class Order(msgspec.Struct, frozen=True):
    """A well-formed request for one notification. ``channels`` is ``None`` for every reachable one; ``fingerprint``
    tells one request body from another; deliveries with the same ``ordering_key`` go out in the order of acceptance.
    With a ``template`` (its reference) ``content`` has no words yet: those come from the template and ``context``."""

    client_id: int
    idempotency_key: str
    fingerprint: bytes
    user_id: str
    type: str
    category: str
    lane: Lane
    content: Content
    trace_id: str
    channels: tuple[Channel, ...] | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    is_dry_run: bool = False
    ordering_key: str | None = None
    template: str | None = None
    context: Mapping[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """The JSON answer; ``is_replay`` if it had been given before for the same key."""

    body: bytes
    is_replay: bool = False


def fingerprint_of(body: Any) -> bytes:
    """A keyed hash of a request's JSON, whatever the order of its keys. Keyed, as the body may be guessable."""
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hmac_sha256(_derive_key("notify.idempotency", settings.API_KEY_PEPPER), canonical)


def order_hash_of(client_id: int, ordering_key: str) -> int:
    """What the database knows of a client's ordering key: 63 bits of a keyed hash. Should two keys of one person ever
    share it, their messages merely wait for each other."""
    key = _derive_key("notify.ordering", settings.API_KEY_PEPPER)
    digest = hmac_sha256(key, f"{client_id}|{ordering_key}".encode())
    return int.from_bytes(digest[:8]) >> 1


@lru_cache(maxsize=8)
def _derive_key(salt: str, secret: str) -> bytes:
    """The key that ``django.utils.crypto.salted_hmac`` derives each time anew."""
    return hashlib.sha256(f"{salt}{secret}".encode()).digest()

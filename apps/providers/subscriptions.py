"""Certificates that receipts are signed with, and the agreement to receive them. Fetched only from where the adapter
says its provider keeps them."""

import threading
import time
from dataclasses import dataclass

import requests
import structlog

from apps.providers import control_plane
from apps.providers.messages import ProviderRequest

log = structlog.get_logger(__name__)

KEEP_S = 86_400.0
KEEP_FAILURE_S = 5.0
MAX_KEPT = 16
# A caller may invent as many names as it likes below the provider's host: it shall not have us fetch them all.
MAX_FETCHES = 10
PER_S = 60.0


@dataclass(frozen=True, slots=True)
class _Kept:
    content: bytes | None
    until: float


_kept: dict[str, _Kept] = {}
_fetched_at: list[float] = []
_guard = threading.Lock()


def load_certificate(url: str) -> bytes | None:
    """The PEM file at ``url``, kept for a day in this process; ``None`` if it cannot be had now."""
    now = time.monotonic()
    with _guard:
        kept = _kept.get(url)
        if kept is not None and kept.until > now:
            return kept.content
        _fetched_at[:] = [moment for moment in _fetched_at if moment > now - PER_S]
        if len(_fetched_at) >= MAX_FETCHES:
            log.warning("certificate_fetches_limited", limit=MAX_FETCHES, per_s=PER_S)
            return None
        _fetched_at.append(now)
    content = _get(url, "certificate")
    with _guard:
        while len(_kept) >= MAX_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[url] = _Kept(content, time.monotonic() + (KEEP_FAILURE_S if content is None else KEEP_S))
    return content


def confirm(alias: str, url: str) -> bool:
    """Agree to receive the calls of provider ``alias``; whether it heard so."""
    is_confirmed = _get(url, "confirmation") is not None
    log.info("subscription_confirmed" if is_confirmed else "subscription_unconfirmed", provider=alias)
    return is_confirmed


def _get(url: str, what: str) -> bytes | None:
    try:
        answer = control_plane.call(ProviderRequest(messages=(), url=url, method="GET"))
    except requests.RequestException as error:
        log.warning("control_plane_failed", what=what, error=type(error).__name__)
        return None
    if answer.status != 200:
        log.warning("control_plane_failed", what=what, status=answer.status)
        return None
    return answer.body

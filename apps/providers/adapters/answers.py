"""What adapters have in common when reading answers and checking what they are given. Pure and total."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

from apps.providers.errors import (
    NotSent,
    NotStarted,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
)
from apps.providers.messages import Message, ProviderRequest, ProviderResponse, Result, TransportFailure

MAX_URL_LENGTH = 2_048
MAX_ADDRESS_LENGTH = 4_096
MAX_RETRY_AFTER_S = 86_400.0
_CODE = re.compile(r"[A-Z][A-Z_]{1,63}|[0-9]{1,6}")
_FIELD = re.compile(r"[a-z0-9_]{1,40}(?:\.[a-z0-9_]{1,40}){0,4}")


def same_for_all(
    request: ProviderRequest,
    outcome: ProviderResponse | TransportFailure,
    *,
    error: ProviderError | None = None,
    message_id: str | None = None,
    segments: int | None = None,
) -> list[Result]:
    """The same result for every message of ``request``."""
    return [Result(message.delivery_id, message_id, error, outcome.latency_s, segments) for message in request.messages]


def reject(alias: str, message: Message, error: ProviderError) -> ProviderRequest:
    """A request that is never sent, as the answer is known."""
    return ProviderRequest(messages=(message,), rejected=error)


def failure_error(alias: str, failure: TransportFailure) -> ProviderError:
    """A call without an answer: safe to repeat if it never left, unknown otherwise."""
    if failure.has_left:
        return OutcomeUnknown(alias, "no_answer", failure.detail)
    if not failure.was_started:
        return NotStarted(alias, "not_started", failure.detail)
    return NotSent(alias, "not_sent", failure.detail)


def status_error(alias: str, response: ProviderResponse, code: str = "") -> ProviderError:
    """The error of an answer in which no more than the HTTP status says anything (RFC 9110, 15)."""
    status, code = response.status, code or str(response.status)
    if status == 429:
        return RateLimited(alias, code, retry_after_s=retry_after_s(response))
    if status == 408 or 300 <= status < 400 or status >= 500:  # a redirect is some proxy's word: nothing was processed
        return TransientError(alias, code, retry_after_s=retry_after_s(response))
    if 400 <= status < 500:
        return PermanentError(alias, code)
    return OutcomeUnknown(alias, code, "an answer that the provider does not document")


def credentials_error(alias: str, code: str) -> ProviderError:
    """Our account, not the message, was refused: what waits goes out once the account is mended."""
    return NotSent(alias, code, "the account's credentials or rights were refused; check its settings")


def read_json(body: bytes) -> Any:
    """The decoded body, or ``None`` for what is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def read_object(body: bytes) -> Mapping[str, Any]:
    """The decoded JSON object, empty for anything else."""
    value = read_json(body)
    return value if isinstance(value, dict) else {}


def dig(value: Any, *path: str | int) -> Any:
    """What lies at ``path`` in decoded JSON (names of objects, positions in arrays); ``None`` if it is not there or
    something on the way is of another shape."""
    for step in path:
        if isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def as_code(value: object) -> str:
    """A provider's code (``NOT_FOUND``, ``21211``) as it may be stored and logged, ``""`` if it does not look like one:
    an address never does."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if _CODE.fullmatch(text) else ""


def as_field(value: object) -> str:
    """The path of a field of ours that a provider complains of, ``""`` if it does not look like one."""
    return value if isinstance(value, str) and _FIELD.fullmatch(value) else ""


def as_message_id(value: object) -> str | None:
    """A provider's id of a message, or ``None`` if it does not look like one."""
    return value if isinstance(value, str) and 0 < len(value) <= 255 and is_clean(value) else None


def retry_after_s(response: ProviderResponse) -> float | None:
    """``Retry-After`` in seconds, given as a number or a date (RFC 9110, 10.2.3), at most a day. A date counts from the
    answer's own ``Date``: the server's clock, not ours."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 12:
        return min(float(value), MAX_RETRY_AFTER_S)
    until, since = _http_date(value), _http_date(response.headers.get("date", ""))
    if until is None or since is None:
        return None
    return min(max((until - since).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def server_time_s(response: ProviderResponse) -> float | None:
    """The answer's ``Date`` as Unix seconds."""
    date = _http_date(response.headers.get("date", ""))
    return None if date is None else date.timestamp()


def is_clean(text: str) -> bool:
    """Whether ``text`` can stand in a header: printable ASCII, so neither line break nor NUL."""
    return text.isascii() and text.isprintable()


def is_sendable_text(text: object) -> bool:
    """Whether ``text`` is a string without lone surrogates: JSON and UTF-8 can carry it."""
    try:
        return isinstance(text, str) and text.encode() is not None
    except UnicodeEncodeError:
        return False


def as_delivery_id(value: object) -> str | None:
    """A delivery id as we write it, or ``None``: only our own UUIDs may be looked up."""
    if not isinstance(value, str) or len(value) != 36:
        return None
    try:
        return str(UUID(value))
    except ValueError:
        return None


def as_moment(unix: object, now: datetime, *, per_second: int = 1) -> datetime | None:
    """Unix time in seconds (or ``per_second`` parts of one) as a time, not later than ``now``, as clocks differ;
    ``None`` for what is no time of this millennium."""
    if not isinstance(unix, int | float) or isinstance(unix, bool) or not 0 < unix < 1e10 * per_second:
        return None
    return min(datetime.fromtimestamp(0, UTC) + timedelta(seconds=unix / per_second), now)


def is_fresh(unix: str, now: datetime, tolerance_s: int) -> bool:
    """Whether ``unix`` is a time in whole seconds that is not further from ``now`` than ``tolerance_s``."""
    is_time = unix.isascii() and unix.isdigit() and len(unix) < 12
    return is_time and abs(now.timestamp() - int(unix)) <= tolerance_s


def as_iso_moment(text: object, now: datetime) -> datetime | None:
    """ISO 8601 text (UTC unless it says otherwise) as a time, not later than ``now``, as clocks differ; ``None`` for
    what is no such text."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        moment = moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
        return None if moment is None else min(moment.astimezone(UTC), now)
    except (ValueError, OverflowError):
        return None


def find_url_problem(options: Mapping[str, Any], name: str) -> list[str]:
    """What is wrong with the https URL in option ``name``, as a list of none or one."""
    url = str(options.get(name, ""))
    is_url = is_clean(url) and url.startswith("https://") and len(url) > len("https://")
    if not is_url or " " in url or "?" in url or "#" in url or len(url) > MAX_URL_LENGTH // 2:
        return [f"{name} must be an https URL without a query, such as https://api.example.com"]
    return []

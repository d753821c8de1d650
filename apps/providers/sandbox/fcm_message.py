"""What FCM accepts as a message, and how a phone would show it.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages: JSON keys come in camelCase or snake_case
(https://protobuf.dev/programming-guides/json/), and enums in any case.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.providers.sandbox.exchange import as_mapping

MAX_PAYLOAD_BYTES = 4_096  # keys and values of data and notification together
MAX_TOPIC_PAYLOAD_BYTES = 2_048
MAX_TTL_S = 2_419_200  # four weeks

_TARGETS = ("token", "fid", "topic", "condition")
_REQUEST_FIELDS = {"message", "validateOnly", "validate_only"}
_MESSAGE_FIELDS = {
    "name", "data", "notification", "android", "webpush", "apns", "fcmOptions", "fcm_options", *_TARGETS,
}  # fmt: skip
_NOTIFICATION_FIELDS = {"title", "body", "image"}
_TTL = re.compile(r"(\d+)(\.\d{1,9})?s")


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a message is refused. ``field`` is empty when Google names none; ``is_from_fcm`` adds the FcmError detail
    (FCM's own checks) that the API's JSON parser does not."""

    text: str
    field: str
    is_from_fcm: bool = False


def find_violation(payload: object, size: int) -> Violation | None:
    """The first thing wrong with a request of ``size`` bytes, or ``None``."""
    if not isinstance(payload, dict):
        return Violation("Invalid JSON payload received. Root must be an object.", "")
    unknown = _find_unknown(payload, _REQUEST_FIELDS, "")
    if unknown is not None:
        return unknown
    message = payload.get("message")
    if not isinstance(message, dict) or not message:
        return Violation("The message field is required.", "message", is_from_fcm=True)
    return (
        _find_unknown(message, _MESSAGE_FIELDS, "message")
        or _check_target(message)
        or _check_data(message.get("data"))
        or _check_notification(message.get("notification"))
        or _check_android(message.get("android"))
        or (_check_size(message) if size > MAX_TOPIC_PAYLOAD_BYTES else None)
    )


def target_of(message: Mapping[str, Any]) -> tuple[str, str]:
    """``("token", <token or fid>)``, ``("topic", <name>)`` or ``("condition", <expression>)``."""
    device = message.get("token") or message.get("fid")
    if device:
        return "token", device
    return ("topic", message["topic"]) if message.get("topic") else ("condition", message["condition"])


def visible_text(message: Mapping[str, Any]) -> tuple[str, str]:
    """Title and body as the phone shows them: a platform's own notification wins over the common one."""
    alert = as_mapping(as_mapping(as_mapping(message.get("apns")).get("payload")).get("aps")).get("alert")
    parts = (
        as_mapping(as_mapping(message.get("android")).get("notification")),
        as_mapping(message.get("notification")),
        as_mapping(alert) if not isinstance(alert, str) else {"body": alert},
        as_mapping(message.get("data")),
    )
    title = next((part["title"] for part in parts if part.get("title")), "")
    body = next((part["body"] for part in parts if part.get("body")), "")
    return str(title), str(body)


def is_high(message: Mapping[str, Any]) -> bool:
    return str(as_mapping(message.get("android")).get("priority", "")).lower() == "high"


def _find_unknown(part: Mapping[str, Any], known: set[str], path: str) -> Violation | None:
    for name in part:
        if name not in known:
            where = f" at '{path}'" if path else ""
            return Violation(f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.', path)
    return None


def _check_target(message: Mapping[str, Any]) -> Violation | None:
    given = [name for name in _TARGETS if message.get(name) is not None]
    for name in given:
        if not isinstance(message[name], str):
            return Violation(f"Invalid value at 'message.{name}' (TYPE_STRING)", f"message.{name}")
    if len(given) > 1:
        text = f"Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set '{given[1]}'"
        return Violation(text, "message")
    if not given or not message[given[0]]:
        return Violation("Recipient of the message is not set.", "message", is_from_fcm=True)
    return None


def _check_data(data: object) -> Violation | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        return Violation("Invalid value at 'message.data' (type.googleapis.com/google.protobuf.Map)", "message.data")
    for index, (key, value) in enumerate(data.items()):
        if not isinstance(value, str):
            return Violation(f"Invalid value at 'message.data[{index}].value' (TYPE_STRING)", "message.data")
        if key in {"from", "message_type"} or key.startswith(("google.", "gcm.")):
            return Violation(f"Invalid data payload key: {key}", "message.data", is_from_fcm=True)
    return None


def _check_notification(notification: object) -> Violation | None:
    if notification is None:
        return None
    if not isinstance(notification, dict):
        return Violation("Invalid value at 'message.notification'", "message.notification")
    for name, value in notification.items():
        if not isinstance(value, str):
            return Violation(f"Invalid value at 'message.notification.{name}' (TYPE_STRING)", "message.notification")
    return _find_unknown(notification, _NOTIFICATION_FIELDS, "message.notification")


def _check_android(android: object) -> Violation | None:
    if android is None:
        return None
    if not isinstance(android, dict):
        return Violation("Invalid value at 'message.android'", "message.android")
    ttl = android.get("ttl")
    if ttl is not None:
        match = _TTL.fullmatch(ttl) if isinstance(ttl, str) else None
        if match is None:
            text = "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration)"
            return Violation(text, "message.android.ttl")
        if int(match[1]) > MAX_TTL_S:
            text = f"Invalid TTL: must be between 0 and {MAX_TTL_S} seconds"
            return Violation(text, "message.android.ttl", is_from_fcm=True)
    priority = android.get("priority")
    if priority is not None and str(priority).lower() not in {"normal", "high"}:
        kind = "type.googleapis.com/google.firebase.fcm.v1.AndroidMessagePriority"
        return Violation(f"Invalid value at 'message.android.priority' ({kind})", "message.android.priority")
    return None


def _check_size(message: Mapping[str, Any]) -> Violation | None:
    android = as_mapping(message.get("android"))
    parts = (message.get("data"), message.get("notification"), android.get("data"), android.get("notification"))
    size = sum(
        len(str(key).encode()) + len(value.encode() if isinstance(value, str) else str(value))
        for part in parts
        for key, value in as_mapping(part).items()
    )
    limit = MAX_PAYLOAD_BYTES if target_of(message)[0] == "token" else MAX_TOPIC_PAYLOAD_BYTES
    # FCM names no field here: the text is all a caller gets.
    return Violation("Android message is too big", "", is_from_fcm=True) if size > limit else None

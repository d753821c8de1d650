"""APNs: https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns

HTTP/2 only; a connection that speaks HTTP/1.1 is cut, as Apple's is. A 200 is a HEADERS frame that ends the stream,
an error is HEADERS and one DATA frame: at least one client takes anything else for a broken connection. The app on the
device acknowledges a push that carries ``notify_delivery_id`` and ``notify_ack``. Device tokens that begin with one of
``TOKEN_CONVENTIONS`` fail in that way.
"""

import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from apps.providers.sandbox import acknowledging
from apps.providers.sandbox.apns_tokens import ProviderTokens
from apps.providers.sandbox.credentials import APNS_TOPIC
from apps.providers.sandbox.exchange import Answer, Request, as_mapping, dropped, html_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Poster
from apps.providers.sandbox.state import Accepted, Sandbox

# https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
REASONS = {
    "BadCollapseId": 400, "BadDeviceToken": 400, "BadExpirationDate": 400, "BadMessageId": 400, "BadPriority": 400,
    "BadTopic": 400, "DeviceTokenNotForTopic": 400, "DuplicateHeaders": 400, "IdleTimeout": 400,
    "InvalidPushType": 400, "MissingDeviceToken": 400, "MissingTopic": 400, "PayloadEmpty": 400,
    "TopicDisallowed": 400, "BadCertificate": 403, "BadCertificateEnvironment": 403, "ExpiredProviderToken": 403,
    "Forbidden": 403, "InvalidProviderToken": 403, "MissingProviderToken": 403, "UnrelatedKeyIdInToken": 403,
    "BadEnvironmentKeyIdInToken": 403, "BadPath": 404, "MethodNotAllowed": 405, "ExpiredToken": 410,
    "Unregistered": 410, "PayloadTooLarge": 413, "TooManyProviderTokenUpdates": 429, "TooManyRequests": 429,
    "InternalServerError": 500, "ServiceUnavailable": 503, "Shutdown": 503,
}  # fmt: skip
DEFAULT_REASONS = {
    400: "BadDeviceToken", 403: "InvalidProviderToken", 404: "BadPath", 405: "MethodNotAllowed", 410: "Unregistered",
    413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable",
}  # fmt: skip
TOKEN_CONVENTIONS = {  # long enough that no random token begins like this
    "deaddead": "Unregistered",
    "fadefade": "ExpiredToken",
    "baddbadd": "BadDeviceToken",
    "feedfeed": "DeviceTokenNotForTopic",
}
OFFLINE_PREFIX = "deafdeaf"  # a phone that gets the push and never acknowledges it
MAX_PAYLOAD_BYTES = 4_096
MAX_VOIP_PAYLOAD_BYTES = 5_120
MAX_COLLAPSE_ID_BYTES = 64
PER_DEVICE_AND_MINUTE = 240  # ours: Apple limits notifications to one device and does not say at how many
PUSH_TYPES = {
    "alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity", "pushtotalk",
    "widgets", "controls",
}  # fmt: skip
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}")
_TOPIC_SUFFIXES = {
    ".voip", ".complication", ".pushkit.fileprovider", ".location-query", ".push-type.liveactivity",
    ".voip-ptt", ".push-type.widgets", ".push-type.controls",
}  # fmt: skip
_PATH = re.compile(r"(?:3/)?device/([^/]*)")
_DEVICE_TOKEN = re.compile(r"(?:[0-9a-f]{2}){8,100}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EXPIRATION = re.compile(r"[0-9]{1,12}")


class ApnsProvider:
    """``3/device/<token>``, below the provider's prefix and at the root of the server, where clients want it."""

    name = "apns"
    channel = "push"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._tokens = ProviderTokens(sandbox.credentials)
        self._ack_url = f"{sandbox.credentials.webhook_base}/v1/webhooks/apns"
        self._minute = 0
        self._pushes: Counter[str] = Counter()
        self.poster = Poster(build=acknowledging.build_ack)
        sandbox.on_reset.append(self._forget)

    def handle(self, request: Request) -> Answer:
        if not request.http_version.startswith("2"):
            return self._sandbox.drop(self, dropped())
        given_id = request.header("apns-id")
        apns_id = given_id or str(uuid.uuid4()).upper()
        target = _PATH.fullmatch(request.path)
        if target is None:
            return self._refuse("BadPath", apns_id)
        device = target[1].lower()
        if request.method != "POST":
            return self._refuse("MethodNotAllowed", apns_id)
        reason = self._tokens.find_problem(request.header("authorization")) or _find_problem(request, device)
        if reason:
            return self._refuse(reason, apns_id)
        convention = TOKEN_CONVENTIONS.get(device[:8])
        if convention is not None:
            return self._refuse(convention, apns_id)
        if self._is_over_limit(device):
            return self._refuse("TooManyRequests", apns_id)
        return self._send(request, device, apns_id)

    def show(self, source: tuple[Mapping[str, Any], bool]) -> Shown:
        payload, is_high = source
        aps = as_mapping(payload.get("aps"))
        alert = aps.get("alert")
        words = as_mapping(alert) if not isinstance(alert, str) else {"body": alert}
        extra = {
            "data": {name: value for name, value in payload.items() if name != "aps"},
            "is_high": is_high,
            "is_silent": not words,
            "badge": aps.get("badge"),
            "sound": aps.get("sound"),
        }
        return Shown(title=str(words.get("title", "")), body=str(words.get("body", "")), extra=extra)

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and rule.code not in REASONS:
            raise InvalidRuleError(f"code: APNs has no {rule.code!r}; known are {', '.join(REASONS)}")

    def _send(self, request: Request, device: str, apns_id: str) -> Answer:
        fault = self._sandbox.faults[self.name].decide((device,))
        if fault.is_refused:
            return self._fail(fault, apns_id)
        payload = orjson.loads(request.body)
        is_online = not device.startswith(OFFLINE_PREFIX)
        acks = acknowledging.make_acks(payload, self._ack_url) if is_online else []
        source = (payload, (request.header("apns-priority") or "10") == "10")
        delivery_id = acknowledging.delivery_id_of(payload)
        self._sandbox.accept(self, Accepted(delivery_id, apns_id, device, len(request.body), source), acks)
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return Answer(200, (("apns-id", apns_id),)).after(fault.delay_s)

    def _is_over_limit(self, device: str) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._pushes.clear()
        self._pushes[device] += 1
        return self._pushes[device] > PER_DEVICE_AND_MINUTE

    def _fail(self, fault: Fault, apns_id: str) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        fallback = 429 if fault.mode is Mode.THROTTLE else 503
        status = fault.status or (REASONS[fault.code] if fault.code else fallback)
        reason = fault.code or DEFAULT_REASONS.get(status)
        if reason is None:  # a load balancer's page: APNs' own errors have reasons
            answer = html_answer(status, f"Error {status}")
            return self._sandbox.reject(self, str(status), answer).after(fault.delay_s)
        return self._refuse(reason, apns_id, status=status, retry_after_s=fault.retry_after_s).after(fault.delay_s)

    def _refuse(
        self, reason: str, apns_id: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> Answer:
        content: dict[str, Any] = {"reason": reason}
        if reason in {"Unregistered", "ExpiredToken"}:
            content["timestamp"] = time.time_ns() // 1_000_000
        headers = [("apns-id", apns_id)]
        if retry_after_s is not None:
            headers.append(("retry-after", str(round(retry_after_s))))
        answer = Answer(REASONS[reason] if status is None else status, tuple(headers), orjson.dumps(content))
        return self._sandbox.reject(self, reason, answer)

    def _forget(self) -> None:
        self._tokens.forget()
        self._pushes.clear()


def _find_problem(request: Request, device: str) -> str:
    """The reason why a request is refused whatever the state of things, ``""`` for none."""
    return (
        _find_topic_problem(request.header("apns-topic"))
        or _find_header_problem(request)
        or _find_payload_problem(request)
        or ("" if device else "MissingDeviceToken")
        or ("" if _DEVICE_TOKEN.fullmatch(device) else "BadDeviceToken")
    )


def _find_topic_problem(topic: str | None) -> str:
    if topic is None:
        return "MissingTopic"
    if not _TOPIC.fullmatch(topic):
        return "BadTopic"
    is_ours = topic == APNS_TOPIC or (
        topic.startswith(APNS_TOPIC) and topic.removeprefix(APNS_TOPIC) in _TOPIC_SUFFIXES
    )
    return "" if is_ours else "TopicDisallowed"


def _find_header_problem(request: Request) -> str:
    apns_id, push_type = request.header("apns-id"), request.header("apns-push-type")
    priority, expiration = request.header("apns-priority"), request.header("apns-expiration")
    if apns_id is not None and not _UUID.fullmatch(apns_id):
        return "BadMessageId"
    if push_type is not None and push_type not in PUSH_TYPES:
        return "InvalidPushType"
    if priority not in (None, "1", "5", "10") or (push_type == "background" and priority == "10"):
        return "BadPriority"
    if expiration is not None and not _EXPIRATION.fullmatch(expiration):
        return "BadExpirationDate"
    if len((request.header("apns-collapse-id") or "").encode()) > MAX_COLLAPSE_ID_BYTES:
        return "BadCollapseId"
    return ""


def _find_payload_problem(request: Request) -> str:
    is_voip = request.header("apns-push-type") == "voip"
    if len(request.body) > (MAX_VOIP_PAYLOAD_BYTES if is_voip else MAX_PAYLOAD_BYTES):
        return "PayloadTooLarge"
    try:
        payload = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return "PayloadEmpty"
    return "" if isinstance(payload, dict) and isinstance(payload.get("aps"), dict) else "PayloadEmpty"


def create(sandbox: Sandbox) -> ApnsProvider:
    return ApnsProvider(sandbox)

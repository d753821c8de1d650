"""Firebase Cloud Messaging, HTTP v1.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages
https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import orjson

from apps.channels import Channel
from apps.providers.adapters import acknowledgements, answers, push_content
from apps.providers.adapters.collapsing import apns_collapse_id
from apps.providers.errors import (
    ConfigurationError,
    InvalidRecipient,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    TransientError,
    Unauthorized,
    UnsupportedFeature,
)
from apps.providers.grants import Grant, ServiceAccountGrant, find_account_problems
from apps.providers.messages import (
    BuildContext,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    Result,
    TransportFailure,
    WebhookCall,
)

MAX_PAYLOAD_BYTES = 4_096  # https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type
MAX_TTL_S = 2_419_200  # four weeks
# Without a Retry-After: https://firebase.google.com/docs/cloud-messaging/scale-fcm
QUOTA_PAUSE_S = 60.0
ADDRESS_FIELDS = ("token", "fid")
# https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages#Message, "data"
RESERVED_DATA_KEYS = frozenset({"from", "message_type"})
RESERVED_DATA_PREFIXES = ("google", "gcm")
_PROJECT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,62}")
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_DELIVERY_ID_KEY = orjson.dumps(acknowledgements.DELIVERY_ID_KEY)
_ACK_KEY = orjson.dumps(acknowledgements.ACK_KEY)


class FcmAdapter:
    """Push through FCM. Receipts are the app's own acknowledgements: FCM has none.

    Options: ``base_url``, ``service_account`` (the file's JSON), ``address_field`` (``token``, or ``fid`` for Firebase
    installation ids), ``ack_key``."""

    channel: ClassVar[Channel] = Channel.PUSH

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        account, found = find_account_problems(options.get("service_account", ""))
        problems += [f"service_account {problem}" for problem in found]
        if account and not _PROJECT_ID.fullmatch(account["project_id"]):
            problems.append("service_account has a project_id that is none")
        if options.get("address_field", "token") not in ADDRESS_FIELDS:
            problems.append(f"address_field must be one of {', '.join(ADDRESS_FIELDS)}")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self.grant: Grant | None = ServiceAccountGrant(account)
        self._url = f"{options['base_url'].rstrip('/')}/v1/projects/{account['project_id']}/messages:send"
        self._address_field: str = options.get("address_field", "token")
        self._ack_key: str = options.get("ack_key", "")

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        # One request each: the batch endpoint was shut down in June 2024, HTTP/2 takes its place.
        headers = (("Authorization", f"Bearer {context.access_token}"), ("Content-Type", "application/json"))
        frames: dict[Hashable, _Frame | ProviderError] = {}
        requests = []
        for message in messages:
            same = (message.title, message.body, id(message.data), message.badge, message.sound)
            key = (same, message.collapse_key, message.is_high, message.ttl_s)
            frame = frames.get(key)
            if frame is None:
                frame = frames[key] = self._frame(message, context.now)
            requests.append(self._request(message, frame, headers))
        return requests

    def _request(
        self, message: Message, frame: "_Frame | ProviderError", headers: tuple[tuple[str, str], ...]
    ) -> ProviderRequest:
        address = message.address
        if not (0 < len(address) <= answers.MAX_ADDRESS_LENGTH and answers.is_clean(address) and " " not in address):
            problem = InvalidRecipient(self.alias, "malformed_token", "not a registration token")
            return answers.reject(self.alias, message, problem)
        if isinstance(frame, ProviderError):
            return answers.reject(self.alias, message, frame)
        body, size = frame.fill(message)
        if size > MAX_PAYLOAD_BYTES:
            too_large = UnsupportedFeature(self.alias, "payload_too_large", f"over {MAX_PAYLOAD_BYTES} bytes")
            return answers.reject(self.alias, message, too_large)
        return ProviderRequest((message,), self._url, "POST", headers, body)

    def _frame(self, message: Message, now: datetime) -> "_Frame | ProviderError":
        """The JSON of all messages that say the same as ``message``, or why there is none."""
        problem = push_content.find_problem(self.alias, message)
        if problem is None and any(
            key in RESERVED_DATA_KEYS or key.startswith(RESERVED_DATA_PREFIXES) for key in message.data
        ):
            return UnsupportedFeature(self.alias, "reserved_data_key", "FCM keeps this data key to itself")
        return problem or _Frame(message, self._address_field, now)

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        if response.status != 200:
            error = self._read_error(response, answers.read_object(response.body))
            return answers.same_for_all(request, response, error=error)
        name = answers.as_message_id(_read_name(response.body))
        if name is None:
            unknown = OutcomeUnknown(self.alias, "no_message_name", "accepted without a message name")
            return answers.same_for_all(request, response, error=unknown)
        return answers.same_for_all(request, response, message_id=name)

    def _read_error(self, response: ProviderResponse, answer: Mapping[str, Any]) -> ProviderError:
        body = answer.get("error")
        error: Mapping[str, Any] = body if isinstance(body, dict) else {}
        details = error.get("details")
        details = [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
        fcm_code = next(
            (
                code
                for detail in details
                if detail.get("@type") == _FCM_ERROR
                if (code := answers.as_code(detail.get("errorCode")))
            ),
            "",
        )
        code = fcm_code or answers.as_code(error.get("status"))
        pause_s = answers.retry_after_s(response)
        match fcm_code:
            case "UNREGISTERED" | "SENDER_ID_MISMATCH":
                return InvalidRecipient(self.alias, code)
            case "QUOTA_EXCEEDED":
                return RateLimited(self.alias, code, retry_after_s=QUOTA_PAUSE_S if pause_s is None else pause_s)
            case "UNAVAILABLE" | "INTERNAL":
                return TransientError(self.alias, code, retry_after_s=pause_s)
            case (
                "THIRD_PARTY_AUTH_ERROR"
            ):  # the APNs or Web Push key that FCM holds for us; another token helps nothing
                return answers.credentials_error(self.alias, code)
        if response.status == 400 and self._blames_address(details):
            return InvalidRecipient(self.alias, code or "400", "the registration token is malformed")
        if response.status == 401:
            return Unauthorized(self.alias, code or "401", "the access token was refused")
        if response.status == 403:
            return answers.credentials_error(self.alias, code or "403")
        if response.status == 429 and pause_s is None:
            return RateLimited(self.alias, code or "429", retry_after_s=QUOTA_PAUSE_S)
        return answers.status_error(self.alias, response, code)

    def _blames_address(self, details: Sequence[Mapping[str, Any]]) -> bool:
        # INVALID_ARGUMENT alone says nothing about the token: an oversize message answers the same.
        for detail in details:
            violations = detail.get("fieldViolations") if detail.get("@type") == _BAD_REQUEST else None
            for violation in violations if isinstance(violations, list) else ():
                if isinstance(violation, dict) and violation.get("field") in ("message.token", "message.fid"):
                    return True
        return False

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        acknowledgements.verify(call, self._ack_key)

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        return acknowledgements.parse(call, now)


def _read_name(body: bytes) -> object:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:  # the standard library's reads a little more
        answer = answers.read_object(body)
    return answer.get("name") if isinstance(answer, dict) else None


class _Frame:
    """The JSON of a push, written once for all who get it; token, delivery id and acknowledgement are filled in."""

    __slots__ = ("_after", "_before", "_between", "_middle", "_size")

    def __init__(self, message: Message, address_field: str, now: datetime) -> None:
        notification = orjson.dumps({"title": message.title, "body": message.body})
        shared = orjson.dumps(acknowledgements.shared_data_of(message))
        data = shared[:-1] + b"," if len(shared) > len(b"{}") else b"{"
        self._before = b'{"message":{%s:' % orjson.dumps(address_field)
        self._middle = b',"notification":%s,"data":%s%s:' % (notification, data, _DELIVERY_ID_KEY)
        self._between = b",%s:" % _ACK_KEY
        self._after = b"},%s}" % orjson.dumps(_platform_options(message, now))[1:]
        # {"notification": …, "data": {…}}: what the middle begins with is as long as what this begins with.
        self._size = len(self._middle) + len(self._between) + len(b"}}")

    def fill(self, message: Message) -> tuple[bytes, int]:
        """The request's body, and how many bytes of it are payload: notification and data."""
        delivery_id, ack = orjson.dumps(message.delivery_id), orjson.dumps(message.ack or "")
        address = orjson.dumps(message.address)
        body = b"".join((self._before, address, self._middle, delivery_id, self._between, ack, self._after))
        return body, self._size + len(delivery_id) + len(ack)


def _platform_options(message: Message, now: datetime) -> dict[str, Any]:
    """Priority, life, collapsing, badge and sound in each platform's own words."""
    android: dict[str, Any] = {"priority": "HIGH" if message.is_high else "NORMAL"}
    apns = {"apns-priority": "10" if message.is_high else "5"}
    webpush = {"Urgency": "high" if message.is_high else "normal"}
    if message.ttl_s is not None:
        ttl_s = min(max(message.ttl_s, 0), MAX_TTL_S)
        android["ttl"] = f"{ttl_s}s"
        apns["apns-expiration"] = str(int(now.timestamp()) + ttl_s) if ttl_s else "0"
        webpush["TTL"] = str(ttl_s)
    if message.collapse_key:
        android["collapse_key"] = message.collapse_key
        apns["apns-collapse-id"] = apns_collapse_id(message.collapse_key)
    options: dict[str, Any] = {"android": android, "apns": {"headers": apns}, "webpush": {"headers": webpush}}
    if message.badge is not None or message.sound:
        aps: dict[str, Any] = {"badge": message.badge, "sound": message.sound}
        android_words = {"notification_count": message.badge, "sound": message.sound}
        options["apns"]["payload"] = {"aps": {name: value for name, value in aps.items() if value is not None}}
        android["notification"] = {name: value for name, value in android_words.items() if value is not None}
    return options

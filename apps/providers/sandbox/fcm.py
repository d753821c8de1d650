"""FCM HTTP v1: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send

Sends are checked as FCM checks them and answered with Google's error envelope. A push whose data carries
``notify_delivery_id`` and ``notify_ack`` is acknowledged by an app on the device, which this module plays: FCM itself
has no delivery receipts. Tokens that begin with one of ``TOKEN_CONVENTIONS`` fail in that way.
"""

import itertools
import re
import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from apps.providers.sandbox import acknowledging, fcm_message
from apps.providers.sandbox.credentials import PROJECT_ID
from apps.providers.sandbox.exchange import Answer, Request, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.fcm_message import Violation
from apps.providers.sandbox.fcm_oauth import TokenEndpoint
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Poster
from apps.providers.sandbox.state import Accepted, Sandbox

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"

# https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode: code -> HTTP status, Google status, text.
ERRORS = {
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Send requests'."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
}
# Errors of the API in front of FCM, which carry no FcmError.
PLATFORM_ERRORS = {
    "UNAUTHENTICATED": (
        401,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
    ),
    "PERMISSION_DENIED": (403, "Permission 'cloudmessaging.messages.create' denied on resource"),
    "NOT_FOUND": (404, "Method not found."),
}
DEFAULT_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "SENDER_ID_MISMATCH", 404: "UNREGISTERED",
    429: "QUOTA_EXCEEDED", 500: "INTERNAL", 503: "UNAVAILABLE",
}  # fmt: skip
TOKEN_CONVENTIONS = {
    "unregistered-": "UNREGISTERED",
    "dead-": "UNREGISTERED",
    "mismatch-": "SENDER_ID_MISMATCH",
    "invalid-": "INVALID_ARGUMENT",
}
OFFLINE_PREFIX = "offline-"  # a phone that gets the push and never acknowledges it
_CONVENTION = re.compile("|".join(TOKEN_CONVENTIONS))
_SEND_PATH = re.compile(r"v1/projects/([^/]+)/messages:send")


def error_answer(
    code: str, text: str = "", violation: Violation | None = None, retry_after_s: float | None = None
) -> Answer:
    """Google's error envelope (https://cloud.google.com/apis/design/errors) for an FCM or platform error code."""
    if code in ERRORS:
        status, google_status, default_text = ERRORS[code]
        details: list[dict[str, Any]] = [{"@type": FCM_ERROR, "errorCode": code}]
    else:
        status, default_text = PLATFORM_ERRORS[code]
        google_status, details = code, []
    if violation is not None:
        if not violation.is_from_fcm:
            details = []
        if violation.field:
            fields = [{"field": violation.field, "description": violation.text}]
            details.append({"@type": BAD_REQUEST, "fieldViolations": fields})
        text = violation.text
    error = {"code": status, "message": text or default_text, "status": google_status}
    if details:
        error["details"] = details
    headers = () if retry_after_s is None else (("retry-after", str(round(retry_after_s))),)
    return json_answer(status, {"error": error}, headers)


class FcmProvider:
    """The token endpoint ``token`` and ``v1/projects/<project>/messages:send``."""

    name = "fcm"
    channel = "push"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._tokens = TokenEndpoint(sandbox.credentials)
        self._ack_url = f"{sandbox.credentials.webhook_base}/v1/webhooks/fcm"
        self._message_ids = itertools.count(1)
        self._boot = secrets.token_hex(4)
        self.poster = Poster(build=acknowledging.build_ack)

    def handle(self, request: Request) -> Answer:
        if request.path == "token":
            return self._grant(request)
        target = _SEND_PATH.fullmatch(request.path)
        if target is None or request.method != "POST":
            return self._reject("NOT_FOUND", error_answer("NOT_FOUND"))
        refusal = self._check_bearer(request.header("authorization") or "")
        if refusal is not None:
            return self._reject("UNAUTHENTICATED", refusal)
        if target[1] != PROJECT_ID:
            project = f"//cloudresourcemanager.googleapis.com/projects/{target[1]}"
            text = f"{PLATFORM_ERRORS['PERMISSION_DENIED'][1]} '{project}' (or it may not exist)."
            return self._reject("PERMISSION_DENIED", error_answer("PERMISSION_DENIED", text))
        return self._send(request.body)

    def show(self, source: Mapping[str, Any]) -> Shown:
        title, body = fcm_message.visible_text(source)
        extra = {"data": source.get("data") or {}, "is_high": fcm_message.is_high(source)}
        return Shown(title=title, body=body, extra=extra)

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and rule.code not in ERRORS and rule.code not in PLATFORM_ERRORS:
            known = ", ".join([*ERRORS, *PLATFORM_ERRORS])
            raise InvalidRuleError(f"code: FCM has no {rule.code!r}; known are {known}")

    def _grant(self, request: Request) -> Answer:
        fault = self._sandbox.faults[self.name].decide((), "token")
        if fault.is_refused:
            return self._fail(fault)
        answer = self._tokens.grant(request)
        if answer.status != 200:
            self._reject("token", answer)
        return answer.after(fault.delay_s)

    def _check_bearer(self, authorization: str) -> Answer | None:
        if self._tokens.is_valid(authorization):
            return None
        answer = error_answer("UNAUTHENTICATED")
        challenge = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
        return Answer(answer.status, (*answer.headers, ("www-authenticate", challenge)), answer.body)

    def _send(self, body: bytes) -> Answer:
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError:
            return self._refuse(Violation("Invalid JSON payload received. Unable to parse the request.", ""))
        violation = fcm_message.find_violation(payload, len(body))
        if violation is not None:
            return self._refuse(violation)
        message = payload["message"]
        kind, address = fcm_message.target_of(message)
        convention = _CONVENTION.match(address)
        if convention is not None and kind == "token":
            code = TOKEN_CONVENTIONS[convention[0]]
            return self._reject(code, _recipient_error(code))
        fault = self._sandbox.faults[self.name].decide((address,))
        if fault.is_refused:
            return self._fail(fault)
        name = f"projects/{PROJECT_ID}/messages/0:{self._boot}%{next(self._message_ids):016x}"
        if not (payload.get("validateOnly") or payload.get("validate_only")):
            self._accept(message, address, kind, name, len(body))
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return json_answer(200, {"name": name}).after(fault.delay_s)

    def _accept(self, message: Mapping[str, Any], address: str, kind: str, name: str, size: int) -> None:
        data = message.get("data") or {}
        delivery_id = acknowledging.delivery_id_of(data)
        is_online = kind == "token" and not address.startswith(OFFLINE_PREFIX)
        receipts = acknowledging.make_acks(data, self._ack_url) if is_online else []
        self._sandbox.accept(self, Accepted(delivery_id, name, address, size, message), receipts)

    def _fail(self, fault: Fault) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        fallback = 429 if fault.mode is Mode.THROTTLE else 503
        code = fault.code or DEFAULT_CODES.get(fault.status or fallback)
        if code is None:  # a load balancer's page: FCM's own errors have codes
            answer = html_answer(fault.status or fallback, f"Error {fault.status}")
            return self._reject(str(fault.status), answer).after(fault.delay_s)
        if fault.code in {"UNREGISTERED", "SENDER_ID_MISMATCH", "INVALID_ARGUMENT"}:
            answer = _recipient_error(code)
        else:
            retry_after_s = 60.0 if code == "QUOTA_EXCEEDED" and fault.retry_after_s is None else fault.retry_after_s
            answer = error_answer(code, retry_after_s=retry_after_s)
        return self._reject(code, answer).after(fault.delay_s)

    def _refuse(self, violation: Violation) -> Answer:
        return self._reject("INVALID_ARGUMENT", error_answer("INVALID_ARGUMENT", violation=violation))

    def _reject(self, code: str, answer: Answer) -> Answer:
        return self._sandbox.reject(self, code, answer)


def _recipient_error(code: str) -> Answer:
    if code == "INVALID_ARGUMENT":
        text = "The registration token is not a valid FCM registration token"
        return error_answer(code, violation=Violation(text, "message.token", is_from_fcm=True))
    return error_answer(code)


def create(sandbox: Sandbox) -> FcmProvider:
    return FcmProvider(sandbox)

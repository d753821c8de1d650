"""Twilio Programmable Messaging: https://www.twilio.com/docs/messaging/api/message-resource

Numbers behave as with Twilio's test credentials (https://www.twilio.com/docs/iam/test-credentials), and
``UNDELIVERABLE`` ones are accepted first and fail later. Status callbacks are signed as described on
https://www.twilio.com/docs/usage/security.
"""

import base64
import hashlib
import hmac
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from apps.providers.sandbox import gsm, inbound
from apps.providers.sandbox.credentials import TWILIO_FROM
from apps.providers.sandbox.exchange import Answer, Request, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Call, Poster, Receipt
from apps.providers.sandbox.state import Accepted, Sandbox

MAX_BODY_CHARACTERS = 1_600
MAX_VALIDITY_S = 36_000
KEPT_MESSAGES = 10_000
SETTLED_AFTER_S = 0.2  # from then on ``GET`` shows a message's last status
UNKNOWN_ERROR = 30008

# code -> HTTP status, text; https://www.twilio.com/docs/api/errors. ``{to}`` and ``{sender}`` are filled in.
ERRORS = {
    20003: (401, "Authenticate"),
    20404: (404, "The requested resource was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "An internal server error has occurred"),
    20503: (503, "Service is temporarily unavailable"),
    21211: (400, "The 'To' number {to} is not a valid phone number."),
    21212: (400, "The 'From' number {sender} is not a valid phone number, shortcode, or alphanumeric sender ID."),
    21266: (400, "'To' and 'From' number cannot be the same: {to}"),
    21408: (400, "Permission to send an SMS has not been enabled for the region indicated by the 'To' number: {to}."),
    21602: (400, "Message body is required."),
    21603: (400, "A 'From' phone number is required."),
    21604: (400, "A 'To' phone number is required."),
    21606: (400, "The 'From' phone number {sender} is not a valid, SMS-capable inbound phone number or short code "
                 "for your account."),
    21609: (400, "The StatusCallback URL is not a valid URL."),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21611: (400, "This 'From' number has exceeded the maximum number of queued messages"),
    21612: (400, "The 'To' phone number: {to}, is not currently reachable using the 'From' phone number: {sender} "
                 "via SMS."),
    21614: (400, "'To' number: {to}, is not a mobile number"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit."),
    21624: (400, "Invalid validity period value"),
    21701: (404, "The Messaging Service does not exist"),
}  # fmt: skip
DEFAULT_CODES = {401: 20003, 404: 20404, 429: 20429, 500: 20500, 503: 20503}
SENDER_ERRORS = {"+15005550001": 21212, "+15005550007": 21606, "+15005550008": 21611}
RECIPIENT_ERRORS = {
    "+15005550001": 21211,
    "+15005550002": 21612,
    "+15005550003": 21408,
    "+15005550004": 21610,
    "+15005550009": 21614,
}
# Accepted, then undelivered with this error: unreachable handset, unknown handset, landline.
UNDELIVERABLE = {"+15005559903": 30003, "+15005559905": 30005, "+15005559906": 30006}
# https://help.twilio.com/articles/223134027
STOP_WORDS = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT"})
START_WORDS = frozenset({"START", "YES", "UNSTOP"})

_E164 = re.compile(r"\+[1-9]\d{6,14}")
_ALPHANUMERIC_SENDER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 &_+-]{1,11}")
_SERVICE_SID = re.compile(r"MG[0-9a-fA-F]{32}")
_MESSAGES_PATH = re.compile(r"2010-04-01/Accounts/([^/]+)/Messages(?:/(SM[0-9a-f]{32}))?\.json")


@dataclass(slots=True)
class StoredMessage:
    """A message resource as kept for ``GET``, and how it ends. ``settles_at`` is on the monotonic clock."""

    resource: dict[str, Any]
    settles_at: float
    error: int | None

    def describe(self, now: float) -> dict[str, Any]:
        if now < self.settles_at:
            return self.resource
        status = "delivered" if self.error is None else "undelivered"
        sent = self.resource["date_created"]
        return {**self.resource, "status": status, "error_code": self.error, "date_sent": sent}


class TwilioProvider:
    """``2010-04-01/Accounts/<sid>/Messages.json`` and the single message below it."""

    name = "twilio"
    channel = "sms"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._sid = sandbox.credentials.twilio_account_sid
        self._auth_token = sandbox.credentials.twilio_auth_token.encode()
        basic = base64.b64encode(f"{self._sid}:{sandbox.credentials.twilio_auth_token}".encode())
        self._authorization = f"Basic {basic.decode()}"
        self._messages: OrderedDict[str, StoredMessage] = OrderedDict()
        self._webhook_url = f"{sandbox.credentials.webhook_base}/v1/webhooks/twilio"
        self._opted_out: set[str] = set()
        self.poster = Poster(build=self._build_callback)
        sandbox.on_reset.append(self._opted_out.clear)
        inbound.offer(sandbox, self.name, self.receive)

    def handle(self, request: Request) -> Answer:
        if not hmac.compare_digest((request.header("authorization") or "").encode(), self._authorization.encode()):
            answer = self._error(20003)
            challenge = ("www-authenticate", 'Basic realm="Twilio API"')
            return Answer(answer.status, (*answer.headers, challenge), answer.body)
        target = _MESSAGES_PATH.fullmatch(request.path)
        if target is None or target[1] != self._sid:
            return self._error(20404)
        if target[2] and request.method == "GET":
            stored = self._messages.get(target[2])
            return self._error(20404) if stored is None else json_answer(200, stored.describe(time.monotonic()))
        if target[2] or request.method != "POST":
            return self._error(20404)
        return self._send(request)

    def show(self, source: Mapping[str, Any]) -> Shown:
        sender = source["from"] or source["messaging_service_sid"]
        return Shown(sender=sender, body=source["body"], extra={"segments": int(source["num_segments"])})

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and (not rule.code.isdigit() or int(rule.code) not in ERRORS):
            raise InvalidRuleError(f"code: known are {', '.join(map(str, ERRORS))}")

    def receive(self, sender: str, text: str) -> None:
        """https://www.twilio.com/docs/messaging/guides/webhook-request. Twilio itself heeds STOP and START."""
        word = text.strip().upper()
        if word in STOP_WORDS:
            self._opted_out.add(sender)
        elif word in START_WORDS:
            self._opted_out.discard(sender)
        sid = f"SM{uuid.uuid4().hex}"
        parameters = {
            "AccountSid": self._sid,
            "ApiVersion": "2010-04-01",
            "Body": text,
            "From": sender,
            "MessageSid": sid,
            "NumMedia": "0",
            "NumSegments": str(gsm.count_segments(text)),
            "SmsMessageSid": sid,
            "SmsSid": sid,
            "SmsStatus": "received",
            "To": TWILIO_FROM,
        }
        self._sandbox.receipts.schedule(self.name, [Receipt(payload=parameters, url=self._webhook_url)])

    def _send(self, request: Request) -> Answer:
        form = {
            name: values[-1]
            for name, values in parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True).items()
        }
        code = _find_error(form)
        if code is not None:
            return self._error(code, form)
        recipient = form["To"]
        if recipient in self._opted_out:
            return self._error(21610, form)
        fault = self._sandbox.faults[self.name].decide((recipient,))
        if fault.is_refused:
            return self._fail(fault, form)
        resource = self._create_resource(form)
        self._accept(form, resource, len(request.body))
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return json_answer(201, resource).after(fault.delay_s)

    def _accept(self, form: Mapping[str, str], resource: dict[str, Any], size: int) -> None:
        callback = form.get("StatusCallback", "")
        error = UNDELIVERABLE.get(form["To"])
        if error is None and self._sandbox.receipts.draws_failure(self.name):
            error = UNKNOWN_ERROR
        receipts = [
            Receipt(payload=self._callback_parameters(form, resource, status, error), url=callback)
            for status in ("queued", "sent", "delivered" if error is None else "undelivered")
        ]
        accepted = Accepted(
            delivery_id=parse_qs(urlsplit(callback).query).get("delivery_id", [""])[0],
            message_id=resource["sid"],
            address=form["To"],
            size=size,
            source=resource,
        )
        self._messages[resource["sid"]] = StoredMessage(resource, time.monotonic() + SETTLED_AFTER_S, error)
        if len(self._messages) > KEPT_MESSAGES:
            self._messages.popitem(last=False)
        self._sandbox.accept(self, accepted, receipts if callback else ())

    def _create_resource(self, form: Mapping[str, str]) -> dict[str, Any]:
        sid = f"SM{uuid.uuid4().hex}"
        uri = f"/2010-04-01/Accounts/{self._sid}/Messages/{sid}"
        now = formatdate()
        return {
            "account_sid": self._sid,
            "api_version": "2010-04-01",
            "body": form["Body"],
            "date_created": now,
            "date_sent": None,
            "date_updated": now,
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "from": form.get("From"),
            "messaging_service_sid": form.get("MessagingServiceSid"),
            "num_media": "0",
            "num_segments": str(gsm.count_segments(form["Body"])),
            "price": None,
            "price_unit": "USD",
            "sid": sid,
            "status": "queued",
            "subresource_uris": {"media": f"{uri}/Media.json"},
            "to": form["To"],
            "uri": f"{uri}.json",
        }

    def _callback_parameters(
        self, form: Mapping[str, str], resource: Mapping[str, Any], status: str, error: int | None
    ) -> dict[str, str]:
        parameters = {
            "AccountSid": self._sid,
            "ApiVersion": "2010-04-01",
            "MessageSid": resource["sid"],
            "MessageStatus": status,
            "SmsSid": resource["sid"],
            "SmsStatus": status,
            "To": form["To"],
        }
        for name in ("From", "MessagingServiceSid"):
            if form.get(name):
                parameters[name] = form[name]
        if status == "undelivered":
            parameters["ErrorCode"] = str(error)
        return parameters

    def _build_callback(self, receipts: Sequence[Receipt], is_forged: bool) -> Call:
        receipt = receipts[0]
        parameters = receipt.payload
        key = b"not-the-auth-token" if is_forged else self._auth_token
        headers = (
            ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("X-Twilio-Signature", sign(receipt.url, parameters, key)),
        )
        return Call(receipt.url, headers, urlencode(parameters).encode())

    def _fail(self, fault: Fault, form: Mapping[str, str]) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        status = fault.status or (429 if fault.mode is Mode.THROTTLE else 503)
        code = int(fault.code) if fault.code else DEFAULT_CODES.get(status)
        if code is None:  # a load balancer's page: Twilio's own errors have codes
            answer = html_answer(status, f"Error {status}")
            return self._sandbox.reject(self, str(status), answer).after(fault.delay_s)
        return self._error(code, form, fault.retry_after_s).after(fault.delay_s)

    def _error(self, code: int, form: Mapping[str, str] | None = None, retry_after_s: float | None = None) -> Answer:
        status, text = ERRORS[code]
        values = form or {}
        content = {
            "code": code,
            "message": text.format(to=values.get("To", ""), sender=values.get("From", "")),
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        }
        headers = () if retry_after_s is None else (("retry-after", str(round(retry_after_s))),)
        return self._sandbox.reject(self, str(code), json_answer(status, content, headers))


def sign(url: str, parameters: Mapping[str, str], auth_token: bytes) -> str:
    """``X-Twilio-Signature``: base64 HMAC-SHA1 over the URL followed by the sorted names and values."""
    text = url + "".join(f"{name}{parameters[name]}" for name in sorted(parameters))
    return base64.b64encode(hmac.new(auth_token, text.encode(), hashlib.sha1).digest()).decode()


def _find_error(form: Mapping[str, str]) -> int | None:
    """The code of the first thing wrong with a message, or ``None``."""
    return (
        _check_recipient(form.get("To", ""))
        or _check_sender(form)
        or _check_content(form.get("Body", ""))
        or _check_options(form)
    )


def _check_recipient(number: str) -> int | None:
    if not number:
        return 21604
    return RECIPIENT_ERRORS.get(number) if _E164.fullmatch(number) else 21211


def _check_sender(form: Mapping[str, str]) -> int | None:
    sender, service = form.get("From", ""), form.get("MessagingServiceSid", "")
    if service:
        return None if _SERVICE_SID.fullmatch(service) else 21701
    if not sender:
        return 21603
    if sender in SENDER_ERRORS:
        return SENDER_ERRORS[sender]
    if sender == form.get("To"):
        return 21266
    if sender == TWILIO_FROM or _ALPHANUMERIC_SENDER.fullmatch(sender):
        return None
    return 21606 if _E164.fullmatch(sender) else 21212


def _check_content(body: str) -> int | None:
    if not body:
        return 21602
    return 21617 if len(body) > MAX_BODY_CHARACTERS else None


def _check_options(form: Mapping[str, str]) -> int | None:
    validity = form.get("ValidityPeriod")
    if validity is not None and not (
        validity.isascii() and validity.isdigit() and 1 <= int(validity) <= MAX_VALIDITY_S
    ):
        return 21624
    callback = form.get("StatusCallback")
    if callback and not _is_usable_url(callback):
        return 21609
    return None


def _is_usable_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return url.isascii() and parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def create(sandbox: Sandbox) -> TwilioProvider:
    return TwilioProvider(sandbox)

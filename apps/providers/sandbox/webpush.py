"""A push service for browsers (RFC 8030, RFC 8292), and the browsers behind it, which decrypt (RFC 8291).

``POST /_sandbox/webpush/subscriptions`` makes a subscription as a browser's ``PushSubscription.toJSON()`` shows it;
``{"prefix": "dead-"}`` makes one that fails (``ID_CONVENTIONS``), ``offline-`` one that never acknowledges. The service
worker acknowledges a push whose ``data`` carries ``notify_delivery_id`` and ``notify_ack``. In faults and in the ledger
the address of a browser is its endpoint.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import orjson

from apps.providers.sandbox import acknowledging
from apps.providers.sandbox.exchange import Answer, Request, as_mapping, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Poster
from apps.providers.sandbox.state import Accepted, Sandbox
from apps.providers.sandbox.webpush_browser import UndecryptableError, decrypt, make_id, open_browser
from apps.providers.sandbox.webpush_vapid import VapidChecker

# Bodies as Mozilla's service writes them (https://mozilla-services.github.io/autopush-rs/errors.html): status -> errno.
ERRNOS = {400: 110, 401: 109, 403: 109, 404: 102, 410: 106, 413: 104, 429: 112, 500: 999, 503: 201}
ID_CONVENTIONS = {"dead-": 410, "unknown-": 404}
OFFLINE_PREFIX = "offline-"
MAX_BODY_BYTES = 4_096
URGENCIES = {"very-low", "low", "normal", "high"}
_PREFIX = re.compile(r"[A-Za-z0-9-]{0,32}")
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_TTL = re.compile(r"[0-9]{1,10}")


class WebPushProvider:
    """``p/<id>`` takes messages for a browser."""

    name = "webpush"
    channel = "push"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        credentials = sandbox.credentials
        self._secret = credentials.webpush_secret
        self._base_url = f"{credentials.base_url}/webpush"
        self._vapid = VapidChecker(credentials.webpush_public_key, audience=credentials.base_url)
        self._ack_url = f"{credentials.webhook_base}/v1/webhooks/webpush"
        self._numbers = itertools.count(1)
        self.poster = Poster(build=acknowledging.build_ack)
        sandbox.controls["POST", "webpush/subscriptions"] = self.subscribe

    def subscribe(self, request: Request) -> Answer:
        """A new subscription; raises ``InvalidRuleError``."""
        try:
            content = orjson.loads(request.body) if request.body else {}
        except orjson.JSONDecodeError as error:
            raise InvalidRuleError(f"the body is not JSON: {error}") from error
        prefix = content.get("prefix", "") if isinstance(content, dict) else None
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise InvalidRuleError("prefix: must be up to 32 letters, digits and hyphens")
        browser_id = make_id(self._secret, prefix)
        browser = open_browser(self._secret, browser_id)
        assert browser is not None
        content = {"endpoint": self._endpoint(browser_id), "expirationTime": None, "keys": browser.describe_keys()}
        return json_answer(200, content)

    def handle(self, request: Request) -> Answer:
        kind, _, browser_id = request.path.partition("/")
        browser = open_browser(self._secret, browser_id) if kind == "p" else None
        if browser is None:
            return self._refuse(404, "No such subscription")
        if request.method != "POST":
            return self._refuse(405, "Use POST")
        status, text = self._vapid.find_problem(request.header("authorization")) or _find_problem(request)
        if status:
            return self._refuse(status, text)
        endpoint = self._endpoint(browser_id)
        convention = next((code for prefix, code in ID_CONVENTIONS.items() if browser_id.startswith(prefix)), None)
        if convention is not None:
            return self._refuse(convention, "No such subscription")
        fault = self._sandbox.faults[self.name].decide((endpoint,))
        if fault.is_refused:
            return self._fail(fault)
        message = self._take(request, browser_id, endpoint)
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        headers = (("location", f"{self._base_url}/m/{message}"), ("ttl", request.header("ttl") or "0"))
        return Answer(201, headers).after(fault.delay_s)

    def show(self, source: tuple[Mapping[str, Any] | None, bool]) -> Shown:
        content, is_high = source
        if content is None:
            return Shown(title="Undecryptable", body="The browser cannot decrypt this message and drops it.")
        extra = {"data": as_mapping(content.get("data")), "is_high": is_high}
        return Shown(title=str(content.get("title", "")), body=str(content.get("body", "")), extra=extra)

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None:
            raise InvalidRuleError("code: push services have none; use status")

    def _endpoint(self, browser_id: str) -> str:
        return f"{self._base_url}/p/{browser_id}"

    def _take(self, request: Request, browser_id: str, endpoint: str) -> str:
        """Records a message and has it shown and acknowledged, if the browser can read it. A push service cannot tell
        whether it can. Returns the message's id."""
        browser = open_browser(self._secret, browser_id)
        assert browser is not None
        try:
            content = _read_content(decrypt(browser, request.body))
        except UndecryptableError:
            content = None
            self._sandbox.traffic[self.name].errors["undecryptable"] += 1
        data = as_mapping((content or {}).get("data"))
        is_online = not browser_id.startswith(OFFLINE_PREFIX)
        acks = acknowledging.make_acks(data, self._ack_url) if is_online else []
        name = f"{next(self._numbers):x}-{browser_id[-12:]}"
        source = (content, request.header("urgency") == "high")
        delivery_id = acknowledging.delivery_id_of(data)
        self._sandbox.accept(self, Accepted(delivery_id, name, endpoint, len(request.body), source), acks)
        return name

    def _fail(self, fault: Fault) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        status = fault.status or (429 if fault.mode is Mode.THROTTLE else 503)
        return self._refuse(status, "A fault", retry_after_s=fault.retry_after_s).after(fault.delay_s)

    def _refuse(self, status: int, text: str, *, retry_after_s: float | None = None) -> Answer:
        headers = () if retry_after_s is None else (("retry-after", str(round(retry_after_s))),)
        if status in ERRNOS:
            content = {"code": status, "errno": ERRNOS[status], "error": "", "message": text}
            answer = json_answer(status, content, headers)
        else:
            answer = html_answer(status, f"Error {status}")
        return self._sandbox.reject(self, str(status), answer)


def _read_content(plaintext: bytes) -> Mapping[str, Any]:
    """What the service worker got: our JSON object, or any other text as a body."""
    try:
        content = orjson.loads(plaintext)
    except orjson.JSONDecodeError:
        content = None
    return content if isinstance(content, dict) else {"body": plaintext.decode(errors="replace")}


def _find_problem(request: Request) -> tuple[int, str]:
    """Status and text of what is wrong with a message's headers and size; status 0 for nothing."""
    if not _TTL.fullmatch(request.header("ttl") or ""):
        return 400, "TTL is missing or no number of seconds"
    if request.header("content-encoding") != "aes128gcm":
        return 400, "Content-Encoding must be aes128gcm"
    if request.header("urgency") not in {None, *URGENCIES}:
        return 400, "Urgency is none of very-low, low, normal, high"
    if not _TOPIC.fullmatch(request.header("topic") or "x"):
        return 400, "Topic must be up to 32 characters of base64url"
    if len(request.body) > MAX_BODY_BYTES:
        return 413, f"The body exceeds {MAX_BODY_BYTES} bytes"
    return 0, ""


def create(sandbox: Sandbox) -> WebPushProvider:
    return WebPushProvider(sandbox)

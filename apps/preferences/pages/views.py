"""The page behind an unsubscribe link, and the POST by which mail programs use the link (RFC 8058).

No cookie, no login, no CSRF token: whoever holds the link may use it, and nobody else can know it. A GET changes
nothing, as scanners and mail programs fetch links ahead of people.
"""

import base64
import hashlib
import math
from functools import cache
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

import structlog
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.safestring import mark_safe
from django.views.decorators.csrf import csrf_exempt

from apps import rate_limit
from apps.channels import Channel
from apps.preferences import subscription, unsubscribe
from apps.preferences.locks import UnknownRecipient
from apps.preferences.subscription import Scope, Source
from apps.preferences.unsubscribe import ExpiredLink, InvalidLink, Link

MAX_BODY_BYTES: Final = 8_192
# One address may use many links (an office, a mail scanner), but not guess.
ADDRESS_RATE_PER_S: Final = 50.0
ADDRESS_BURST: Final = 500
INVALID_LINK_COST: Final = 25
LINK_RATE_PER_S: Final = 1.0
LINK_BURST: Final = 30
_RETRY_AFTER_S: Final = 30
_ONE_CLICK: Final = ("List-Unsubscribe", "One-Click")  # RFC 8058, 3.1
_NOUNS: Final = {Channel.PUSH: "push notification", Channel.SMS: "text message", Channel.EMAIL: "email"}

log = structlog.get_logger("notify.preferences.pages")


@csrf_exempt
def unsubscribe_page(request: HttpRequest, token: str) -> HttpResponse:
    """GET: how the person stands, and buttons. POST ``List-Unsubscribe=One-Click``: unsubscribed at once, 200.
    POST ``scope=category|channel|all|resubscribe``: done, 303 back to the page. 404 for a link that is none of ours,
    410 for one that has expired or whose recipient is gone, 429 for too many requests, 503 without a database."""
    try:
        response = _answer(request, token)
    except (OperationalError, InterfaceError) as error:
        log.error("database_away", error=type(error.__cause__ or error).__name__)
        response = _notice("away", HTTPStatus.SERVICE_UNAVAILABLE, retry_after_s=_RETRY_AFTER_S)
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    response["X-Robots-Tag"] = "noindex, nofollow"
    return response


def _answer(request: HttpRequest, token: str) -> HttpResponse:
    if request.method not in {"GET", "HEAD", "POST"}:
        return HttpResponseNotAllowed(["GET", "HEAD", "POST"])
    try:
        link = unsubscribe.read_token(token, timezone.now())
    except InvalidLink as error:
        wait_s = _take(_address_quota(request, INVALID_LINK_COST))
        if wait_s is not None:
            return _too_many(wait_s)
        is_expired = isinstance(error, ExpiredLink)
        return _notice("expired", HTTPStatus.GONE) if is_expired else _notice("unknown", HTTPStatus.NOT_FOUND)
    if request.method == "POST":
        return _receive(request, token, link)
    wait_s = _take(_address_quota(request, 1), _link_quota(token))
    return _show(link) if wait_s is None else _too_many(wait_s)


def _show(link: Link, *, is_misunderstood: bool = False) -> HttpResponse:
    standing = subscription.select_standing(link)
    if standing is None:
        return _notice("expired", HTTPStatus.GONE)
    status = HTTPStatus.BAD_REQUEST if is_misunderstood else HTTPStatus.OK
    noun = _NOUNS[standing.channel]
    return _render(
        "standing",
        status,
        {"standing": standing, "state": standing.state.value, "noun": noun, "is_misunderstood": is_misunderstood},
    )


def _receive(request: HttpRequest, token: str, link: Link) -> HttpResponse:
    choice = _read_choice(request)
    # A mail provider's few machines speak for millions of people: a good link in one click is held to no address.
    quotas = [_link_quota(token)]
    if choice is None or choice[1] is not Source.ONE_CLICK:
        quotas.append(_address_quota(request, 1))
    wait_s = _take(*quotas)
    if wait_s is not None:
        return _too_many(wait_s)
    if choice is None:
        return _show(link, is_misunderstood=True)
    scope, source = choice
    try:
        subscription.make_choice(link=link, scope=scope, source=source)
    except UnknownRecipient:
        return _notice("expired", HTTPStatus.GONE)
    if source is Source.ONE_CLICK:
        return HttpResponse("Unsubscribed.\n", content_type="text/plain; charset=utf-8")
    return HttpResponseRedirect(request.path, status=HTTPStatus.SEE_OTHER)


def _read_choice(request: HttpRequest) -> tuple[Scope, Source] | None:
    """What the body asks for; ``None`` if it is nothing we know."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdigit() and int(length) <= MAX_BODY_BYTES):
        return None
    try:
        body, fields = request.body.strip(), request.POST  # in this order: a form with parts is read only once
    except (MultiPartParserError, SuspiciousOperation, BadRequest, UnreadablePostError, UnicodeError):
        return None
    name, value = _ONE_CLICK
    if fields.get(name) == value or body == f"{name}={value}".encode():  # some forget the Content-Type
        return Scope.CATEGORY, Source.ONE_CLICK
    scope = fields.get("scope")
    return (Scope(scope), Source.PAGE) if scope in set(Scope) else None


def _take(*quotas: rate_limit.Quota) -> float | None:
    """``None`` if the request may go on, else the seconds to wait."""
    decision = rate_limit.take_many(quotas)
    return None if decision.allowed else decision.retry_after_s


def _address_quota(request: HttpRequest, cost: int) -> rate_limit.Quota:
    # A keyed hash, as an address is personal; of an IPv6 address the network, as everybody has 2**64 of them.
    remote: str = request.META.get("REMOTE_ADDR", "")
    try:
        address = ip_address(remote)
        remote = str(int(address) >> 64) if isinstance(address, IPv6Address) else remote
    except ValueError:
        remote = ""  # a Unix socket
    key = salted_hmac("apps.preferences.pages.address", remote, algorithm="sha256").hexdigest()[:24]
    return rate_limit.Quota(f"unsubscribe:ip:{key}", ADDRESS_RATE_PER_S, ADDRESS_BURST, cost)


def _link_quota(token: str) -> rate_limit.Quota:
    key = hashlib.sha256(token.encode()).hexdigest()[:24]
    return rate_limit.Quota(f"unsubscribe:link:{key}", LINK_RATE_PER_S, LINK_BURST)


def _too_many(wait_s: float) -> HttpResponse:
    return _notice("too_many", HTTPStatus.TOO_MANY_REQUESTS, retry_after_s=max(1, math.ceil(wait_s)))


def _notice(kind: str, status: HTTPStatus, *, retry_after_s: int | None = None) -> HttpResponse:
    response = _render("notice", status, {"kind": kind})
    if retry_after_s is not None:
        response["Retry-After"] = str(retry_after_s)
    return response


def _render(name: str, status: HTTPStatus, context: dict[str, Any]) -> HttpResponse:
    css, csp = _style()
    # Without the request: its context processors would look for a session.
    html = render_to_string(f"unsubscribe/{name}.html", {**context, "css": css})
    return HttpResponse(html, status=status, headers={"Content-Security-Policy": csp})


@cache
def _style() -> tuple[str, str]:
    """The style sheet, and the policy that allows it, forms to here, and nothing else."""
    css = render_to_string("unsubscribe/page.css")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    csp = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return mark_safe(css), csp  # noqa: S308 - our own file

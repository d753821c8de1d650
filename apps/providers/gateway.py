"""One call: messages in, exactly one result each out. Token, build, send, parse."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps import metrics
from apps.providers.base import Adapter
from apps.providers.errors import (
    BatchRejected,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    TransientError,
    Unauthorized,
)
from apps.providers.limits import Limits
from apps.providers.messages import BuildContext, Message, ProviderRequest, ProviderResponse, Result, TransportFailure
from apps.providers.recent_errors import note_errors
from apps.providers.registry import Provider
from apps.providers.smtp_transport import SmtpTransport, smtp_transport
from apps.providers.tokens import WAIT_FOR_OTHER_S, TokenUnavailableError, get_token, invalidate_token
from apps.providers.transport import Transport, thread_transport

log = structlog.get_logger(__name__)

# A batch of 1,000 is down to one message after ten halvings. All in all a call must end before the lease of its
# deliveries does: time for rounds, for the last of them in the transport, and for a token.
MAX_ROUNDS = 12
MAX_RESENT_REQUESTS = 64
ROUNDS_TIME_S = 6.0


class _Call:
    """One ``send_messages``: what is known so far, and what goes into the log line."""

    def __init__(self, provider: Provider, adapter: Adapter) -> None:
        self.alias = provider.alias
        self.adapter = adapter
        self.timeout_s: float | None = provider.entry.get("timeout_s")
        self.results: dict[str, Result] = {}
        self.statuses: Counter[int | str] = Counter()
        self.token: str | None = None
        self.has_new_token = False
        self.resent = 0
        self.rounds = 0
        self.started = time.monotonic()

    def run(self, messages: Sequence[Message]) -> None:
        groups = [messages]
        while groups:
            self.rounds += 1
            groups = self._next_groups(groups)

    def _next_groups(self, groups: list[Sequence[Message]]) -> list[Sequence[Message]]:
        """Send ``groups``; return what to send again in this call: halves of a batch refused as a whole, and once
        what was refused with a stale token."""
        now = datetime.now(UTC)
        if self.adapter.grant is not None and self.token is None:
            try:
                self.token = get_token(self.alias, self.adapter.grant, now)
            except TokenUnavailableError as error:
                for message in (message for group in groups for message in group):
                    self._settle(message, NotSent(self.alias, error.code, "no access token"))
                return []
        context = BuildContext(now=now, access_token=self.token)
        requests = [request for group in groups for request in self._build(group, context)]
        again: list[Sequence[Message]] = []
        unauthorized: list[Message] = []
        for request, outcome in self._send(requests):
            rejected: list[Message] = []
            for message, result in self._parse(request, outcome):
                self.results[message.delivery_id] = result
                if result.error is None:
                    continue
                if isinstance(result.error, BatchRejected) and len(request.messages) > 1:
                    rejected.append(message)
                elif isinstance(result.error, Unauthorized):
                    unauthorized.append(message)
            if rejected and self._may_resend():
                self.resent += 2
                middle = (len(rejected) + 1) // 2
                again.extend(half for half in (rejected[:middle], rejected[middle:]) if half)
        if unauthorized and self.adapter.grant is not None and self.token is not None and not self.has_new_token:
            self.has_new_token = True
            invalidate_token(self.alias, self.adapter.grant, self.token)
            self.token = None
            again.append(unauthorized)
        return again

    def _may_resend(self) -> bool:
        is_in_time = time.monotonic() - self.started < ROUNDS_TIME_S
        return self.rounds < MAX_ROUNDS and self.resent < MAX_RESENT_REQUESTS and is_in_time

    def _build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        try:
            return self.adapter.build(messages, context)
        except Exception:
            # A bug of the adapter. Nothing was sent; the message that trips it must not take the others along.
            log.exception("adapter_build_failed", provider=self.alias, messages=len(messages))
            if len(messages) == 1:
                self._settle(messages[0], PermanentError(self.alias, "adapter_bug", "the adapter cannot express it"))
                return []
            return [request for message in messages for request in self._build([message], context)]

    def _send(
        self, requests: Sequence[ProviderRequest]
    ) -> list[tuple[ProviderRequest, ProviderResponse | TransportFailure]]:
        to_send = []
        for request in requests:
            if request.rejected is None:
                to_send.append(request)
            else:
                for message in request.messages:
                    self._settle(message, request.rejected)
        outcomes = self._transport(to_send[0]).send_all(to_send) if to_send else []
        self.statuses.update(
            outcome.status if isinstance(outcome, ProviderResponse) else outcome.detail for outcome in outcomes
        )
        return list(zip(to_send, outcomes, strict=True))

    def _transport(self, request: ProviderRequest) -> Transport | SmtpTransport:
        """What speaks the protocol of the adapter's URLs. An adapter speaks one."""
        timeout = () if self.timeout_s is None else (self.timeout_s,)
        return smtp_transport(*timeout) if request.url.startswith("smtp") else thread_transport(*timeout)

    def _parse(
        self, request: ProviderRequest, outcome: ProviderResponse | TransportFailure
    ) -> list[tuple[Message, Result]]:
        try:
            results = self.adapter.parse(request, outcome)
            if len(results) == len(request.messages) == 1 and results[0].delivery_id == request.messages[0].delivery_id:
                return [(request.messages[0], results[0])]
            found = {result.delivery_id: result for result in results}
        except Exception:
            # A bug of the adapter, after sending: the other requests' outcomes must still be recorded.
            log.exception("adapter_parse_failed", provider=self.alias, messages=len(request.messages))
            found = {}
        unread = OutcomeUnknown(self.alias, "adapter_bug", "the answer could not be read")
        return [
            (message, found.get(message.delivery_id) or Result(message.delivery_id, error=unread))
            for message in request.messages
        ]

    def _settle(self, message: Message, error: ProviderError) -> None:
        self.results[message.delivery_id] = Result(message.delivery_id, error=error)


def longest_call_s(provider: Provider) -> float:
    """How many seconds ``send_messages`` may take at most: up to the start of the last round, and that round."""
    request_s = longest_request_s(provider)
    has_grant = provider.is_configured and provider.adapter.grant is not None
    token_s = WAIT_FOR_OTHER_S + settings.PROVIDER_CONNECT_TIMEOUT_S + 2 * settings.PROVIDER_TIMEOUT_S
    return ROUNDS_TIME_S + (token_s if has_grant else 0.0) + Limits().call_s + request_s


def longest_request_s(provider: Provider) -> float:
    """How many seconds one request may take, from connecting to the end of the answer."""
    own: float | None = provider.entry.get("timeout_s")
    return settings.PROVIDER_CONNECT_TIMEOUT_S + (settings.PROVIDER_TIMEOUT_S if own is None else own)


def send_messages(provider: Provider, messages: Sequence[Message]) -> list[Result]:
    """Send ``messages`` through ``provider`` and say what became of each, in the same order.

    Never raises for what a provider, the network or a credential does; a message that could not be tried has a
    ``NotSent``. ``Result.latency_s`` is the time of the HTTP call that carried the message, in seconds."""
    if not messages:
        return []
    try:
        adapter = provider.adapter
    except ImproperlyConfigured as error:
        log.error("provider_not_configured", provider=provider.alias, problem=str(error))
        missing = NotSent(provider.alias, "not_configured", "see manage.py check")
        return [Result(message.delivery_id, error=missing) for message in messages]
    call = _Call(provider, adapter)
    call.run(messages)
    results = _in_order(call, messages)
    _log_call(call, results)
    return results


def _in_order(call: _Call, messages: Sequence[Message]) -> list[Result]:
    # What an adapter left out of its requests was not sent.
    lost = TransientError(call.alias, "adapter_bug", "the adapter made no request of it")
    return [call.results.get(message.delivery_id) or Result(message.delivery_id, error=lost) for message in messages]


def _log_call(call: _Call, results: Sequence[Result]) -> None:
    errors = Counter(result.error.code for result in results if result.error is not None)
    segments = sum(result.segments or 0 for result in results if result.error is None)
    if segments:
        metrics.sms_segments(call.alias, segments)
    log.info(
        "provider_call",
        provider=call.alias,
        messages=len(results),
        accepted=len(results) - errors.total(),
        statuses={str(status): n for status, n in call.statuses.items()},
        errors=dict(errors),
        rounds=call.rounds,
        **({"segments": segments} if segments else {}),
        latency_ms=round((time.monotonic() - call.started) * 1000, 1),
    )
    note_errors(call.alias, errors)

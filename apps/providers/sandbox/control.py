"""The control API below ``/_sandbox/``: faults, receipts, ledger, inbox, counts, reset."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

import orjson

from apps.providers.sandbox.exchange import Answer, Request, json_answer
from apps.providers.sandbox.faults import InvalidRuleError, Rule, parse_number, parse_rule
from apps.providers.sandbox.inbox import InboxMessage
from apps.providers.sandbox.listeners import Listener
from apps.providers.sandbox.receipts import Control, parse_control
from apps.providers.sandbox.state import Sandbox

NDJSON_HEADERS = (("content-type", "application/x-ndjson"),)
MAX_LEDGER_LINES = 100_000
MAX_INBOX_MESSAGES = 1_000


class ControlApi:
    """``GET health|stats|ledger|inbox|faults|receipts|listener``, ``PUT|DELETE faults/<provider>``,
    ``PUT|DELETE receipts/<provider>``, ``PUT listener``, ``POST reset``. Errors are ``{"error": text}``."""

    def __init__(self, sandbox: Sandbox, *, delivery_url: str) -> None:
        self._sandbox = sandbox
        self._delivery_url = delivery_url
        self.listener: Listener | None = None  # set by the server
        self._simple: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "health"): lambda request: json_answer(200, {"status": "ok"}),
            ("GET", "stats"): lambda request: json_answer(200, self._describe_stats()),
            ("GET", "ledger"): self._read_ledger,
            ("GET", "inbox"): self._read_inbox,
            ("GET", "faults"): lambda request: json_answer(200, self._describe_faults()),
            ("GET", "receipts"): lambda request: json_answer(200, self._describe_receipts()),
            ("GET", "listener"): lambda request: json_answer(200, self._describe_listener()),
            ("PUT", "listener"): self._switch_listener,
            ("POST", "reset"): self._reset,
        }

    def handle(self, request: Request) -> Answer:
        """The answer to a call; ``request.path`` lies below ``/_sandbox/``."""
        if not _is_same_origin(request):
            return json_answer(403, {"error": "a page of another origin may not call the sandbox"})
        try:
            key = (request.method, request.path)
            action = self._simple.get(key) or self._sandbox.controls.get(key)
            if action is not None:
                return action(request)
            kind, _, provider = request.path.partition("/")
            if kind in {"faults", "receipts"} and provider:
                return self._configure(kind, provider, request)
        except InvalidRuleError as error:
            return json_answer(400, {"error": str(error)})
        return json_answer(404, {"error": f"no such call: {request.method} /_sandbox/{request.path}"})

    def _configure(self, kind: str, provider: str, request: Request) -> Answer:
        if provider not in self._sandbox.providers:
            known = ", ".join(self._sandbox.providers)
            return json_answer(404, {"error": f"provider {provider!r} is unknown; known are {known}"})
        if request.method not in {"GET", "PUT", "DELETE"}:
            return json_answer(405, {"error": "use GET, PUT or DELETE"})
        if kind == "faults":
            if request.method != "GET":
                rules = self._parse_rules(provider, request) if request.method == "PUT" else ()
                self._sandbox.faults[provider].replace(rules)
            return json_answer(200, self._describe_faults()[provider])
        if request.method != "GET":
            control = parse_control(_parse_json(request.body)) if request.method == "PUT" else Control()
            self._sandbox.receipts.controls[provider] = control
        return json_answer(200, self._describe_receipts()[provider])

    def _parse_rules(self, provider: str, request: Request) -> Sequence[Rule]:
        content = _parse_json(request.body)
        if isinstance(content, dict) and content.keys() == {"rules"}:
            content = content["rules"]
        rules = [parse_rule(source) for source in (content if isinstance(content, list) else [content])]
        for rule in rules:
            self._sandbox.providers[provider].check_rule(rule)
        return rules

    def _describe_faults(self) -> dict[str, Any]:
        return {provider: faults.describe() for provider, faults in self._sandbox.faults.items()}

    def _describe_receipts(self) -> dict[str, Any]:
        return {provider: dict(control.source) for provider, control in self._sandbox.receipts.controls.items()}

    def _describe_stats(self) -> dict[str, Any]:
        receipts = {}
        for provider, counts in self._sandbox.receipts.counts.items():
            settled = counts.posted + counts.failed + counts.dropped + counts.lost
            receipts[provider] = {**asdict(counts), "pending": max(0, counts.scheduled - settled)}
        return {
            "providers": self._sandbox.traffic,
            "receipts": receipts,
            "ledger": {"last": self._sandbox.ledger.last_n},
        }

    def _read_ledger(self, request: Request) -> Answer:
        after = _parse_count(request.query, "after", 0, 2**63)
        limit = _parse_count(request.query, "limit", 10_000, MAX_LEDGER_LINES)
        return Answer(200, NDJSON_HEADERS, self._sandbox.ledger.read(after=after, limit=limit))

    def _read_inbox(self, request: Request) -> Answer:
        after = _parse_count(request.query, "after", 0, 2**63)
        limit = _parse_count(request.query, "limit", 500, MAX_INBOX_MESSAGES)
        inbox = self._sandbox.inbox
        content = {
            "epoch": inbox.epoch,
            "last": self._sandbox.ledger.last_n,
            "delivery_url": self._delivery_url,
            "accepted": {provider: traffic.accepted for provider, traffic in self._sandbox.traffic.items()},
            "faults": {
                name: [str(rule.get("mode", "")) for rule in rules] for name, rules in self._describe_faults().items()
            },
            "messages": [self._show(message) for message in inbox.newer_than(after, limit=limit)],
        }
        return json_answer(200, content)

    def _describe_listener(self) -> dict[str, bool]:
        return {"open": self.listener is not None and self.listener.is_open}

    def _switch_listener(self, request: Request) -> Answer:
        content = _parse_json(request.body)
        if not isinstance(content, dict) or not isinstance(content.get("open"), bool):
            raise InvalidRuleError("open: must be true or false")
        for_s = parse_number(content, "for_s", 0.0, 86_400.0)
        if self.listener is not None:
            self.listener.switch(is_open=content["open"], for_s=for_s)
        return json_answer(200, {"open": content["open"]})

    def _show(self, message: InboxMessage) -> dict[str, Any]:
        provider = self._sandbox.providers[message.provider]
        shown = provider.show(message.source)
        return {
            "n": message.n,
            "at": message.at,
            "channel": provider.channel,
            "provider": message.provider,
            "delivery_id": message.delivery_id,
            "provider_message_id": message.provider_message_id,
            "to": message.to,
            "sender": shown.sender,
            "title": shown.title,
            "body": shown.body,
            "html": shown.html,
            "extra": shown.extra,
        }

    def _reset(self, request: Request) -> Answer:
        self._sandbox.reset()
        return json_answer(200, {"status": "reset"})


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRuleError(f"the body is not JSON: {error}") from error


def _parse_count(query: str, name: str, default: int, highest: int) -> int:
    values = parse_qs(query).get(name)
    if values is None:
        return default
    if not (values[-1].isascii() and values[-1].isdigit()) or int(values[-1]) > highest:
        raise InvalidRuleError(f"{name}: must be a whole number from 0 to {highest}")
    return int(values[-1])


def _is_same_origin(request: Request) -> bool:
    """Whether no page of another origin is behind the call: one that a person has open must not reach the inbox."""
    origin = request.header("origin")
    if origin is None:
        return True
    return origin.partition("://")[2] == (request.header("host") or request.header(":authority"))

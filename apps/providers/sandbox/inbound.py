"""What people write to us: ``POST /_sandbox/inbound/<provider>`` with ``{"from": number, "text": text}``."""

import re
from collections.abc import Callable

import orjson

from apps.providers.sandbox.exchange import Answer, Request, as_mapping, json_answer
from apps.providers.sandbox.faults import InvalidRuleError
from apps.providers.sandbox.state import Sandbox

MAX_TEXT_CHARACTERS = 1_600
_NUMBER = re.compile(r"\+[1-9]\d{6,14}")


def offer(sandbox: Sandbox, provider: str, receive: Callable[[str, str], None]) -> None:
    """Has ``receive(sender, text)`` called for each message that ``provider`` shall bring."""

    def handle(request: Request) -> Answer:
        try:
            content = as_mapping(orjson.loads(request.body))
        except orjson.JSONDecodeError as error:
            raise InvalidRuleError(f"the body is not JSON: {error}") from error
        sender, text = content.get("from"), content.get("text")
        if not isinstance(sender, str) or not _NUMBER.fullmatch(sender):
            raise InvalidRuleError("from: must be a number such as +15005551234")
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT_CHARACTERS:
            raise InvalidRuleError(f"text: must be a text of 1 to {MAX_TEXT_CHARACTERS} characters")
        receive(sender, text)
        return json_answer(200, {"status": "on its way"})

    sandbox.controls["POST", f"inbound/{provider}"] = handle

"""What an SMS adapter checks before it sends. Pure."""

import re

from apps.providers.adapters import answers
from apps.providers.errors import InvalidRecipient, PermanentError, ProviderError, UnsupportedFeature
from apps.providers.messages import Message

E164 = re.compile(r"\+[1-9][0-9]{1,14}")  # ITU-T E.164, 6.2.1


def text_of(message: Message) -> str:
    """What the SMS says: it has no title, so a message without a body sends its title."""
    return message.body or message.title


def find_problem(alias: str, message: Message, max_characters: int) -> ProviderError | None:
    """Why ``message`` cannot be sent by anyone, or by a provider that takes ``max_characters`` of text."""
    text, callback_url = text_of(message), message.callback_url or ""
    if not E164.fullmatch(message.address):
        return InvalidRecipient(alias, "not_e164", "not an E.164 number")
    if not answers.is_sendable_text(text):
        return PermanentError(alias, "malformed_text", "the text is not valid Unicode")
    if not text:
        return PermanentError(alias, "no_text", "an SMS needs a text")
    if len(text) > max_characters:
        return UnsupportedFeature(alias, "text_too_long", f"over {max_characters} characters")
    if not answers.is_sendable_text(callback_url) or len(callback_url) > answers.MAX_URL_LENGTH:
        return PermanentError(alias, "malformed_callback", "the callback is no URL, or too long a one")
    return None

"""What every e-mail adapter checks before it sends. Pure."""

import re

from apps.providers.adapters import answers
from apps.providers.errors import InvalidRecipient, PermanentError, ProviderError, UnsupportedFeature
from apps.providers.messages import Message

EMAIL = re.compile(r"[^\s@<>()\[\],;:\"\\]{1,64}@[^\s@<>()\[\],;:\"\\]{1,255}")
ENHANCED_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")  # RFC 3463
_LINK = re.compile(r"https?://[!-;=?-~]{1,2000}")  # printable ASCII but < and >, which enclose it


def find_problem(alias: str, message: Message, max_bytes: int) -> ProviderError | None:
    """Why ``message`` cannot be sent by anyone, or by a provider that takes ``max_bytes`` of text."""
    if not EMAIL.fullmatch(message.address) or not message.address.isprintable():
        return InvalidRecipient(alias, "not_an_address", "not an e-mail address")
    texts = (message.title, message.body, message.html or "", message.from_name or "")
    if not all(answers.is_sendable_text(text) for text in texts):
        return PermanentError(alias, "malformed_text", "the text is not valid Unicode")
    if not message.title.strip() or "\r" in message.title or "\n" in message.title:
        return PermanentError(alias, "malformed_subject", "a subject is one line with something in it")
    if "\r" in texts[-1] or "\n" in texts[-1]:
        return PermanentError(alias, "malformed_sender", "a sender's name is one line")
    if message.unsubscribe_url is not None and not _LINK.fullmatch(message.unsubscribe_url):
        return PermanentError(alias, "malformed_unsubscribe", "the unsubscribe link is no URL")
    if not message.body and not message.html:
        return PermanentError(alias, "no_text", "an e-mail needs a body")
    if sum(len(text.encode()) for text in texts) > max_bytes:
        return UnsupportedFeature(alias, "text_too_long", "the e-mail is too large")
    return None


def unsubscribe_headers(message: Message) -> dict[str, str]:
    """``List-Unsubscribe`` and its one-click companion (RFC 8058, 3.1), if the message has a link for them."""
    if not message.unsubscribe_url:
        return {}
    return {
        "List-Unsubscribe": f"<{message.unsubscribe_url}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }

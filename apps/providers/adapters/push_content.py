"""What every push service can carry of a message, whatever else it wants. Pure."""

from apps.providers.adapters import answers
from apps.providers.errors import PermanentError
from apps.providers.messages import Message

MAX_BADGE = 2**31 - 1


def find_problem(alias: str, message: Message) -> PermanentError | None:
    """Why the message's content can be written for no push service, or ``None``. Sizes and reserved keys are each
    service's own."""
    for key, value in message.data.items():
        if not (isinstance(key, str) and key and answers.is_clean(key) and answers.is_sendable_text(value)):
            return PermanentError(alias, "malformed_data", "data keys and values must be plain text")
    if not (answers.is_sendable_text(message.title) and answers.is_sendable_text(message.body)):
        return PermanentError(alias, "malformed_text", "the text is not valid Unicode")
    if not answers.is_clean(message.collapse_key or "") or not answers.is_clean(message.sound or ""):
        return PermanentError(alias, "malformed_option", "collapse key and sound are printable ASCII")
    if message.badge is not None and not 0 <= message.badge <= MAX_BADGE:
        return PermanentError(alias, "malformed_option", f"a badge is a number from 0 to {MAX_BADGE}")
    return None

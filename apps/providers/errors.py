"""What can go wrong with one message at a provider, as one taxonomy.

Adapters translate a provider's words into these; nobody above an adapter sees the provider's words
except as the ``code`` kept for people. Only ``ProviderError`` counts for a breaker, and
``PermanentError`` never does: it is about the message or the recipient, not about the provider's health.
"""

from collections.abc import Sequence


class ProviderError(Exception):
    """A provider call that did not end in acceptance. ``alias`` is the provider account,
    ``code`` the provider's own code or HTTP status, ``message`` a text without personal data."""

    def __init__(self, alias: str, code: str, message: str = "") -> None:
        super().__init__(f"{alias}: {code} {message}".rstrip())
        self.alias = alias
        self.code = code
        self.message = message


class TransientError(ProviderError):
    """The message did not go out; the same request may succeed later.
    ``retry_after_s`` is the provider's own wish in seconds, if it stated one."""

    def __init__(self, alias: str, code: str, message: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(alias, code, message)
        self.retry_after_s = retry_after_s


class RateLimited(TransientError):
    """The provider throttles us (or we would exceed its quota)."""


class RecipientRateLimited(RateLimited):
    """The provider throttles what goes to this one recipient; others may be sent to."""


class NotSent(TransientError):
    """Nothing about the message was tried: the request never left, or our own account was refused. The fault is not
    the message's, so it costs none of its attempts."""


class NotStarted(NotSent):
    """Our own time was up before the request's turn came: says nothing about the provider either."""


class Unauthorized(NotSent):
    """Our access token was refused: forget it, fetch another, try again."""


class BatchRejected(TransientError):
    """A request for several messages was refused as a whole because of some of them, and this one may be innocent:
    the gateway sends it again in a smaller company."""


class PermanentError(ProviderError):
    """The provider will never accept this message; trying again is wrong."""


class InvalidRecipient(PermanentError):
    """The address or token is dead: stop using it.
    ``dead_since_ms`` is the provider's Unix time in ms after which a token was dead, if it said so."""

    def __init__(self, alias: str, code: str, message: str = "", dead_since_ms: int | None = None) -> None:
        super().__init__(alias, code, message)
        self.dead_since_ms = dead_since_ms


class UnsupportedFeature(PermanentError):
    """The message asks for something this provider cannot do, or exceeds its limits."""


class OutcomeUnknown(ProviderError):
    """The request left and no usable answer came: the message may have gone out."""


class ForgedReceipt(Exception):
    """A webhook call that does not carry the provider's signature, or carries a stale one."""


class VerificationUnavailable(Exception):
    """What proves a webhook call cannot be had now, such as the certificate it names: the provider shall call again."""


class MalformedReceipt(Exception):
    """A webhook call with a valid signature whose body is not what the provider documents."""


class ConfigurationError(Exception):
    """A provider account cannot work as configured. ``problems`` say per option what is wrong and how to mend it."""

    def __init__(self, alias: str, problems: Sequence[str]) -> None:
        super().__init__(f"{alias}: {'; '.join(problems)}")
        self.alias = alias
        self.problems = tuple(problems)

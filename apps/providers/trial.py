"""One message through a provider account, to see whether it works, and what its answer means in plain words."""

from dataclasses import dataclass
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps.providers.errors import (
    InvalidRecipient,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.gateway import send_messages
from apps.providers.messages import Message, Result
from apps.providers.receipts import ack_token
from apps.providers.registry import Provider

# By the transports' words for what went wrong before anything was sent.
_CONNECTION_HINTS = {
    "host name not found": "The account's base_url or host names a server that DNS does not know.",
    "connection refused or unreachable": "Nothing answers there: check base_url or host and port, and that a firewall "
    "lets this machine out.",
    "certificate not trusted": "The server shows a certificate that no known authority vouches for. For a server of "
    "your own (or the sandbox) give its authority's PEM file as PROVIDER_CA_FILE.",
    "TLS handshake failed": "The server does not speak TLS there. For SMTP, port 465 goes with tls, 587 with starttls.",
    "timed out": "No connection in time: a firewall that swallows packets, or PROVIDER_CONNECT_TIMEOUT_S is too short.",
    "the server offers no STARTTLS": "Use SMTP_TLS=tls with port 465, or a server that encrypts.",
    "the server takes no credentials": "Use the server's submission port (587 or 465), or leave user and password out.",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """``is_accepted`` says whether the provider took the message on; ``lines`` explain to a person what came of it and
    what to mend."""

    is_accepted: bool
    lines: tuple[str, ...]


def try_provider(provider: Provider, message: Message) -> Verdict:
    """Send ``message`` through ``provider``, whatever its breaker, route and quota say, and explain what came of it."""
    try:
        _ = provider.adapter
    except ImproperlyConfigured as error:
        problems = str(error).removeprefix(f"{provider.alias}: ").split("; ")
        return Verdict(
            False,
            (
                f"{provider.alias} is not configured, so nothing was sent. To mend:",
                *(f"  - {problem}" for problem in problems),
                "The options come from the environment; notify_project/settings/base.py names the variables.",
            ),
        )
    [result] = send_messages(provider, [message])
    return explain(provider, result)


def trial_message(provider: Provider, address: str, *, title: str, body: str) -> Message:
    """A message as the platform would send it, under a delivery id that belongs to no delivery."""
    delivery_id = str(uuid4())
    return Message(
        delivery_id=delivery_id,
        address=address,
        title=title,
        body=body,
        is_high=True,
        ttl_s=300,
        callback_url=f"{settings.PUBLIC_URL}/v1/webhooks/{provider.alias}?delivery_id={delivery_id}",
        ack=ack_token(delivery_id),
    )


def explain(provider: Provider, result: Result) -> Verdict:
    """``result`` in plain words."""
    took = f" after {result.latency_s * 1000:.0f} ms" if result.latency_s else ""
    if result.error is None:
        named = f" Its id there is {result.provider_message_id}." if result.provider_message_id else ""
        return Verdict(
            True,
            (
                f"{provider.alias} accepted the message{took}.{named}",
                "That is the provider's yes, not yet the arrival: look at the device, the phone or the mailbox.",
            ),
        )
    error = result.error
    said = f"{error.code}{f' ({error.message})' if error.message else ''}"
    return Verdict(False, (f"{provider.alias} did not accept the message{took}: {said}.", *_advise(provider, error)))


def _advise(provider: Provider, error: ProviderError) -> tuple[str, ...]:
    if isinstance(error, OutcomeUnknown):
        return (
            "The request left and no usable answer came: the message may have gone out. Look whether it arrived before "
            "you try again.",
        )
    if isinstance(error, InvalidRecipient):
        return (
            "The account works; the address does not. It is malformed, gone, opted out, or belongs to another account "
            "or app. In operation the platform would stop using it.",
        )
    if isinstance(error, UnsupportedFeature):
        return ("This provider cannot carry such a message to such an address, and would not be asked again.",)
    if isinstance(error, PermanentError):
        return (
            "The provider refused the message itself, and would again. Look the code up in its documentation; often it "
            "is the sender: not verified, not allowed in that country, not of this account.",
        )
    if isinstance(error, RateLimited):
        wait = f" It asks for {error.retry_after_s:.0f} s." if error.retry_after_s is not None else ""
        return (f"Too many messages for now, of this account or to this address.{wait} Nothing to mend but patience.",)
    if isinstance(error, TransientError):
        return _advise_transient(provider, error)
    return ()


def _advise_transient(provider: Provider, error: TransientError) -> tuple[str, ...]:
    if error.code == "not_sent":
        reason = error.message.partition(": ")[2] or error.message  # libcurl's have a number in front
        return ("Nothing left this machine.", _CONNECTION_HINTS.get(reason, "Check address and network."))
    if error.code == "oauth_unreachable":
        return (
            "The token endpoint named in the credentials cannot be reached: network, firewall or PROVIDER_CA_FILE.",
        )
    if error.code.startswith("oauth_"):
        return (
            "The token endpoint refused the credentials: the key was revoked, belongs to another project, or this "
            "machine's clock is wrong.",
        )
    if "credentials" in error.message:
        names = ", ".join(provider.entry.get("credentials", ())) or "its credentials"
        return (
            f"The provider refused the account, not the message. Compare {names} with what its console shows, and "
            "check that they are allowed to send.",
        )
    return ("The provider has trouble of its own. In operation the platform would try again later, or another one.",)

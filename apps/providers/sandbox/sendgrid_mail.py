"""What SendGrid accepts as a mail, who gets it, and what each of them reads.

Error texts and fields: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apps.providers.sandbox.exchange import as_mapping
from apps.providers.sandbox.inbox import Shown

MAX_PERSONALIZATIONS = 1_000
MAX_RECIPIENTS = 1_000
MAX_CUSTOM_ARGS_BYTES = 10_000
MAX_SUBSTITUTIONS_BYTES = 10_000
RECIPIENT_KINDS = ("to", "cc", "bcc")

_ADDRESS = re.compile(r"[^@\s<>,;\x00-\x1f]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{2,63}")
_RESERVED_HEADERS = {
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding", "to", "from",
    "subject", "reply-to", "cc", "bcc",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MailError:
    """``field`` points into the body as SendGrid writes it (``personalizations.3.to.0.email``)."""

    text: str
    field: str | None
    anchor: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """One address of a mail with the personalization it stands in; ``field`` is where."""

    address: str
    field: str
    personalization: Mapping[str, Any]
    custom_args: Mapping[str, Any]


def find_error(mail: object) -> MailError | None:
    """The first thing wrong with a mail, or ``None``."""
    if not isinstance(mail, dict):
        return MailError("Bad Request", None, "message")
    return (
        _check_types(mail)
        or _check_personalizations(mail.get("personalizations"))
        or _check_sender(mail.get("from"))
        or _check_subject(mail)
        or _check_content(mail)
        or _check_headers(mail.get("headers"))
    )


def recipients_of(mail: Mapping[str, Any]) -> list[Recipient]:
    """Everyone a valid mail goes to, in order."""
    return [
        Recipient(
            address=entry["email"],
            field=f"personalizations.{index}.{kind}.{position}.email",
            personalization=personalization,
            custom_args={**mail.get("custom_args", {}), **personalization.get("custom_args", {})},
        )
        for index, personalization in enumerate(mail["personalizations"])
        for kind in RECIPIENT_KINDS
        for position, entry in enumerate(personalization.get(kind, ()))
    ]


def render(mail: Mapping[str, Any], recipient: Recipient) -> Shown:
    """The mail as ``recipient`` reads it, with the substitutions put in."""
    personalization = recipient.personalization
    parts = {part["type"]: part["value"] for part in mail.get("content", ())}
    subject = str(personalization.get("subject") or mail.get("subject") or "")
    text, html = parts.get("text/plain", ""), parts.get("text/html", "")
    if not parts and mail.get("template_id"):
        text = f"[template {mail['template_id']}] {personalization.get('dynamic_template_data', {})}"
    for placeholder, value in personalization.get("substitutions", {}).items():
        subject, text, html = (content.replace(placeholder, value) for content in (subject, text, html))
    headers = {**mail.get("headers", {}), **personalization.get("headers", {})}
    return Shown(_format_address(mail["from"]), subject, text, html, {"headers": headers})


def _format_address(entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    return f"{name} <{entry['email']}>" if name else str(entry["email"])


_OBJECTS = ("custom_args", "headers", "mail_settings", "tracking_settings", "asm")


def _check_types(mail: Mapping[str, Any]) -> MailError | None:
    for name in _OBJECTS:
        if not isinstance(mail.get(name, {}), dict):
            return MailError("Invalid type. Expected: object.", name, f"message.{name}")
    return None


def _check_personalizations(personalizations: object) -> MailError | None:
    anchor = "message.personalizations"
    if not isinstance(personalizations, list) or not personalizations:
        text = "The personalizations field is required and must have at least one personalization."
        return MailError(text, "personalizations", anchor)
    if len(personalizations) > MAX_PERSONALIZATIONS:
        text = (
            f"The personalization block is limited to {MAX_PERSONALIZATIONS} personalizations per API request. You "
            f"have provided {len(personalizations)} personalizations. Please consider splitting this into "
            "multiple requests and resending your request."
        )
        return MailError(text, "personalizations", anchor)
    for index, personalization in enumerate(personalizations):
        error = _check_personalization(personalization, f"personalizations.{index}")
        if error is not None:
            return error
    return _check_addresses(personalizations)


def _check_personalization(personalization: object, field: str) -> MailError | None:
    if not isinstance(personalization, dict):
        return MailError("Invalid type. Expected: object.", field, "message.personalizations")
    for kind in RECIPIENT_KINDS:
        if not isinstance(personalization.get(kind, []), list):
            return MailError("Invalid type. Expected: array.", f"{field}.{kind}", f"message.personalizations.{kind}")
    if not personalization.get("to"):
        text = (
            "The to array is required for all personalization objects, and must have at least one email object with a "
            "valid email address."
        )
        return MailError(text, f"{field}.to", "message.personalizations.to")
    for name, limit in (("custom_args", MAX_CUSTOM_ARGS_BYTES), ("substitutions", MAX_SUBSTITUTIONS_BYTES)):
        values = personalization.get(name)
        anchor = f"message.personalizations.{name}"
        if values is not None and (
            not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values())
        ):
            return MailError(f"The {name} must be an object of strings.", f"{field}.{name}", anchor)
        if values and sum(len(key) + len(value.encode()) for key, value in values.items()) > limit:
            return MailError(f"The {name} must be less than {limit} bytes.", f"{field}.{name}", anchor)
    if not isinstance(personalization.get("subject", ""), str):
        return MailError("Invalid type. Expected: string.", f"{field}.subject", "message.personalizations.subject")
    return _check_headers(personalization.get("headers"), f"{field}.headers")


def _check_addresses(personalizations: list[Mapping[str, Any]]) -> MailError | None:
    seen: set[str] = set()
    for field, kind, entry in _entries(personalizations):
        address = as_mapping(entry).get("email")
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
            return MailError("Does not contain a valid address.", f"{field}.email", f"message.personalizations.{kind}")
        if address.lower() in seen:
            text = (
                "Each unique email address in the personalizations array should only be included once. You have "
                f"included [{address}] more than once."
            )
            return MailError(text, "personalizations", "message.personalizations")
        seen.add(address.lower())
    if len(seen) > MAX_RECIPIENTS:
        text = f"There is a limit of {MAX_RECIPIENTS} total recipients (to + cc + bcc) per request."
        return MailError(text, "personalizations", "message.personalizations")
    return None


def _entries(personalizations: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, object]]:
    for index, personalization in enumerate(personalizations):
        for kind in RECIPIENT_KINDS:
            for position, entry in enumerate(personalization.get(kind, ())):
                yield f"personalizations.{index}.{kind}.{position}", kind, entry


def _check_sender(sender: object) -> MailError | None:
    address = as_mapping(sender).get("email")
    if address is None:
        text = (
            "The from object must be provided for every email send. It is an object that requires the email "
            "parameter, but may also contain a name parameter."
        )
        return MailError(text, "from.email", "message.from")
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        return MailError("The from email does not contain a valid address.", "from.email", "message.from")
    return None


def _check_subject(mail: Mapping[str, Any]) -> MailError | None:
    subject = mail.get("subject")
    if isinstance(subject, str) and subject:
        return None
    if not mail.get("template_id") and not all(part.get("subject") for part in mail["personalizations"]):
        text = (
            "The subject is required. You can get around this requirement if you use a template with a subject "
            "defined or if every personalization has a subject defined."
        )
        return MailError(text, "subject", "message.subject")
    return None


def _check_content(mail: Mapping[str, Any]) -> MailError | None:
    content = mail.get("content")
    anchor = "message.content"
    if not content:
        text = (
            "Unless a valid template_id is provided, the content parameter is required. There must be at least one "
            "defined content block."
        )
        return None if mail.get("template_id") else MailError(text, "content", anchor)
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return MailError("Invalid type. Expected: array, given: object.", "content", anchor)
    kinds = [part.get("type") for part in content]
    for index, part in enumerate(content):
        if not isinstance(part.get("type"), str) or not part["type"]:
            text = "The content type must be a string at least one character in length."
            return MailError(text, f"content.{index}.type", f"{anchor}.type")
        if not isinstance(part.get("value"), str) or not part["value"]:
            text = "The content value must be a string at least one character in length."
            return MailError(text, f"content.{index}.value", f"{anchor}.value")
    if len(set(kinds)) < len(kinds):
        return MailError("Each content type may be given only once.", "content", anchor)
    if "text/plain" in kinds and kinds[0] != "text/plain":
        text = "If present, text/plain must be first, followed by text/html, followed by any other content."
        return MailError(text, "content", anchor)
    return None


def _check_headers(headers: object, field: str = "headers") -> MailError | None:
    if headers is None:
        return None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        return MailError("The headers must be an object of strings.", field, "message.headers")
    for name in headers:
        if name.lower() in _RESERVED_HEADERS:
            return MailError(f"The header {name} is reserved and cannot be set.", field, "message.headers")
    return None

"""A request to Amazon SES: what may be in it, and what comes out of it.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.utils import getaddresses, parseaddr
from typing import Any

from apps.providers.sandbox.exchange import as_mapping

MAX_RECIPIENTS = 50
MAX_HEADERS = 15
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,126}")
_HEADER_VALUE = re.compile(r"[ -~]{1,995}")
_VARIABLE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")


class SesError(Exception):
    """An exception of SES: its name and message."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name)
        self.name = name
        self.text = text


@dataclass(frozen=True, slots=True)
class Mail:
    """One e-mail to its recipients, rendered. ``missing`` names a variable that the template has no value for."""

    sender: str
    recipients: Sequence[str]
    subject: str = ""
    text: str = ""
    html: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


def read_mail(request: Mapping[str, Any], identity: str) -> Mail:
    """The e-mail of a ``SendEmail``; raises ``SesError``."""
    content = as_mapping(request.get("Content"))
    kinds = [kind for kind in ("Simple", "Raw", "Template") if content.get(kind) is not None]
    if len(kinds) != 1:
        raise SesError("BadRequestException", "Exactly one of Simple, Raw and Template must be given as Content.")
    tags = _read_pairs(request.get("EmailTags"), _TAG, _TAG)
    if kinds[0] == "Raw":
        return _read_raw(as_mapping(content["Raw"]), request, identity, tags)
    sender = check_sender(request.get("FromEmailAddress"), identity)
    recipients = read_recipients(request.get("Destination"))
    if kinds[0] == "Template":
        template = as_mapping(content["Template"])
        return fill(template, sender, recipients, tags, read_headers(template.get("Headers")))
    simple = as_mapping(content["Simple"])
    body = as_mapping(simple.get("Body"))
    subject, text, html = (_read_text(part) for part in (simple.get("Subject"), body.get("Text"), body.get("Html")))
    if not subject or not (text or html):
        raise SesError("BadRequestException", "A subject and a text or HTML body are required.")
    return Mail(sender, recipients, subject, text, html, tags, read_headers(simple.get("Headers")))


def fill(
    template: Mapping[str, Any],
    sender: str,
    recipients: Sequence[str],
    tags: Mapping[str, str],
    headers: Mapping[str, str],
    replacements: str = "{}",
) -> Mail:
    """An inline template with its variables filled in; raises ``SesError``."""
    content = template.get("TemplateContent")
    if not isinstance(content, dict):
        raise SesError("NotFoundException", f"Template {template.get('TemplateName')} does not exist.")
    try:
        values = {**json.loads(template.get("TemplateData") or "{}"), **json.loads(replacements)}
    except (ValueError, TypeError):
        raise SesError("BadRequestException", "TemplateData must be a JSON object.") from None
    parts = [str(content.get(name) or "") for name in ("Subject", "Text", "Html")]
    if not parts[0] or not (parts[1] or parts[2]):
        raise SesError("BadRequestException", "A subject and a text or HTML part are required.")
    missing = next((name for part in parts for name in _VARIABLE.findall(part) if name not in values), "")
    subject, text, html = (_VARIABLE.sub(lambda match: str(values.get(match[1], "")), part) for part in parts)
    return Mail(sender, recipients, subject, text, html, tags, headers, missing)


def check_sender(value: object, identity: str) -> str:
    """The sender, who must be the account's verified ``identity``; raises ``SesError``."""
    address = parseaddr(str(value or ""))[1]
    if not address:
        raise SesError("BadRequestException", "FromEmailAddress is required.")
    if address.lower() != identity:
        raise SesError(
            "MessageRejected",
            f"Email address is not verified. The following identities failed the check in region US-EAST-1: {address}",
        )
    return str(make_header(decode_header(str(value))))


def read_recipients(destination: object) -> list[str]:
    """All addresses; raises ``SesError``."""
    parts = as_mapping(destination)
    found = [address for kind in ("ToAddresses", "CcAddresses", "BccAddresses") for address in parts.get(kind) or []]
    if not 0 < len(found) <= MAX_RECIPIENTS:
        raise SesError("BadRequestException", f"Recipient count must be from 1 to {MAX_RECIPIENTS}.")
    return [_check_address(address) for address in found]


def _check_address(value: object) -> str:
    address = parseaddr(str(value))[1] or str(value)
    local, separator, domain = address.rpartition("@")
    if not separator or not domain:
        raise SesError("BadRequestException", "Missing final '@domain'")
    if not local.isascii() or not local.isprintable() or " " in local:
        raise SesError("BadRequestException", "Local address contains control or whitespace")
    if ".." in domain:
        raise SesError("BadRequestException", "Domain contains dot-dot")
    if not re.fullmatch(r"[A-Za-z0-9.-]+", domain):
        raise SesError("BadRequestException", "Domain contains illegal character")
    return address


def read_tags(value: object) -> dict[str, str]:
    """Message tags as a mapping; raises ``SesError``."""
    return _read_pairs(value, _TAG, _TAG)


def read_headers(value: object) -> dict[str, str]:
    """Further headers as a mapping; raises ``SesError``."""
    pairs = _read_pairs(value, _HEADER_NAME, _HEADER_VALUE)
    if len(pairs) > MAX_HEADERS:
        raise SesError("BadRequestException", f"Headers must be {MAX_HEADERS} at most.")
    return pairs


def _read_pairs(value: object, name: re.Pattern[str], content: re.Pattern[str]) -> dict[str, str]:
    pairs = [as_mapping(pair) for pair in value] if isinstance(value, list) else []
    for pair in pairs:
        if not (name.fullmatch(str(pair.get("Name"))) and content.fullmatch(str(pair.get("Value")))):
            raise SesError("BadRequestException", "A header or tag has a name or value with illegal characters.")
    return {str(pair["Name"]): str(pair["Value"]) for pair in pairs}


def _read_text(part: object) -> str:
    data = as_mapping(part).get("Data")
    return data if isinstance(data, str) else ""


def _read_raw(raw: Mapping[str, Any], request: Mapping[str, Any], identity: str, tags: Mapping[str, str]) -> Mail:
    try:
        message = message_from_bytes(base64.b64decode(str(raw.get("Data")), validate=True), policy=policy.default)
    except binascii.Error:
        raise SesError("BadRequestException", "Raw.Data must be base64.") from None
    sender = check_sender(request.get("FromEmailAddress") or message.get("From"), identity)
    named = getaddresses([str(value) for name in ("To", "Cc", "Bcc") for value in message.get_all(name, [])])
    destination = request.get("Destination") or {"ToAddresses": [address for _, address in named]}
    bodies = {kind: message.get_body((kind,)) for kind in ("plain", "html")}
    text, html = (str(body.get_content()) if body is not None else "" for body in bodies.values())
    headers = {name: str(value) for name, value in message.items() if name.lower().startswith("list-unsubscribe")}
    return Mail(sender, read_recipients(destination), str(message.get("Subject", "")), text, html, tags, headers)

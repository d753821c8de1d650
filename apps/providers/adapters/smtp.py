"""E-mail through any SMTP server (RFC 5321, RFC 5322).

A request is one message to one recipient, for ``apps.providers.smtp_transport``: the URL names the server (``smtps``
for TLS from the first byte), the headers the envelope and the way in, and the body is the e-mail as it goes over the
wire. The answer's status is the server's reply code, ``smtp-stage`` the step of the conversation that it ended.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any, ClassVar

from apps.channels import Channel
from apps.providers.adapters import answers, emails
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.grants import Grant
from apps.providers.messages import (
    BuildContext,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    Result,
    TransportFailure,
    WebhookCall,
)

MAX_TEXT_BYTES = 10_000_000  # what most servers take, before their encoding's third on top
MAX_ADDRESS_LENGTH = 254  # RFC 5321, 4.5.3.1.3
TLS_MODES = ("starttls", "tls", "none")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-f:]*::[0-9a-f:]*")
_ENHANCED = re.compile(rb"\s*([245])\.(\d{1,3})\.(\d{1,3})(?:\s|$)")  # RFC 3463; at the start of a reply (RFC 2034)

# RFC 3463 and the IANA registry of enhanced status codes: the mailbox is not there, moved or disabled.
_DEAD_MAILBOX = {"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"}
_TOO_LARGE = {"5.2.3", "5.3.4"}
_SENDER_REFUSED = {"5.1.7", "5.1.8", "5.5.1", "5.7.8", "5.7.9"}  # ours to mend: address, credentials, order


class SmtpAdapter:
    """E-mail through an SMTP server, one message a recipient. Data, time to live and collapse key have no place in an
    e-mail; SMTP brings no receipts: what bounces later comes back to ``from_email``'s mailbox.

    Options: ``host``, ``port``, ``tls`` (``starttls``, ``tls`` from the first byte, ``none``), ``user`` and
    ``password`` (both or neither), ``from_email``, ``from_name``."""

    channel: ClassVar[Channel] = Channel.EMAIL
    grant: Grant | None = None

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        host, tls = str(options.get("host", "")), str(options.get("tls", "starttls"))
        user, password = str(options.get("user", "")), str(options.get("password", ""))
        problems = _find_problems(options)
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        name = f"[{host}]" if ":" in host else host
        self._url = f"{'smtps' if tls == 'tls' else 'smtp'}://{name}:{int(options['port'])}"
        self._from_email = str(options["from_email"])
        self._from_name = str(options.get("from_name", ""))
        self._domain = self._from_email.rpartition("@")[2]
        self._headers: tuple[tuple[str, str], ...] = (
            ("starttls", "required" if tls == "starttls" else "no"),
            ("ehlo", self._domain),
            ("mail-from", self._from_email),
        )
        if user:
            self._headers += (("user", user), ("password", password))

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        requests = []
        contents: dict[tuple[str | None, ...], bytes] = {}
        for message in messages:
            problem = self._find_problem(message)
            if problem is not None:
                requests.append(answers.reject(self.alias, message, problem))
                continue
            key = (message.title, message.body, message.html, message.from_name)
            if key not in contents:  # what all recipients read alike is encoded once
                contents[key] = self._encode(message)
            body = self._own_headers(message, context.now) + contents[key]
            headers = (*self._headers, ("rcpt-to", message.address))
            requests.append(ProviderRequest((message,), self._url, "SEND", headers, body))
        return requests

    def _find_problem(self, message: Message) -> ProviderError | None:
        problem = emails.find_problem(self.alias, message, MAX_TEXT_BYTES)
        if problem is None and not answers.is_clean(message.address):
            return UnsupportedFeature(self.alias, "not_ascii", "an address outside ASCII needs SMTPUTF8 (RFC 6531)")
        if problem is None and len(message.address) > MAX_ADDRESS_LENGTH:
            return InvalidRecipient(self.alias, "not_an_address", "an address has 254 characters at most")
        return problem

    def _own_headers(self, message: Message, now: datetime) -> bytes:
        """What differs from one recipient to the next. Every value was checked: printable ASCII, and short."""
        headers = {
            "To": message.address,
            "Date": format_datetime(now),
            "Message-ID": f"<{self._message_id(message)}>",
            **emails.unsubscribe_headers(message),
        }
        return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")

    def _encode(self, message: Message) -> bytes:
        mail = EmailMessage(policy=SMTP)
        mail["From"] = Address(_one_line(message.from_name or self._from_name), addr_spec=self._from_email)
        mail["Subject"] = _one_line(message.title)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation replies, please
        if message.body:
            mail.set_content(message.body, cte=_encoding_for(message.body))
        if message.html and message.body:
            mail.add_alternative(message.html, subtype="html", cte=_encoding_for(message.html))
        elif message.html:
            mail.set_content(message.html, subtype="html", cte=_encoding_for(message.html))
        return mail.as_bytes()

    def _message_id(self, message: Message) -> str:
        """The same for every attempt: a reader that got two of them may show one."""
        return f"{message.delivery_id}@{self._domain}"

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error: ProviderError = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        if response.status == 250 and response.headers.get("smtp-stage") == "data":
            return [
                Result(message.delivery_id, self._message_id(message), latency_s=response.latency_s)
                for message in request.messages
            ]
        return answers.same_for_all(request, response, error=self._read_error(response))

    def _read_error(self, response: ProviderResponse) -> ProviderError:
        status, stage = response.status, response.headers.get("smtp-stage", "")
        match = _ENHANCED.match(response.body)
        code = b".".join(match.groups()).decode() if match and int(match[1]) == status // 100 else str(status)
        if 400 <= status < 500:
            return TransientError(self.alias, code, f"turned away at {stage}" if stage in _STAGES else "")
        if not 500 <= status < 600:
            if stage == "data":
                return OutcomeUnknown(self.alias, code, "a reply that SMTP does not know")
            return TransientError(self.alias, code, "a reply that SMTP does not know")
        if code in _TOO_LARGE or status == 552:
            return UnsupportedFeature(self.alias, code, "the e-mail is too large for the server or the mailbox")
        if stage == "auth" or status == 530 or code in _SENDER_REFUSED:  # 530: authenticate first (RFC 4954, 6)
            return answers.credentials_error(self.alias, code)
        if stage not in ("rcpt", "data"):  # nothing of the message but its sender was said yet
            return NotSent(self.alias, code, f"refused at {stage}" if stage in _STAGES else "")
        if code in _DEAD_MAILBOX:
            return InvalidRecipient(self.alias, code, "no such mailbox")
        return PermanentError(self.alias, code)  # a 550 alone may be a policy's: no proof that the mailbox is dead

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        raise ForgedReceipt("SMTP has no receipts")

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        return []


_STAGES = ("connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data")


def _find_problems(options: Mapping[str, Any]) -> list[str]:
    host, port, tls = (str(options.get(name, "")) for name in ("host", "port", "tls"))
    user, password, from_email = (str(options.get(name, "")) for name in ("user", "password", "from_email"))
    problems = []
    if not _HOST.fullmatch(host):
        problems.append("host must be the mail server's name, such as smtp.example.com")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        problems.append("port must be a port number: 587 with starttls, 465 with tls")
    if tls not in TLS_MODES:
        problems.append(f"tls must be one of {', '.join(TLS_MODES)}")
    if bool(user) != bool(password):
        problems.append("user and password belong together: set both or neither")
    if not (answers.is_clean(user) and answers.is_clean(password)):
        problems.append("user and password must be printable ASCII")
    if tls == "none" and password and host not in LOCAL_HOSTS:
        problems.append("tls must not be none with a password: it would travel in the clear")
    if not emails.EMAIL.fullmatch(from_email) or not answers.is_clean(from_email):
        problems.append("from_email must be the e-mail address to send from")
    if not answers.is_sendable_text(options.get("from_name", "")):
        problems.append("from_name must be text")
    return problems


# Control characters and Unicode's line ends: Python's e-mail package refuses them in a header.
_NO_CONTROLS = dict.fromkeys([*range(32), *range(127, 160), 0x2028, 0x2029], " ")


def _one_line(text: str) -> str:
    return text.translate(_NO_CONTROLS).strip()


def _encoding_for(text: str) -> str:
    """One that carries any text, NUL and long lines included, over servers that know 7 bits only."""
    return "quoted-printable" if text.isascii() else "base64"

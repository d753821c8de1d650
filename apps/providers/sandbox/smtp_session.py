"""One SMTP conversation, free of sockets: lines in, replies out (RFC 5321; AUTH RFC 4954; STARTTLS RFC 3207)."""

import base64
import binascii
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

MAX_LINE_BYTES = 2_048  # RFC 4954, 4 asks for more than the 512 of RFC 5321, 4.5.3.1.4
MAX_RECIPIENTS = 100
MAX_SIZE = 10 * 1024 * 1024
_PATH = re.compile(r"<([^<>\s]{0,254})>((?: [A-Za-z0-9]+(?:=[!-<>-~]*)?)*)")


class Next(Enum):
    """What the server does after a reply."""

    COMMAND = auto()
    CREDENTIALS = auto()  # the next line is the client's answer to a challenge
    CONTENT = auto()
    TLS = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """``lines`` go out as one reply of ``code``; then ``delay_s`` was waited before. With ``is_dropped`` the
    connection is cut instead."""

    code: int
    lines: tuple[str, ...]
    then: Next = Next.COMMAND
    delay_s: float = 0.0
    is_dropped: bool = False

    def render(self) -> bytes:
        last = len(self.lines) - 1
        return "".join(
            f"{self.code}{' ' if number == last else '-'}{line}\r\n" for number, line in enumerate(self.lines)
        ).encode()


def reply(code: int, text: str, then: Next = Next.COMMAND) -> Reply:
    return Reply(code, (text,), then)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Whose mail it is, and for whom."""

    sender: str
    recipients: tuple[str, ...]


@dataclass(slots=True)
class Session:
    """``judge`` says what becomes of a recipient (``None``: welcome), ``accept`` takes a complete e-mail on and says
    so, ``note`` counts a refusal."""

    user: str
    password: str
    judge: Callable[[str], Reply | None]
    accept: Callable[[Envelope, bytes], Reply]
    note: Callable[[Reply], Reply]
    has_greeted: bool = False
    is_encrypted: bool = False
    is_authenticated: bool = False
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)

    def greet(self) -> Reply:
        return reply(220, "sandbox.example.com ESMTP")

    def take_line(self, line: bytes) -> Reply:
        """The reply to a command, without its CRLF."""
        if len(line) > MAX_LINE_BYTES:
            return self._refuse(500, "5.5.6 Line too long")
        text = line.decode("ascii", "replace")
        verb, _, rest = text.partition(" ")
        command = _COMMANDS.get(verb.upper())
        return self._refuse(500, "5.5.2 Unknown command") if command is None else command(self, rest.strip())

    def take_credentials(self, line: bytes) -> Reply:
        """The reply to what follows a challenge."""
        return self._check_plain(line.decode("ascii", "replace"))

    def take_content(self, content: bytes) -> Reply:
        """The reply to an e-mail, dots removed."""
        envelope = Envelope(self.sender or "", tuple(self.recipients))
        self._forget_mail()
        if len(content) > MAX_SIZE:
            return self._refuse(552, "5.3.4 Message too big")
        if re.search(rb"\r(?!\n)|(?<!\r)\n", content):  # RFC 5321, 2.3.8; the seam of "SMTP smuggling"
            return self._refuse(554, "5.6.0 Bare CR or LF in the message")
        return self.accept(envelope, content)

    def start_tls(self) -> None:
        """What was said before encryption does not count (RFC 3207, 4.2)."""
        self.is_encrypted, self.has_greeted, self.is_authenticated = True, False, False
        self._forget_mail()

    def _forget_mail(self) -> None:
        self.sender = None
        self.recipients.clear()

    def _refuse(self, code: int, text: str) -> Reply:
        return self.note(reply(code, text))

    def _ehlo(self, name: str) -> Reply:
        if not name:
            return self._refuse(501, "5.5.4 Who are you?")
        self.has_greeted = True
        self._forget_mail()
        offers = ["sandbox.example.com", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", f"SIZE {MAX_SIZE}"]
        offers.append("AUTH PLAIN" if self.is_encrypted else "STARTTLS")
        return Reply(250, tuple(offers))

    def _helo(self, name: str) -> Reply:
        self.has_greeted = True
        self._forget_mail()
        return reply(250, "sandbox.example.com")

    def _starttls(self, rest: str) -> Reply:
        if self.is_encrypted:
            return self._refuse(503, "5.5.1 Encrypted already")
        return reply(220, "2.0.0 Go ahead", Next.TLS)

    def _auth(self, rest: str) -> Reply:
        mechanism, _, initial = rest.partition(" ")
        if not self.is_encrypted:
            return self._refuse(538, "5.7.11 Encryption required for requested authentication mechanism")
        if not self.has_greeted or self.is_authenticated:
            return self._refuse(503, "5.5.1 Not now")
        if mechanism.upper() != "PLAIN":
            return self._refuse(504, "5.5.4 Unknown authentication mechanism")
        return self._check_plain(initial) if initial else reply(334, "", Next.CREDENTIALS)

    def _check_plain(self, encoded: str) -> Reply:
        try:
            parts = base64.b64decode(encoded, validate=True).split(b"\0")
        except (binascii.Error, ValueError):
            return self._refuse(501, "5.5.2 Not base64")
        expected = b"\0".join((self.user.encode(), self.password.encode()))
        if len(parts) != 3 or not hmac.compare_digest(b"\0".join(parts[1:]), expected):
            return self._refuse(535, "5.7.8 Authentication credentials invalid")
        self.is_authenticated = True
        return reply(235, "2.7.0 Authentication successful")

    def _mail(self, rest: str) -> Reply:
        if not self.has_greeted or self.sender is not None:
            return self._refuse(503, "5.5.1 Bad sequence of commands")
        if not self.is_authenticated:
            return self._refuse(530, "5.7.0 Authentication required")
        path = _PATH.fullmatch(rest[5:].lstrip()) if rest[:5].upper() == "FROM:" else None
        if path is None:
            return self._refuse(501, "5.1.7 Bad sender address syntax")
        size = re.search(r" SIZE=(\d+)", path[2], re.IGNORECASE)
        if size and int(size[1]) > MAX_SIZE:
            return self._refuse(552, "5.3.4 Message too big")
        self.sender = path[1]
        return reply(250, "2.1.0 Sender OK")

    def _rcpt(self, rest: str) -> Reply:
        if self.sender is None:
            return self._refuse(503, "5.5.1 Need MAIL first")
        path = _PATH.fullmatch(rest[3:].lstrip()) if rest[:3].upper() == "TO:" else None
        if path is None or "@" not in path[1]:
            return self._refuse(501, "5.1.3 Bad recipient address syntax")
        if len(self.recipients) >= MAX_RECIPIENTS:
            return self._refuse(452, "4.5.3 Too many recipients")
        refusal = self.judge(path[1])
        if refusal is not None:
            return refusal
        self.recipients.append(path[1])
        return reply(250, "2.1.5 Recipient OK")

    def _data(self, rest: str) -> Reply:
        if not self.recipients:
            return self._refuse(503, "5.5.1 Need RCPT first")
        return reply(354, "End data with <CR><LF>.<CR><LF>", Next.CONTENT)

    def _rset(self, rest: str) -> Reply:
        self._forget_mail()
        return reply(250, "2.0.0 OK")

    def _noop(self, rest: str) -> Reply:
        return reply(250, "2.0.0 OK")

    def _vrfy(self, rest: str) -> Reply:
        return reply(252, "2.5.2 Send some mail, I'll try my best")

    def _quit(self, rest: str) -> Reply:
        return reply(221, "2.0.0 Bye", Next.END)


_COMMANDS: dict[str, Callable[[Session, str], Reply]] = {
    "EHLO": Session._ehlo,
    "HELO": Session._helo,
    "STARTTLS": Session._starttls,
    "AUTH": Session._auth,
    "MAIL": Session._mail,
    "RCPT": Session._rcpt,
    "DATA": Session._data,
    "RSET": Session._rset,
    "NOOP": Session._noop,
    "VRFY": Session._vrfy,
    "QUIT": Session._quit,
}

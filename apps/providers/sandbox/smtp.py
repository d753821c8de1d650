"""A mail server: submission with STARTTLS and AUTH PLAIN, on a port of its own.

Addresses whose local part is one of ``ADDRESS_CONVENTIONS`` are refused in that way. SMTP has no receipts. Mode
``drop`` takes an e-mail on and cuts the connection before saying so; ``outage`` cuts it at the recipient.
"""

import asyncio
import contextlib
import re
import ssl
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from functools import partial

from apps.providers.sandbox.exchange import Answer, Request, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Call, Poster, Receipt
from apps.providers.sandbox.smtp_session import MAX_LINE_BYTES, MAX_SIZE, Envelope, Next, Reply, Session, reply
from apps.providers.sandbox.state import Accepted, Sandbox

READ_TIMEOUT_S = 300.0  # RFC 5321, 4.5.3.2.7
ADDRESS_CONVENTIONS = {
    "bounce": (550, "5.1.1 No such mailbox"),
    "disabled": (550, "5.2.1 Mailbox disabled"),
    "blocked": (550, "5.7.1 Refused by policy"),
    "rejected": (550, "Refused"),
    "full": (452, "4.2.2 Mailbox full"),
    "greylisted": (451, "4.7.1 Greylisted, try again later"),
}
_DELIVERY_ID = re.compile(rb"(?im)^Message-ID:\s*<([0-9a-f-]{36})@")
_ENHANCED_CODE = re.compile(r"[45]\.\d{1,3}\.\d{1,3}")


class SmtpProvider:
    """Listens at ``host``:``port`` once started."""

    name = "smtp"
    channel = "email"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self.poster = Poster(build=_build_nothing)

    def handle(self, request: Request) -> Answer:
        return json_answer(404, {"error": "this provider speaks SMTP, on a port of its own"})

    def show(self, source: bytes) -> Shown:
        mail = message_from_bytes(source, policy=default)
        assert isinstance(mail, EmailMessage)
        texts = {}
        for kind in ("plain", "html"):
            part = mail.get_body((kind,))
            texts[kind] = str(part.get_content()) if part is not None else ""
        headers = {name: str(value) for name, value in mail.items() if name.lower().startswith(("list-", "message-"))}
        return Shown(str(mail["From"]), str(mail["Subject"]), texts["plain"], texts["html"], {"headers": headers})

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and not _ENHANCED_CODE.fullmatch(rule.code):
            raise InvalidRuleError("code: must be an enhanced status code (RFC 3463) such as 4.3.0")

    async def start(self, host: str, port: int, tls: ssl.SSLContext) -> None:
        """Listen. Raises ``OSError`` if the port is taken."""
        converse = partial(self._converse, tls)
        self._server = await asyncio.start_server(converse, host, port, limit=MAX_LINE_BYTES * 2)

    async def stop(self) -> None:
        """Stop listening and cut off who is connected."""
        if self._server is not None:
            self._server.close()
            for conversation in list(self._conversations):
                conversation.cancel()
            await asyncio.gather(*self._conversations, return_exceptions=True)

    async def _converse(self, tls: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            await _Conversation(self, self._sandbox).run(tls, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError):
            pass  # gone, or not speaking SMTP, or we are stopping: nobody to answer
        except Exception as error:  # a bug of ours: where it is, without data
            frames = "".join(traceback.format_tb(error.__traceback__))
            sys.stderr.write(f"sandbox: {type(error).__name__} in an SMTP conversation\n{frames}")
        finally:
            self._conversations.discard(task)
            writer.transport.abort()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


class _Conversation:
    """One client's. The fault that met the recipient decides how the e-mail ends."""

    def __init__(self, provider: SmtpProvider, sandbox: Sandbox) -> None:
        self._provider = provider
        self._sandbox = sandbox
        self._fault = Fault()

    async def run(self, tls: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        credentials = self._sandbox.credentials
        session = Session(credentials.smtp_user, credentials.smtp_password, self._judge, self._accept, self._note)
        answer = session.greet()
        while True:
            if answer.delay_s:
                await asyncio.sleep(answer.delay_s)
            if answer.is_dropped:
                return
            writer.write(answer.render())
            await writer.drain()
            if answer.then is Next.END:
                return
            if answer.then is Next.TLS:
                await writer.start_tls(tls)
                session.start_tls()
            async with asyncio.timeout(READ_TIMEOUT_S):
                if answer.then is Next.CONTENT:
                    answer = session.take_content(await _read_content(reader))
                elif answer.then is Next.CREDENTIALS:
                    answer = session.take_credentials((await reader.readuntil(b"\r\n"))[:-2])
                else:
                    answer = session.take_line((await reader.readuntil(b"\r\n"))[:-2])

    def _judge(self, address: str) -> Reply | None:
        fault = self._fault = self._sandbox.faults[self._provider.name].decide((address,))
        if fault.is_refused:
            return self._fail(fault)
        refusal = ADDRESS_CONVENTIONS.get(address.partition("@")[0].lower())
        if refusal is not None:
            return self._note(reply(*refusal))
        return None

    def _fail(self, fault: Fault) -> Reply:
        if fault.mode is Mode.OUTAGE:
            return self._cut(fault)
        if fault.mode is Mode.THROTTLE and fault.status is None:
            refusal = reply(421, f"{fault.code or '4.7.0'} Too many messages, try again later", Next.END)
        else:
            status = fault.status or 451
            refusal = reply(status, f"{fault.code or f'{status // 100}.3.0'} As told")
        return replace(self._note(refusal), delay_s=fault.delay_s)

    def _accept(self, envelope: Envelope, content: bytes) -> Reply:
        fault, self._fault = self._fault, Fault()
        match = _DELIVERY_ID.search(content.partition(b"\r\n\r\n")[0])
        delivery_id = match[1].decode() if match else ""
        for recipient in envelope.recipients:
            accepted = Accepted(delivery_id, f"{delivery_id}@smtp", recipient, len(content), content)
            self._sandbox.accept(self._provider, accepted)
        if fault.mode is Mode.DROP:
            return self._cut(fault)
        return replace(reply(250, "2.0.0 Queued"), delay_s=fault.delay_s)

    def _cut(self, fault: Fault) -> Reply:
        self._sandbox.drop(self._provider, Answer(0))
        return Reply(0, (), Next.END, fault.delay_s, is_dropped=True)

    def _note(self, refusal: Reply) -> Reply:
        self._sandbox.reject(self._provider, str(refusal.code), Answer(refusal.code))
        return refusal


async def _read_content(reader: asyncio.StreamReader) -> bytes:
    """An e-mail up to the lone dot, without the dots that were put in (RFC 5321, 4.5.2). One that is too large is read
    to its end and comes back too large."""
    lines: list[bytes] = []
    size = 0
    while (line := await _read_line(reader)) != b".\r\n":
        size += len(line)
        if size <= MAX_SIZE + MAX_LINE_BYTES:
            lines.append(line[1:] if line.startswith(b".") else line)
    return b"".join(lines)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        try:
            parts.append(await reader.readuntil(b"\r\n"))
            return b"".join(parts)
        except asyncio.LimitOverrunError as error:
            parts.append(await reader.readexactly(error.consumed))


def make_tls(certificate: str, key: str) -> ssl.SSLContext:
    """The server's side of STARTTLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def _build_nothing(receipts: Sequence[Receipt], is_forged: bool) -> Call:
    raise NotImplementedError("SMTP has no receipts")


def create(sandbox: Sandbox) -> SmtpProvider:
    return SmtpProvider(sandbox)

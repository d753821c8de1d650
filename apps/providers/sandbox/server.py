"""The server: TLS for the providers, an optional plain listener for people, and a clean stop."""

import asyncio
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]
from granian.server.embed import Server

from apps.providers.sandbox import (
    apns,
    connections,
    fcm,
    page,
    sendgrid,
    ses,
    smtp,
    telnyx,
    twilio,
    vonage,
    vonage_messages,
    webpush,
)
from apps.providers.sandbox.control import ControlApi
from apps.providers.sandbox.credentials import load_credentials
from apps.providers.sandbox.exchange import Answer, Request, json_answer
from apps.providers.sandbox.ledger import FLUSH_INTERVAL_S, Ledger
from apps.providers.sandbox.listeners import Listener
from apps.providers.sandbox.state import Sandbox

PROVIDERS = (
    *(fcm.create, apns.create, twilio.create, sendgrid.create, webpush.create),
    *(vonage.create, vonage_messages.create, ses.create, smtp.create, telnyx.create),
)
ROOT_PATHS = {"3": "apns"}  # what a provider's clients put at the root of a server and cannot be told otherwise
MAX_BODY_BYTES = 32 * 1024 * 1024  # the largest any provider takes, and a little more
CONCURRENT_STREAMS = 256


class AddressInUseError(Exception):
    """A port to listen on is taken; the text names it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``serve`` is asked to do. ``http_port`` 0 leaves the plain listener out, ``smtp_port`` 0 the mail server."""

    data_dir: Path
    port: int
    webhook_base: str
    http_port: int = 0
    smtp_port: int = 0
    host: str = "127.0.0.1"
    is_fsynced: bool = False
    delivery_url: str = ""


class Scope(Protocol):
    """The parts used of an RSGI scope: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md"""

    proto: str
    http_version: str
    method: str
    path: str
    query_string: str
    client: str
    authority: str | None
    headers: Any


class Frontend:
    """The RSGI application: finds who answers, waits as told, answers or cuts the connection."""

    def __init__(self, sandbox: Sandbox, control: ControlApi, *, is_for_people: bool) -> None:
        self._control = control
        self._answerers: dict[str, Callable[[Request], Answer]] = {"_sandbox": control.handle}
        for name, provider in sandbox.providers.items():
            self._answerers[name] = _refuse_plain if is_for_people else provider.handle
        self._answerers |= {path: self._answerers[name] for path, name in ROOT_PATHS.items()}

    async def __rsgi__(self, scope: Scope, proto: Any) -> None:
        try:
            answer = await self._answer(scope, proto)
            if answer.delay_s:
                await asyncio.sleep(answer.delay_s)
            if answer.is_dropped:
                connections.cut_connection(scope.client)
                await proto.client_disconnect()
            elif answer.body:
                proto.response_bytes(answer.status, list(answer.headers), answer.body)
            else:
                proto.response_empty(answer.status, list(answer.headers))
        except ProtocolClosed:
            pass  # the client has gone: nobody to answer

    async def _answer(self, scope: Scope, proto: Any) -> Answer:
        header = scope.headers.get
        if int(header("content-length") or 0) > MAX_BODY_BYTES:
            return json_answer(413, {"error": f"the body exceeds {MAX_BODY_BYTES} bytes"})
        body = await proto()
        prefix, _, path = scope.path[1:].partition("/")
        answerer = self._answerers.get(prefix)
        if answerer is None:
            return page.serve(scope.path)
        try:
            about = (scope.http_version, scope.authority or "")
            return answerer(Request(scope.method, path, scope.query_string, header, body, *about))
        except Exception as error:  # a bug of ours: the caller gets a 500, standard error the place, without data
            frames = "".join(traceback.format_tb(error.__traceback__))
            sys.stderr.write(f"sandbox: {type(error).__name__} while answering {prefix}\n{frames}")
            return json_answer(500, {"error": "the sandbox failed; see its standard error"})


def _refuse_plain(request: Request) -> Answer:
    return json_answer(403, {"error": "the providers are served over TLS only; this port is for people"})


def serve(options: Options) -> None:
    """Runs until SIGTERM or SIGINT. Raises ``UnusableDataDirectoryError`` or ``AddressInUseError``."""
    credentials = load_credentials(options.data_dir, webhook_base=options.webhook_base)
    ports = [port for port in (options.port, options.http_port, options.smtp_port) if port]
    for port in ports:
        _check_is_free(options.host, port)
    ledger = Ledger(options.data_dir / "ledger.jsonl", is_fsynced=options.is_fsynced)
    sandbox = Sandbox(credentials, ledger)
    for create in PROVIDERS:
        sandbox.register(create(sandbox))
    people = f", inbox at http://{options.host}:{options.http_port}/" if options.http_port else ""
    sys.stdout.write(f"sandbox: serving https://{options.host}:{options.port}/{people}\n")
    sys.stdout.flush()
    sandbox.receipts.start()
    try:
        asyncio.run(_serve(options, sandbox))
    finally:
        sandbox.receipts.stop()
        ledger.close()


async def _serve(options: Options, sandbox: Sandbox) -> None:
    delivery_url = options.delivery_url or f"{sandbox.credentials.webhook_base}/admin/delivery/delivery/{{id}}/change/"
    control = ControlApi(sandbox, delivery_url=delivery_url)
    machines = Frontend(sandbox, control, is_for_people=False)
    people = Frontend(sandbox, control, is_for_people=True)
    stop_asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_asked.set)
    build_tls = partial(_build_server, options, machines, options.port, is_tls=True)
    build_plain = partial(_build_server, options, people, options.http_port, is_tls=False)
    tls = Listener(options.port, build_tls, stop_asked.set)
    listeners = [tls]
    if options.http_port:
        listeners.append(Listener(options.http_port, build_plain, stop_asked.set))
    control.listener = tls
    for listener in listeners:
        await listener.open()
    mail = sandbox.providers[smtp.SmtpProvider.name]
    assert isinstance(mail, smtp.SmtpProvider)
    if options.smtp_port:
        tls_files = (str(options.data_dir / "server.pem"), str(options.data_dir / "server-key.pem"))
        await mail.start(options.host, options.smtp_port, smtp.make_tls(*tls_files))
    flushing = asyncio.create_task(_flush_regularly(sandbox.ledger))
    await stop_asked.wait()
    await mail.stop()
    await asyncio.gather(*(listener.close() for listener in listeners))
    flushing.cancel()


async def _flush_regularly(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(FLUSH_INTERVAL_S)
        ledger.flush()


def _build_server(options: Options, application: Frontend, port: int, *, is_tls: bool) -> Server:
    return Server(
        application,
        address=options.host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.auto if is_tls else HTTPModes.http1,
        websockets=False,
        backlog=1_024,
        backpressure=16_384,  # requests held back by a latency fault must not block the others
        http1_settings=HTTP1Settings(keep_alive=True),
        http2_settings=HTTP2Settings(max_concurrent_streams=CONCURRENT_STREAMS),
        log_enabled=False,
        ssl_cert=options.data_dir / "server.pem" if is_tls else None,
        ssl_key=options.data_dir / "server-key.pem" if is_tls else None,
        ssl_protocol_min=SSLProtocols.tls12,
    )


def _check_is_free(host: str, port: int) -> None:
    """The server shares ports (SO_REUSEPORT), so a second sandbox would silently take half of the calls."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AddressInUseError(f"port {port} on {host} is taken ({error.strerror}): choose another one") from error

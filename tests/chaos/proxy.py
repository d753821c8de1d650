"""A TCP proxy that can fall silent: connections stay open, nothing comes through, nobody hangs up.

``python -m tests.chaos.proxy broker=127.0.0.1:5000 …`` prints one line, the ports it listens on as JSON, and then obeys
``silence <name>`` and ``restore <name>`` on standard input, each answered by ``ok``. It ends with its standard input.
Connections of a silent time stay silent for ever, as those of a crashed router's table do: only new ones come through.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from pathlib import Path
from typing import Self

PROJECT_DIR = Path(__file__).resolve().parents[2]
CHUNK = 65_536


class Link:
    """One server behind the proxy."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._is_silent = False
        self._pumps: set[asyncio.Task[None]] = set()
        self._kept: list[StreamWriter] = []  # a writer that is forgotten closes its connection

    async def serve(self) -> int:
        """Starts to listen; returns on which port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def silence(self) -> None:
        self._is_silent = True
        for pump in self._pumps:
            pump.cancel()

    def restore(self) -> None:
        self._is_silent = False

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._is_silent:
            self._kept.append(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        for source, target in ((reader, server_writer), (server_reader, writer)):
            pump = asyncio.create_task(self._pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: StreamReader, target: StreamWriter) -> None:
        try:
            while data := await source.read(CHUNK):
                target.write(data)
                await target.drain()
        except asyncio.CancelledError:
            self._kept.append(target)
            return
        except OSError:
            pass
        with contextlib.suppress(OSError):
            target.close()


async def run(targets: Mapping[str, str]) -> None:
    links = {}
    ports = {}
    for name, address in targets.items():
        host, _, port = address.rpartition(":")
        links[name] = Link(host, int(port))
        ports[name] = await links[name].serve()
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    commands = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).decode():
        verb, name = line.split()
        {"silence": links[name].silence, "restore": links[name].restore}[verb]()
        sys.stdout.write("ok\n")
        sys.stdout.flush()


class ProxyProcess:
    """The proxy from outside. ``ports`` by name."""

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.proxy", *(f"{name}={address}" for name, address in targets.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT_DIR,
            text=True,
        )
        self.ports: dict[str, int] = json.loads(self._read())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)

    def silence(self, name: str) -> None:
        self._tell(f"silence {name}")

    def restore(self, name: str) -> None:
        self._tell(f"restore {name}")

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


if __name__ == "__main__":
    asyncio.run(run(dict(argument.split("=", 1) for argument in sys.argv[1:])))

"""The listening sockets: opened, closed while the process goes on, and stopped for good without waiting for clients."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from granian.server.embed import Server

from apps.providers.sandbox import connections

STOP_GRACE_S = 0.3


class Listener:
    """One port. While it is closed a connection to it is refused, as when a provider is off the network.
    ``on_end`` is called when the server ends although nobody closed it; ``close`` then raises what ended it."""

    def __init__(self, port: int, build: Callable[[], Server], on_end: Callable[[], None]) -> None:
        self.port = port
        self._build = build
        self._on_end = on_end
        self._server: Server | None = None
        self._serving: asyncio.Future[Any] | None = None
        self._is_closing = False
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return self._serving is not None

    def switch(self, *, is_open: bool, for_s: float | None) -> None:
        """Opens or closes the port a moment from now, and after ``for_s`` seconds the other way round."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task = asyncio.ensure_future(self._switch(is_open))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if for_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(for_s, lambda: self.switch(is_open=not is_open, for_s=None))

    async def open(self) -> None:
        async with self._lock:
            if self._serving is None:
                self._server = self._build()
                self._serving = asyncio.ensure_future(self._server.serve())
                self._serving.add_done_callback(self._note_end)

    async def close(self) -> None:
        """Stops listening and cuts off who is connected. The server itself would wait for idle clients for ever."""
        async with self._lock:
            if self._server is None or self._serving is None:
                return
            self._is_closing = True
            self._server.stop()  # type: ignore[no-untyped-call]
            done, _ = await asyncio.wait({self._serving}, timeout=STOP_GRACE_S)
            while not done:
                connections.cut_connections_to({self.port})
                done, _ = await asyncio.wait({self._serving}, timeout=0.1)
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
            self._server = self._serving = None
            self._is_closing = False

    def _note_end(self, serving: asyncio.Future[Any]) -> None:
        if not self._is_closing:
            self._on_end()

    async def _switch(self, is_open: bool) -> None:
        await (self.open() if is_open else self.close())

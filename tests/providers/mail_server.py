"""A mail server that says what a test tells it to say, and cuts the line where the test wants."""

import socket
import threading
from collections.abc import Callable

CUT = b""  # as a reply: close the connection instead
Decide = Callable[[int, str], bytes | None]


class MailServer:
    """``decide(connection number, step)`` gives the reply to a step (``connect``, a verb, ``content``), ``None`` the
    usual one. ``mails`` are what was taken on, dots included; ``steps`` what was heard, by connection."""

    USUAL = {
        "connect": b"220 mail.example.com\r\n",
        "EHLO": b"250-mail.example.com\r\n250 SIZE 1000000\r\n",
        "DATA": b"354 go\r\n",
        "QUIT": b"221 bye\r\n",
    }

    def __init__(self, decide: Decide = lambda connection, step: None) -> None:
        self._decide = decide
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.mails: list[bytes] = []
        self.steps: list[list[str]] = []
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        for each in [self._listener, *self._connections]:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.steps.append([])
            threading.Thread(target=self._serve, args=(connection, len(self.steps) - 1), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                step = "connect"
                while self._answer(connection, number, step):
                    if self.steps[number][-1] == "DATA":
                        content = b""
                        while (line := lines.readline()) != b".\r\n":
                            if not line:
                                return
                            content += line
                        self.mails.append(content)
                        step = "content"
                    else:
                        line = lines.readline()
                        if not line:
                            return
                        step = line.split()[0].decode().upper()
        except OSError:
            return

    def _answer(self, connection: socket.socket, number: int, step: str) -> bool:
        self.steps[number].append(step)
        said = self._decide(number, step)
        if said == CUT:
            return False
        said = self.USUAL.get(step, b"250 ok\r\n") if said is None else said
        connection.sendall(said)
        if step == "DATA" and not said.startswith(b"354"):
            self.steps[number].append("refused")  # no content follows
        return True

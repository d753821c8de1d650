"""The proxy that falls silent."""

import socket
import threading

import pytest

from tests.chaos.proxy import ProxyProcess


@pytest.fixture
def proxy():
    """In front of a server that says everything back."""
    server = socket.create_server(("127.0.0.1", 0))

    def echo(connection):
        with connection:
            while data := connection.recv(1024):
                connection.sendall(data)

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with ProxyProcess({"echo": f"127.0.0.1:{server.getsockname()[1]}"}) as running:
        yield running
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.ports["echo"]), timeout=0.5)


def says_back(connection):
    connection.sendall(b"hello")
    try:
        return connection.recv(1024) == b"hello"
    except TimeoutError:
        return None  # neither an answer nor an end


def test_everything_passes(proxy):
    with connect(proxy) as connection:
        assert says_back(connection) is True
        assert says_back(connection) is True


def test_silence_is_neither_an_answer_nor_an_end(proxy):
    with connect(proxy) as before:
        assert says_back(before) is True
        proxy.silence("echo")
        with connect(proxy) as during:
            assert says_back(before) is None
            assert says_back(during) is None
            proxy.restore("echo")
            assert says_back(before) is None
            assert says_back(during) is None
            with connect(proxy) as after:
                assert says_back(after) is True

"""HTTP/2 as clients see it: libcurl for whole answers, and single frames (RFC 9113) for how an answer ends."""

import json
import socket
import ssl
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pycurl

DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


class H2Client:
    """POSTs over one HTTP/2 connection; raises ``pycurl.error`` where there is no answer."""

    def __init__(self, ca_file: Path) -> None:
        self._easy = pycurl.Curl()
        self._easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        self._easy.setopt(pycurl.CAINFO, str(ca_file))
        self._easy.setopt(pycurl.PROXY, "")
        self._easy.setopt(pycurl.TIMEOUT, 5)

    def post(self, url: str, headers: dict[str, str], body: bytes, method: str = "POST") -> Answer:
        easy, lines, content = self._easy, [], BytesIO()
        easy.setopt(pycurl.URL, url)
        easy.setopt(pycurl.POSTFIELDS, body)
        easy.setopt(pycurl.CUSTOMREQUEST, method)
        easy.setopt(pycurl.HTTPHEADER, ["Expect:", *(f"{name}: {value}" for name, value in headers.items())])
        easy.setopt(pycurl.HEADERFUNCTION, lines.append)
        easy.setopt(pycurl.WRITEFUNCTION, content.write)
        easy.perform()
        assert easy.getinfo(pycurl.INFO_HTTP_VERSION) == pycurl.CURL_HTTP_VERSION_2_0
        pairs = (line.decode().partition(":") for line in lines if b":" in line)
        found = {name.lower(): value.strip() for name, _, value in pairs}
        return Answer(easy.getinfo(pycurl.RESPONSE_CODE), found, content.getvalue())

    def close(self) -> None:
        self._easy.close()


def answer_frames(ca_file: Path, url: str, headers: dict[str, str], body: bytes) -> list[tuple[int, bool, int]]:
    """The frames of the answer to one POST as (type, whether it ends the stream, length of its payload)."""
    target = urlsplit(url)
    context = ssl.create_default_context(cafile=str(ca_file))
    context.set_alpn_protocols(["h2"])
    fields = {":method": "POST", ":scheme": "https", ":authority": target.netloc, ":path": target.path, **headers}
    with (
        socket.create_connection((target.hostname, target.port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=target.hostname) as tls,
    ):
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b""))
        tls.sendall(_frame(HEADERS, END_HEADERS, 1, _encode(fields)) + _frame(DATA, END_STREAM, 1, body))
        reader = tls.makefile("rb")
        found: list[tuple[int, bool, int]] = []
        while not (found and found[-1][1]):
            head = reader.read(9)
            length, stream = int.from_bytes(head[:3], "big"), int.from_bytes(head[5:9], "big")
            reader.read(length)
            assert head[3] != GOAWAY
            if stream == 1 and head[3] in (HEADERS, DATA):
                found.append((head[3], bool(head[4] & END_STREAM), length))
        return found


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _encode(fields: dict[str, str]) -> bytes:
    """HPACK (RFC 7541, 6.2.2): literals without indexing and without Huffman."""
    block = bytearray()
    for name, value in fields.items():
        block += b"\x00" + _encode_text(name) + _encode_text(value)
    return bytes(block)


def _encode_text(text: str) -> bytes:
    """A string literal (RFC 7541, 5.2) whose length is an integer with a prefix of seven bits (5.1)."""
    length, head = len(text), b""
    if length >= 127:
        head, length = b"\x7f", length - 127
        while length >= 128:
            head, length = head + bytes([length % 128 + 128]), length // 128
    return head + bytes([length]) + text.encode()

"""The headers of many like requests, compressed (HPACK, RFC 7541): each field once in full, from then on by number."""

from hpack.table import HeaderTable, table_entry_size

from apps.providers.messages import ProviderRequest

USER_AGENT = "notify"
TABLE_BYTES = 4_096  # the table of a peer that says nothing (RFC 9113, 6.5.2); never more, whatever it allows
_STATIC_FIELDS = {field: number for number, field in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])}
_STATIC_NAMES = {name: number for number, (name, _) in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])}
_CONTENT_LENGTH = b"\x0f\x0d"  # a literal that the table does not keep (6.2.2), by number 28 of the static table
Headers = tuple[tuple[str, str], ...]


class Heads:
    """Header blocks of requests to one ``authority``, in the order in which they are sent. A path that does not come
    twice in a row (a device token, say) is marked as one that nobody on the way may keep (6.2.3)."""

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._table: list[tuple[bytes, bytes]] = []  # newest first
        self._most_bytes = TABLE_BYTES
        self._resizes: list[int] = []
        self._version = 0  # of the table
        self._path = ""
        self._last: tuple[str, str, Headers] | None = None
        self._last_block = b""
        self._last_version = -1

    def limit(self, table_bytes: int) -> None:
        """The peer's table holds so much; said to it with the next block (4.2)."""
        self._most_bytes = min(table_bytes, TABLE_BYTES)
        lower = [size for size in self._resizes if size < self._most_bytes]
        self._resizes = [*lower[:1], self._most_bytes]
        self._version += 1
        self._evict()

    def encode(self, path: str, request: ProviderRequest) -> bytes:
        """Raises ``ValueError`` for what no server should see."""
        head = path, request.method, request.headers
        if head != self._last or self._version != self._last_version:
            version = self._version
            block = self._encode(path, request)
            if self._version != version:
                return block + self._length(request)  # it says more than the next one needs to
            self._last, self._last_block, self._last_version = head, block, version
        return self._last_block + self._length(request)

    def _length(self, request: ProviderRequest) -> bytes:
        digits = b"%d" % len(request.body)
        return _CONTENT_LENGTH + bytes((len(digits),)) + digits

    def _encode(self, path: str, request: ProviderRequest) -> bytes:
        _check(path + request.method)
        for name, value in request.headers:
            _check(name or "\0")
            _check(value.replace(" ", ""))
            if ":" in name:
                raise ValueError("a header's name with a colon")
        parts = [_integer(size, 5, 0x20) for size in self._resizes]
        if parts:
            self._resizes.clear()
            self._version += 1
        parts.append(self._field(":method", request.method))
        parts.append(self._field(":scheme", "https"))
        parts.append(self._field(":authority", self._authority))
        parts.append(self._field(":path", path, is_kept=path == self._path))
        self._path = path
        parts.append(self._field("user-agent", USER_AGENT))
        parts.extend(self._field(name.lower(), value) for name, value in request.headers)
        return b"".join(parts)

    def _field(self, name_text: str, value_text: str, *, is_kept: bool = True) -> bytes:
        field = name, value = name_text.encode(), value_text.encode()
        if number := _STATIC_FIELDS.get(field):
            return _integer(number, 7, 0x80)
        if field in self._table:
            return _integer(len(HeaderTable.STATIC_TABLE) + 1 + self._table.index(field), 7, 0x80)
        is_kept = is_kept and table_entry_size(name, value) <= self._most_bytes
        number = _STATIC_NAMES.get(name, 0)
        start = _integer(number, 6, 0x40) if is_kept else _integer(number, 4, 0x10)
        if is_kept:
            self._table.insert(0, field)
            self._version += 1
            self._evict()
        return start + (b"" if number else _string(name)) + _string(value)

    def _evict(self) -> None:
        size = sum(table_entry_size(name, value) for name, value in self._table)
        while size > self._most_bytes:
            size -= table_entry_size(*self._table.pop())


def _check(text: str) -> None:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("not printable ASCII")


def _integer(value: int, bits: int, flags: int) -> bytes:
    """RFC 7541, 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((flags | value,))
    octets = bytearray((flags | most,))
    value -= most
    while value >= 128:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _string(raw: bytes) -> bytes:
    """RFC 7541, 5.2, without Huffman."""
    return _integer(len(raw), 7, 0) + raw

"""The client's side of HTTP/2, frame by frame. What a server sends is written by hand; what we send is read by the
``hpack`` library and by the few lines here, which share nothing with what is tested."""

import ssl
import struct
import time
from collections.abc import Iterator

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.providers.http2 import OUR_WINDOW_STEP_BYTES, Connection, ProtocolError, Refused, Verdict, _read_status
from apps.providers.http2_heads import Heads
from apps.providers.messages import MAX_BODY_BYTES, ProviderRequest, ProviderResponse, TransportFailure

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
OK = b"\x88"
AUTHORITY = "push.example.com"
HEADERS_SENT = (("Authorization", "Bearer abc"), ("Content-Type", "application/json"))
Frame = tuple[int, int, int, bytes]


class FakeSocket:
    """Takes ``room`` bytes and gives what ``incoming`` holds, a piece at a time."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.incoming: list[bytes | Exception] = []
        self.room = 1 << 30
        self.is_closed = False

    def recv(self, buflen: int) -> bytes:
        if not self.incoming:
            raise ssl.SSLWantReadError
        piece = self.incoming.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def send(self, data: memoryview) -> int:
        count = min(len(data), self.room)
        if not count:
            raise ssl.SSLWantWriteError
        self.room -= count
        self.written += data[:count]
        return count

    def close(self) -> None:
        self.is_closed = True

    def fileno(self) -> int:
        return -1


class Peer:
    """The server at the other end of ``connection``."""

    def __init__(self, total_s: float = 2.0) -> None:
        self.socket = FakeSocket()
        self.connection: Connection[str] = Connection(self.socket, AUTHORITY, total_s)
        self.decoder = hpack.Decoder()
        self._read = 24

    def start(self, task: str, body: bytes = b"{}", path: str = "/send", now: float = 0.0) -> None:
        self.connection.start(path, ProviderRequest((), "", "POST", HEADERS_SENT, body), task, now)

    def sent(self) -> list[Frame]:
        """The frames written since the last time."""
        self.connection.flush()
        return list(self._frames())

    def _frames(self) -> Iterator[Frame]:
        written = self.socket.written
        while len(written) >= self._read + 9:
            size = int.from_bytes(written[self._read : self._read + 3], "big")
            kind, flags, number = struct.unpack_from(">BBL", written, self._read + 3)
            yield kind, flags, number, bytes(written[self._read + 9 : self._read + 9 + size])
            self._read += 9 + size

    def hear(self, *frames: bytes) -> dict[str, Verdict]:
        """What the connection says on ``frames``, by task."""
        self.socket.incoming.extend(frames)
        self.connection.receive()
        return self.verdicts()

    def verdicts(self) -> dict[str, Verdict]:
        found = dict(self.connection.verdicts)
        assert len(found) == len(self.connection.verdicts)
        self.connection.verdicts.clear()
        return found


@pytest.fixture
def peer() -> Peer:
    made = Peer()
    made.sent()
    return made


def frame(kind: int, flags: int, number: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3, "big") + struct.pack(">BBL", kind, flags, number) + content


def settings_frame(**values: int) -> bytes:
    names = {"table": 1, "streams": 3, "window": 4}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", names[name], value) for name, value in values.items()))


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def answer(number: int, body: bytes = b"yes", block: bytes = OK) -> bytes:
    return frame(HEADERS, 4, number, block) + frame(DATA, 1, number, body)


def said(verdict: Verdict) -> tuple[int, bytes]:
    assert isinstance(verdict, ProviderResponse)
    return verdict.status, verdict.body


class TestBeginning:
    def test_it_asks_for_no_table_no_pushes_and_wide_windows(self):
        peer = Peer()
        [settings, window] = peer.sent()
        assert bytes(peer.socket.written[:24]) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        pairs = dict(struct.iter_unpack(">HL", settings[3]))
        assert (settings[0], pairs[1], pairs[2]) == (SETTINGS, 0, 0)
        assert pairs[4] > MAX_BODY_BYTES + 16_384
        assert (window[0], int.from_bytes(window[3], "big") + 65_535) == (WINDOW_UPDATE, 2**31 - 1)

    def test_nothing_is_written_before_flush(self):
        peer = Peer()
        peer.start("a")
        assert not peer.socket.written


class TestRequests:
    def test_headers_and_body(self, peer: Peer):
        peer.start("a", b"body")
        head, body = peer.sent()
        assert head[:3] == (HEADERS, 4, 1)
        assert peer.decoder.decode(head[3]) == [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", AUTHORITY),
            (":path", "/send"),
            ("user-agent", "notify"),
            ("authorization", "Bearer abc"),
            ("content-type", "application/json"),
            ("content-length", "4"),
        ]
        assert body == (DATA, 1, 1, b"body")

    def test_numbers_are_odd_and_rise(self, peer: Peer):
        for name in "abc":
            peer.start(name)
        assert [number for kind, _, number, _ in peer.sent() if kind == HEADERS] == [1, 3, 5]

    def test_no_body_ends_with_the_headers(self, peer: Peer):
        peer.start("a", b"")
        [(kind, flags, _, _)] = peer.sent()
        assert (kind, flags) == (HEADERS, 5)

    def test_the_same_again_takes_a_few_bytes(self, peer: Peer):
        for name in "abcd":
            peer.start(name)
        blocks = [content for kind, _, _, content in peer.sent() if kind == HEADERS]
        assert len({str(peer.decoder.decode(block)) for block in blocks}) == 1
        assert len(blocks[-1]) < 12

    @pytest.mark.parametrize(
        ("path", "headers"),
        [
            ("/a b", ()),
            ("/\r\nx", ()),
            ("/é", ()),
            ("/", (("a\n", "b"),)),
            ("/", (("a b", "c"),)),
            ("/", (("a", "b\r\nc: d"),)),
            ("/", (("a:b", "c"),)),
            ("/", (("", "c"),)),
            ("/", (("a", "x" * 17_000),)),
        ],
    )
    def test_what_no_server_should_see(self, peer: Peer, path: str, headers: tuple[tuple[str, str], ...]):
        with pytest.raises(ValueError, match=r"\S"):
            peer.connection.start(path, ProviderRequest((), "", "POST", headers, b""), "a", 0.0)
        assert peer.connection.in_flight == 0


class TestWindows:
    def test_a_body_waits_for_the_streams_window(self, peer: Peer):
        peer.hear(settings_frame(window=10))
        peer.start("a", b"0123456789abcdef")
        assert [body for kind, _, _, body in peer.sent() if kind == DATA] == [b"0123456789"]
        peer.hear(frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 4)))
        assert peer.sent() == [(DATA, 0, 1, b"abcd")]
        peer.hear(frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 4)))
        assert peer.sent() == [(DATA, 1, 1, b"ef")]

    def test_a_wider_initial_window_holds_for_streams_under_way(self, peer: Peer):
        peer.hear(settings_frame(window=0))
        peer.start("a", b"body")
        peer.sent()
        peer.hear(settings_frame(window=100))
        assert (DATA, 1, 1, b"body") in peer.sent()

    def test_bodies_wait_for_the_connections_window(self, peer: Peer):
        for number in range(5):
            peer.start(str(number), bytes(16_000))
        assert sum(len(body) for kind, _, _, body in peer.sent() if kind == DATA) == 65_535
        peer.hear(frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", 100_000)))
        assert sum(len(body) for kind, _, _, body in peer.sent() if kind == DATA) == 5 * 16_000 - 65_535

    def test_a_large_body_goes_in_frames_that_every_server_takes(self, peer: Peer):
        peer.start("a", bytes(40_000))
        assert [len(body) for kind, _, _, body in peer.sent() if kind == DATA] == [16_384, 16_384, 7_232]

    def test_the_servers_window_is_renewed(self, peer: Peer):
        for number in range(1, 2 * (OUR_WINDOW_STEP_BYTES // 60_000), 2):
            peer.start(str(number))
            body = frame(DATA, 0, number, bytes(15_000))
            assert peer.hear(frame(HEADERS, 4, number, OK), *[body] * 4, frame(DATA, 1, number))
        assert not [kind for kind, *_ in peer.sent() if kind == WINDOW_UPDATE]
        peer.start("last")
        peer.hear(frame(HEADERS, 4, peer.connection._next_number - 2, OK), *[frame(DATA, 0, 1, bytes(16_000))] * 4)
        [renewed] = [content for kind, _, _, content in peer.sent() if kind == WINDOW_UPDATE]
        assert int.from_bytes(renewed, "big") >= OUR_WINDOW_STEP_BYTES


class TestAnswers:
    def test_in_any_order_and_mixed(self, peer: Peer):
        for name in "ab":
            peer.start(name)
        assert peer.hear(frame(HEADERS, 4, 3, OK), frame(HEADERS, 4, 1, OK), frame(DATA, 0, 1, b"A")) == {}
        verdicts = peer.hear(frame(DATA, 1, 3, b"B") + frame(DATA, 1, 1, b"1"))
        assert {name: said(verdict) for name, verdict in verdicts.items()} == {"a": (200, b"A1"), "b": (200, b"B")}

    def test_byte_by_byte(self, peer: Peer):
        peer.start("a")
        whole = settings_frame(streams=10) + answer(1)
        for octet in whole[:-1]:
            assert peer.hear(bytes([octet])) == {}
        assert said(peer.hear(whole[-1:])["a"]) == (200, b"yes")

    def test_headers_are_read_when_asked_for(self, peer: Peer):
        peer.start("a")
        verdict = peer.hear(answer(1, block=OK + literal(b"apns-id", b"X1") + literal(b"date", b"today")))["a"]
        assert isinstance(verdict, ProviderResponse)
        assert (verdict.headers["apns-id"], dict(verdict.headers)["date"], len(verdict.headers)) == ("X1", "today", 3)
        assert verdict.headers.get("retry-after") is None

    @pytest.mark.parametrize("status", [201, 204, 400, 429, 503])
    def test_other_statuses(self, peer: Peer, status: int):
        peer.start("a")
        verdict = peer.hear(answer(1, block=literal(b":status", b"%d" % status)))["a"]
        assert said(verdict) == (status, b"yes")

    def test_a_block_that_begins_with_the_tables_size(self, peer: Peer):
        peer.start("a")
        assert said(peer.hear(answer(1, block=b"\x20" + OK))["a"]) == (200, b"yes")

    def test_padding_and_priority_are_dropped(self, peer: Peer):
        peer.start("a")
        padded = frame(HEADERS, 4 | 8 | 32, 1, b"\x02" + bytes(5) + OK + b"xx")
        assert said(peer.hear(padded, frame(DATA, 1 | 8, 1, b"\x03yesxxx"))["a"]) == (200, b"yes")

    def test_headers_in_pieces(self, peer: Peer):
        peer.start("a")
        block = literal(b":status", b"200") + literal(b"a", b"b")
        pieces = frame(HEADERS, 1, 1, block[:3]), frame(CONTINUATION, 0, 1, block[3:9])
        assert peer.hear(*pieces) == {}
        verdict = peer.hear(frame(CONTINUATION, 4, 1, block[9:]))["a"]
        assert said(verdict) == (200, b"")

    def test_an_interim_answer_is_not_the_answer(self, peer: Peer):
        peer.start("a")
        assert peer.hear(frame(HEADERS, 4, 1, literal(b":status", b"103"))) == {}
        assert said(peer.hear(answer(1))["a"]) == (200, b"yes")

    def test_trailers_end_an_answer(self, peer: Peer):
        peer.start("a")
        peer.hear(frame(HEADERS, 4, 1, OK), frame(DATA, 0, 1, b"yes"))
        assert said(peer.hear(frame(HEADERS, 5, 1, literal(b"grpc-status", b"0")))["a"]) == (200, b"yes")

    def test_an_answer_before_the_whole_body_was_sent(self, peer: Peer):
        peer.hear(settings_frame(window=3))
        peer.start("a", b"a long body")
        peer.sent()
        assert said(peer.hear(answer(1, b"too large", literal(b":status", b"413")))["a"]) == (413, b"too large")
        peer.hear(frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 100)))
        assert [kind for kind, *_ in peer.sent()] == [RST_STREAM]

    def test_too_much_of_a_success_is_an_unknown_outcome(self, peer: Peer):
        peer.start("a")
        peer.sent()
        verdicts = peer.hear(frame(HEADERS, 4, 1, OK), *[frame(DATA, 0, 1, bytes(16_000))] * 5)
        assert isinstance(verdicts["a"], TransportFailure)
        assert (verdicts["a"].has_left, verdicts["a"].detail) == (True, "answer too large")
        assert (RST_STREAM, 0, 1, struct.pack(">L", 8)) in peer.sent()

    def test_what_comes_for_a_request_given_up_is_dropped(self, peer: Peer):
        peer.start("a", now=-10.0)
        peer.start("b")
        peer.sent()
        peer.connection.expire(0.0)
        assert list(peer.verdicts()) == ["a"]
        assert said(peer.hear(answer(1), answer(3))["b"]) == (200, b"yes")


class TestOrders:
    def test_settings_and_pings_are_answered(self, peer: Peer):
        peer.hear(settings_frame(streams=7), frame(PING, 0, 0, b"12345678"), frame(PING, 1, 0, b"87654321"))
        assert peer.sent() == [(SETTINGS, 1, 0, b""), (PING, 1, 0, b"12345678")]
        assert peer.connection.room == 7

    def test_the_room_is_what_the_server_allows(self, peer: Peer):
        peer.start("a")
        assert peer.connection.room == 99
        peer.hear(settings_frame(streams=1))
        assert peer.connection.room == 0
        peer.hear(answer(1))
        assert peer.connection.room == 1

    def test_unknown_frames_and_settings_are_ignored(self, peer: Peer):
        peer.start("a")
        unknown = frame(SETTINGS, 0, 0, struct.pack(">HL", 99, 1))
        assert said(peer.hear(frame(200, 255, 1, b"?"), unknown, frame(2, 0, 1, bytes(5)), answer(1))["a"])

    def test_a_refused_stream_may_be_sent_again(self, peer: Peer):
        peer.start("a")
        peer.sent()
        assert isinstance(peer.hear(frame(RST_STREAM, 0, 1, struct.pack(">L", 7)))["a"], Refused)

    @pytest.mark.parametrize("code", [0, 1, 2, 8, 11])
    def test_a_stream_reset_otherwise_may_have_been_processed(self, peer: Peer, code: int):
        peer.start("a")
        peer.sent()
        verdict = peer.hear(frame(RST_STREAM, 0, 1, struct.pack(">L", code)))["a"]
        assert isinstance(verdict, TransportFailure)
        assert verdict.has_left

    def test_a_goaway_leaves_out_the_later_ones(self, peer: Peer):
        for name in "abc":
            peer.start(name)
        peer.sent()
        verdicts = peer.hear(frame(GOAWAY, 0, 0, struct.pack(">LL", 3, 0)))
        assert [(name, type(verdict)) for name, verdict in verdicts.items()] == [("c", Refused)]
        assert (peer.connection.room, peer.connection.is_closed) == (0, False)
        assert peer.hear(answer(1), answer(3)).keys() == {"a", "b"}


class TestEnds:
    @pytest.mark.parametrize("end", [b"", ConnectionResetError(), ssl.SSLEOFError()], ids=repr)
    def test_a_lost_connection_leaves_unknown_outcomes(self, peer: Peer, end: bytes | Exception):
        peer.start("a")
        peer.sent()
        peer.socket.incoming.append(end)
        verdict = peer.hear()["a"]
        assert isinstance(verdict, TransportFailure)
        assert verdict.has_left
        assert peer.socket.is_closed

    def test_what_was_not_written_may_be_sent_again(self, peer: Peer):
        peer.hear(frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", 1 << 20)))
        peer.sent()
        peer.socket.room = 0
        for name in "abcdef":  # more than is handed to the socket at once
            peer.start(name, bytes(15_000), now=time.monotonic())
        peer.connection.flush()
        verdicts = peer.hear(b"")
        assert isinstance(verdicts["a"], TransportFailure)
        assert isinstance(verdicts["f"], Refused)

    def test_what_the_socket_was_handed_may_have_left(self, peer: Peer):
        peer.socket.room = 0
        peer.start("a")
        peer.connection.flush()
        verdict = peer.hear(b"")["a"]
        assert isinstance(verdict, TransportFailure)
        assert verdict.has_left

    def test_time_is_up_for_each_by_itself(self, peer: Peer):
        peer.start("a", now=0.0)
        peer.start("b", now=1.0)
        peer.sent()
        assert peer.connection.deadline() == 2.0
        peer.hear(frame(PING, 0, 0, bytes(8)))  # somebody is there
        peer.connection.expire(1.9)
        assert peer.verdicts() == {}
        peer.connection.expire(2.0)
        [(name, verdict)] = peer.verdicts().items()
        assert (name, verdict) == ("a", TransportFailure(True, "timed out", 2.0))
        assert not peer.connection.is_ending
        assert (RST_STREAM, 0, 1, struct.pack(">L", 8)) in peer.sent()

    def test_silence_ends_a_connection(self, peer: Peer):
        peer.hear(settings_frame())
        now = peer.connection._last_heard + 1.0
        peer.start("a", now=now)
        peer.start("b", now=now + 1.0)
        peer.sent()
        peer.connection.expire(now + 2.0)
        assert (peer.connection.room, peer.connection.in_flight) == (0, 1)

    def test_a_request_still_unwritten_never_leaves_later(self, peer: Peer):
        peer.start("a", now=time.monotonic() - 2.5)
        peer.connection.expire(time.monotonic())
        verdict = peer.verdicts()["a"]
        assert isinstance(verdict, TransportFailure)
        assert (verdict.has_left, verdict.detail) == (False, "timed out")
        written = bytes(peer.socket.written)
        peer.connection.flush()
        assert peer.socket.is_closed
        assert bytes(peer.socket.written) == written

    @pytest.mark.parametrize(
        "bad",
        [
            frame(HEADERS, 4, 1, b"\xbe"),  # number 62: the table that we told it not to use
            frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
            frame(HEADERS, 4, 1, literal(b":status", b"2x0")),
            frame(HEADERS, 4, 1, literal(b"a", b"b")),
            frame(HEADERS, 4, 2, OK),
            frame(HEADERS, 4, 99, OK),
            frame(HEADERS, 4 | 8, 1, b"\x09" + OK),
            frame(HEADERS, 0, 1, OK) + frame(PING, 0, 0, bytes(8)),
            frame(HEADERS, 0, 1, OK) + frame(CONTINUATION, 4, 3, b""),
            frame(HEADERS, 0, 1, OK) + frame(CONTINUATION, 0, 1, bytes(16_000)) * 5,
            frame(CONTINUATION, 4, 1, OK),
            frame(DATA, 1, 1, b"no headers"),
            frame(PUSH_PROMISE, 4, 1, bytes(4) + OK),
            frame(SETTINGS, 0, 0, bytes(5)),
            frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 2**31)),
            frame(WINDOW_UPDATE, 0, 0, b"\x00"),
            frame(GOAWAY, 0, 0, b""),
            frame(DATA, 0, 1, bytes(16_385)),
        ],
    )
    def test_a_server_that_breaks_the_protocol_is_left(self, peer: Peer, bad: bytes):
        peer.start("a")
        peer.sent()
        verdict = peer.hear(bad)["a"]
        assert isinstance(verdict, TransportFailure)
        assert verdict.has_left
        assert "broken by the server" in verdict.detail
        assert peer.socket.is_closed

    @given(st.binary(max_size=200), st.lists(st.sampled_from([0, 1, 3, 4, 5, 6, 7, 8, 9, 77]), max_size=5))
    @settings(max_examples=300, deadline=None)
    def test_whatever_comes_every_request_gets_one_verdict(self, noise: bytes, kinds: list[int]):
        peer = Peer()
        for name in "abc":
            peer.start(name)
        peer.sent()
        seen = list(peer.hear(*(frame(kind, noise[0] if noise else 0, 1, noise) for kind in kinds), noise))
        peer.connection.close("end")
        assert sorted([*seen, *peer.verdicts()]) == ["a", "b", "c"]


class TestHeads:
    @given(
        st.lists(
            st.one_of(
                st.integers(0, 5_000),
                st.tuples(
                    st.sampled_from(["/send", "/3/device/a", "/3/device/b", "/" + "x" * 300]),
                    st.lists(
                        st.tuples(
                            st.sampled_from(["authorization", "x-a", "x-b", "apns-topic"]),
                            st.sampled_from(["", "1", "two words", "y" * 130, "z" * 3_000]),
                        ),
                        max_size=4,
                    ),
                ),
            ),
            max_size=12,
        )
    )
    @settings(max_examples=300, deadline=None)
    def test_a_decoder_reads_what_was_meant(self, steps: list[int | tuple[str, list[tuple[str, str]]]]):
        heads, decoder = Heads(AUTHORITY), hpack.Decoder()
        for step in steps:
            if isinstance(step, int):
                heads.limit(step)
                decoder.max_allowed_table_size = step
                continue
            path, headers = step
            block = heads.encode(path, ProviderRequest((), "", "POST", tuple(headers), b"12345"))
            assert decoder.decode(block) == [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", AUTHORITY),
                (":path", path),
                ("user-agent", "notify"),
                *headers,
                ("content-length", "5"),
            ]

    def test_a_path_that_comes_once_is_kept_nowhere(self):
        heads, decoder = Heads(AUTHORITY), hpack.Decoder()
        for number in range(3):
            decoder.decode(heads.encode(f"/3/device/{number}", ProviderRequest((), "", "POST", HEADERS_SENT, b"")))
        assert not [value for _, value in decoder.header_table.dynamic_entries if b"device" in value]


def test_a_status_must_be_a_number():
    with pytest.raises(ProtocolError, match="no status"):
        _read_status(literal(b":status", b"20"))

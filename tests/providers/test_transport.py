import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps import yielding
from apps.providers import transport as transport_module
from apps.providers.allowance import QUEUE_S, SHORT_QUEUE_S, START, Allowance
from apps.providers.authorities import ca_bundle
from apps.providers.curl_transport import CurlTransport
from apps.providers.limits import Limits
from apps.providers.messages import MAX_BODY_BYTES, ProviderRequest, ProviderResponse, TransportFailure
from apps.providers.transport import Transport, thread_transport
from notify_project.local.ports import free_port
from tests.providers.conftest import StartServer
from tests.providers.wire import (
    Action,
    Close,
    Cut,
    Gather,
    GoAway,
    Hang,
    RefuseStream,
    Reply,
    Reset,
    Truncate,
    issue_certificate,
)

LIMITS = Limits(connect_s=1.5, total_s=1.5, call_s=5.0)


@pytest.fixture
def transport(authority: tuple[Path, Path]) -> Iterator[Transport]:
    transport = Transport(limits=LIMITS, ca_file=ca_bundle(str(authority[0])))
    yield transport
    transport.close()


def request_to(url: str, body: bytes = b"{}", **fields: object) -> ProviderRequest:
    return ProviderRequest(messages=(), url=url, body=body, **fields)  # type: ignore[arg-type]


class TestAnswers:
    def test_answers_come_back_in_the_order_of_the_requests(self, transport: Transport, start_server: StartServer):
        server = start_server(
            lambda body: Reply(400 + int(body), body=body, headers=(("x-message-id", body.decode()),))
        )
        outcomes = transport.send_all([request_to(server.url, b"%d" % number) for number in range(40)])
        assert [outcome.status for outcome in outcomes if isinstance(outcome, ProviderResponse)] == list(
            range(400, 440)
        )
        assert [outcome.body for outcome in outcomes if isinstance(outcome, ProviderResponse)][7] == b"7"
        assert outcomes[7].headers["x-message-id"] == "7"  # type: ignore[union-attr]
        assert all(0 <= outcome.latency_s < 1 for outcome in outcomes)

    @pytest.mark.parametrize("offers_h2", [True, False])
    def test_connections_are_kept_across_calls(self, transport: Transport, start_server: StartServer, offers_h2: bool):
        server = start_server(lambda _: Reply(), offers_h2=offers_h2)
        for _ in range(5):
            assert isinstance(transport.send_all([request_to(server.url)])[0], ProviderResponse)
        found, *others = server.connections
        assert found.is_h2 is offers_h2
        assert len(others) == (0 if offers_h2 else 1)  # the first finds out what the server speaks, and no more

    def test_a_server_without_http2_is_asked_again_after_a_while(
        self, transport: Transport, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ):
        server = start_server(lambda _: Reply(), offers_h2=False)
        transport.send_all([request_to(server.url)])
        monkeypatch.setattr(transport_module, "HTTP1_S", 0.0)
        assert isinstance(transport.send_all([request_to(server.url)])[0], ProviderResponse)
        assert len(server.connections) == 3

    def test_what_yields_pauses_before_it_reads_and_keeps_the_queue_short(
        self, transport: Transport, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ):
        queues = []
        learn = Allowance.learn
        monkeypatch.setattr(Allowance, "learn", lambda *known, queue_s: queues.append(queue_s) or learn(*known))
        server = start_server(lambda _: Reply())
        for pause_s in (0.0, 0.05):
            monkeypatch.setattr(yielding, "pause_s", lambda pause_s=pause_s: pause_s)
            [outcome] = transport.send_all([request_to(server.url)])
            assert isinstance(outcome, ProviderResponse)
            assert outcome.latency_s >= pause_s
        assert queues == [QUEUE_S, SHORT_QUEUE_S]

    def test_requests_share_one_connection_at_the_same_time(self, transport: Transport, start_server: StartServer):
        server = start_server(lambda body: Gather(60) if body == b"together" else Reply())
        transport.send_all([request_to(server.url)])  # only now it is known to speak HTTP/2
        outcomes = transport.send_all([request_to(server.url, b"together")] * 60)
        assert all(isinstance(outcome, ProviderResponse) for outcome in outcomes)
        assert len(server.connections) == 1

    def test_http1_requests_run_side_by_side(self, transport: Transport, start_server: StartServer):
        server = start_server(lambda _: Reply(), offers_h2=False)
        outcomes = transport.send_all([request_to(server.url)] * 50)
        assert len(outcomes) == 50
        assert all(isinstance(outcome, ProviderResponse) for outcome in outcomes)
        assert 1 < len(server.connections) <= 1 + 16

    def test_a_redirect_is_an_answer_and_not_followed(self, transport: Transport, start_server: StartServer):
        server = start_server(lambda _: Reply(307, headers=(("location", "https://127.0.0.1:1/"),)))
        [outcome] = transport.send_all([request_to(server.url)])
        assert isinstance(outcome, ProviderResponse)
        assert outcome.status == 307

    def test_an_answer_without_a_body_is_complete(self, transport: Transport, start_server: StartServer):
        server = start_server(lambda _: Reply(202, b""))
        [outcome] = transport.send_all([request_to(server.url)])
        assert isinstance(outcome, ProviderResponse)
        assert (outcome.status, outcome.body) == (202, b"")

    def test_no_request_gives_no_outcome(self, transport: Transport):
        assert transport.send_all([]) == []

    def test_an_oversize_success_is_an_unknown_outcome(self, transport: Transport, start_server: StartServer):
        server = start_server(lambda _: Reply(200, b"x" * (MAX_BODY_BYTES + 1)))
        [outcome] = transport.send_all([request_to(server.url)])
        assert isinstance(outcome, TransportFailure)
        assert outcome.has_left
        assert "too large" in outcome.detail

    def test_an_oversize_error_keeps_its_status(self, transport: Transport, start_server: StartServer):
        server = start_server(lambda _: Reply(502, b"x" * (MAX_BODY_BYTES * 2)))
        [outcome] = transport.send_all([request_to(server.url)])
        assert isinstance(outcome, ProviderResponse)
        assert outcome.status == 502
        assert len(outcome.body) <= MAX_BODY_BYTES


class TestNeverLeft:
    def failure(self, transport: Transport, request: ProviderRequest) -> TransportFailure:
        [outcome] = transport.send_all([request])
        assert isinstance(outcome, TransportFailure)
        assert not outcome.has_left
        assert outcome.was_started
        return outcome

    def test_a_refused_port(self, transport: Transport):
        assert "refused" in self.failure(transport, request_to(f"https://127.0.0.1:{free_port()}/")).detail

    def test_an_unknown_host(self, transport: Transport):
        self.failure(transport, request_to("https://no-such-host.invalid/"))

    def test_a_server_that_never_finishes_the_handshake(self, transport: Transport):
        with socket.create_server(("127.0.0.1", 0)) as mute:
            failure = self.failure(transport, request_to(f"https://127.0.0.1:{mute.getsockname()[1]}/"))
        assert "timed out" in failure.detail

    def test_an_unknown_authority(self, start_server: StartServer, tmp_path: Path):
        server = start_server(lambda _: Reply())
        other, _ = issue_certificate(tmp_path, "other")
        transport = Transport(limits=LIMITS, ca_file=ca_bundle(str(other)))
        assert "not trusted" in self.failure(transport, request_to(server.url)).detail
        transport.close()
        assert server.bodies == []

    def test_a_certificate_for_another_name(self, transport: Transport, start_server: StartServer):
        server = start_server(lambda _: Reply())
        self.failure(transport, request_to(server.url.replace("127.0.0.1", "127.0.0.2")))

    def test_plain_http(self, transport: Transport):
        assert "https" in self.failure(transport, request_to("http://127.0.0.1:1/")).detail

    @pytest.mark.parametrize(
        "request_",
        [
            request_to("https://127.0.0.1:1/\r\nx: y"),
            request_to("https://127.0.0.1:1/é"),
            request_to("\x00"),
            request_to("https://127.0.0.1:1/", headers=(("a", "b\r\nc: d"),)),
            request_to("https://127.0.0.1:1/", headers=(("a\n", "b"),)),
            request_to("https://127.0.0.1:1/", headers=(("a", "é"),)),
        ],
    )
    def test_what_no_server_should_see(self, transport: Transport, request_: ProviderRequest):
        self.failure(transport, request_)

    @pytest.mark.parametrize("action", [RefuseStream(), GoAway()])
    @pytest.mark.parametrize("is_warm", [True, False])
    def test_a_stream_the_server_keeps_refusing(
        self, transport: Transport, start_server: StartServer, action: Action, is_warm: bool
    ):
        server = start_server(lambda body: Reply() if body == b"warm" else action)
        if is_warm:
            transport.send_all([request_to(server.url, b"warm")])
        assert "refused" in self.failure(transport, request_to(server.url)).detail

    @pytest.mark.parametrize("offers_h2", [True, False])
    def test_requests_past_the_calls_time_were_not_started(
        self, start_server: StartServer, authority: tuple[Path, Path], offers_h2: bool
    ):
        server = start_server(lambda body: Reply() if body == b"warm" else Hang(), offers_h2=offers_h2)
        transport = Transport(limits=Limits(total_s=1.0, call_s=0.1), ca_file=ca_bundle(str(authority[0])))
        at_once = START if offers_h2 else 16
        outcomes = transport.send_all([request_to(server.url, b"slow")] * (at_once + 4))
        transport.close()
        failures = [outcome for outcome in outcomes if isinstance(outcome, TransportFailure)]
        assert [(failure.has_left, failure.was_started) for failure in failures] == [
            *[(True, True)] * at_once,
            *[(False, False)] * 4,
        ]
        assert failures[-1].detail == "not started in time"
        assert server.bodies.count(b"slow") == at_once


class TestLeft:
    @pytest.mark.parametrize("offers_h2", [True, False])
    @pytest.mark.parametrize("is_warm", [True, False])
    @pytest.mark.parametrize(
        "action", [Close(), Cut(), Reset(), Truncate(), Hang()], ids=lambda action: type(action).__name__
    )
    def test_no_answer_is_an_unknown_outcome_and_nothing_is_sent_twice(
        self, transport: Transport, start_server: StartServer, action: Action, is_warm: bool, offers_h2: bool
    ):
        server = start_server(lambda body: Reply() if body == b"warm" else action, offers_h2=offers_h2)
        if is_warm:
            transport.send_all([request_to(server.url, b"warm")])
        [outcome] = transport.send_all([request_to(server.url, b"once")])
        assert isinstance(outcome, TransportFailure)
        assert outcome.has_left
        assert server.bodies.count(b"once") == 1

    @pytest.mark.parametrize("action", [Close(), Cut(), Reset()], ids=lambda action: type(action).__name__)
    def test_a_connection_lost_under_many_requests_sends_none_twice(
        self, transport: Transport, start_server: StartServer, action: Action
    ):
        waiting: list[bytes] = []

        def decide(body: bytes) -> Action:
            if body == b"warm":
                return Reply()
            waiting.append(body)
            return action if len(waiting) == 30 else Hang()

        server = start_server(decide)
        transport.send_all([request_to(server.url, b"warm")])
        bodies = [b"%d" % number for number in range(30)]
        outcomes = transport.send_all([request_to(server.url, body) for body in bodies])
        assert sorted(waiting) == sorted(bodies)
        assert all(isinstance(outcome, TransportFailure) and outcome.has_left for outcome in outcomes)

    @pytest.mark.parametrize("count", [1, 100])
    def test_a_connection_lost_on_writing_has_its_outcomes_too(
        self, transport: Transport, start_server: StartServer, monkeypatch: pytest.MonkeyPatch, count: int
    ):
        server = start_server(lambda _: Reply())
        transport.send_all([request_to(server.url)])
        sends = iter([BrokenPipeError])
        real = ssl.SSLSocket.send

        def send(sock: ssl.SSLSocket, data: bytes, flags: int = 0) -> int:
            if (error := next(sends, None)) is not None and not sock.server_side:
                raise error
            return real(sock, data, flags)

        monkeypatch.setattr(ssl.SSLSocket, "send", send)
        outcomes = transport.send_all([request_to(server.url)] * count)
        assert len(outcomes) == count
        assert isinstance(outcomes[0], TransportFailure)
        assert outcomes[0].has_left

    def test_a_stream_reset_with_an_error_may_have_been_processed(
        self, transport: Transport, start_server: StartServer
    ):
        server = start_server(lambda _: RefuseStream(code=2))
        [outcome] = transport.send_all([request_to(server.url)])
        assert isinstance(outcome, TransportFailure)
        assert outcome.has_left


class TestRefusedStreams:
    def test_a_refused_stream_is_sent_again_within_the_call(self, transport: Transport, start_server: StartServer):
        refused: list[bytes] = []

        def decide(body: bytes) -> Action:
            if body in refused:
                return Reply()
            refused.append(body)
            return RefuseStream()

        server = start_server(decide)
        outcomes = transport.send_all([request_to(server.url, b"%d" % number) for number in range(8)])
        assert all(isinstance(outcome, ProviderResponse) for outcome in outcomes)

    def test_streams_left_out_by_a_goaway_are_sent_over_a_new_connection(
        self, transport: Transport, start_server: StartServer
    ):
        actions: list[Action] = [Reply(), Reply(), GoAway()]
        server = start_server(lambda _: actions.pop(0) if actions else Reply())
        for _ in range(4):
            [outcome] = transport.send_all([request_to(server.url)])
            assert isinstance(outcome, ProviderResponse)
        assert len(server.connections) == 2


class TestLifetime:
    def test_each_thread_has_a_transport_of_its_own(self):
        mine = thread_transport()
        others: list[Transport] = []
        thread = threading.Thread(target=lambda: others.append(thread_transport()))
        thread.start()
        thread.join()
        assert thread_transport() is mine
        assert others[0] is not mine

    def test_a_failure_of_our_own_leaves_no_outcome_unknown_that_is_known(
        self, transport: Transport, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ):
        server = start_server(lambda body: Hang() if body == b"slow" else Reply(body=body))
        wait, is_answered = transport_module._wait, threading.Event()

        def break_after_an_answer(*arguments: object) -> None:
            if is_answered.is_set():
                raise OSError(22, "Invalid argument")
            wait(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(transport_module, "_wait", break_after_an_answer)
        monkeypatch.setattr(Allowance, "learn", lambda *_, **__: is_answered.set())
        monkeypatch.setattr("apps.providers.allowance.START", 2)
        bodies = [b"quick", b"slow", b"slow", b"never sent"]
        quick, *left, waiting = transport.send_all([request_to(server.url, body) for body in bodies])
        assert isinstance(quick, ProviderResponse)
        assert [outcome.has_left for outcome in left if isinstance(outcome, TransportFailure)] == [True, True]
        assert isinstance(waiting, TransportFailure)
        assert not waiting.has_left
        monkeypatch.undo()
        assert isinstance(transport.send_all([request_to(server.url)])[0], ProviderResponse)

    @pytest.mark.parametrize("offers_h2", [True, False])
    def test_an_interrupted_call_leaves_no_answers_for_the_next(
        self,
        transport: Transport,
        start_server: StartServer,
        monkeypatch: pytest.MonkeyPatch,
        offers_h2: bool,
    ):
        server = start_server(lambda body: Reply(body=body), offers_h2=offers_h2)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        where = (transport_module, "_wait") if offers_h2 else (CurlTransport, "_finished")
        with monkeypatch.context() as patch:
            patch.setattr(*where, interrupt)  # a signal cannot be timed
            with pytest.raises(KeyboardInterrupt):
                transport.send_all([request_to(server.url, b"first")] * 3)
        outcomes = transport.send_all([request_to(server.url, b"second")] * 3)
        assert [outcome.body for outcome in outcomes if isinstance(outcome, ProviderResponse)] == [b"second"] * 3

import pytest

from notify_project.local.ports import free_port
from tests.providers.sandbox.conftest import wait_until
from tests.providers.sandbox.web import Web


def callback_url(web, delivery_id: str = "d-1") -> str:
    return f"{web.url}/v1/webhooks/twilio?delivery_id={delivery_id}"


def receipts_of(sandbox, provider: str = "fcm") -> dict:
    return sandbox.stats()["receipts"][provider]


class TestKnobs:
    def test_disabled_posts_nothing(self, sandbox):
        sandbox.set_receipts("fcm", enabled=False)
        sandbox.push_with_ack("d-1")
        assert receipts_of(sandbox)["scheduled"] == 0

    def test_duplicate_posts_the_same_receipt_again(self, sandbox, web):
        sandbox.set_receipts("fcm", delay_ms=1, duplicate=True)
        sandbox.push_with_ack("d-1")
        first, second = web.wait_for(2)
        assert first.body == second.body

    def test_duplicate_events_keep_their_event_id(self, sandbox, web):
        sandbox.set_receipts("sendgrid", delay_ms=1, duplicate=True)
        sandbox.mail("dropped@example.com")
        wait_until(lambda: receipts_of(sandbox, "sendgrid")["posted"] == 2)
        ids = [event["sg_event_id"] for call in web.calls for event in call.json()]
        assert len(ids) == 2
        assert len(set(ids)) == 1

    def test_dropped_receipts_never_come(self, sandbox):
        sandbox.set_receipts("fcm", delay_ms=1, drop_rate=1.0)
        sandbox.push_with_ack("d-1")
        counts = receipts_of(sandbox)
        assert (counts["dropped"], counts["pending"]) == (1, 0)

    def test_shuffle_changes_the_order(self, sandbox, web):
        sandbox.set_receipts("twilio", delay_ms=5, shuffle=True)
        for number in range(10):
            sandbox.text(StatusCallback=callback_url(web, f"d-{number}"))
        calls = web.wait_for(30)
        orders = set()
        for number in range(10):
            orders.add(tuple(c.form()["MessageStatus"] for c in calls if c.path.endswith(f"=d-{number}")))
        assert orders - {("queued", "sent", "delivered")}  # ten messages in order by chance: 1 in 6^10

    def test_failing_messages_are_accepted_first(self, sandbox, web):
        sandbox.set_receipts("twilio", delay_ms=1, fail_rate=1)
        assert sandbox.text(StatusCallback=callback_url(web)).status_code == 201
        assert {call.form()["MessageStatus"] for call in web.wait_for(3)} == {"queued", "sent", "undelivered"}

    def test_delay_is_kept(self, sandbox, web):
        sandbox.set_receipts("fcm", delay_ms=60_000)
        sandbox.push_with_ack("d-1")
        assert receipts_of(sandbox)["pending"] == 1
        assert web.calls == []

    @pytest.mark.parametrize(
        ("knobs", "words"),
        [
            ({"enabled": "yes"}, "enabled: must be true or false"),
            ({"drop_rate": 3}, "drop_rate: must be a number"),
            ({"speed": 1}, "speed: unknown field"),
            ([], "the body must be a JSON object"),
        ],
    )
    def test_unusable_knobs_name_the_field(self, sandbox, knobs, words):
        response = sandbox.session.put(f"{sandbox.http_url}/_sandbox/receipts/fcm", json=knobs, timeout=5)
        assert (response.status_code, response.json()["error"][: len(words)]) == (400, words)


class TestRetries:
    @pytest.mark.parametrize("status", [500, 503, 429, 408])
    def test_a_failing_web_gets_the_receipt_again(self, sandbox, web, status):
        web.statuses = [status]
        sandbox.push_with_ack("d-1")
        first, second = web.wait_for(2)
        assert first.body == second.body
        wait_until(lambda: receipts_of(sandbox)["posted"] == 1)
        counts = receipts_of(sandbox)
        assert (counts["retries"], counts["failed"], counts["pending"]) == (1, 0, 0)

    @pytest.mark.parametrize("status", [400, 401, 404])
    def test_a_refusal_is_final(self, sandbox, web, status):
        web.statuses = [status]
        sandbox.push_with_ack("d-1")
        wait_until(lambda: receipts_of(sandbox)["failed"] == 1)
        assert len(web.calls) == 1

    def test_receipts_wait_for_a_web_that_is_away(self, make_process):
        port = free_port()
        sandbox = make_process(webhook_base=f"http://127.0.0.1:{port}").start().client
        for number in range(50):
            sandbox.push_with_ack(f"d-{number}")
        wait_until(lambda: receipts_of(sandbox)["retries"] >= 2)
        web = Web(port)
        try:
            calls = web.wait_for(50, timeout_s=15)
            assert {call.json()["delivery_id"] for call in calls} == {f"d-{number}" for number in range(50)}
            wait_until(lambda: receipts_of(sandbox)["posted"] == 50)
        finally:
            web.close()

    def test_an_unreachable_callback_does_not_hold_up_others(self, sandbox, web):
        for _ in range(5):
            sandbox.text(StatusCallback=f"http://127.0.0.1:{free_port()}/")
        sandbox.push_with_ack("d-1")
        assert web.wait_for(1)[0].json()["delivery_id"] == "d-1"

    def test_connections_are_kept(self, sandbox, web):
        for number in range(20):
            sandbox.push_with_ack(f"d-{number}")
        web.wait_for(20)
        assert web.connections <= 5

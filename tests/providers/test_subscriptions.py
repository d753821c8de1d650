"""Certificates and confirmations, over a real TLS server."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from pytest_django.fixtures import Settings

from apps.providers import subscriptions
from apps.providers.errors import ForgedReceipt, VerificationUnavailable
from apps.providers.messages import WebhookCall
from apps.providers.receipts import hear, verify_and_parse
from apps.providers.subscriptions import confirm, load_certificate
from tests.providers.accounts import twilio_options
from tests.providers.conftest import StartServer
from tests.providers.ses_accounts import TOPIC_ARN, confirmation, envelope, event, ses_options, signed, signer
from tests.providers.vonage_accounts import sms_call, vonage_options
from tests.providers.wire import Reply, WireServer

PATH = "/SimpleNotificationService-0123456789abcdef.pem"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    subscriptions._kept.clear()
    subscriptions._fetched_at.clear()
    yield
    subscriptions._kept.clear()
    subscriptions._fetched_at.clear()


@pytest.fixture
def serve(start_server: StartServer, configure: Callable[[str], None], settings: Settings) -> Callable[..., WireServer]:
    """A server that stands in for SNS, with an SES account that trusts it."""

    def serve(*replies: Reply) -> WireServer:
        waiting = list(replies)
        server = start_server(lambda body: waiting.pop(0) if len(waiting) > 1 else waiting[0], offers_h2=False)
        configure(server.origin)
        options = ses_options(sns_cert_hosts=[server.origin.removeprefix("https://")])
        settings.PROVIDERS = {
            "ses": {"id": 6, "adapter": "apps.providers.adapters.ses.SesAdapter", "options": options},
            "twilio": {"id": 3, "adapter": "apps.providers.adapters.twilio.TwilioAdapter", "options": twilio_options()},
            "vonage": {"id": 4, "adapter": "apps.providers.adapters.vonage.VonageAdapter", "options": vonage_options()},
        }
        return server

    return serve


def call(server: WireServer, **changes: str) -> WebhookCall:
    fields = {**envelope(event(), at=datetime.now(UTC)), "SigningCertURL": server.origin + PATH, **changes}
    return WebhookCall("https://notify.example.com/v1/webhooks/ses", {}, json.dumps(signed(fields)).encode())


def now() -> datetime:
    return datetime.now(UTC)


class TestCertificates:
    def test_a_receipt_is_verified_with_a_fetched_certificate_which_is_kept(self, serve: Callable[..., WireServer]):
        server = serve(Reply(body=signer().pem))
        for _ in range(3):
            [receipt] = verify_and_parse("ses", call(server), now())
            assert receipt.code == "Delivery"
        assert len(server.bodies) == 1

    @pytest.mark.parametrize(
        "reply", [Reply(404), Reply(302, headers=(("location", "https://example.com/"),)), Reply(503)]
    )
    def test_without_the_certificate_sns_shall_call_again(self, serve: Callable[..., WireServer], reply: Reply):
        server = serve(reply, Reply(body=signer().pem))
        with pytest.raises(VerificationUnavailable):
            verify_and_parse("ses", call(server), now())
        subscriptions._kept.clear()  # five seconds later
        assert len(verify_and_parse("ses", call(server), now())) == 1

    def test_a_failure_is_remembered_for_a_moment(self, serve: Callable[..., WireServer]):
        server = serve(Reply(503))
        assert load_certificate(server.origin + PATH) is None
        assert load_certificate(server.origin + PATH) is None
        assert len(server.bodies) == 1

    def test_what_is_too_large_is_no_certificate(self, serve: Callable[..., WireServer]):
        server = serve(Reply(body=b"x" * 70_000))
        assert load_certificate(server.origin + PATH) is None

    def test_a_wrong_certificate_proves_nothing(self, serve: Callable[..., WireServer]):
        server = serve(Reply(body=signer(expired=True).pem))
        with pytest.raises(ForgedReceipt):
            verify_and_parse("ses", call(server), now())

    def test_a_forger_does_not_make_us_fetch(self, serve: Callable[..., WireServer]):
        server = serve(Reply(body=signer().pem))
        for changes in ({"TopicArn": TOPIC_ARN + "x"}, {"SigningCertURL": f"{server.origin}/other.pem"}):
            with pytest.raises(ForgedReceipt):
                verify_and_parse("ses", call(server, **changes), now())
        assert server.bodies == []

    def test_inventing_names_has_us_fetch_a_few_only(self, serve: Callable[..., WireServer]):
        server = serve(Reply(body=signer().pem))
        found = [
            load_certificate(f"{server.origin}/SimpleNotificationService-{number:032x}.pem") for number in range(30)
        ]
        assert len(server.bodies) == sum(certificate is not None for certificate in found) == 10

    def test_an_unreachable_server_is_an_ordinary_failure(self, serve: Callable[..., WireServer]):
        server = serve(Reply())
        server.stop()
        assert load_certificate(server.origin + PATH) is None


class TestConfirmation:
    def test_an_offered_subscription_is_accepted_once_verified(self, serve: Callable[..., WireServer]):
        server = serve(Reply(body=signer().pem), Reply(body=b"<ConfirmSubscriptionResponse/>"))
        url = f"{server.origin}/?Action=ConfirmSubscription&TopicArn={TOPIC_ARN}&Token=t"
        at = now().strftime("%Y-%m-%dT%H:%M:%S.000Z")
        offer = call(server, **confirmation(SubscribeURL=url, SigningCertURL=server.origin + PATH, Timestamp=at))
        heard = hear("ses", offer, now())
        assert (heard.receipts, heard.inbound) == ([], [])
        assert len(server.bodies) == 2

    def test_a_forged_offer_is_not(self, serve: Callable[..., WireServer]):
        server = serve(Reply(body=signer(expired=True).pem))
        url = f"{server.origin}/?Action=ConfirmSubscription&TopicArn={TOPIC_ARN}&Token=t"
        at = now().strftime("%Y-%m-%dT%H:%M:%S.000Z")
        offer = call(server, **confirmation(SubscribeURL=url, SigningCertURL=server.origin + PATH, Timestamp=at))
        with pytest.raises(ForgedReceipt):
            hear("ses", offer, now())
        assert len(server.bodies) == 1  # the certificate

    @pytest.mark.parametrize(("status", "is_confirmed"), [(200, True), (403, False)])
    def test_a_refusal_is_told(self, serve: Callable[..., WireServer], status: int, is_confirmed: bool):
        assert confirm("ses", f"{serve(Reply(status)).origin}/") is is_confirmed


def test_what_people_write_comes_with_the_receipts(serve: Callable[..., WireServer]):
    serve(Reply())
    heard = hear("vonage", sms_call(at=now(), messageId="0A", msisdn="15005551234", text="STOP"), now())
    assert heard.receipts == []
    assert [(message.address, message.keyword) for message in heard.inbound] == [("+15005551234", "stop")]

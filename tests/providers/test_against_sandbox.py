"""Adapters against the sandbox, which shares no code with them: neither can repeat the other's misunderstanding."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django_redis import get_redis_connection
from msgspec.structs import replace
from pytest_django.fixtures import Settings

from apps.providers import tokens, transport
from apps.providers.errors import (
    ForgedReceipt,
    InvalidRecipient,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
)
from apps.providers.gateway import send_messages
from apps.providers.messages import BuildContext, Message, ReceiptKind, Result, WebhookCall
from apps.providers.receipts import ack_token, hear, verify_and_parse
from apps.providers.registry import get_provider
from tests.providers.sandbox.client import SandboxClient
from tests.providers.sandbox.conftest import SandboxProcess
from tests.providers.sandbox.web import Web

ALIASES = ("fcm", "apns", "webpush", "twilio", "vonage", "vonage_messages", "telnyx", "sendgrid", "ses")
ADDRESSES = {
    "fcm": "device-{}",
    "apns": "{:064x}",
    "twilio": "+1415555{:04}",
    "vonage": "+1415555{:04}",
    "vonage_messages": "+1415555{:04}",
    "telnyx": "+1415555{:04}",
    "sendgrid": "person{}@example.com",
    "ses": "person{}@example.com",
}
MOST_MESSAGES = 30
_browsers: list[str] = []  # subscriptions at the module's sandbox
pytestmark = pytest.mark.usefixtures("no_tokens")


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, web: Web) -> Iterator[SandboxProcess]:
    process = SandboxProcess(tmp_path_factory.mktemp("sandbox"), web.url).start()
    _browsers[:] = [subscribe(process.client) for _ in range(MOST_MESSAGES)]
    yield process
    process.stop()


@pytest.fixture
def sandbox(process: SandboxProcess, web: Web, settings: Settings) -> SandboxClient:
    """The sandbox, empty and without faults, as the configured provider of every channel, over new connections: one
    that a test had cut may die a moment after the test."""
    for kept in transport._local.__dict__.pop("transports", {}).values():
        kept.close()
    process.client.control("POST", "reset")
    for alias in ALIASES:
        process.client.set_receipts(alias, delay_ms=5)
    web.clear()
    lines = (process.data_dir / "credentials.env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines)
    options: dict[str, dict[str, Any]] = {
        "fcm": {
            "base_url": values["FCM_BASE_URL"],
            "service_account_file": values["FCM_SERVICE_ACCOUNT_FILE"],
            "ack_key": settings.PUSH_ACK_KEY,
        },
        "apns": {
            "base_url": values["APNS_BASE_URL"],
            "key_file": values["APNS_KEY_FILE"],
            "key_id": values["APNS_KEY_ID"],
            "team_id": values["APNS_TEAM_ID"],
            "topic": values["APNS_TOPIC"],
            "ack_key": settings.PUSH_ACK_KEY,
        },
        "webpush": {
            "vapid_private_key": values["WEBPUSH_VAPID_PRIVATE_KEY"],
            "subject": values["WEBPUSH_SUBJECT"],
            "allowed_hosts": [values["WEBPUSH_ALLOWED_HOSTS"]],
            "ack_key": settings.PUSH_ACK_KEY,
        },
        "twilio": {
            "base_url": values["TWILIO_BASE_URL"],
            "account_sid": values["TWILIO_ACCOUNT_SID"],
            "auth_token": values["TWILIO_AUTH_TOKEN"],
            "sender": values["TWILIO_FROM"],
        },
        "vonage": {
            "base_url": values["VONAGE_BASE_URL"],
            "api_key": values["VONAGE_API_KEY"],
            "api_secret": values["VONAGE_API_SECRET"],
            "sender": values["VONAGE_FROM"],
            "signature_secret": values["VONAGE_SIGNATURE_SECRET"],
        },
        "vonage_messages": {
            "base_url": values["VONAGE_MESSAGES_BASE_URL"],
            "application_id": values["VONAGE_APPLICATION_ID"],
            "private_key_file": values["VONAGE_PRIVATE_KEY_FILE"],
            "api_key": values["VONAGE_API_KEY"],
            "sender": values["VONAGE_FROM"],
            "signature_secret": values["VONAGE_SIGNATURE_SECRET"],
        },
        "telnyx": {
            "base_url": values["TELNYX_BASE_URL"],
            "api_key": values["TELNYX_API_KEY"],
            "sender": values["TELNYX_FROM"],
            "public_key": values["TELNYX_PUBLIC_KEY"],
        },
        "ses": {
            "base_url": values["SES_BASE_URL"],
            "region": values["SES_REGION"],
            "access_key_id": values["SES_ACCESS_KEY_ID"],
            "secret_access_key": values["SES_SECRET_ACCESS_KEY"],
            "from_email": values["SES_FROM_EMAIL"],
            "configuration_set": values["SES_CONFIGURATION_SET"],
            "topic_arns": values["SES_SNS_TOPIC_ARNS"].split(","),
            "sns_cert_hosts": values["SES_SNS_CERT_HOSTS"].split(","),
        },
        "sendgrid": {
            "base_url": values["SENDGRID_BASE_URL"],
            "api_key": values["SENDGRID_API_KEY"],
            "from_email": values["SENDGRID_FROM_EMAIL"],
            "webhook_public_key": values["SENDGRID_WEBHOOK_PUBLIC_KEY"],
        },
    }
    settings.PROVIDER_CA_FILE = values["PROVIDER_CA_FILE"]
    settings.PUBLIC_URL = web.url
    settings.PROVIDERS = {
        alias: {**entry, "options": options[alias]} for alias, entry in settings.PROVIDERS.items() if alias in options
    }
    return process.client


def subscribe(client: SandboxClient, prefix: str = "") -> str:
    return json.dumps(client.control("POST", "webpush/subscriptions", {"prefix": prefix}), separators=(",", ":"))


def address_of(alias: str, number: int) -> str:
    return _browsers[number] if alias == "webpush" else ADDRESSES[alias].format(number)


def messages(alias: str, count: int, web: Web) -> list[Message]:
    made = []
    for number in range(count):
        delivery_id = str(uuid4())
        made.append(
            Message(
                delivery_id,
                address_of(alias, number),
                title="Title",
                body="Grüße 😀",
                is_high=True,
                ttl_s=600,
                ack=ack_token(delivery_id),
                badge=1,
                sound="default",
                from_name="Shop",
                unsubscribe_url=f"https://notify.example.com/u/{delivery_id}",
                callback_url=f"{web.url}/v1/webhooks/{alias}?delivery_id={delivery_id}",
            )
        )
    return made


def kinds(results: list[Result]) -> Counter[type[ProviderError] | None]:
    return Counter(None if result.error is None else type(result.error) for result in results)


@pytest.mark.parametrize("alias", ALIASES)
def test_what_is_accepted_comes_back_as_delivered(alias: str, sandbox: SandboxClient, web: Web):
    sent = messages(alias, 25, web)
    assert kinds(send_messages(get_provider(alias), sent)) == {None: 25}
    delivered: set[str | None] = set()
    calls = 0
    while delivered != {message.delivery_id for message in sent}:
        calls += 1
        call = web.wait_for(calls)[calls - 1]
        webhook = WebhookCall(web.url + call.path, call.headers, call.body)
        for receipt in verify_and_parse(alias, webhook, datetime.now(UTC)):
            if receipt.kind is ReceiptKind.DELIVERED:
                delivered.add(receipt.delivery_id)
    assert len(sandbox.ledger()) == 25


@pytest.mark.parametrize("alias", ALIASES)
def test_a_dropped_answer_is_unknown_and_was_taken_once(alias: str, sandbox: SandboxClient, web: Web):
    sent = messages(alias, 10, web)
    send_messages(get_provider(alias), messages(alias, 1, web))  # a connection to reuse
    sandbox.set_faults(alias, {"mode": "drop"})
    assert kinds(send_messages(get_provider(alias), sent)) == {OutcomeUnknown: 10}
    taken = Counter(entry["delivery_id"] for entry in sandbox.ledger())
    assert max(taken.values()) == 1


@pytest.mark.parametrize("alias", ALIASES)
def test_throttling_names_its_time(alias: str, sandbox: SandboxClient, web: Web):
    sandbox.set_faults(alias, {"mode": "throttle", "retry_after_s": 9})
    results = send_messages(get_provider(alias), messages(alias, 3, web))
    assert all(isinstance(result.error, RateLimited) for result in results)
    assert {result.error.retry_after_s for result in results if isinstance(result.error, RateLimited)} == {9}


@pytest.mark.parametrize("alias", ALIASES)
def test_a_servers_failure_may_pass(alias: str, sandbox: SandboxClient, web: Web):
    sandbox.set_faults(alias, {"mode": "error", "status": 503, "times": 1})
    sent = messages(alias, 1, web)
    assert kinds(send_messages(get_provider(alias), sent)) == {TransientError: 1}
    assert kinds(send_messages(get_provider(alias), sent)) == {None: 1}


def test_an_unregistered_device_is_dead(sandbox: SandboxClient, web: Web):
    rule = {"mode": "error", "status": 404, "code": "UNREGISTERED", "match": {"address": "device-1"}}
    sandbox.set_faults("fcm", rule)
    results = send_messages(get_provider("fcm"), messages("fcm", 3, web))
    assert [isinstance(result.error, InvalidRecipient) for result in results] == [False, True, False]


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        ("deaddead", "Unregistered"),
        ("fadefade", "ExpiredToken"),
        ("baddbadd", "BadDeviceToken"),
        ("feedfeed", "DeviceTokenNotForTopic"),
    ],
)
def test_apple_says_which_devices_are_dead_and_since_when(prefix: str, code: str, sandbox: SandboxClient, web: Web):
    [first, second] = messages("apns", 2, web)
    results = send_messages(get_provider("apns"), [replace(first, address=prefix + "0" * 56), second])
    assert [type(result.error) for result in results] == [InvalidRecipient, type(None)]
    assert isinstance(results[0].error, InvalidRecipient)
    assert results[0].error.code == code
    assert (results[0].error.dead_since_ms is None) is (code not in ("Unregistered", "ExpiredToken"))


def test_a_stale_provider_token_is_renewed_within_the_call(sandbox: SandboxClient, web: Web):
    sandbox.set_faults("apns", {"code": "ExpiredProviderToken", "times": 2})
    assert kinds(send_messages(get_provider("apns"), messages("apns", 5, web))) == {None: 5}


def test_processes_without_a_cache_do_not_update_apples_token(sandbox: SandboxClient, web: Web):
    for _ in range(5):
        tokens._held.clear()
        get_redis_connection("default").flushdb()
        assert kinds(send_messages(get_provider("apns"), messages("apns", 1, web))) == {None: 1}


def test_an_alert_fits_apples_and_the_browsers_limit_to_the_byte(sandbox: SandboxClient, web: Web):
    for alias in ("apns", "webpush"):
        [message] = messages(alias, 1, web)
        longest = 0
        for length in range(3_700, 4_000):
            [request] = get_provider(alias).adapter.build(
                [replace(message, body="x" * length)], BuildContext(datetime.now(UTC), "t")
            )
            longest = length if request.rejected is None else longest
        assert kinds(send_messages(get_provider(alias), [replace(message, body="x" * longest)])) == {None: 1}
    assert {entry["bytes"] for entry in sandbox.ledger()} == {4_096}


@pytest.mark.parametrize("prefix", ["dead-", "unknown-"])
def test_an_ended_subscription_is_dead(prefix: str, sandbox: SandboxClient, web: Web):
    [first, second] = messages("webpush", 2, web)
    results = send_messages(get_provider("webpush"), [replace(first, address=subscribe(sandbox, prefix)), second])
    assert [type(result.error) for result in results] == [InvalidRecipient, type(None)]


def test_a_browser_shows_the_words(sandbox: SandboxClient, web: Web):
    send_messages(get_provider("webpush"), messages("webpush", 1, web))
    [shown] = sandbox.inbox()
    assert (shown["title"], shown["body"]) == ("Title", "Grüße 😀")


def test_twilios_test_numbers_fail_as_documented(sandbox: SandboxClient, web: Web):
    [first, second] = messages("twilio", 2, web)
    sent = [
        Message(first.delivery_id, "+15005550001", body="x"),
        Message(second.delivery_id, "+15005550009", body="x"),
    ]
    results = send_messages(get_provider("twilio"), sent)
    assert [result.error.code for result in results if result.error] == ["21211", "21614"]
    assert kinds(results) == {InvalidRecipient: 2}


def test_one_bad_address_does_not_cost_the_others(sandbox: SandboxClient, web: Web):
    address = "person7@example.com"
    sandbox.set_faults("sendgrid", {"mode": "error", "status": 400, "match": {"address": address}})
    results = send_messages(get_provider("sendgrid"), messages("sendgrid", 30, web))
    assert [number for number, result in enumerate(results) if result.error is not None] == [7]
    assert len(sandbox.ledger()) == 29


def test_a_refused_token_is_renewed_within_the_call(sandbox: SandboxClient, web: Web):
    sandbox.set_faults("fcm", {"mode": "error", "status": 401, "times": 2})
    assert kinds(send_messages(get_provider("fcm"), messages("fcm", 5, web))) == {None: 5}


def test_a_slow_provider_costs_its_own_messages_only(sandbox: SandboxClient, web: Web, settings: Settings):
    settings.PROVIDER_TIMEOUT_S = 0.5
    rule = {"mode": "delay", "latency_ms": 3_000, "match": {"address": "device-4"}}
    sandbox.set_faults("fcm", rule)
    results = send_messages(get_provider("fcm"), messages("fcm", 12, web))
    assert [isinstance(result.error, OutcomeUnknown) for result in results] == [number == 4 for number in range(12)]


def test_vonages_numbers_fail_as_its_statuses_say(sandbox: SandboxClient, web: Web):
    numbers = ("+15005550001", "+15005550004", "+15005550009", "+15005550010")
    texts = [Message(str(uuid4()), number, body="x" * 200) for number in numbers]
    results = send_messages(get_provider("vonage"), texts)
    assert [type(result.error) for result in results] == [
        PermanentError, InvalidRecipient, InvalidRecipient, OutcomeUnknown
    ]  # fmt: skip
    assert [type(result.error) for result in send_messages(get_provider("vonage_messages"), texts[:1])] == [
        InvalidRecipient
    ]


def test_one_recipient_of_a_bulk_request_fails_alone(sandbox: SandboxClient, web: Web):
    rule = {"mode": "error", "code": "TRANSIENT_FAILURE", "match": {"address": "person7@example.com"}}
    sandbox.set_faults("ses", rule)
    results = send_messages(get_provider("ses"), messages("ses", 30, web))
    assert [number for number, result in enumerate(results) if result.error is not None] == [7]
    assert isinstance(results[7].error, TransientError)


def test_a_bulk_request_refused_as_a_whole_is_halved(sandbox: SandboxClient, web: Web):
    rule = {"mode": "error", "status": 400, "match": {"address": "person7@example.com"}}
    sandbox.set_faults("ses", rule)
    results = send_messages(get_provider("ses"), messages("ses", 30, web))
    assert [number for number, result in enumerate(results) if result.error is not None] == [7]
    assert len(sandbox.ledger()) == 29


def test_the_mailbox_simulators_addresses_end_as_documented(sandbox: SandboxClient, web: Web):
    mails = {
        kind: Message(str(uuid4()), f"{kind}+1@simulator.amazonses.com", title="x", body="y")
        for kind in ("success", "bounce", "complaint", "suppressionlist")
    }
    send_messages(get_provider("ses"), list(mails.values()))
    found: dict[str | None, ReceiptKind] = {}
    for posted in web.wait_for(9):  # four of Send, five of what came of them
        call = WebhookCall(web.url + posted.path, posted.headers, posted.body)
        for receipt in verify_and_parse("ses", call, datetime.now(UTC)):
            found[receipt.delivery_id] = max(receipt.kind, found.get(receipt.delivery_id, receipt.kind))
    assert [found[mail.delivery_id] for mail in mails.values()] == [
        ReceiptKind.DELIVERED, ReceiptKind.BOUNCED, ReceiptKind.COMPLAINED, ReceiptKind.BOUNCED
    ]  # fmt: skip


@pytest.mark.parametrize("alias", ["twilio", "vonage", "vonage_messages"])
@pytest.mark.parametrize(("text", "keyword"), [("Stop", "stop"), ("UNSTOP", "start"), ("help", "help"), ("Hi", "")])
def test_what_people_write_back_is_heard(alias: str, text: str, keyword: str, sandbox: SandboxClient, web: Web):
    sandbox.control("POST", f"inbound/{alias}", {"from": "+14155550001", "text": text})
    [posted] = web.wait_for(1)
    call = WebhookCall(web.url + posted.path, posted.headers, posted.body)
    heard = hear(alias, call, datetime.now(UTC))
    assert heard.receipts == []
    assert [(message.address, message.keyword) for message in heard.inbound] == [("+14155550001", keyword)]


def test_twilio_refuses_whom_it_heard_stop_from(sandbox: SandboxClient, web: Web):
    [message] = messages("twilio", 1, web)
    sandbox.control("POST", "inbound/twilio", {"from": message.address, "text": "STOP"})
    [result] = send_messages(get_provider("twilio"), [message])
    assert isinstance(result.error, InvalidRecipient)
    sandbox.control("POST", "inbound/twilio", {"from": message.address, "text": "START"})
    assert kinds(send_messages(get_provider("twilio"), [message])) == {None: 1}


@pytest.mark.parametrize("alias", ["vonage", "vonage_messages", "ses"])
def test_a_forged_receipt_is_refused(alias: str, sandbox: SandboxClient, web: Web):
    sandbox.set_receipts(alias, delay_ms=1, forge=1.0)
    send_messages(get_provider(alias), messages(alias, 1, web))
    for posted in web.wait_for(2):
        with pytest.raises(ForgedReceipt):
            verify_and_parse(alias, WebhookCall(web.url + posted.path, posted.headers, posted.body), datetime.now(UTC))


def test_a_subscription_offered_anew_is_confirmed(sandbox: SandboxClient, web: Web):
    assert sandbox.control("POST", "subscriptions/ses")["confirmed"] is False
    [posted] = web.wait_for(1)
    heard = hear("ses", WebhookCall(web.url + posted.path, posted.headers, posted.body), datetime.now(UTC))
    assert heard.receipts == []
    assert sandbox.control("GET", "subscriptions/ses")["confirmed"] is True


def test_the_parts_of_a_text_are_counted_as_the_provider_counts_them(sandbox: SandboxClient, web: Web):
    text = "Grüße €" * 30 + "😀"
    for alias in ("twilio", "vonage", "vonage_messages"):
        [result] = send_messages(get_provider(alias), [Message(str(uuid4()), "+14155550001", body=text)])
        assert result.segments == 4  # 30 x 7 + 2 = 212 units in parts of 67
    assert [message["extra"]["segments"] for message in sandbox.inbox()] == [4, 4, 4]

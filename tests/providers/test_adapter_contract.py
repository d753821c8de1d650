"""What every adapter promises, whatever its provider."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from apps.providers.base import Adapter
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    NotSent,
    NotStarted,
    OutcomeUnknown,
    PermanentError,
    RateLimited,
    TransientError,
    Unauthorized,
)
from apps.providers.messages import Message, ProviderRequest, ProviderResponse, Receipt, TransportFailure, WebhookCall
from tests.providers import accounts, push_accounts, ses_accounts, telnyx_accounts, vonage_accounts
from tests.providers.accounts import CONTEXT, DELIVERY_ID, NOW, Account, answer, delivery_id, message

ACCOUNTS = (
    *accounts.ACCOUNTS,
    *push_accounts.ACCOUNTS,
    *vonage_accounts.ACCOUNTS,
    *ses_accounts.ACCOUNTS,
    *telnyx_accounts.ACCOUNTS,
)
ANY_TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=()), max_size=60)
JSON_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANY_JSON = st.recursive(
    JSON_LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("error", "errors", "details", "field", "code", "@type", "errorCode", "name", "sid", "status"),
                    *("messages", "message-id", "message_uuid", "type", "title", "invalid_parameters", "message"),
                    *("MessageId", "BulkEmailEntryResults", "Status", "Error", "__type", "reason", "data", "id"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("retry-after", "date", "x-message-id", "x-ratelimit-reset", "content-type", "x-amzn-errortype"),
            *("apns-id", "location"),
        ]
    ),
    st.text(string.printable, max_size=40) | st.sampled_from(["Sun, 22 Nov 2026 12:00:00 GMT", "9" * 40, "-1", "1e5"]),
)
STATUSES = st.integers(0, 999) | st.sampled_from([200, 201, 202, 400, 401, 403, 404, 413, 429, 500, 502, 503])
BODIES = st.binary(max_size=200) | ANY_JSON.map(lambda value: answer(0, value).body)


@pytest.fixture(params=ACCOUNTS, ids=lambda account: account.name)
def account(request: pytest.FixtureRequest) -> Account:
    found: Account = request.param
    return found


@pytest.fixture
def adapter(account: Account) -> Adapter:
    return adapter_of(account)


_adapters: dict[str, Adapter] = {}


def adapter_of(account: Account) -> Adapter:
    """Made once: reading an RSA key takes a while."""
    if account.name not in _adapters:
        _adapters[account.name] = account.make()
    return _adapters[account.name]


def one_request(account: Account, count: int = 1) -> ProviderRequest:
    """A request with ``count`` messages, as if the provider took as many at once."""
    messages = [message(number, address=account.address(number)) for number in range(1, count + 1)]
    return replace(adapter_of(account).build(messages, CONTEXT)[0], messages=tuple(messages))


class TestBuild:
    def test_every_message_is_in_exactly_one_request(self, account: Account, adapter: Adapter):
        messages = [message(number, address=account.address(number)) for number in range(1, 1_203)]
        messages[5] = replace(messages[5], address=account.bad_address)
        messages[7] = replace(messages[7], address=messages[6].address)
        requests = adapter.build(messages, CONTEXT)
        carried = [carried.delivery_id for request in requests for carried in request.messages]
        assert sorted(carried) == sorted(each.delivery_id for each in messages)

    def test_nothing_makes_nothing(self, adapter: Adapter):
        assert adapter.build([], CONTEXT) == []

    def test_a_line_break_in_an_address_is_a_dead_address(self, account: Account, adapter: Adapter):
        [request] = adapter.build([message(address=account.bad_address)], CONTEXT)
        assert isinstance(request.rejected, InvalidRecipient)
        assert not request.body

    def test_requests_go_to_the_configured_https_url(self, account: Account, adapter: Adapter):
        [request] = adapter.build([message(address=account.address(1))], CONTEXT)
        assert request.rejected is None
        assert request.url.startswith(f"https://{account.name}.example.com/")
        assert request.method == "POST"
        assert {name.lower() for name, _ in request.headers} >= {"authorization", "content-type"}

    @pytest.mark.parametrize("base_url", ["https://a.example.com/prefix", "https://a.example.com/prefix/"])
    def test_a_base_url_may_have_a_path(self, account: Account, base_url: str):
        if "base_url" not in account.required_options:
            return  # every address is a URL of its own
        [request] = account.make(base_url=base_url).build([message(address=account.address(1))], CONTEXT)
        assert request.url.startswith("https://a.example.com/prefix/")
        assert "//" not in request.url.removeprefix("https://")

    @settings(deadline=None, max_examples=150)
    @given(data=st.data())
    @pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: account.name)
    def test_no_message_makes_it_raise(self, account: Account, data: st.DataObject):
        hostile = Message(
            delivery_id=DELIVERY_ID,
            address=data.draw(ANY_TEXT | st.just(account.address(1))),
            title=data.draw(ANY_TEXT),
            body=data.draw(ANY_TEXT),
            data=data.draw(st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2)),
            html=data.draw(st.none() | ANY_TEXT),
            is_high=data.draw(st.booleans()),
            ttl_s=data.draw(st.none() | st.integers()),
            collapse_key=data.draw(st.none() | ANY_TEXT),
            callback_url=data.draw(st.none() | ANY_TEXT),
            badge=data.draw(st.none() | st.integers()),
            sound=data.draw(st.none() | ANY_TEXT),
            from_name=data.draw(st.none() | ANY_TEXT),
            unsubscribe_url=data.draw(st.none() | ANY_TEXT),
        )
        [request] = adapter_of(account).build([hostile], CONTEXT)
        assert request.messages == (hostile,)
        assert request.rejected is None or isinstance(request.rejected, PermanentError)
        assert all(value.isprintable() and value.isascii() for header in request.headers for value in header)
        assert len(request.url) < 2_048


class TestParse:
    def test_acceptance(self, account: Account, adapter: Adapter):
        [result] = adapter.parse(one_request(account), account.accepted)
        assert result.error is None
        assert result.delivery_id == delivery_id(1)
        assert result.provider_message_id
        assert result.latency_s == account.accepted.latency_s

    @pytest.mark.parametrize(
        ("has_left", "was_started", "error"),
        [(True, True, OutcomeUnknown), (False, True, NotSent), (False, False, NotStarted)],
    )
    def test_no_answer(
        self, account: Account, adapter: Adapter, has_left: bool, was_started: bool, error: type[Exception]
    ):
        failure = TransportFailure(has_left=has_left, detail="timed out", was_started=was_started)
        results = adapter.parse(one_request(account, 3), failure)
        assert [type(result.error) for result in results] == [error] * 3

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
    @pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><title>Error 502</title>", b"{", b'{"error": 7}'])
    def test_a_servers_failure_may_pass(self, account: Account, adapter: Adapter, status: int, body: bytes):
        [result] = adapter.parse(one_request(account), answer(status, body))
        assert type(result.error) is TransientError
        assert result.error.code == str(status)

    @pytest.mark.parametrize("status", [402, 405, 409, 410, 418, 422, 451])
    def test_an_unknown_refusal_is_for_good(self, account: Account, adapter: Adapter, status: int):
        [result] = adapter.parse(one_request(account), answer(status, b"no"))
        assert type(result.error) is (InvalidRecipient if status in account.ended else PermanentError)

    def test_throttling_honours_the_providers_wish(self, account: Account, adapter: Adapter):
        [result] = adapter.parse(one_request(account), answer(429, b"", {"retry-after": "7"}))
        assert isinstance(result.error, RateLimited)
        assert result.error.retry_after_s == 7

    def test_a_wish_given_as_a_date_counts_from_the_servers_clock(self, account: Account, adapter: Adapter):
        headers = {"retry-after": "Sun, 22 Nov 2026 12:01:30 GMT", "date": "Sun, 22 Nov 2026 12:00:00 GMT"}
        [result] = adapter.parse(one_request(account), answer(429, b"", headers))
        assert isinstance(result.error, RateLimited)
        assert result.error.retry_after_s == 90

    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_credentials_cost_no_message(self, account: Account, adapter: Adapter, status: int):
        [result] = adapter.parse(one_request(account), answer(status, b""))
        assert type(result.error) in (NotSent, Unauthorized)

    @pytest.mark.parametrize("status", [200, 204, 206])
    @pytest.mark.parametrize("body", [b"", b"<html>", b'{"nam', b"[]", b"null", b'{"name": 5, "sid": {}}', b"\xff"])
    def test_an_unreadable_success_is_an_unknown_outcome(
        self, account: Account, adapter: Adapter, status: int, body: bytes
    ):
        [result] = adapter.parse(one_request(account), answer(status, body))
        assert isinstance(result.error, OutcomeUnknown)

    def test_a_redirect_processed_nothing(self, account: Account, adapter: Adapter):
        [result] = adapter.parse(one_request(account), answer(302, b"", {"location": "https://example.com/"}))
        assert type(result.error) is TransientError

    def test_errors_carry_nothing_of_the_answer_but_codes(self, account: Account, adapter: Adapter):
        address = account.address(1)
        echo = {"code": 21211, "message": f"To {address}", "error": {"message": address, "status": address}}
        for status in (400, 404, 429, 500):
            for result in adapter.parse(one_request(account), answer(status, echo)):
                assert address not in str(result.error)

    @settings(deadline=None, max_examples=300)
    @given(status=STATUSES, body=BODIES, headers=HEADERS, count=st.integers(1, 3))
    @pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: account.name)
    def test_no_answer_makes_it_raise(
        self, account: Account, status: int, body: bytes, headers: dict[str, str], count: int
    ):
        request = one_request(account, count)
        results = adapter_of(account).parse(request, ProviderResponse(status, headers, body))
        assert [result.delivery_id for result in results] == [delivery_id(number) for number in range(1, count + 1)]
        for result in results:
            is_accepted = status in (200, 201, 202)
            assert result.error is not None or is_accepted
            if isinstance(result.error, TransientError) and result.error.retry_after_s is not None:
                assert 0 <= result.error.retry_after_s <= 86_400


class TestReceipts:
    def test_a_signed_call_is_read(self, account: Account, adapter: Adapter):
        adapter.verify_receipt(account.receipt, NOW)
        [receipt] = adapter.parse_receipts(account.receipt, NOW)
        assert receipt.delivery_id == DELIVERY_ID
        assert receipt.occurred_at <= NOW

    def test_the_same_event_twice_has_the_same_id(self, account: Account, adapter: Adapter):
        first, second = (adapter.parse_receipts(account.receipt, NOW)[0].event_id for _ in range(2))
        assert first == second

    def test_a_changed_body_is_forged(self, account: Account, adapter: Adapter):
        body = account.receipt.body
        for changed in (body.replace(b"delivered", b"delivereX"), body[:-1], b"", b"\x00" + body):
            call = replace(account.receipt, body=changed)
            if account.keyless == {"ack_key": ""} and b"delivereX" in changed:
                continue  # the device's proof covers the delivery; what happened to it is in no one else's interest
            with pytest.raises(ForgedReceipt):
                adapter.verify_receipt(call, NOW)

    def test_a_call_without_headers_is_forged(self, account: Account, adapter: Adapter):
        if account.is_signed_in_body:
            return
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(replace(account.receipt, headers={}), NOW)

    def test_without_the_key_nothing_is_believed(self, account: Account):
        with pytest.raises(ForgedReceipt):
            account.make(**account.keyless).verify_receipt(account.receipt, NOW)

    @settings(deadline=None, max_examples=200)
    @given(body=BODIES, signature=ANY_TEXT, timestamp=ANY_TEXT | st.just("1795000000"), query=ANY_TEXT)
    @pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: account.name)
    def test_only_forgery_is_found_in_noise(
        self, account: Account, body: bytes, signature: str, timestamp: str, query: str
    ):
        headers = {
            "x-twilio-signature": signature,
            "x-twilio-email-event-webhook-signature": signature,
            "x-twilio-email-event-webhook-timestamp": timestamp,
        }
        with pytest.raises(ForgedReceipt):
            adapter_of(account).verify_receipt(WebhookCall(f"https://a.example.com/?{query}", headers, body), NOW)

    @settings(deadline=None, max_examples=200)
    @given(body=BODIES | st.binary().map(lambda tail: b"MessageSid=SM1&MessageStatus=" + tail), is_json=st.booleans())
    @pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: account.name)
    def test_a_strange_body_is_malformed_at_worst(self, account: Account, body: bytes, is_json: bool):
        headers = {"content-type": "application/json"} if is_json else {}
        try:
            receipts = adapter_of(account).parse_receipts(WebhookCall("https://a.example.com/", headers, body), NOW)
        except MalformedReceipt:
            return
        assert all(isinstance(receipt, Receipt) for receipt in receipts)


class TestConfiguration:
    def test_every_missing_option_is_named_at_once(self, account: Account):
        blank = dict.fromkeys(account.required_options, "")
        with pytest.raises(ConfigurationError) as raised:
            account.make(**blank)
        assert len(raised.value.problems) == len(account.required_options)
        assert all(
            problem.startswith(name)
            for name, problem in zip(account.required_options, raised.value.problems, strict=True)
        )

    @pytest.mark.parametrize(
        "base_url", ["http://a.example.com", "https://", "a.example.com", "https://a/?x", "https://a\n"]
    )
    def test_a_base_url_is_https_without_a_query(self, account: Account, base_url: str):
        if "base_url" not in account.required_options:
            return  # every address is a URL of its own
        with pytest.raises(ConfigurationError, match="base_url"):
            account.make(base_url=base_url)

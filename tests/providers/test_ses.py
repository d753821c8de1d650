import json
from datetime import timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from msgspec.structs import replace

from apps.providers.adapters.ses import SesAdapter
from apps.providers.errors import (
    BatchRejected,
    ConfigurationError,
    InvalidRecipient,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.messages import BuildContext, ProviderRequest
from tests.providers.accounts import CONTEXT, DELIVERY_ID, NOW, answer, delivery_id, message
from tests.providers.ses_accounts import ses_options

SINGLE, BULK = (
    "https://ses.example.com/v2/email/outbound-emails",
    "https://ses.example.com/v2/email/outbound-bulk-emails",
)


@pytest.fixture
def adapter() -> SesAdapter:
    return SesAdapter("ses", ses_options())


def build(adapter: SesAdapter, count: int = 1, **fields: Any) -> list[ProviderRequest]:
    numbers = range(1, count + 1)
    return adapter.build([message(each, **{"address": f"p{each}@example.com", **fields}) for each in numbers], CONTEXT)


def only(adapter: SesAdapter, count: int = 1, **fields: Any) -> ProviderRequest:
    [request] = build(adapter, count, **fields)
    return request


class TestSingle:
    """https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html"""

    def test_an_email_is_simple_content_with_its_delivery_as_a_tag(self, adapter: SesAdapter):
        request = only(adapter, title="Grüße", html="<p>Body</p>", unsubscribe_url="https://notify.example.com/u/1")
        assert request.url == SINGLE
        assert json.loads(request.body) == {
            "FromEmailAddress": "News <news@example.com>",
            "ConfigurationSetName": "events",
            "Destination": {"ToAddresses": ["p1@example.com"]},
            "Content": {
                "Simple": {
                    "Subject": {"Data": "Grüße", "Charset": "UTF-8"},
                    "Body": {
                        "Text": {"Data": "Body", "Charset": "UTF-8"},
                        "Html": {"Data": "<p>Body</p>", "Charset": "UTF-8"},
                    },
                    "Headers": [
                        {"Name": "List-Unsubscribe", "Value": "<https://notify.example.com/u/1>"},
                        {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
                    ],
                }
            },
            "EmailTags": [{"Name": "delivery_id", "Value": DELIVERY_ID}],
        }

    @pytest.mark.parametrize(
        ("from_name", "sender"),
        [
            ("Shop", "Shop <news@example.com>"),
            ("Müller, Shop", "=?utf-8?q?M=C3=BCller=2C_Shop?= <news@example.com>"),
            ('a "b"', '"a \\"b\\"" <news@example.com>'),
            (None, "News <news@example.com>"),
        ],
    )
    def test_a_senders_name_is_written_as_mail_wants_it(self, adapter: SesAdapter, from_name: str | None, sender: str):
        assert json.loads(only(adapter, from_name=from_name).body)["FromEmailAddress"] == sender

    def test_without_names_and_sets_there_are_none(self):
        adapter = SesAdapter("ses", ses_options(from_name="", configuration_set=""))
        content = json.loads(only(adapter).body)
        assert content["FromEmailAddress"] == "news@example.com"
        assert "ConfigurationSetName" not in content

    def test_a_domain_is_written_in_punycode(self, adapter: SesAdapter):
        destination = json.loads(only(adapter, address="p@müller.example").body)["Destination"]
        assert destination == {"ToAddresses": ["p@xn--mller-kva.example"]}

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"address": "jürgen@example.com"}, UnsupportedFeature),
            ({"address": "p@" + "ü" * 64}, InvalidRecipient),
            ({"address": "no address"}, InvalidRecipient),
            ({"title": ""}, PermanentError),
            ({"title": "a\nb"}, PermanentError),
            ({"body": "", "html": None}, PermanentError),
            ({"body": "\ud800"}, PermanentError),
            ({"body": "x" * 5_000_001}, UnsupportedFeature),
            ({"from_name": "a\r\nBcc: x@example.com"}, PermanentError),
            ({"unsubscribe_url": "javascript:x"}, PermanentError),
        ],
    )
    def test_what_cannot_be_sent_is_refused(
        self, adapter: SesAdapter, fields: dict[str, Any], expected: type[ProviderError]
    ):
        request = only(adapter, **fields)
        assert type(request.rejected) is expected
        assert not request.body


class TestBulk:
    """https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendBulkEmail.html"""

    def test_the_same_words_go_out_together(self, adapter: SesAdapter):
        messages = [
            message(1, address="p1@example.com", unsubscribe_url="https://notify.example.com/u/1"),
            message(2, address="p2@example.com"),
        ]
        [request] = adapter.build(messages, CONTEXT)
        assert request.url == BULK
        assert json.loads(request.body) == {
            "FromEmailAddress": "News <news@example.com>",
            "ConfigurationSetName": "events",
            "DefaultContent": {
                "Template": {"TemplateContent": {"Subject": "Title", "Text": "Body"}, "TemplateData": "{}"}
            },
            "BulkEmailEntries": [
                {
                    "Destination": {"ToAddresses": ["p1@example.com"]},
                    "ReplacementTags": [{"Name": "delivery_id", "Value": delivery_id(1)}],
                    "ReplacementHeaders": [
                        {"Name": "List-Unsubscribe", "Value": "<https://notify.example.com/u/1>"},
                        {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
                    ],
                },
                {
                    "Destination": {"ToAddresses": ["p2@example.com"]},
                    "ReplacementTags": [{"Name": "delivery_id", "Value": delivery_id(2)}],
                    "ReplacementHeaders": [],
                },
            ],
        }

    def test_fifty_go_into_one_request(self, adapter: SesAdapter):
        assert [len(request.messages) for request in build(adapter, 120)] == [50, 50, 20]

    @pytest.mark.parametrize("field", ["title", "body", "html", "from_name"])
    def test_other_words_are_another_request(self, adapter: SesAdapter, field: str):
        messages = [message(each, address="p@example.com", **{field: f"{each % 2}"}) for each in range(4)]
        assert [len(request.messages) for request in adapter.build(messages, CONTEXT)] == [2, 2]

    @pytest.mark.parametrize("field", ["title", "body", "html"])
    def test_what_a_template_would_read_as_its_own_goes_singly(self, adapter: SesAdapter, field: str):
        requests = build(adapter, 3, **{field: "Hello {{name}}"})
        assert [request.url for request in requests] == [SINGLE] * 3
        assert b"{{name}}" in requests[0].body

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("MESSAGE_REJECTED", PermanentError),
            ("MAIL_FROM_DOMAIN_NOT_VERIFIED", NotSent),
            ("CONFIGURATION_SET_NOT_FOUND", NotSent),
            ("TEMPLATE_NOT_FOUND", PermanentError),
            ("ACCOUNT_SUSPENDED", NotSent),
            ("ACCOUNT_THROTTLED", RateLimited),
            ("ACCOUNT_DAILY_QUOTA_EXCEEDED", RateLimited),
            ("INVALID_SENDING_POOL_NAME", NotSent),
            ("ACCOUNT_SENDING_PAUSED", NotSent),
            ("CONFIGURATION_SET_SENDING_PAUSED", NotSent),
            ("INVALID_PARAMETER", PermanentError),
            ("TRANSIENT_FAILURE", TransientError),
            ("FAILED", PermanentError),
            ("SUCCESS", OutcomeUnknown),  # without an id
            ("", OutcomeUnknown),
            ("something else", OutcomeUnknown),
        ],
    )
    def test_each_recipient_has_a_status_of_its_own(
        self, adapter: SesAdapter, status: str, expected: type[ProviderError]
    ):
        entries = [{"Status": "SUCCESS", "MessageId": "m1"}, {"Status": status, "Error": "p2@example.com"}]
        first, second = adapter.parse(only(adapter, 2), answer(200, {"BulkEmailEntryResults": entries}))
        assert (first.error, first.provider_message_id) == (None, "m1")
        assert type(second.error) is expected
        assert "@" not in str(second.error)

    def test_an_address_that_ses_cannot_read_is_dead(self, adapter: SesAdapter):
        entry = {"Status": "INVALID_PARAMETER", "Error": "Missing final '@domain'"}
        results = adapter.parse(only(adapter, 2), answer(200, {"BulkEmailEntryResults": [entry, entry]}))
        assert [type(result.error) for result in results] == [InvalidRecipient, InvalidRecipient]

    @pytest.mark.parametrize("entries", [None, [], [{"Status": "SUCCESS", "MessageId": "m1"}], "x", [1, 2]])
    def test_too_few_statuses_are_no_answer(self, adapter: SesAdapter, entries: object):
        results = adapter.parse(only(adapter, 2), answer(200, {"BulkEmailEntryResults": entries}))
        assert [type(result.error) for result in results] == [OutcomeUnknown, OutcomeUnknown]

    @pytest.mark.parametrize(("status", "word"), [(400, "BadRequestException"), (400, "MessageRejected"), (413, "")])
    def test_a_batch_refused_as_a_whole_is_sent_again_in_halves(self, adapter: SesAdapter, status: int, word: str):
        results = adapter.parse(only(adapter, 2), answer(status, {}, {"x-amzn-errortype": word}))
        assert [type(result.error) for result in results] == [BatchRejected, BatchRejected]


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "word", "text", "expected"),
        [
            (429, "TooManyRequestsException", "Maximum sending rate exceeded.", RateLimited),
            (400, "ThrottlingException", "Rate exceeded", RateLimited),
            (400, "LimitExceededException", "", RateLimited),
            (400, "MessageRejected", "Email address is not verified: p1@example.com", PermanentError),
            (400, "MailFromDomainNotVerifiedException", "", NotSent),
            (400, "AccountSuspendedException", "", NotSent),
            (400, "SendingPausedException", "", NotSent),
            (404, "NotFoundException", "Configuration set <x> does not exist.", NotSent),
            (400, "BadRequestException", "Missing final '@domain'", InvalidRecipient),
            (400, "BadRequestException", "Local address contains control or whitespace", InvalidRecipient),
            (400, "BadRequestException", "Headers must be 15 at most", PermanentError),
            (403, "AccessDeniedException", "", NotSent),
            (403, "InvalidSignatureException", "Signature expired", NotSent),
            (403, "UnrecognizedClientException", "", NotSent),
            (413, "", "", UnsupportedFeature),
            (500, "InternalFailure", "", TransientError),
            (503, "ServiceUnavailable", "", TransientError),
        ],
    )
    @pytest.mark.parametrize("shape", ["{}", "{}:http://internal.amazon.com/coral/com.amazonaws.ses/", "aws.ses#{}"])
    def test_each_exception_has_its_class(
        self, adapter: SesAdapter, status: int, word: str, text: str, expected: type[ProviderError], shape: str
    ):
        headers = {"x-amzn-errortype": shape.format(word)} if word else {}
        [result] = adapter.parse(only(adapter), answer(status, {"message": text}, headers))
        assert type(result.error) is expected
        assert result.error.code == word or str(status)
        assert "@example" not in str(result.error)

    def test_the_body_may_name_the_exception(self, adapter: SesAdapter):
        [result] = adapter.parse(only(adapter), answer(400, {"__type": "com.amazonaws.ses#SendingPausedException"}))
        assert type(result.error) is NotSent

    @pytest.mark.parametrize(
        ("text", "headers", "pause_s"),
        [
            ("Daily message quota exceeded.", {}, 900),
            ("Daily message quota exceeded.", {"retry-after": "5"}, 5),
            ("Maximum sending rate exceeded.", {}, None),
        ],
    )
    def test_a_days_quota_takes_longer_than_a_seconds(
        self, adapter: SesAdapter, text: str, headers: dict[str, str], pause_s: float | None
    ):
        headers = {"x-amzn-errortype": "TooManyRequestsException", **headers}
        [result] = adapter.parse(only(adapter), answer(429, {"message": text}, headers))
        assert isinstance(result.error, RateLimited)
        assert result.error.retry_after_s == pause_s


class TestSigning:
    def test_the_signature_is_botocores_at_the_callers_time(self, adapter: SesAdapter, monkeypatch: pytest.MonkeyPatch):
        request = only(adapter)
        # Their clock, not ours: ``add_auth`` reads the machine's.
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None))
        expected = AWSRequest("POST", request.url, headers={"Content-Type": "application/json"}, data=request.body)
        options = ses_options()
        credentials = Credentials(options["access_key_id"], options["secret_access_key"])
        SigV4Auth(credentials, "ses", "eu-central-1").add_auth(expected)
        assert dict(request.headers) == dict(expected.headers.items())
        assert dict(request.headers)["X-Amz-Date"] == "20261122T120000Z"

    def test_another_moment_is_another_signature(self, adapter: SesAdapter):
        later = BuildContext(now=NOW + timedelta(seconds=1))
        [first], [second] = (adapter.build([message(address="p@example.com")], each) for each in (CONTEXT, later))
        assert first.body == second.body
        assert first.headers != second.headers

    def test_the_secret_is_not_in_the_request(self, adapter: SesAdapter):
        request = only(adapter)
        assert ses_options()["secret_access_key"] not in repr(replace(request, messages=()))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"region": "Frankfurt"}, "region"),
        ({"access_key_id": "short"}, "access_key_id"),
        ({"from_email": "News <news@example.com>"}, "from_email"),
        ({"from_email": "jürgen@example.com"}, "from_email"),
        ({"topic_arns": ["arn:aws:sqs:eu-central-1:123456789012:queue"]}, "topic_arns"),
    ],
)
def test_a_malformed_option_is_named(changes: dict[str, object], named: str):
    with pytest.raises(ConfigurationError, match=f"ses: {named}"):
        SesAdapter("ses", ses_options(**changes))

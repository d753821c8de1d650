from datetime import timedelta
from typing import Any

import pytest

from apps.providers.adapters.ses import SesAdapter
from apps.providers.errors import ForgedReceipt, MalformedReceipt
from apps.providers.messages import ReceiptKind, WebhookCall
from tests.providers.accounts import DELIVERY_ID, NOW
from tests.providers.ses_accounts import (
    CERTIFICATE_URL,
    SUBSCRIBE_URL,
    TOPIC_ARN,
    confirmation,
    envelope,
    event,
    ses_options,
    signer,
    sns_call,
)

BOUNCE = {
    "bounceType": "Permanent",
    "bounceSubType": "General",
    "bouncedRecipients": [{"emailAddress": "person@example.com", "action": "failed", "status": "5.1.1"}],
    "timestamp": "2026-11-22T11:59:59.000Z",
}


@pytest.fixture
def adapter() -> SesAdapter:
    return SesAdapter("ses", ses_options())


class TestSignatures:
    @pytest.mark.parametrize("version", ["1", "2"])
    @pytest.mark.parametrize("fields", [envelope(event()), confirmation()], ids=["notification", "confirmation"])
    def test_both_versions_over_both_kinds(self, adapter: SesAdapter, version: str, fields: dict[str, str]):
        adapter.verify_receipt(sns_call({**fields, "SignatureVersion": version}), NOW)

    def test_a_subject_is_signed_only_if_there_is_one(self, adapter: SesAdapter):
        fields = envelope(event())
        del fields["Subject"]
        adapter.verify_receipt(sns_call(fields), NOW)

    @pytest.mark.parametrize("name", ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"])
    def test_every_signed_field_counts(self, adapter: SesAdapter, name: str):
        call = sns_call(envelope(event()))
        body = call.body.replace(f'"{name}": "'.encode(), f'"{name}": "x'.encode())
        assert body != call.body
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(call.url, call.headers, body, call.certificates), NOW)

    @pytest.mark.parametrize("version", ["", "0", "3", "2 "])
    def test_an_unknown_version_is_forged(self, adapter: SesAdapter, version: str):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(sns_call(envelope(event(), SignatureVersion=version)), NOW)

    @pytest.mark.parametrize("name", ["Message", "Timestamp", "MessageId"])
    def test_a_missing_field_is_forged(self, adapter: SesAdapter, name: str):
        fields = envelope(event())
        del fields[name]
        with pytest.raises(ForgedReceipt, match="lacks"):
            adapter.verify_receipt(sns_call(fields), NOW)

    def test_another_key_is_forged(self, adapter: SesAdapter):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(sns_call(envelope(event()), by=signer(expired=True)), NOW)

    def test_an_expired_certificate_proves_nothing(self, adapter: SesAdapter):
        call = sns_call(envelope(event()), by=signer(expired=True))
        certificates = {CERTIFICATE_URL: signer(expired=True).pem}
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(call.url, call.headers, call.body, certificates), NOW)

    @pytest.mark.parametrize("certificate", [b"", b"<html>", b"-----BEGIN CERTIFICATE-----\n"])
    def test_what_is_no_certificate_proves_nothing(self, adapter: SesAdapter, certificate: bytes):
        call = sns_call(envelope(event()))
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(call.url, call.headers, call.body, {CERTIFICATE_URL: certificate}), NOW)

    @pytest.mark.parametrize(("age_s", "is_fresh"), [(-299, True), (-301, False), (3_600, True), (7_201, False)])
    def test_a_call_is_good_for_as_long_as_sns_repeats_it(self, adapter: SesAdapter, age_s: int, is_fresh: bool):
        call = sns_call(envelope(event(), at=NOW - timedelta(seconds=age_s)))
        if is_fresh:
            adapter.verify_receipt(call, NOW)
        else:
            with pytest.raises(ForgedReceipt, match="too old"):
                adapter.verify_receipt(call, NOW)

    @pytest.mark.parametrize("timestamp", ["", "yesterday", "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00+14:00"])
    def test_a_time_that_is_none_is_forged(self, adapter: SesAdapter, timestamp: str):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(sns_call(envelope(event(), Timestamp=timestamp)), NOW)


class TestPlaces:
    """What is fetched lies with SNS, in the region of a topic of ours, over https."""

    @pytest.mark.parametrize(
        "url",
        [
            CERTIFICATE_URL.replace("https", "http"),
            CERTIFICATE_URL.replace("eu-central-1", "us-east-1"),
            CERTIFICATE_URL.replace("amazonaws.com", "amazonaws.com.example.com"),
            CERTIFICATE_URL.replace("sns.", "evil.example.com/sns."),
            CERTIFICATE_URL.replace("https://", "https://evil.example.com@"),
            CERTIFICATE_URL.replace("amazonaws.com/", "amazonaws.com@evil.example.com/"),
            CERTIFICATE_URL.replace("amazonaws.com/", "amazonaws.com:8443/"),
            CERTIFICATE_URL.replace(".com/", ".com\\@evil.example.com/"),
            CERTIFICATE_URL.replace(".com/", ".com/\r\n"),
            CERTIFICATE_URL + "?x",
            CERTIFICATE_URL + "#x",
            CERTIFICATE_URL.replace(".pem", ".txt"),
            CERTIFICATE_URL.replace("/Simple", "/../Simple"),
            "https://[",
            "",
        ],
    )
    def test_other_certificates_are_not_asked_for(self, adapter: SesAdapter, url: str):
        call = sns_call(envelope(event(), SigningCertURL=url))
        assert adapter.find_certificate_url(call) is None
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(call.url, call.headers, call.body, {url: signer().pem}), NOW)

    @pytest.mark.parametrize("arn", ["", "arn:aws:sns:eu-central-1:999999999999:mail-events", TOPIC_ARN + "2", "x"])
    def test_another_topic_is_forged(self, adapter: SesAdapter, arn: str):
        call = sns_call(envelope(event(), TopicArn=arn))
        assert adapter.find_certificate_url(call) is None
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(call, NOW)

    @pytest.mark.parametrize(
        ("arn", "host"),
        [
            ("arn:aws:sns:us-east-1:123456789012:t", "sns.us-east-1.amazonaws.com"),
            ("arn:aws-cn:sns:cn-north-1:123456789012:t", "sns.cn-north-1.amazonaws.com.cn"),
            ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:t", "sns.us-gov-west-1.amazonaws.com"),
        ],
    )
    def test_each_region_has_its_host(self, arn: str, host: str):
        adapter = SesAdapter("ses", ses_options(topic_arns=[arn]))
        url = f"https://{host}/SimpleNotificationService-{'0' * 32}.pem"
        assert adapter.find_certificate_url(sns_call(envelope("x", TopicArn=arn, SigningCertURL=url))) == url

    def test_a_stand_ins_host_is_trusted_when_configured(self):
        url = "https://127.0.0.1:8443/ses/SimpleNotificationService-0123456789abcdef.pem"
        call = sns_call(envelope("x", SigningCertURL=url))
        assert SesAdapter("ses", ses_options()).find_certificate_url(call) is None
        trusting = SesAdapter("ses", ses_options(sns_cert_hosts=["127.0.0.1:8443"]))
        assert trusting.find_certificate_url(call) == url

    def test_a_confirmation_is_asked_for_where_sns_is(self, adapter: SesAdapter):
        call = sns_call(confirmation())
        assert adapter.find_confirmation_url(call) == SUBSCRIBE_URL
        assert adapter.parse_receipts(call, NOW) == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"SubscribeURL": SUBSCRIBE_URL.replace("amazonaws", "example")},
            {"SubscribeURL": SUBSCRIBE_URL.replace("ConfirmSubscription", "DeleteTopic")},
            {"SubscribeURL": SUBSCRIBE_URL.replace("mail-events", "other")},
            {"SubscribeURL": SUBSCRIBE_URL + "&Action=DeleteTopic"},
            {"Type": "UnsubscribeConfirmation"},
        ],
    )
    def test_nothing_else_is_confirmed(self, adapter: SesAdapter, changes: dict[str, str]):
        call = sns_call(confirmation(**changes))
        assert adapter.find_confirmation_url(call) is None
        assert adapter.parse_receipts(call, NOW) == []


class TestEvents:
    """https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html"""

    @pytest.mark.parametrize(
        ("content", "kind", "code"),
        [
            (event(), ReceiptKind.DELIVERED, "Delivery"),
            (event("Bounce", bounce=BOUNCE), ReceiptKind.BOUNCED, "5.1.1"),
            (event("Bounce", bounce={**BOUNCE, "bounceType": "Transient"}), ReceiptKind.FAILED, "5.1.1"),
            (
                event("Bounce", bounce={"bounceType": "Undetermined", "bounceSubType": "Undetermined"}),
                ReceiptKind.FAILED,
                "Undetermined",
            ),
            (
                event("Bounce", bounce={"bounceType": "Permanent", "bounceSubType": "OnAccountSuppressionList"}),
                ReceiptKind.BOUNCED,
                "OnAccountSuppressionList",
            ),
            (event("Complaint", complaint={"complaintFeedbackType": "abuse"}), ReceiptKind.COMPLAINED, "abuse"),
            (
                event("Complaint", complaint={"complaintSubType": "OnAccountSuppressionList"}),
                ReceiptKind.COMPLAINED,
                "OnAccountSuppressionList",
            ),
            (event("Reject", reject={"reason": "Bad content"}), ReceiptKind.FAILED, "Reject"),
            (event("Rendering Failure", failure={"errorMessage": "x"}), ReceiptKind.FAILED, "RenderingFailure"),
            (
                event("Subscription", subscription={"newTopicPreferences": {"unsubscribeAll": True}}),
                ReceiptKind.UNSUBSCRIBED,
                "Subscription",
            ),
        ],
    )
    def test_each_event_has_its_meaning(
        self, adapter: SesAdapter, content: dict[str, Any], kind: ReceiptKind, code: str
    ):
        call = sns_call(envelope(content))
        adapter.verify_receipt(call, NOW)
        [receipt] = adapter.parse_receipts(call, NOW)
        assert (receipt.kind, receipt.code, receipt.delivery_id) == (kind, code, DELIVERY_ID)
        assert receipt.event_id == "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"
        assert receipt.provider_message_id == content["mail"]["messageId"]
        assert receipt.occurred_at < NOW
        assert "@" not in repr(receipt)

    @pytest.mark.parametrize(
        "content",
        [
            event("Send", send={}),
            event("DeliveryDelay", deliveryDelay={"delayType": "MailboxFull"}),
            event("Open", open={}),
            event("Complaint", complaint={"complaintFeedbackType": "not-spam"}),
            event("Subscription", subscription={"newTopicPreferences": {"unsubscribeAll": False}}),
            "Successfully validated SNS topic for Amazon SES event publishing.",
        ],
    )
    def test_what_decides_nothing_is_no_receipt(self, adapter: SesAdapter, content: object):
        assert adapter.parse_receipts(sns_call(envelope(content)), NOW) == []

    def test_feedback_without_tags_names_the_message_alone(self, adapter: SesAdapter):
        content = {"notificationType": "Bounce", "bounce": BOUNCE, "mail": {"messageId": "0107"}}
        [receipt] = adapter.parse_receipts(sns_call(envelope(content)), NOW)
        assert (receipt.kind, receipt.delivery_id, receipt.provider_message_id) == (ReceiptKind.BOUNCED, None, "0107")

    @pytest.mark.parametrize("tag", [[], [DELIVERY_ID, DELIVERY_ID], ["x"], DELIVERY_ID, None])
    def test_a_tag_that_is_not_ours_names_no_delivery(self, adapter: SesAdapter, tag: object):
        content = event()
        content["mail"]["tags"]["delivery_id"] = tag
        [receipt] = adapter.parse_receipts(sns_call(envelope(content)), NOW)
        assert receipt.delivery_id is None

    @pytest.mark.parametrize("content", ["", "x", "[]", "{}", '{"eventType": "Bounce"}', '{"mail": {}}'])
    def test_what_ses_does_not_send_is_malformed(self, adapter: SesAdapter, content: str):
        with pytest.raises(MalformedReceipt):
            adapter.parse_receipts(sns_call(envelope(content)), NOW)

    @pytest.mark.parametrize(
        "bounce", [None, [], {"bouncedRecipients": {}}, {"bouncedRecipients": [7]}, {"timestamp": 7}]
    )
    def test_a_detail_that_is_missing_does_no_harm(self, adapter: SesAdapter, bounce: object):
        [receipt] = adapter.parse_receipts(sns_call(envelope(event("Bounce", bounce=bounce))), NOW)
        assert (receipt.kind, receipt.code) == (ReceiptKind.FAILED, "Bounce")

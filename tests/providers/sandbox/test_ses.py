import base64
import hashlib
import hmac
import json
import uuid
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

SENDER = "Notify <notify@example.com>"
SIMPLE = {"Simple": {"Subject": {"Data": "Hello"}, "Body": {"Text": {"Data": "Text"}, "Html": {"Data": "<p>Text</p>"}}}}
TEMPLATE = {"TemplateContent": {"Subject": "Hi {{name}}", "Text": "Text"}, "TemplateData": '{"name": "you"}'}


@pytest.fixture(autouse=True)
def quick(sandbox):
    sandbox.set_receipts("ses", delay_ms=5)


def sign(sandbox, url: str, body: bytes, *, at: datetime | None = None, **changes: str) -> dict[str, str]:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, written down anew."""
    values = {
        "key_id": sandbox.env["SES_ACCESS_KEY_ID"],
        "secret": sandbox.env["SES_SECRET_ACCESS_KEY"],
        "region": sandbox.env["SES_REGION"],
        **changes,
    }
    stamp = (at or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    parts = urlsplit(url)
    canonical = f"POST\n{parts.path}\n\nhost:{parts.netloc}\nx-amz-date:{stamp}\n\nhost;x-amz-date\n"
    canonical += hashlib.sha256(body).hexdigest()
    scope = f"{stamp[:8]}/{values['region']}/ses/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + values["secret"].encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    credential = f"Credential={values['key_id']}/{scope}"
    return {
        "X-Amz-Date": stamp,
        "Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host;x-amz-date, Signature={signature}",
    }


def post(sandbox, operation: str, content: dict, headers: dict[str, str] | None = None):
    url = f"{sandbox.env['SES_BASE_URL']}/v2/email/{operation}"
    body = json.dumps({name: value for name, value in content.items() if value is not None}).encode()
    headers = sign(sandbox, url, body) if headers is None else headers
    return sandbox.session.post(url, data=body, headers=headers, timeout=5)


def send(sandbox, address: str = "ada@example.com", headers: dict[str, str] | None = None, **changes):
    content = {
        "FromEmailAddress": SENDER,
        "Destination": {"ToAddresses": [address]},
        "Content": SIMPLE,
        "EmailTags": [{"Name": "delivery_id", "Value": f"d-{address.partition('@')[0].replace('+', '_')}"}],
        "ConfigurationSetName": sandbox.env["SES_CONFIGURATION_SET"],
        **changes,
    }
    return post(sandbox, "outbound-emails", content, headers)


def send_bulk(sandbox, *addresses: str, **changes):
    content = {
        "FromEmailAddress": SENDER,
        "DefaultContent": {"Template": TEMPLATE},
        "BulkEmailEntries": [{"Destination": {"ToAddresses": [address]}} for address in addresses],
        "ConfigurationSetName": sandbox.env["SES_CONFIGURATION_SET"],
        **changes,
    }
    return post(sandbox, "outbound-bulk-emails", content)


def error_of(response) -> str:
    assert "message" in response.json()
    return response.headers["x-amzn-errortype"]


def read_call(sandbox, call) -> dict:
    """The envelope, verified as on
    https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message-verify-message-signature.html"""
    envelope = call.json()
    assert call.headers["x-amz-sns-message-type"] == envelope["Type"]
    assert (envelope["SignatureVersion"], envelope["TopicArn"]) == ("2", sandbox.env["SES_SNS_TOPIC_ARNS"])
    names = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
    if envelope["Type"] != "Notification":
        names = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    text = "".join(f"{name}\n{envelope[name]}\n" for name in names)
    assert envelope["SigningCertURL"].startswith(f"https://{sandbox.env['SES_SNS_CERT_HOSTS']}/")
    pem = sandbox.session.get(envelope["SigningCertURL"], timeout=5).content
    key = x509.load_pem_x509_certificate(pem).public_key()
    key.verify(base64.b64decode(envelope["Signature"]), text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return envelope


def events(sandbox, web, count: int) -> list[dict]:
    return [json.loads(read_call(sandbox, call)["Message"]) for call in web.wait_for(count)]


class TestSend:
    def test_answers_200_with_the_message_id(self, sandbox):
        response = send(sandbox)
        assert response.status_code == 200
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"]) == ("ses", "d-ada")
        assert entry["provider_message_id"] == response.json()["MessageId"]
        [mail] = sandbox.inbox()
        assert (mail["sender"], mail["title"], mail["html"]) == (SENDER, "Hello", "<p>Text</p>")

    def test_raw_content_will_do(self, sandbox):
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = SENDER, "ada@example.com", "Grüße"
        mail.set_content("Text")
        raw = {"Raw": {"Data": base64.b64encode(mail.as_bytes()).decode()}}
        assert send(sandbox, Content=raw, FromEmailAddress=None, Destination=None).status_code == 200
        assert (sandbox.inbox()[0]["title"], sandbox.inbox()[0]["to"]) == ("Grüße", "ada@example.com")

    @pytest.mark.parametrize(
        ("changes", "status", "name"),
        [
            ({"FromEmailAddress": "other@example.com"}, 400, "MessageRejected"),
            ({"FromEmailAddress": None}, 400, "BadRequestException"),
            ({"Destination": {}}, 400, "BadRequestException"),
            ({"Destination": {"ToAddresses": ["nobody"]}}, 400, "BadRequestException"),
            ({"Destination": {"ToAddresses": ["a@b..example"]}}, 400, "BadRequestException"),
            ({"Destination": {"ToAddresses": ["jürgen@example.com"]}}, 400, "BadRequestException"),
            ({"Destination": {"ToAddresses": ["a@example.com"] * 51}}, 400, "BadRequestException"),
            ({"Content": {}}, 400, "BadRequestException"),
            ({"Content": {"Simple": {"Subject": {"Data": "x"}}}}, 400, "BadRequestException"),
            ({"Content": {"Raw": {"Data": "no base64"}}}, 400, "BadRequestException"),
            ({"Content": {"Template": {"TemplateName": "x"}}}, 404, "NotFoundException"),
            ({"EmailTags": [{"Name": "a b", "Value": "x"}]}, 400, "BadRequestException"),
            ({"ConfigurationSetName": "other"}, 404, "NotFoundException"),
        ],
    )
    def test_errors(self, sandbox, changes, status, name):
        response = send(sandbox, **changes)
        assert (response.status_code, error_of(response)) == (status, name)
        assert sandbox.ledger() == []

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"key_id": "AKIA0000000000000000"}, "UnrecognizedClientException"),
            ({"secret": "wrong"}, "InvalidSignatureException"),
            ({"region": "eu-central-1"}, "InvalidSignatureException"),
            ({"at": datetime.now(UTC) - timedelta(minutes=10)}, "InvalidSignatureException"),
        ],
    )
    def test_a_signature_that_is_not_the_accounts_is_refused(self, sandbox, changes, name):
        url = f"{sandbox.env['SES_BASE_URL']}/v2/email/outbound-emails"
        response = sandbox.session.post(url, data=b"{}", headers=sign(sandbox, url, b"{}", **changes), timeout=5)
        assert (response.status_code, error_of(response)) == (403, name)

    def test_another_body_or_none_at_all_is_refused(self, sandbox):
        url = f"{sandbox.env['SES_BASE_URL']}/v2/email/outbound-emails"
        assert error_of(send(sandbox, headers=sign(sandbox, url, b"{}"))) == "InvalidSignatureException"
        assert error_of(send(sandbox, headers={"X": "y"})) == "MissingAuthenticationTokenException"
        assert error_of(send(sandbox, headers={"Authorization": "Bearer x"})) == "IncompleteSignatureException"

    @pytest.mark.parametrize(
        ("rule", "status", "name"),
        [
            ({"mode": "throttle", "retry_after_s": 4}, 429, "TooManyRequestsException"),
            ({"mode": "error"}, 503, "ServiceUnavailable"),
            ({"mode": "error", "code": "SendingPausedException"}, 400, "SendingPausedException"),
        ],
    )
    def test_faults(self, sandbox, rule, status, name):
        sandbox.set_faults("ses", rule)
        response = send(sandbox)
        assert (response.status_code, error_of(response)) == (status, name)
        assert response.headers.get("retry-after") == ("4" if status == 429 else None)


class TestBulk:
    def test_every_recipient_has_a_status(self, sandbox):
        entries = [
            {
                "Destination": {"ToAddresses": ["ada@example.com"]},
                "ReplacementTags": [{"Name": "delivery_id", "Value": "d-1"}],
            },
            {"Destination": {"ToAddresses": ["nobody"]}},
            {
                "Destination": {"ToAddresses": ["bob@example.com"]},
                "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": '{"name": "Bob"}'}},
                "ReplacementHeaders": [{"Name": "List-Unsubscribe", "Value": "<https://example.com/>"}],
            },
        ]
        response = send_bulk(sandbox, BulkEmailEntries=entries)
        results = response.json()["BulkEmailEntryResults"]
        assert [result["Status"] for result in results] == ["SUCCESS", "INVALID_PARAMETER", "SUCCESS"]
        assert [entry["delivery_id"] for entry in sandbox.ledger()] == ["d-1", ""]
        assert [mail["title"] for mail in sandbox.inbox()] == ["Hi you", "Hi Bob"]
        assert sandbox.inbox()[1]["extra"]["headers"] == {"List-Unsubscribe": "<https://example.com/>"}

    @pytest.mark.parametrize(
        ("count", "changes", "name"),
        [
            (0, {}, "BadRequestException"),
            (51, {}, "BadRequestException"),
            (1, {"FromEmailAddress": "other@example.com"}, "MessageRejected"),
            (1, {"DefaultContent": {"Template": {"TemplateName": "x"}}}, "NotFoundException"),
        ],
    )
    def test_errors(self, sandbox, count, changes, name):
        assert error_of(send_bulk(sandbox, *["a@example.com"] * count, **changes)) == name

    def test_a_variable_without_a_value_fails_later(self, sandbox, web):
        send_bulk(sandbox, "a@example.com", DefaultContent={"Template": {**TEMPLATE, "TemplateData": "{}"}})
        assert {event["eventType"] for event in events(sandbox, web, 2)} == {"Send", "Rendering Failure"}


class TestEvents:
    @pytest.mark.parametrize(
        ("local", "names"),
        [
            ("ada", ["Send", "Delivery"]),
            ("bounce", ["Send", "Bounce"]),
            ("bounce+7", ["Send", "Bounce"]),
            ("complaint", ["Send", "Delivery", "Complaint"]),
            ("suppressionlist", ["Send", "Bounce"]),
            ("blocked", ["Send", "Bounce"]),
        ],
    )
    def test_come_signed_one_for_each_event(self, sandbox, web, local, names):
        message_id = send(sandbox, f"{local}@example.com").json()["MessageId"]
        found = {event["eventType"]: event for event in events(sandbox, web, len(names))}
        assert found.keys() == set(names)
        for event in found.values():
            assert event["mail"]["messageId"] == message_id
            assert event["mail"]["tags"]["delivery_id"] == [f"d-{local.replace('+', '_')}"]
        member = {"Delivery": "delivery", "Bounce": "bounce", "Complaint": "complaint"}[names[-1]]
        assert found[names[-1]][member]["timestamp"].endswith("Z")

    def test_none_without_the_configuration_set(self, sandbox):
        assert send(sandbox, ConfigurationSetName=None).status_code == 200
        assert sandbox.stats()["receipts"]["ses"]["scheduled"] == 0

    def test_a_repeated_notification_keeps_its_id(self, sandbox, web):
        web.statuses = [503]
        send(sandbox)
        ids = [call.json()["MessageId"] for call in web.wait_for(3)]
        assert len(set(ids)) == 2
        assert all(str(uuid.UUID(each)) == each for each in ids)

    def test_a_subscription_must_be_confirmed_to_be_heard_of(self, sandbox, web):
        assert sandbox.control("POST", "subscriptions/ses")["confirmed"] is False
        send(sandbox)
        envelope = read_call(sandbox, web.wait_for(1)[0])
        assert (envelope["Type"], sandbox.stats()["receipts"]["ses"]["scheduled"]) == ("SubscriptionConfirmation", 1)
        wrong = envelope["SubscribeURL"].replace(envelope["Token"], "wrong")
        assert sandbox.session.get(wrong, timeout=5).status_code == 404
        assert b"<SubscriptionArn>" in sandbox.session.get(envelope["SubscribeURL"], timeout=5).content
        assert sandbox.control("GET", "subscriptions/ses")["confirmed"] is True
        send(sandbox)
        assert read_call(sandbox, web.wait_for(2)[1])["Type"] == "Notification"

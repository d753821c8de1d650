"""Amazon Simple Email Service, API version 2.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendBulkEmail.html
https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import formataddr
from typing import Any, ClassVar

import orjson
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from apps.channels import Channel
from apps.providers.adapters import answers, emails, ses_events, sns
from apps.providers.errors import (
    BatchRejected,
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.grants import Grant
from apps.providers.messages import (
    BuildContext,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    Result,
    TransportFailure,
    WebhookCall,
)

MAX_TEXT_BYTES = 5_000_000  # of 10 MB for a message; base64 takes its part of them
MAX_ENTRIES = 50
DAILY_QUOTA_PAUSE_S = 900.0  # ours: the quota is one of rolling 24 hours, so room comes back little by little
DELIVERY_TAG = "delivery_id"
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+){1,2}-\d")
_KEY_ID = re.compile(r"[A-Z0-9]{16,128}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]{1,63}")
_SINGLE_PATH, _BULK_PATH = "/v2/email/outbound-emails", "/v2/email/outbound-bulk-emails"

# Names of exceptions, in ``x-amzn-ErrorType`` or the body's ``__type``; those of SigV4 come with 403.
_THROTTLED = frozenset({"TooManyRequestsException", "ThrottlingException", "Throttling", "LimitExceededException"})
_ACCOUNT = frozenset(
    {
        "AccountSuspendedException",
        "SendingPausedException",
        "MailFromDomainNotVerifiedException",
        "NotFoundException",  # the configuration set
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
# What SES says in prose alone of an address it cannot parse.
_BAD_ADDRESS = re.compile(
    r"missing final '@domain'|illegal address|invalid email address|missing start of|local address contains"
    r"|domain (?:contains|starts|ends)|missing '@'",
    re.IGNORECASE,
)
_DAILY = re.compile(r"\bdaily\b", re.IGNORECASE)
# https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_BulkEmailEntryResult.html
_ENTRY_ACCOUNT = frozenset(
    {
        "MAIL_FROM_DOMAIN_NOT_VERIFIED",
        "CONFIGURATION_SET_NOT_FOUND",
        "CONFIGURATION_SET_DOES_NOT_EXIST",
        "ACCOUNT_SUSPENDED",
        "INVALID_SENDING_POOL_NAME",
        "ACCOUNT_SENDING_PAUSED",
        "CONFIGURATION_SET_SENDING_PAUSED",
    }
)


class SesAdapter:
    """E-mail through Amazon SES. Messages with the same words go out in one bulk request of up to 50, unless they have
    ``{{``, which a template would read as its own; others go out singly. Data, time to live and collapse key have no
    place in an e-mail. Receipts come through SNS from the configuration set's event destination.

    Options: ``base_url``, ``region``, ``access_key_id``, ``secret_access_key``, ``from_email``, ``from_name``,
    ``configuration_set``, ``topic_arns`` (of SNS; without one every receipt counts as forged) and ``sns_cert_hosts``
    (hosts beside Amazon's that a stand-in for SNS may use; none in production)."""

    channel: ClassVar[Channel] = Channel.EMAIL
    grant: Grant | None = None

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        region, key_id = str(options.get("region", "")), str(options.get("access_key_id", ""))
        secret, from_email = str(options.get("secret_access_key", "")), str(options.get("from_email", ""))
        topic_arns = frozenset(map(str, options.get("topic_arns") or ()))
        if not _REGION.fullmatch(region):
            problems.append("region must be one of Amazon's, such as eu-central-1")
        if not _KEY_ID.fullmatch(key_id):
            problems.append("access_key_id is missing; make an access key for a user that may send e-mail")
        if not secret or not answers.is_clean(secret):
            problems.append("secret_access_key is missing; it is shown when the access key is made")
        if not emails.EMAIL.fullmatch(from_email) or not answers.is_clean(from_email):
            problems.append("from_email must be the e-mail address of a verified identity")
        if not all(sns.TOPIC_ARN.fullmatch(arn) for arn in topic_arns):
            problems.append("topic_arns must be ARNs of SNS topics, such as arn:aws:sns:eu-central-1:123456789012:mail")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self._base_url = options["base_url"].rstrip("/")
        self._signer = SigV4Auth(Credentials(key_id, secret), "ses", region)
        self._from_email, self._from_name = from_email, str(options.get("from_name") or "")
        self._configuration_set = str(options.get("configuration_set") or "")
        self._trust = sns.Trust(topic_arns, frozenset(map(str, options.get("sns_cert_hosts") or ())))

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        requests = []
        by_content: dict[tuple[str | None, ...], list[Message]] = defaultdict(list)
        for message in messages:
            problem = self._find_problem(message)
            if problem is not None:
                requests.append(answers.reject(self.alias, message, problem))
            else:
                by_content[message.title, message.body, message.html, message.from_name].append(message)
        for content, same in by_content.items():
            if len(same) == 1 or any("{{" in (text or "") for text in content[:3]):
                requests.extend(self._single(message, context) for message in same)
            else:
                batches = (same[start : start + MAX_ENTRIES] for start in range(0, len(same), MAX_ENTRIES))
                requests.extend(self._bulk(batch, context) for batch in batches)
        return requests

    def _find_problem(self, message: Message) -> ProviderError | None:
        problem = emails.find_problem(self.alias, message, MAX_TEXT_BYTES)
        if problem is None and not answers.is_clean(message.address.partition("@")[0]):
            return UnsupportedFeature(self.alias, "no_smtputf8", "SES takes ASCII only before the @")
        if problem is None and _ascii_address(message.address) is None:
            return InvalidRecipient(self.alias, "not_an_address", "not a domain name")
        return problem

    def _single(self, message: Message, context: BuildContext) -> ProviderRequest:
        body = {"Text": _text(message.body)} if message.body else {}
        if message.html:
            body["Html"] = _text(message.html)
        content: dict[str, Any] = {"Subject": _text(message.title), "Body": body, "Headers": _headers(message)}
        fields = {
            "Destination": _destination(message),
            "Content": {"Simple": content},
            "EmailTags": [{"Name": DELIVERY_TAG, "Value": message.delivery_id}],
        }
        return self._request([message], _SINGLE_PATH, fields, context)

    def _bulk(self, messages: Sequence[Message], context: BuildContext) -> ProviderRequest:
        first = messages[0]
        template = {"Subject": first.title, "Text": first.body, "Html": first.html}
        content = {"TemplateContent": {name: text for name, text in template.items() if text}, "TemplateData": "{}"}
        entries = [
            {
                "Destination": _destination(message),
                "ReplacementTags": [{"Name": DELIVERY_TAG, "Value": message.delivery_id}],
                "ReplacementHeaders": _headers(message),
            }
            for message in messages
        ]
        fields = {"DefaultContent": {"Template": content}, "BulkEmailEntries": entries}
        return self._request(messages, _BULK_PATH, fields, context)

    def _request(
        self, messages: Sequence[Message], path: str, fields: Mapping[str, Any], context: BuildContext
    ) -> ProviderRequest:
        sender = {"FromEmailAddress": formataddr((messages[0].from_name or self._from_name, self._from_email))}
        if self._configuration_set:
            sender["ConfigurationSetName"] = self._configuration_set
        body, url = orjson.dumps({**sender, **fields}), self._base_url + path
        return ProviderRequest(tuple(messages), url, "POST", self._sign(url, body, context.now), body)

    def _sign(self, url: str, body: bytes, now: datetime) -> tuple[tuple[str, str], ...]:
        """Signature version 4, by the steps of ``SigV4Auth.add_auth`` but with the caller's clock."""
        request = AWSRequest("POST", url, headers={"Content-Type": "application/json"}, data=body)
        request.context["timestamp"] = timestamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        request.headers["X-Amz-Date"] = timestamp
        text = self._signer.string_to_sign(request, self._signer.canonical_request(request))
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self._signer.scope(request)}, "
            f"SignedHeaders={self._signer.signed_headers(self._signer.headers_to_sign(request))}, "
            f"Signature={self._signer.signature(text, request)}"
        )
        return (*request.headers.items(), ("Authorization", authorization))

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        answer = answers.read_object(response.body)
        if response.status != 200:
            return answers.same_for_all(request, response, error=self._read_error(request, response, answer))
        if request.url.endswith(_BULK_PATH):
            return self._read_entries(request, response, answer.get("BulkEmailEntryResults"))
        message_id = answers.as_message_id(answer.get("MessageId"))
        if message_id is None:
            unknown = OutcomeUnknown(self.alias, "no_message_id", "accepted without a message id")
            return answers.same_for_all(request, response, error=unknown)
        return answers.same_for_all(request, response, message_id=message_id)

    def _read_error(
        self, request: ProviderRequest, response: ProviderResponse, answer: Mapping[str, Any]
    ) -> ProviderError:
        word = _read_error_type(response, answer)
        text = answer.get("message", answer.get("Message"))
        text = text if isinstance(text, str) else ""
        if word in _THROTTLED:
            pause_s = answers.retry_after_s(response)
            is_daily = pause_s is None and _DAILY.search(text) is not None
            return RateLimited(self.alias, word, retry_after_s=DAILY_QUOTA_PAUSE_S if is_daily else pause_s)
        if word in _ACCOUNT or response.status in (401, 403):
            return answers.credentials_error(self.alias, word or str(response.status))
        if response.status in (400, 413) and len(request.messages) > 1:
            return BatchRejected(self.alias, word or str(response.status), "refused in company", retry_after_s=0.0)
        if response.status == 413:
            return UnsupportedFeature(self.alias, "413", "the e-mail is too large")
        if word == "BadRequestException" and _BAD_ADDRESS.search(text):
            return InvalidRecipient(self.alias, word, "the address was refused")
        return answers.status_error(self.alias, response, word)

    def _read_entries(self, request: ProviderRequest, response: ProviderResponse, entries: object) -> list[Result]:
        """HTTP says 200 whatever happens; every entry has a status of its own, in the order of the request."""
        if not isinstance(entries, list) or len(entries) != len(request.messages):
            unknown = OutcomeUnknown(self.alias, "no_entries", "an answer without a status for every recipient")
            return answers.same_for_all(request, response, error=unknown)
        return [
            self._read_entry(message, entry if isinstance(entry, dict) else {}, response.latency_s)
            for message, entry in zip(request.messages, entries, strict=True)
        ]

    def _read_entry(self, message: Message, entry: Mapping[str, Any], latency_s: float) -> Result:
        status, message_id = answers.as_code(entry.get("Status")), answers.as_message_id(entry.get("MessageId"))
        if status == "SUCCESS" and message_id is not None:
            return Result(message.delivery_id, message_id, latency_s=latency_s)
        return Result(message.delivery_id, error=self._entry_error(status, entry.get("Error")), latency_s=latency_s)

    def _entry_error(self, status: str, text: object) -> ProviderError:
        if status == "ACCOUNT_THROTTLED":
            return RateLimited(self.alias, status)
        if status == "ACCOUNT_DAILY_QUOTA_EXCEEDED":
            return RateLimited(self.alias, status, retry_after_s=DAILY_QUOTA_PAUSE_S)
        if status == "TRANSIENT_FAILURE":
            return TransientError(self.alias, status)
        if status in _ENTRY_ACCOUNT:
            return answers.credentials_error(self.alias, status)
        if status == "INVALID_PARAMETER" and isinstance(text, str) and _BAD_ADDRESS.search(text):
            return InvalidRecipient(self.alias, status, "the address was refused")
        if status in ("", "SUCCESS"):
            return OutcomeUnknown(self.alias, status or "no_status", "an answer without a status or a message id")
        return PermanentError(self.alias, status)

    def find_certificate_url(self, call: WebhookCall) -> str | None:
        return sns.find_certificate_url(sns.read_envelope(call.body), self._trust)

    def find_confirmation_url(self, call: WebhookCall) -> str | None:
        return sns.find_subscribe_url(sns.read_envelope(call.body), self._trust)

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        url = self.find_certificate_url(call)
        certificate = None if url is None else call.certificates.get(url)
        if certificate is None:
            raise ForgedReceipt("the topic is not one of topic_arns, or the certificate is not SNS's")
        sns.verify(sns.read_envelope(call.body), certificate, now)

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        return ses_events.read_receipts(sns.read_envelope(call.body), DELIVERY_TAG, now)


def _ascii_address(address: str) -> str | None:
    """The address with its domain in Punycode, ``None`` if it is no domain name."""
    local, _, domain = address.partition("@")
    try:
        return f"{local}@{domain if domain.isascii() else domain.encode('idna').decode()}"
    except UnicodeError:
        return None


def _destination(message: Message) -> dict[str, list[str]]:
    return {"ToAddresses": [_ascii_address(message.address) or message.address]}


def _headers(message: Message) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in emails.unsubscribe_headers(message).items()]


def _text(text: str) -> dict[str, str]:
    return {"Data": text, "Charset": "UTF-8"}


def _read_error_type(response: ProviderResponse, answer: Mapping[str, Any]) -> str:
    """``MessageRejected`` of ``MessageRejected:http://…`` or ``com.amazonaws…#MessageRejected``."""
    raw = response.headers.get("x-amzn-errortype") or answer.get("__type") or answer.get("code")
    word = str(raw).partition(":")[0].rpartition("#")[2] if isinstance(raw, str) else ""
    return word if _WORD.fullmatch(word) else ""

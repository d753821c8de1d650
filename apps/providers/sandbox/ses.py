"""Amazon SES, API version 2: https://docs.aws.amazon.com/ses/latest/APIReference-V2/Welcome.html

Requests must be signed. Addresses end as with the mailbox simulator
(https://docs.aws.amazon.com/ses/latest/dg/send-an-email-from-console.html), whatever their domain: ``bounce@``,
``complaint@``, ``ooto@``, ``suppressionlist@``, also with a label (``bounce+1@``). Events are published to one SNS
topic, for e-mails of the one configuration set only.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson

from apps.providers.sandbox import ses_mail, sigv4
from apps.providers.sandbox.credentials import FROM_EMAIL, SES_CONFIGURATION_SET, SES_REGION, SES_TOPIC_ARN
from apps.providers.sandbox.exchange import Answer, Headers, Request, as_mapping, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Call, Poster, Receipt
from apps.providers.sandbox.ses_mail import Mail, SesError
from apps.providers.sandbox.sns import Topic
from apps.providers.sandbox.state import Accepted, Sandbox

MAX_ENTRIES = 50

# https://docs.aws.amazon.com/ses/latest/APIReference-V2/CommonErrors.html and those of the two operations.
ERRORS = {
    "AccessDeniedException": (403, "User is not authorized to perform: ses:SendEmail"),
    "AccountSuspendedException": (400, "The account's ability to send email has been permanently restricted."),
    "BadRequestException": (400, "Illegal address"),
    "IncompleteSignatureException": (403, ""),
    "InternalFailure": (500, "The request processing has failed because of an unknown error."),
    "InvalidSignatureException": (403, ""),
    "LimitExceededException": (400, "Daily message quota exceeded."),
    "MailFromDomainNotVerifiedException": (400, "The sending domain isn't verified."),
    "MessageRejected": (400, "The message contains invalid content."),
    "MissingAuthenticationTokenException": (403, ""),
    "NotFoundException": (404, "The resource you attempted to access doesn't exist."),
    "SendingPausedException": (400, "Email sending is disabled for this account."),
    "ServiceUnavailable": (503, "The request has failed due to a temporary failure of the server."),
    "ThrottlingException": (400, "Rate exceeded"),
    "TooManyRequestsException": (429, "Maximum sending rate exceeded."),
    "UnrecognizedClientException": (403, ""),
}
DEFAULT_ERRORS = {
    400: "BadRequestException", 403: "AccessDeniedException", 404: "NotFoundException", 429: "TooManyRequestsException",
    500: "InternalFailure", 503: "ServiceUnavailable",
}  # fmt: skip
# One recipient's in a bulk request: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_BulkEmailEntryResult.html
ENTRY_ERRORS = {
    "MESSAGE_REJECTED", "MAIL_FROM_DOMAIN_NOT_VERIFIED", "CONFIGURATION_SET_NOT_FOUND", "TEMPLATE_NOT_FOUND",
    "ACCOUNT_SUSPENDED", "ACCOUNT_THROTTLED", "ACCOUNT_DAILY_QUOTA_EXCEEDED", "INVALID_SENDING_POOL_NAME",
    "ACCOUNT_SENDING_PAUSED", "CONFIGURATION_SET_SENDING_PAUSED", "INVALID_PARAMETER", "TRANSIENT_FAILURE", "FAILED",
}  # fmt: skip

# Local part -> the events of such a message after ``Send``: name, member, what the member says.
Ending = tuple[tuple[str, str, Mapping[str, Any]], ...]
_DELIVERED = ("Delivery", "delivery", {"processingTimeMillis": 546, "smtpResponse": "250 2.6.0 Message received"})
_HARD = {"bounceType": "Permanent", "bounceSubType": "General", "diagnosticCode": "smtp; 550 5.1.1 user unknown"}
_SOFT = {"bounceType": "Transient", "bounceSubType": "General", "diagnosticCode": "smtp; 451 4.7.1 try again later"}
ADDRESS_CONVENTIONS: dict[str, Ending] = {
    "bounce": (("Bounce", "bounce", {**_HARD, "status": "5.1.1"}),),
    "suppressionlist": (("Bounce", "bounce", {**_HARD, "bounceSubType": "Suppressed", "status": "5.1.1"}),),
    "blocked": (("Bounce", "bounce", {**_SOFT, "status": "4.7.1"}),),
    "complaint": (_DELIVERED, ("Complaint", "complaint", {"complaintFeedbackType": "abuse", "complaintSubType": None})),
    "spam": (_DELIVERED, ("Complaint", "complaint", {"complaintFeedbackType": "abuse", "complaintSubType": None})),
    "ooto": (_DELIVERED,),
}
ORDINARY: Ending = (_DELIVERED,)


class SesProvider:
    """``v2/email/outbound-emails`` and ``outbound-bulk-emails``; SNS's certificate and ``ConfirmSubscription``.
    ``POST /_sandbox/subscriptions/ses`` takes the subscription back and offers it anew."""

    name = "ses"
    channel = "email"

    def __init__(self, sandbox: Sandbox) -> None:
        credentials = sandbox.credentials
        self._sandbox = sandbox
        self._account = sigv4.Account(
            credentials.ses_access_key_id, credentials.ses_secret_access_key, SES_REGION, "ses"
        )
        self._topic = Topic(SES_TOPIC_ARN, credentials.sns_signing_key, f"{credentials.base_url}/ses")
        self._webhook_url = f"{credentials.webhook_base}/v1/webhooks/ses"
        self.poster = Poster(build=self._build_call)
        sandbox.controls["POST", "subscriptions/ses"] = self._offer_subscription
        sandbox.controls["GET", "subscriptions/ses"] = self._show_subscription

    def handle(self, request: Request) -> Answer:
        if request.method == "GET":
            return self._answer_sns(request)
        problem = sigv4.find_problem(request, f"/{self.name}/{request.path}", self._account, datetime.now(UTC))
        if problem is not None:
            return self._refuse(*problem)
        if request.path not in {"v2/email/outbound-emails", "v2/email/outbound-bulk-emails"}:
            return self._refuse("NotFoundException")
        try:
            content = as_mapping(orjson.loads(request.body))
            if content.get("ConfigurationSetName") not in {None, SES_CONFIGURATION_SET}:
                text = f"Configuration set <{content['ConfigurationSetName']}> does not exist."
                raise SesError("NotFoundException", text)
            send = self._send_bulk if "bulk" in request.path else self._send
            return send(content, len(request.body))
        except orjson.JSONDecodeError:
            return self._refuse("BadRequestException", "The body is not JSON.")
        except SesError as error:
            return self._refuse(error.name, error.text)

    def show(self, source: Mail) -> Shown:
        extra = {"headers": dict(source.headers)} if source.headers else {}
        return Shown(sender=source.sender, title=source.subject, body=source.text, html=source.html, extra=extra)

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and rule.code not in {*ERRORS, *ENTRY_ERRORS}:
            raise InvalidRuleError(f"code: known are {', '.join(ERRORS)}; in bulk {', '.join(sorted(ENTRY_ERRORS))}")

    def _send(self, content: Mapping[str, Any], size: int) -> Answer:
        mail = ses_mail.read_mail(content, FROM_EMAIL)
        fault = self._sandbox.faults[self.name].decide(mail.recipients)
        if fault.is_refused:
            return self._fail(fault)
        message_id = self._accept(mail, content, size)
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return json_answer(200, {"MessageId": message_id}).after(fault.delay_s)

    def _send_bulk(self, content: Mapping[str, Any], size: int) -> Answer:
        sender = ses_mail.check_sender(content.get("FromEmailAddress"), FROM_EMAIL)
        template = as_mapping(as_mapping(content.get("DefaultContent")).get("Template"))
        entries = content.get("BulkEmailEntries")
        if not isinstance(entries, list) or not 0 < len(entries) <= MAX_ENTRIES:
            raise SesError("BadRequestException", f"BulkEmailEntries must be from 1 to {MAX_ENTRIES}.")
        mails = [_read_entry(as_mapping(entry), template, content, sender) for entry in entries]
        addresses = [mail.recipients[0] if isinstance(mail, Mail) else "" for mail in mails]
        fault = self._sandbox.faults[self.name].decide(addresses)
        is_for_one = fault.is_refused and fault.code in ENTRY_ERRORS
        if fault.is_refused and not is_for_one:
            return self._fail(fault)
        results = []
        for index, mail in enumerate(mails):
            if is_for_one and index == fault.index:
                results.append({"Status": fault.code, "Error": "As told."})
            elif isinstance(mail, SesError):
                results.append({"Status": "INVALID_PARAMETER", "Error": mail.text})
            else:
                results.append({"Status": "SUCCESS", "MessageId": self._accept(mail, content, size)})
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return json_answer(200, {"BulkEmailEntryResults": results}).after(fault.delay_s)

    def _accept(self, mail: Mail, content: Mapping[str, Any], size: int) -> str:
        message_id = f"{uuid.uuid4().hex[:16]}-{uuid.uuid4()}-000000"
        ending = _ending_of(mail)
        if ending is ORDINARY and self._sandbox.receipts.draws_failure(self.name):
            ending = ADDRESS_CONVENTIONS["bounce"]
        is_published = content.get("ConfigurationSetName") == SES_CONFIGURATION_SET and self._topic.is_confirmed
        events: Ending = (("Send", "send", {}), *ending) if is_published else ()
        common = {
            "timestamp": _iso(time.time()),
            "source": mail.sender,
            "messageId": message_id,
            "destination": list(mail.recipients),
            "headersTruncated": False,
            "tags": {
                "ses:configuration-set": [SES_CONFIGURATION_SET],
                **{name: [value] for name, value in mail.tags.items()},
            },
        }
        receipts = [
            Receipt(payload=(name, common, member, detail, str(uuid.uuid4())), url=self._webhook_url)
            for name, member, detail in events
        ]
        accepted = Accepted(mail.tags.get("delivery_id", ""), message_id, mail.recipients[0], size, mail)
        self._sandbox.accept(self, accepted, receipts)
        return message_id

    def _build_call(self, receipts: Sequence[Receipt], is_forged: bool) -> Call:
        receipt = receipts[0]
        if isinstance(receipt.payload, dict):
            return self._topic.build_call(receipt.payload, str(uuid.uuid4()), receipt.url, is_forged=is_forged)
        name, mail, member, detail, message_id = receipt.payload
        event = {"eventType": name, "mail": mail, member: _describe(member, detail, mail, receipt.occurred_at)}
        fields = {
            "Type": "Notification",
            "Subject": "Amazon SES Email Event Notification",
            "Message": orjson.dumps(event).decode(),
        }
        return self._topic.build_call(fields, message_id, receipt.url, is_forged=is_forged)

    def _answer_sns(self, request: Request) -> Answer:
        certificate = self._topic.read_certificate(request.path)
        if certificate is not None:
            return Answer(200, (("content-type", "application/x-pem-file"),), certificate)
        query = dict(parse_qsl(request.query))
        answer = self._topic.confirm(query) if query.get("Action") == "ConfirmSubscription" else None
        if answer is not None:
            return Answer(200, (("content-type", "text/xml"),), answer)
        return self._sandbox.reject(self, "404", html_answer(404, "Not Found"))

    def _offer_subscription(self, request: Request) -> Answer:
        receipt = Receipt(payload=self._topic.ask_for_confirmation(), url=self._webhook_url)
        self._sandbox.receipts.schedule(self.name, [receipt])
        return self._show_subscription(request)

    def _show_subscription(self, request: Request) -> Answer:
        return json_answer(200, {"topic_arn": self._topic.arn, "confirmed": self._topic.is_confirmed})

    def _fail(self, fault: Fault) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        status = fault.status or (429 if fault.mode is Mode.THROTTLE else 503)
        name = fault.code if fault.code in ERRORS else DEFAULT_ERRORS.get(status)
        if name is None:  # a load balancer's page
            answer = html_answer(status, f"Error {status}")
            return self._sandbox.reject(self, str(status), answer).after(fault.delay_s)
        return self._refuse(name, retry_after_s=fault.retry_after_s).after(fault.delay_s)

    def _refuse(self, name: str, text: str = "", retry_after_s: float | None = None) -> Answer:
        status, usual = ERRORS[name]
        headers: Headers = (("x-amzn-errortype", name), ("x-amzn-requestid", str(uuid.uuid4())))
        if retry_after_s is not None:
            headers = (*headers, ("retry-after", str(round(retry_after_s))))
        return self._sandbox.reject(self, name, json_answer(status, {"message": text or usual}, headers))


def _read_entry(
    entry: Mapping[str, Any], template: Mapping[str, Any], content: Mapping[str, Any], sender: str
) -> Mail | SesError:
    """One recipient's e-mail, or what is wrong with it alone; raises ``SesError`` for what is wrong for all."""
    try:
        recipients = ses_mail.read_recipients(entry.get("Destination"))
    except SesError as error:
        return error
    tags = {
        **ses_mail.read_tags(content.get("DefaultEmailTags")),
        **ses_mail.read_tags(entry.get("ReplacementTags")),
    }
    headers = {
        **ses_mail.read_headers(template.get("Headers")),
        **ses_mail.read_headers(entry.get("ReplacementHeaders")),
    }
    own = as_mapping(as_mapping(entry.get("ReplacementEmailContent")).get("ReplacementTemplate"))
    replacements = str(own.get("ReplacementTemplateData") or "{}")
    return ses_mail.fill(template, sender, recipients, tags, headers, replacements)


def _ending_of(mail: Mail) -> Ending:
    if mail.missing:
        failure = {
            "errorMessage": f"Attribute '{mail.missing}' is not present in the rendering data.",
            "templateName": "",
        }
        return (("Rendering Failure", "failure", failure),)
    local = mail.recipients[0].partition("@")[0].lower().partition("+")[0]
    return ADDRESS_CONVENTIONS.get(local, ORDINARY)


def _describe(member: str, detail: Mapping[str, Any], mail: Mapping[str, Any], occurred_at: float) -> dict[str, Any]:
    """https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html"""
    if member in {"send", "failure"}:
        return dict(detail)
    told = {"timestamp": _iso(occurred_at), **detail}
    addresses = mail["destination"]
    if member == "delivery":
        return {**told, "recipients": addresses, "reportingMTA": "a8-70.smtp-out.amazonses.com"}
    told["feedbackId"] = str(uuid.uuid4())
    if member == "complaint":
        return {**told, "complainedRecipients": [{"emailAddress": address} for address in addresses]}
    status, code = told.pop("status"), told.pop("diagnosticCode")
    told["bouncedRecipients"] = [
        {"emailAddress": address, "action": "failed", "status": status, "diagnosticCode": code} for address in addresses
    ]
    return {**told, "reportingMTA": "dns; a8-70.smtp-out.amazonses.com"}


def _iso(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def create(sandbox: Sandbox) -> SesProvider:
    return SesProvider(sandbox)

"""What Amazon SES tells through SNS about an e-mail.

https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html (``eventType``, with tags) and
https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html (``notificationType``, without).
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from apps.providers.adapters import answers, emails, sns
from apps.providers.errors import MalformedReceipt
from apps.providers.messages import Receipt, ReceiptKind

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,63}")
_TEST_MESSAGE = "Successfully validated SNS topic"  # said once, when the event destination is made

# Event -> what it means, and which member tells of it. What is not here (Send, DeliveryDelay, Open, Click) decides
# nothing about a delivery.
_KINDS = {
    "Delivery": (ReceiptKind.DELIVERED, "delivery"),
    "Bounce": (ReceiptKind.FAILED, "bounce"),
    "Complaint": (ReceiptKind.COMPLAINED, "complaint"),
    "Reject": (ReceiptKind.FAILED, "reject"),
    "Rendering Failure": (ReceiptKind.FAILED, "failure"),
    "Subscription": (ReceiptKind.UNSUBSCRIBED, "subscription"),
}


def read_receipts(envelope: Mapping[str, str], delivery_tag: str, now: datetime) -> list[Receipt]:
    """The receipt in a verified SNS call, if it decides something; raises ``MalformedReceipt``. The delivery's id is in
    the message tag called ``delivery_tag``."""
    text = envelope.get("Message", "")
    if envelope.get("Type") in sns.CONFIRMATIONS or text.startswith(_TEST_MESSAGE):
        return []
    event = answers.read_object(text.encode(errors="replace"))
    name = event.get("eventType", event.get("notificationType"))
    event_id, mail = answers.as_message_id(envelope.get("MessageId")), event.get("mail")
    if event_id is None or not isinstance(name, str) or not isinstance(mail, dict):
        raise MalformedReceipt("expected an SES event with eventType and mail in Message")
    if name not in _KINDS:
        return []
    kind, member = _KINDS[name]
    detail = event.get(member)
    detail = detail if isinstance(detail, dict) else {}
    if name == "Bounce" and detail.get("bounceType") == "Permanent":
        kind = ReceiptKind.BOUNCED
    if detail.get("complaintFeedbackType") == "not-spam":
        return []  # taken out of the spam folder: RFC 6430
    if name == "Subscription" and not _is_unsubscribed(detail):
        return []
    moment = answers.as_iso_moment(detail.get("timestamp"), now) or answers.as_iso_moment(mail.get("timestamp"), now)
    message_id = answers.as_message_id(mail.get("messageId"))
    code = _read_code(name, detail)
    return [Receipt(event_id, kind, moment or now, _read_tag(mail, delivery_tag), message_id, code)]


def _read_tag(mail: Mapping[str, Any], name: str) -> str | None:
    tags = mail.get("tags")
    values = tags.get(name) if isinstance(tags, dict) else None
    return answers.as_delivery_id(values[0]) if isinstance(values, list) and len(values) == 1 else None


def _is_unsubscribed(detail: Mapping[str, Any]) -> bool:
    preferences = detail.get("newTopicPreferences")
    return isinstance(preferences, dict) and preferences.get("unsubscribeAll") is True


def _read_code(name: str, detail: Mapping[str, Any]) -> str:
    """The mail server's status (RFC 3463), or SES's own word for the reason."""
    recipients = detail.get("bouncedRecipients")
    first = recipients[0] if isinstance(recipients, list) and recipients else None
    status = first.get("status") if isinstance(first, dict) else None
    if isinstance(status, str) and emails.ENHANCED_STATUS.fullmatch(status):
        return status
    words = (detail.get(key) for key in ("bounceSubType", "complaintFeedbackType", "complaintSubType"))
    return next((word for word in words if isinstance(word, str) and _WORD.fullmatch(word)), name.replace(" ", ""))

"""Numbers of the log as words: reasons come from the person's preferences (below 100) or from delivery itself."""

from apps.delivery.statuses import EXPLANATIONS, Reason, Status
from apps.preferences import policy
from apps.providers.registry import provider_by_id


def reason_label(number: int) -> str | None:
    """The machine-readable reason, e.g. ``channel_opt_out``; ``None`` where there is nothing to say."""
    reason = _reason(number)
    return None if reason is None else reason.label


def explain(number: int, status: int | None = None) -> str:
    """A sentence for people."""
    reason = _reason(number)
    if isinstance(reason, Reason):
        return EXPLANATIONS[reason]
    if isinstance(reason, policy.Reason):
        return policy.explain(reason)
    return _SENTENCES.get(Status(status), "") if status else ""


_SENTENCES = {
    Status.QUEUED: "Waits for a worker.",
    Status.SENDING: "A worker is sending it just now.",
    Status.SENT: "The provider accepted it; no word yet that it arrived.",
    Status.DELIVERED: "It arrived.",
}


def _reason(number: int) -> Reason | policy.Reason | None:
    if number == 0:
        return None
    return Reason(number) if number >= 100 else policy.Reason(number)


def provider_alias(number: int | None) -> str | None:
    """The provider's alias; a number no longer in the settings is shown as it is."""
    if not number:
        return None
    try:
        return provider_by_id(number).alias
    except KeyError:
        return f"#{number}"

"""The words for where a delivery stands and why. The numbers are stored; never reuse one."""

from apps.labels import Labelled


class Status(Labelled):
    """``queued → sending → sent → delivered``; everything else is an end."""

    QUEUED = 1
    SENDING = 2
    SENT = 3  # the provider accepted it
    DELIVERED = 4  # the provider (or the device) confirmed it
    FAILED = 5  # the provider said no for good
    BOUNCED = 6
    SUPPRESSED = 7  # we decided not to send; the reason says why
    EXPIRED = 8
    CANCELLED = 9
    UNKNOWN = 10  # the request left, no answer came, attempts are used up
    DEAD = 11  # attempts used up, or poison


OPEN_STATUSES = (Status.QUEUED, Status.SENDING)
STATUS_LABELS = tuple(status.label for status in Status)


class Reason(Labelled):
    """Why a delivery ended or waits, where it was not the person's preferences: those are
    ``apps.preferences.policy.Reason``, numbered below 100 in the same column."""

    SCHEDULED = 100
    EXPIRED = 101
    CANCELLED_BY_CLIENT = 102
    ATTEMPTS_USED_UP = 103
    POISON = 104
    PROVIDER_REFUSED = 105
    INVALID_RECIPIENT = 106
    UNSUPPORTED_BY_PROVIDER = 107
    RETRY_AFTER_FAILURE = 108
    RETRY_AFTER_UNKNOWN = 109
    PROVIDER_UNAVAILABLE = 110
    NO_ANSWER = 111
    BOUNCED = 112
    REPLAYED = 113
    WAITED_TOO_LONG = 114
    BROADCAST_PAUSED = 115


EXPLANATIONS: dict[Reason, str] = {
    Reason.SCHEDULED: "Waits for send_at.",
    Reason.EXPIRED: "expires_at passed before the message could be sent.",
    Reason.CANCELLED_BY_CLIENT: "Cancelled through the API before it left.",
    Reason.ATTEMPTS_USED_UP: "Every allowed attempt failed; see the attempts, then replay it.",
    Reason.POISON: "The message itself cannot be processed; see the last attempt.",
    Reason.PROVIDER_REFUSED: "The provider refused the message for good.",
    Reason.INVALID_RECIPIENT: "The provider says the address or device token is dead; it will not be used again.",
    Reason.UNSUPPORTED_BY_PROVIDER: "The message exceeds what the provider can carry.",
    Reason.RETRY_AFTER_FAILURE: "The last attempt failed; the next one is scheduled.",
    Reason.RETRY_AFTER_UNKNOWN: "The provider did not answer the last attempt; the next one is scheduled.",
    Reason.PROVIDER_UNAVAILABLE: "No provider is available just now; waiting costs no attempt.",
    Reason.NO_ANSWER: "The request left and no answer ever came; it may have arrived.",
    Reason.WAITED_TOO_LONG: "No provider could be given the message for too long; mend the cause, then replay it.",
    Reason.REPLAYED: "Was dead and is being tried anew.",
    Reason.BROADCAST_PAUSED: "Its broadcast is paused; it goes out when that goes on.",
    Reason.BOUNCED: "The address does not exist (hard bounce); it will not be used again.",
}


class AttemptOutcome(Labelled):
    """How a failed provider call failed."""

    TRANSIENT = 1
    RATE_LIMITED = 2
    PERMANENT = 3
    INVALID_RECIPIENT = 4
    UNKNOWN = 5
    BUG = 6  # an exception of ours

"""Bodies of ``/v1/suppressions`` in, and their shapes out."""

from typing import Any

from rest_framework import serializers

from apps.channels import CHANNEL_LABELS, Channel
from apps.preferences import addresses, ledger, profile
from apps.preferences.api.fields import StrictSerializer, TextField
from apps.preferences.models import Suppression


def _check_channel(value: str) -> str:
    if value not in CHANNEL_LABELS:
        raise ValueError(f"Enter one of {', '.join(CHANNEL_LABELS)}.")
    return value


class TargetSerializer(StrictSerializer):
    """An address: by itself, or as what a user has now on the channel."""

    channel = TextField(check=_check_channel, help_text="push, sms or email.")
    address = TextField(
        check=str, max_length=addresses.TOKEN_MAX_LENGTH, required=False,
        help_text="The full e-mail address, phone number (E.164) or device token; nobody need have it.",
    )  # fmt: skip
    user_id = TextField(
        check=profile.check_user_id, max_length=profile.USER_ID_MAX_LENGTH, required=False,
        help_text="Instead of address: the e-mail address or phone number this user has now.",
    )  # fmt: skip

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Adds ``index``, the blind index; ``None`` if the user has no such address."""
        if ("address" in attrs) == ("user_id" in attrs):
            raise serializers.ValidationError({"address": ["Give either address or user_id."]})
        channel = Channel.from_label(attrs["channel"])
        if "address" in attrs:
            try:
                index: bytes | None = ledger.index_of(channel, attrs["address"])
            except addresses.InvalidAddress as error:
                raise serializers.ValidationError({"address": [str(error)]}) from None
        elif channel is Channel.PUSH:
            raise serializers.ValidationError({"user_id": ["A user has no single push address; give the token."]})
        else:
            try:
                index = ledger.select_index(attrs["user_id"], channel)
            except LookupError:
                raise serializers.ValidationError({"user_id": ["There is no such user."]}) from None
        return {**attrs, "channel": channel, "index": index}


class SuppressionRequestSerializer(TargetSerializer):
    """``POST /v1/suppressions``."""

    reason = TextField(check=ledger.check_reason, help_text="Why, such as `complained`; at most 64 characters.")
    evidence = TextField(
        check=ledger.check_note, allow_blank=True, default="",
        help_text="What shows it, such as a ticket's number; at most 512 characters, nothing personal.",
    )  # fmt: skip


class LiftSerializer(StrictSerializer):
    """``DELETE /v1/suppressions/{id}``."""

    reason = TextField(check=ledger.check_note, help_text="Why the address may be used again; it is kept.")


class TargetLiftSerializer(TargetSerializer):
    """``POST /v1/suppressions:lift``."""

    reason = TextField(check=ledger.check_note, help_text="Why the address may be used again; it is kept.")


class SuppressionSerializer(serializers.Serializer[Any]):
    """One entry. The address itself is not known."""

    id = serializers.IntegerField()
    channel = serializers.ChoiceField(choices=CHANNEL_LABELS)
    reason = serializers.CharField()
    source = serializers.CharField(  # type: ignore[assignment]
        help_text="Who told us: a provider, `api`, `admin` …"
    )
    evidence = serializers.CharField(allow_blank=True)
    added_by = serializers.CharField(allow_blank=True, help_text="The client or admin who added it by hand.")
    created_at = serializers.DateTimeField()
    lifted_at = serializers.DateTimeField(allow_null=True, help_text="Null as long as the address must not be used.")
    lifted_by = serializers.CharField(allow_blank=True)
    lift_reason = serializers.CharField(allow_blank=True)


class SuppressionPageSerializer(serializers.Serializer[Any]):
    """A page of the ledger, newest first."""

    results = SuppressionSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The cursor of the next page; null on the last.")


def present_suppression(row: Suppression) -> dict[str, Any]:
    """The body of ``SuppressionSerializer``."""
    return {
        "id": row.pk,
        "channel": Channel(row.channel).label,
        "reason": row.reason,
        "source": row.source,
        "evidence": row.evidence,
        "added_by": row.added_by,
        "created_at": row.created_at,
        "lifted_at": row.lifted_at,
        "lifted_by": row.lifted_by,
        "lift_reason": row.lift_reason,
    }

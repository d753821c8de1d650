"""Bodies in, and the shapes of bodies out."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.channels import Channel
from apps.preferences import addresses, profile, selectors
from apps.preferences.api.fields import AttributesField, StrictSerializer, TextField
from apps.preferences.models import Device, Platform, Recipient


@extend_schema_field({"type": "string", "enum": Platform.values})
class PlatformField(TextField):
    """What a device runs."""


def _check_platform(value: str) -> str:
    if value not in Platform.values:
        raise ValueError(f"Enter one of {', '.join(Platform.values)}.")
    return value


class ProfileSerializer(StrictSerializer):
    """``PUT /v1/users/{user_id}``: the whole profile; a field left out is removed."""

    email = TextField(check=addresses.normalise_email, max_length=320, allow_null=True, default=None)
    phone = TextField(check=addresses.normalise_phone, max_length=40, allow_null=True, default=None)
    locale = TextField(
        check=profile.check_locale, max_length=profile.LOCALE_MAX_LENGTH, allow_blank=True, default="",
        help_text="BCP 47 language tag; blank if not known.",
    )  # fmt: skip
    time_zone = TextField(
        check=profile.check_time_zone, max_length=profile.TIME_ZONE_MAX_LENGTH, allow_blank=True, default="",
        help_text="IANA time zone name; blank if not known.",
    )  # fmt: skip
    attributes = AttributesField(
        check=profile.check_attributes, default=dict,
        help_text="JSON object of at most 4 KiB for audiences and templates. Stored in clear: no contact points.",
    )  # fmt: skip


class RecipientSerializer(serializers.Serializer[Any]):
    """A recipient as shown: contact points masked."""

    user_id = serializers.CharField()
    email = serializers.CharField(allow_null=True, help_text="Masked.")
    phone = serializers.CharField(allow_null=True, help_text="Masked.")
    locale = serializers.CharField(allow_blank=True)
    time_zone = serializers.CharField(allow_blank=True)
    attributes = AttributesField(check=profile.check_attributes)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class DeviceRegistrationSerializer(StrictSerializer):
    """``POST /v1/users/{user_id}/devices``."""

    token = TextField(check=addresses.normalise_token, max_length=addresses.TOKEN_MAX_LENGTH)
    platform = PlatformField(check=_check_platform)
    app_id = TextField(
        check=profile.check_app_id, max_length=profile.APP_ID_MAX_LENGTH, allow_blank=True, default="",
        help_text="Bundle id, package name or origin of the app.",
    )  # fmt: skip


class DeviceTokenSerializer(StrictSerializer):
    """``DELETE /v1/users/{user_id}/devices``."""

    token = TextField(check=addresses.normalise_token, max_length=addresses.TOKEN_MAX_LENGTH)


class DeviceSerializer(serializers.Serializer[Any]):
    """A device as shown: token masked."""

    id = serializers.IntegerField()
    platform = serializers.ChoiceField(choices=Platform.choices)
    app_id = serializers.CharField(allow_blank=True)
    token = serializers.CharField(help_text="Masked.")
    registered_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField()


class DeviceListSerializer(serializers.Serializer[Any]):
    """The active devices of a recipient."""

    devices = DeviceSerializer(many=True)


def present_recipient(recipient: Recipient) -> dict[str, Any]:
    """The body of ``RecipientSerializer``."""
    return {
        "user_id": recipient.user_id,
        "email": selectors.mask_contact(recipient, Channel.EMAIL),
        "phone": selectors.mask_contact(recipient, Channel.SMS),
        "locale": recipient.locale,
        "time_zone": recipient.time_zone,
        "attributes": recipient.attributes,
        "created_at": recipient.created_at,
        "updated_at": recipient.updated_at,
    }


def present_device(device: Device, user_id: str) -> dict[str, Any]:
    """The body of ``DeviceSerializer``."""
    return {
        "id": device.pk,
        "platform": device.platform,
        "app_id": device.app_id,
        "token": selectors.mask_token(device, user_id),
        "registered_at": device.registered_at,
        "last_seen_at": device.last_seen_at,
    }

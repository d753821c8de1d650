"""Forms of the admin. A stored address is never put into a form; a new one is typed over it.

Form classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

from collections.abc import Callable
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from apps.channels import Channel
from apps.preferences import addresses, cipher, ledger, profile
from apps.preferences.models import Device, Recipient, Suppression

_WIDE = forms.TextInput(attrs={"size": 40, "autocomplete": "off"})


def _validator(check: Callable[[str], object]) -> Callable[[str], None]:
    """``check`` (raises ``ValueError`` with a text for people) as a validator of Django's."""

    def validate(value: str) -> None:
        try:
            check(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    return validate


class RecipientForm(forms.ModelForm):  # type: ignore[type-arg]
    """A recipient's profile and global opt-out."""

    new_email = forms.CharField(
        required=False,
        max_length=320,
        label="New e-mail",
        widget=_WIDE,
        validators=[_validator(addresses.normalise_email)],
        help_text="Blank keeps the stored address.",
    )
    remove_email = forms.BooleanField(required=False, label="Remove the e-mail")
    new_phone = forms.CharField(
        required=False,
        max_length=40,
        label="New phone",
        widget=_WIDE,
        validators=[_validator(addresses.normalise_phone)],
        help_text="E.164, such as +15005550006. Blank keeps the stored number.",
    )
    remove_phone = forms.BooleanField(required=False, label="Remove the phone")
    user_id = forms.CharField(
        max_length=profile.USER_ID_MAX_LENGTH, strip=False, validators=[_validator(profile.check_user_id)]
    )
    locale = forms.CharField(
        required=False,
        max_length=profile.LOCALE_MAX_LENGTH,
        validators=[_validator(profile.check_locale)],
        help_text="BCP 47 language tag such as en-US; blank if not known.",
    )
    time_zone = forms.CharField(
        required=False,
        max_length=profile.TIME_ZONE_MAX_LENGTH,
        validators=[_validator(profile.check_time_zone)],
        help_text="IANA name such as Europe/Berlin; blank if not known.",
    )

    class Meta:
        model = Recipient
        fields = ("user_id", "is_opted_out", "locale", "time_zone", "attributes")

    def clean_attributes(self) -> dict[str, Any]:
        try:
            return profile.check_attributes(self.cleaned_data["attributes"] or {})
        except profile.InvalidValue as error:
            raise ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        for name in ("email", "phone"):
            if cleaned.get(f"remove_{name}") and cleaned.get(f"new_{name}"):
                self.add_error(f"remove_{name}", "Either enter a new value or remove it.")
        return cleaned


class DeviceForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new device, or a new token for a known one; what the app itself reports is not edited by hand."""

    new_token = forms.CharField(
        required=False,
        max_length=addresses.TOKEN_MAX_LENGTH,
        strip=False,
        label="New token",
        widget=forms.TextInput(attrs={"size": 30, "autocomplete": "off"}),
        validators=[_validator(addresses.normalise_token)],
    )
    app_id = forms.CharField(
        required=False, max_length=profile.APP_ID_MAX_LENGTH, validators=[_validator(profile.check_app_id)]
    )

    class Meta:
        model = Device
        fields = ("platform", "app_id")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.fields["platform"].disabled = self.fields["app_id"].disabled = True
        else:
            self.fields["new_token"].required = True


class SuppressionForm(forms.ModelForm):  # type: ignore[type-arg]
    """An address an admin wants suppressed."""

    address = forms.CharField(
        max_length=addresses.TOKEN_MAX_LENGTH,
        strip=False,
        widget=_WIDE,
        help_text="The full e-mail address, phone number (E.164) or device token. It is stored as a keyed hash only.",
    )

    class Meta:
        model = Suppression
        fields = ("channel", "reason", "evidence")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Both stay readable: no address in them.
        for name, check in (("reason", ledger.check_reason), ("evidence", ledger.check_note)):
            if name in self.fields:  # not on the page of an entry, which only shows it
                self.fields[name].validators.append(_validator(check))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if "channel" in cleaned and "address" in cleaned:
            kind = addresses.KIND_OF_CHANNEL[Channel(cleaned["channel"])]
            try:
                cleaned["address_bi"] = cipher.blind_index(kind, cleaned["address"])
            except addresses.InvalidAddress as error:
                self.add_error("address", str(error))
        return cleaned

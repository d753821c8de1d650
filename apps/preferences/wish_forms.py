"""Forms of the admin for what recipients want and for the categories they choose from. They check and show; storing is
the services' work.

Form classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

from datetime import timedelta
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from apps.channels import Channel
from apps.preferences import categories, profile, quiet_hours
from apps.preferences.models import Category, CategoryPreference, ChannelPreference, QuietHours
from apps.preferences.quiet_hours import Window

_WORDS: Final = {"": None, "on": True, "off": False}
_ON_OFF: Final = [("on", "on"), ("off", "off")]
_DAY_CHOICES: Final = [(name, name.capitalize()) for name in quiet_hours.DAYS]


class WordForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a row is about stays; only the word changes."""

    about: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.initial["word"] = "on" if self.instance.is_enabled else "off"
            for name in self.about:
                self.fields[name].disabled = True

    def clean_word(self) -> bool | None:
        return _WORDS[self.cleaned_data["word"]]


class ChannelPreferenceForm(WordForm):
    """One channel: on, off, or nothing said."""

    about = ("channel",)
    word = forms.ChoiceField(choices=[("", "nothing said"), *_ON_OFF], required=False)

    class Meta:
        model = ChannelPreference
        fields = ("channel",)


class ChannelPreferenceFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """A row for every channel, also for those nothing was said about.

    Such a row's channel is a field like any other and is sent back: should a preference come in through the API
    meanwhile, the rows no longer line up, and the clash must be an error and not the wrong channel's change."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stated = set(self.get_queryset().values_list("channel", flat=True))
        self.initial_extra = [{"channel": channel.value} for channel in Channel if channel not in stated]

    def words(self) -> dict[Channel, bool | None]:
        """What was changed."""
        return {
            Channel(form.cleaned_data["channel"]): form.cleaned_data["word"]
            for form in self.forms
            if form.has_changed()
        }


class CategoryPreferenceForm(WordForm):
    """One category on one channel: on or off; without a row nothing is said."""

    about = ("category", "channel")
    word = forms.ChoiceField(choices=_ON_OFF)

    class Meta:
        model = CategoryPreference
        fields = ("category", "channel")


class CategoryPreferenceFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """What was said about categories."""

    def words(self) -> dict[str, dict[Channel, bool | None]]:
        """What was changed; a deleted row takes the word back."""
        words: dict[str, dict[Channel, bool | None]] = {}
        for form in self.forms:
            values = form.cleaned_data
            if form.has_changed() and "word" in values:
                channel, word = Channel(values["channel"]), values["word"]
                words.setdefault(values["category"].key, {})[channel] = None if values.get("DELETE") else word
        return words


class TimeOfDayField(forms.CharField):
    """``HH:MM`` as a minute of the day."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=5, widget=forms.TextInput(attrs={"size": 5, "placeholder": "22:00"}), **kwargs)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        try:
            return quiet_hours.parse_minute(text)
        except profile.InvalidValue as error:
            raise ValidationError(str(error)) from None


class QuietHoursForm(forms.ModelForm):  # type: ignore[type-arg]
    """One window, on the recipient's clock."""

    on_days = forms.MultipleChoiceField(
        choices=_DAY_CHOICES, widget=forms.CheckboxSelectMultiple, initial=quiet_hours.DAYS, label="starts on"
    )
    start = TimeOfDayField()
    end = TimeOfDayField(help_text="Before start: on the next day. 24:00 is the day's end.")

    class Meta:
        model = QuietHours
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            window = self.instance.window
            self.initial["on_days"] = quiet_hours.day_names(window.days)
            self.initial["start"] = quiet_hours.format_minute(window.start_minute)
            self.initial["end"] = quiet_hours.format_minute(window.end_minute)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not {"on_days", "start", "end"} <= cleaned.keys():
            return cleaned
        window = Window(quiet_hours.days_mask(cleaned["on_days"]), cleaned["start"], cleaned["end"])
        _check([window])
        # What the history says about the row is made from the instance.
        row = self.instance
        row.days, row.start_minute, row.end_minute = window.days, window.start_minute, window.end_minute
        return {**cleaned, "window": window}


class QuietHoursFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """All windows of a recipient."""

    def windows(self) -> list[Window]:
        """The windows there shall be."""
        rows = [form.cleaned_data for form in self.forms if hasattr(form, "cleaned_data")]
        return [row["window"] for row in rows if "window" in row and not row.get("DELETE")]

    def clean(self) -> None:
        super().clean()
        if not any(self.errors):
            _check(self.windows())


def _check(windows: list[Window]) -> None:
    try:
        quiet_hours.check_windows(windows)
    except profile.InvalidValue as error:
        raise ValidationError(str(error)) from None


class CategoryForm(forms.ModelForm):  # type: ignore[type-arg]
    """A category's rules."""

    key = forms.CharField(
        max_length=categories.KEY_MAX_LENGTH,
        validators=[RegexValidator(categories.KEY_PATTERN, "Use lower-case letters, digits, '_', '.' and '-'.")],
        help_text="What a notification's category says. It never changes.",
    )

    class Meta:
        model = Category
        fields = (
            "key", "name", "description", "kind", "is_active", "push_default", "sms_default", "email_default",
            "quiet_hours", "cap_limit", "cap_period_s", "cap_rule", "retries_unknown",
        )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        limit, period_s = cleaned.get("cap_limit"), cleaned.get("cap_period_s")
        if (limit is None) is not (period_s is None):
            self.add_error("cap_limit", "A cap needs both a number of messages and a period.")
        elif limit is not None and not 1 <= limit <= categories.CAP_MAX:
            self.add_error("cap_limit", f"Enter 1 to {categories.CAP_MAX:,} messages.")
        elif period_s is not None:
            period = timedelta(seconds=period_s)
            if not categories.CAP_MIN_PERIOD <= period <= categories.CAP_MAX_PERIOD:
                self.add_error("cap_period_s", "Enter a minute (60) to 31 days (2678400).")
        if self.instance.pk is not None and not self.instance.key and not cleaned.get("is_active"):
            self.add_error("is_active", "The default category is what is sent without one: it cannot be retired.")
        return cleaned

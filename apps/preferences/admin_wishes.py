"""What recipients want, within their page of the admin, and the categories they choose from.

Admin classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

from functools import partial
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from apps.channels import Channel
from apps.preferences import services
from apps.preferences.catalogue import forget_categories
from apps.preferences.models import Category, CategoryPreference, ChannelPreference, QuietHours
from apps.preferences.wish_forms import (
    CategoryForm,
    CategoryPreferenceForm,
    CategoryPreferenceFormSet,
    ChannelPreferenceForm,
    ChannelPreferenceFormSet,
    QuietHoursForm,
    QuietHoursFormSet,
)


class ChannelPreferenceInline(admin.TabularInline):  # type: ignore[type-arg]
    """One row a channel."""

    model = ChannelPreference
    form = ChannelPreferenceForm
    formset = ChannelPreferenceFormSet
    fields = ("channel", "word")
    extra = max_num = len(Channel)
    can_delete = False


class CategoryPreferenceInline(admin.TabularInline):  # type: ignore[type-arg]
    """One row for each category and channel something was said about; it goes before the channel's."""

    model = CategoryPreference
    form = CategoryPreferenceForm
    formset = CategoryPreferenceFormSet
    fields = ("category", "channel", "word")
    ordering = ("category__key", "channel")
    extra = 0


class QuietHoursInline(admin.TabularInline):  # type: ignore[type-arg]
    """The windows in which the recipient is not to be disturbed."""

    model = QuietHours
    form = QuietHoursForm
    formset = QuietHoursFormSet
    fields = ("on_days", "start", "end")
    ordering = ("days", "start_minute")
    extra = 0


WISH_INLINES = (ChannelPreferenceInline, CategoryPreferenceInline, QuietHoursInline)


def save_wishes(user_id: str, formset: Any) -> bool:
    """Store the words of one of these inlines' formsets; ``False`` if it is not one of them."""
    match formset:
        case ChannelPreferenceFormSet():
            services.update_preferences(user_id=user_id, channels=formset.words())
        case CategoryPreferenceFormSet():
            services.update_preferences(user_id=user_id, categories=formset.words())
        case QuietHoursFormSet():
            services.update_preferences(user_id=user_id, quiet_hours=formset.windows())
        case _:
            return False
    return True


@admin.register(Category)
class CategoryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Categories are added, edited and retired, never deleted: what people said about them refers to them."""

    form = CategoryForm
    list_display = ("__str__", "name", "kind", "is_active", "quiet_hours", "cap")
    list_filter = ("kind", "is_active")
    ordering = ("key",)
    fieldsets = (
        (None, {"fields": ("key", "name", "description", "kind", "is_active")}),
        ("For who has not said anything", {"fields": ("push_default", "sms_default", "email_default")}),
        ("Restraint", {
            "fields": ("quiet_hours", "cap_limit", "cap_period_s", "cap_rule"),
            "description": "A critical category passes quiet hours and caps, and no opt-out.",
        }),
        ("Delivery", {"fields": ("retries_unknown",)}),
    )  # fmt: skip

    @admin.display
    def cap(self, category: Category) -> str:
        return f"{category.cap_limit} in {category.cap_period_s} s" if category.cap_limit else "–"

    def get_readonly_fields(self, request: HttpRequest, obj: Category | None = None) -> tuple[str, ...]:
        return () if obj is None else ("key",)

    def has_delete_permission(self, request: HttpRequest, obj: Category | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Category, form: Any, change: bool) -> None:
        obj.updated_at = timezone.now()
        super().save_model(request, obj, form, change)
        transaction.on_commit(partial(forget_categories), robust=True)

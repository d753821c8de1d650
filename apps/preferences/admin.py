"""Recipients and suppressions in Django admin. Addresses are masked, writes go through the services, and whatever is
done here is in the object's history.

Admin and form classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

import re
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from apps.channels import Channel
from apps.preferences import addresses, cipher, selectors, services
from apps.preferences.admin_import import ImportMixin
from apps.preferences.admin_reveal import ReasonForm, RevealMixin
from apps.preferences.admin_wishes import WISH_INLINES, save_wishes
from apps.preferences.forms import (
    DeviceForm,
    RecipientForm,
    SuppressionForm,
)
from apps.preferences.locks import lock_together
from apps.preferences.models import Device, Recipient, Suppression
from apps.preferences.services import UNCHANGED

_TOKEN_FIELD = re.compile(r"devices-[0-9]+-new_token")


class DeviceInline(admin.TabularInline):  # type: ignore[type-arg]
    """Push tokens, active and not."""

    model = Device
    form = DeviceForm
    fields = (
        "masked_token", "platform", "app_id", "new_token", "registered_at", "last_seen_at", "deactivated_at",
        "deactivated_reason",
    )  # fmt: skip
    readonly_fields = ("masked_token", "registered_at", "last_seen_at", "deactivated_at", "deactivated_reason")
    ordering = ("-registered_at",)
    extra = 0

    @admin.display(description="token")
    def masked_token(self, device: Device) -> str:
        return selectors.mask_token(device, device.recipient.user_id) if device.pk else ""


@admin.register(Recipient)
class RecipientAdmin(RevealMixin, ImportMixin):
    """Recipients, found by id or by full address."""

    form = RecipientForm
    inlines = (*WISH_INLINES, DeviceInline)
    list_display = ("user_id", "email", "phone", "state", "time_zone", "updated_at")
    list_filter = ("is_opted_out", ("erased_at", admin.EmptyFieldListFilter))
    list_per_page = 50
    show_full_result_count = False
    ordering = ("-id",)
    search_fields = ("user_id",)
    search_help_text = "Beginning of a user id, or a full e-mail address or phone number (+15005550006)"
    actions = ("erase",)
    readonly_fields = ("email", "phone", "suppressed", "created_at", "updated_at", "erased_at")
    fieldsets = (
        (None, {"fields": ("user_id", "is_opted_out")}),
        ("Contact points", {"fields": (
            ("email", "new_email", "remove_email"), ("phone", "new_phone", "remove_phone"), "suppressed",
        )}),
        ("Profile", {"fields": ("locale", "time_zone", "attributes")}),
        ("Record", {"fields": ("created_at", "updated_at", "erased_at")}),
    )  # fmt: skip

    @admin.display
    def state(self, recipient: Recipient) -> str:
        return "erased" if recipient.erased_at else "opted out" if recipient.is_opted_out else "active"

    @admin.display(description="e-mail")
    def email(self, recipient: Recipient) -> str:
        return selectors.mask_contact(recipient, Channel.EMAIL) or "–"

    @admin.display
    def phone(self, recipient: Recipient) -> str:
        return selectors.mask_contact(recipient, Channel.SMS) or "–"

    @admin.display(description="suppressed on")
    def suppressed(self, recipient: Recipient) -> str:
        if recipient.pk is None:
            return "–"
        snapshot = selectors.load_snapshots({recipient.user_id: recipient.version})[recipient.user_id]
        return ", ".join(channel.label for channel in sorted(snapshot.suppressed_channels)) or "–"

    def get_readonly_fields(self, request: HttpRequest, obj: Recipient | None = None) -> tuple[str, ...]:
        return self.readonly_fields if obj is None else ("user_id", *self.readonly_fields)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Recipient], search_term: str
    ) -> tuple[QuerySet[Recipient], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        matches = Q(user_id__startswith=term)
        for kind, column in ((addresses.EMAIL, "email_bi"), (addresses.PHONE, "phone_bi")):
            try:
                matches |= Q(**{column: cipher.blind_index(kind, term)})
            except addresses.InvalidAddress:
                continue
        return queryset.filter(matches), False

    def has_change_permission(self, request: HttpRequest, obj: Recipient | None = None) -> bool:
        return (obj is None or obj.erased_at is None) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Recipient | None = None) -> bool:
        return False  # erase instead: the tombstone keeps the opt-outs

    def has_erase_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("preferences.delete_recipient")

    def save_model(self, request: HttpRequest, obj: Recipient, form: Any, change: bool) -> None:
        values = form.cleaned_data
        # The page is one transaction: the devices' tokens cannot wait until the recipient is locked.
        lock_together(
            obj.user_id,
            *(cipher.blind_index(addresses.TOKEN, token) for token in _posted_tokens(request)),
            *(
                cipher.blind_index(kind, values[name])
                for name, kind in (("new_email", addresses.EMAIL), ("new_phone", addresses.PHONE))
                if values[name]
            ),
        )
        recipient, _ = services.upsert_recipient(
            user_id=obj.user_id,
            email=None if values["remove_email"] else values["new_email"] or UNCHANGED,
            phone=None if values["remove_phone"] else values["new_phone"] or UNCHANGED,
            locale=values["locale"],
            time_zone=values["time_zone"],
            attributes=values["attributes"],
        )
        services.update_preferences(user_id=obj.user_id, is_opted_out=values["is_opted_out"])
        obj.pk = recipient.pk
        obj.refresh_from_db()

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        rows = formset.save(commit=False)  # fills what the history is written from
        user_id = form.instance.user_id
        if save_wishes(user_id, formset):
            return
        for device in formset.deleted_objects:
            services.remove_device(user_id=user_id, device_id=device.pk)
        for device_form in formset.forms:
            if device_form.instance in rows:
                self._save_device(user_id, device_form)

    def _save_device(self, user_id: str, form: Any) -> None:
        replaced, token = form.instance.pk, form.cleaned_data["new_token"]
        device, _ = services.register_device(
            user_id=user_id, token=token, platform=form.instance.platform, app_id=form.instance.app_id
        )
        if replaced is not None and replaced != device.pk:
            services.remove_device(user_id=user_id, device_id=replaced)

    @admin.action(description="Erase selected recipients…", permissions=["erase"])
    def erase(self, request: HttpRequest, queryset: QuerySet[Recipient]) -> HttpResponse | None:
        recipients = queryset.filter(erased_at=None)
        if "confirmed" not in request.POST:
            context = {
                **self.admin_site.each_context(request),
                "title": "Erase recipients?",
                "recipients": recipients,
                "opts": self.opts,
                "action_checkbox_name": ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/preferences/erase_recipients.html", context)
        erased = list(recipients)
        for recipient in erased:
            services.erase_recipient(user_id=recipient.user_id)
            self.log_change(request, recipient, "Erased.")
        self.message_user(request, f"Erased {len(erased)} recipients.", messages.SUCCESS)
        return HttpResponseRedirect(request.get_full_path())


@admin.register(Suppression)
class SuppressionAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The ledger of addresses not to be used: entries are added and lifted, never edited or deleted."""

    form = SuppressionForm
    list_display = ("id", "channel", "source", "reason", "created_at", "lifted_at")
    list_filter = ("channel", ("lifted_at", admin.EmptyFieldListFilter))
    list_per_page = 50
    show_full_result_count = False
    ordering = ("-id",)
    search_fields = ("id",)
    search_help_text = "The full e-mail address, phone number (+15005550006) or device token"
    actions = ("lift",)

    def get_fields(self, request: HttpRequest, obj: Suppression | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("channel", "address", "reason", "evidence")
        return (
            "channel", "source", "reason", "evidence", "added_by", "created_at",
            "lifted_at", "lifted_by", "lift_reason",
        )  # fmt: skip

    def has_change_permission(self, request: HttpRequest, obj: Suppression | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Suppression | None = None) -> bool:
        return False

    def has_lift_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("preferences.change_suppression")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Suppression], search_term: str
    ) -> tuple[QuerySet[Suppression], bool]:
        if not search_term.strip():
            return queryset, False
        indexes = []
        for kind in addresses.KIND_OF_CHANNEL.values():
            try:
                indexes.append(cipher.blind_index(kind, search_term))
            except addresses.InvalidAddress:
                continue
        return queryset.filter(address_bi__in=indexes), False

    def save_model(self, request: HttpRequest, obj: Suppression, form: Any, change: bool) -> None:
        values = form.cleaned_data
        services.suppress_blind_index(
            channel=Channel(values["channel"]),
            address_bi=values["address_bi"],
            source="admin",
            reason=values["reason"],
            evidence=values["evidence"],
            added_by=_name_admin(request),
        )
        stored = Suppression.objects.get(channel=values["channel"], address_bi=values["address_bi"], lifted_at=None)
        obj.pk = stored.pk
        obj.refresh_from_db()

    @admin.action(description="Lift selected suppressions…", permissions=["lift"])
    def lift(self, request: HttpRequest, queryset: QuerySet[Suppression]) -> HttpResponse | None:
        form = ReasonForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "title": "Lift suppressions?",
                "suppressions": queryset.filter(lifted_at=None),
                "opts": self.opts,
                "form": form,
                "action_checkbox_name": ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/preferences/suppression/lift.html", context)
        reason, by = form.cleaned_data["reason"], _name_admin(request)
        rows = list(queryset)
        lifted = [row for row in rows if services.lift_suppression(suppression_id=row.pk, reason=reason, lifted_by=by)]
        for suppression in lifted:
            self.log_change(request, suppression, f"Lifted: {reason}")
        self.message_user(request, f"Lifted {len(lifted)} suppressions.", messages.SUCCESS)
        return None


def _posted_tokens(request: HttpRequest) -> list[str]:
    tokens = [request.POST.get(name, "") for name in request.POST if _TOKEN_FIELD.fullmatch(name)]
    return [token for token in tokens if token.strip()]


def _name_admin(request: HttpRequest) -> str:
    return f"admin {request.user.get_username()}"

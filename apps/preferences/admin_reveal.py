"""The page that shows a recipient's addresses in clear, to those who may and for a reason that is kept.

Admin classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from apps.channels import Channel
from apps.preferences import ledger, selectors
from apps.preferences.cipher import CipherError
from apps.preferences.models import Device, Recipient

UNREADABLE = "cannot be decrypted"


class ReasonForm(forms.Form):
    """Why somebody does what is recorded."""

    reason = forms.CharField(
        max_length=200,
        widget=forms.TextInput(attrs={"size": 60, "autocomplete": "off", "autofocus": True}),
        help_text="It is kept: a ticket's number, for example. Nothing personal.",
    )

    def clean_reason(self) -> str:
        try:
            return ledger.check_note(self.cleaned_data["reason"])
        except ValueError as error:
            raise ValidationError(str(error)) from None


class RevealMixin(admin.ModelAdmin):  # type: ignore[type-arg]
    """``…/<id>/reveal/``: GET asks for the reason, POST records it and shows the values. Needs the permission
    ``preferences.reveal_recipient`` besides that to view."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.reveal_view)  # which also forbids caching
        return [path("<path:object_id>/reveal/", view, name="preferences_recipient_reveal"), *super().get_urls()]

    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        recipient = self.get_object(request, unquote(object_id))
        if not request.user.has_perm("preferences.reveal_recipient") or not self.has_view_permission(
            request, recipient
        ):
            raise PermissionDenied
        if recipient is None or recipient.erased_at is not None:
            raise Http404
        form = ReasonForm(request.POST or None)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": f"Reveal {recipient.user_id}",
            "opts": self.opts,
            "recipient": recipient,
            "form": form,
            "media": self.media + form.media,
        }
        if request.method == "POST" and form.is_valid():
            self.log_change(request, recipient, f"Revealed contact points and tokens: {form.cleaned_data['reason']}")
            context["values"] = reveal_values(recipient)
        return TemplateResponse(request, "admin/preferences/recipient/reveal.html", context)


def reveal_values(recipient: Recipient) -> list[tuple[str, str]]:
    """Names and values of everything that is masked elsewhere."""
    values = []
    for name, channel in (("E-mail", Channel.EMAIL), ("Phone", Channel.SMS)):
        try:
            values.append((name, selectors.reveal_contact(recipient, channel) or "–"))
        except CipherError:
            values.append((name, UNREADABLE))
    for device in Device.objects.filter(recipient=recipient).order_by("pk"):
        state = ", switched off" if device.deactivated_at else ""
        try:
            token = selectors.reveal_token(device, recipient.user_id)
        except CipherError:
            token = UNREADABLE
        values.append((f"Token ({device.get_platform_display()}{state})", token))
    return values

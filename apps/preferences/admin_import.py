"""The page that imports recipients from a small file: choose, look at a preview, confirm.

Between preview and confirmation the file waits in the cache, encrypted and for the same person only.

Admin classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

import secrets
from typing import Any, Final, cast

from django import forms
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from redis.exceptions import RedisError

from apps.preferences import cipher
from apps.preferences.import_formats import Format, InvalidFile
from apps.preferences.import_preview import MAX_BYTES, Report, import_content, preview_import

KEPT_S: Final = 900
_CACHE_AWAY: Final = "The cache does not answer, and the file is kept there until you confirm. Try again."


class UploadForm(forms.Form):
    """The file."""

    file = forms.FileField(
        widget=forms.ClearableFileInput(attrs={"accept": ".csv,.ndjson,.jsonl"}),
        help_text=f"CSV with a header, or NDJSON; UTF-8, at most {MAX_BYTES // 1024**2} MiB. "
        "Larger files: manage.py import_recipients.",
    )
    format = forms.ChoiceField(
        required=False, choices=[("", "by its name"), (Format.CSV, "CSV"), (Format.NDJSON, "NDJSON")]
    )

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        if file.size > MAX_BYTES:
            raise ValidationError(f"The file is larger than {MAX_BYTES // 1024**2} MiB.")
        return file

    def find_format(self) -> Format:
        """The format chosen, or that of the file's name."""
        chosen = self.cleaned_data["format"]
        if chosen:
            return Format(chosen)
        return Format.CSV if self.cleaned_data["file"].name.lower().endswith(".csv") else Format.NDJSON


class ConfirmForm(forms.Form):
    """The file looked at before."""

    ticket = forms.CharField(max_length=64)
    format = forms.ChoiceField(choices=[(Format.CSV, "CSV"), (Format.NDJSON, "NDJSON")])


class ImportMixin(admin.ModelAdmin):  # type: ignore[type-arg]
    """``…/import/``. Needs ``preferences.import_recipient``, and the permissions to add and to change recipients."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.import_view)
        return [path("import/", view, name="preferences_recipient_import"), *super().get_urls()]

    def has_import_permission(self, request: HttpRequest) -> bool:
        may_write = self.has_add_permission(request) and self.has_change_permission(request)
        return may_write and request.user.has_perm("preferences.import_recipient")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        extra = {**(extra_context or {}), "has_import_permission": self.has_import_permission(request)}
        return super().changelist_view(request, extra)

    def import_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_import_permission(request):
            raise PermissionDenied
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": "Import recipients",
            "opts": self.opts,
            "media": self.media,
        }
        if request.method == "POST" and "ticket" in request.POST:
            context |= self._confirm(request)
        elif request.method == "POST":
            context |= self._preview(request)
        else:
            context["form"] = UploadForm()
        return TemplateResponse(request, "admin/preferences/recipient/import.html", context)

    def _preview(self, request: HttpRequest) -> dict[str, Any]:
        form = UploadForm(request.POST, request.FILES)
        if not form.is_valid():
            return {"form": form}
        content, format_ = form.cleaned_data["file"].read(), form.find_format()
        try:
            preview = preview_import(content, format_)
            ticket = _keep(request, content)
        except InvalidFile as error:
            form.add_error("file", str(error))
        except (RedisError, OSError):
            form.add_error(None, _CACHE_AWAY)
        else:
            return {
                "preview": preview,
                "ticket": ticket,
                "format": format_.value,
                "name": form.cleaned_data["file"].name,
            }
        return {"form": form}

    def _confirm(self, request: HttpRequest) -> dict[str, Any]:
        form = ConfirmForm(request.POST)
        content = _take(request, form.cleaned_data["ticket"]) if form.is_valid() else None
        if content is None:
            return {"form": UploadForm(), "error": "The file is no longer there. Choose it again."}
        try:
            report = import_content(content, Format(form.cleaned_data["format"]))
        except InvalidFile as error:
            return {"form": UploadForm(), "error": str(error)}
        except OperationalError:
            return {"form": UploadForm(), "error": "The database did not answer. Import the file again."}
        _log_import(request, self.model, report)
        return {"report": report}


def _log_import(request: HttpRequest, model: Any, report: Report) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in report.outcomes.items()) or "nothing"
    LogEntry.objects.create(
        user_id=cast(int, request.user.pk),
        content_type=ContentType.objects.get_for_model(model),
        object_repr="Import",
        action_flag=CHANGE,
        change_message=f"Imported: {counts}, {report.rejected} lines rejected.",
    )


def _aad(request: HttpRequest, ticket: str) -> str:
    return f"admin_import|{ticket}|{request.user.pk}"


def _keep(request: HttpRequest, content: bytes) -> str:
    ticket = secrets.token_urlsafe(24)
    cache.set(f"admin-import:{ticket}", cipher.encrypt(content, _aad(request, ticket)), KEPT_S)
    return ticket


def _take(request: HttpRequest, ticket: str) -> bytes | None:
    """The file, once."""
    key = f"admin-import:{ticket}"
    try:
        blob = cache.get(key)
        if blob is None:
            return None
        content = cipher.decrypt(blob, _aad(request, ticket))
        cache.delete(key)
    except (RedisError, OSError, cipher.CipherError):
        return None
    return content

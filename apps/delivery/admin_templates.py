"""Templates in the admin: a page to write the next version, look at what it says on every channel, and switch versions.
Shared templates, those of no client, are made here alone."""

import json
from typing import Any

import msgspec
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Max, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from apps.channels import Channel
from apps.clients.models import Client
from apps.delivery.api.requests import to_field_error
from apps.delivery.templating import selectors, services
from apps.delivery.templating.drafts import VersionBody, find_faults, to_version
from apps.delivery.templating.limits import TEXTS_MAX
from apps.delivery.templating.models import Template, TemplateVersion
from apps.delivery.templating.previews import Preview, missing_locales, preview
from apps.delivery.templating.resolving import NAME_PATTERN
from apps.preferences.profile import InvalidValue, check_locale
from apps.problems import FieldError, Problem

_BLANK_TEXTS = 1
# What a mail client shows: no scripts, nothing that is sent anywhere, pictures yes.
_MAIL_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src https: data:\">"
)


class HeadForm(forms.Form):
    """What of a template never changes."""

    name = forms.RegexField(rf"^{NAME_PATTERN}\Z", max_length=64, help_text="Lower-case letters, digits, _ . and -")
    client = forms.ModelChoiceField(Client.objects.order_by("name"), required=False, empty_label="everybody (shared)")
    default_locale = forms.CharField(
        max_length=35, initial="en", help_text="Whose words people get who have none of their own."
    )
    description = forms.CharField(max_length=500, required=False)

    def clean_default_locale(self) -> str:
        """The tag in its usual case."""
        try:
            return check_locale(self.cleaned_data["default_locale"])
        except InvalidValue as error:
            raise forms.ValidationError(str(error)) from None


class VersionForm(forms.Form):
    """The variables of a version, and with what to preview it."""

    variables = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 8, "cols": 100, "spellcheck": "false"}),
        required=False,
        help_text='As JSON: {"name": {"type": "string", "max_length": 80, "example": "Ann"}}. Types: string, number, '
        "integer, boolean, date, datetime, url, list, object.",
    )
    context = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 4, "cols": 100, "spellcheck": "false"}),
        required=False,
        label="Sample context",
        help_text="For the preview only, as JSON; left empty, examples and defaults are shown.",
    )
    locale = forms.CharField(
        max_length=35, required=False, label="Preview for", help_text="A person's locale, e.g. de-AT."
    )
    is_active = forms.BooleanField(required=False, initial=True, label="Active at once")

    def clean_variables(self) -> dict[str, Any]:
        """The declarations as an object."""
        return _read_object(self.cleaned_data["variables"]) or {}

    def clean_context(self) -> dict[str, Any] | None:
        """The context, ``None`` for samples."""
        return _read_object(self.cleaned_data["context"])

    def clean_locale(self) -> str:
        """The tag in its usual case."""
        try:
            return check_locale(self.cleaned_data["locale"])
        except InvalidValue as error:
            raise forms.ValidationError(str(error)) from None


class TextForm(forms.Form):
    """The words on one channel in one locale. Without any words it counts as none."""

    channel = forms.ChoiceField(choices=[(channel.label, channel.label) for channel in Channel])
    locale = forms.CharField(max_length=35, initial="en")
    title = forms.CharField(
        required=False, strip=False, widget=forms.TextInput(attrs={"size": 100}), label="Title or subject"
    )
    body = forms.CharField(
        required=False, strip=False, widget=forms.Textarea(attrs={"rows": 4, "cols": 100}), label="Text"
    )
    html = forms.CharField(
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 8, "cols": 100, "spellcheck": "false"}),
        label="HTML (e-mail only)",
    )

    def clean(self) -> dict[str, Any]:
        """Lines end as they were written: a browser sends each end as two characters."""
        return {name: value.replace("\r\n", "\n") for name, value in self.cleaned_data.items()}

    @property
    def is_blank(self) -> bool:
        return not any(self.cleaned_data.get(name) for name in ("title", "body", "html"))


TextFormSet = forms.formset_factory(TextForm, extra=_BLANK_TEXTS, max_num=TEXTS_MAX, absolute_max=TEXTS_MAX + 1)


def _read_object(text: str) -> dict[str, Any] | None:
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise forms.ValidationError(f"This is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise forms.ValidationError('Enter a JSON object: {"name": …}.')
    return value


class _Editor:
    """One request to the page: its forms, bound or filled from ``based_on``, and what is to be shown below them."""

    def __init__(self, request: HttpRequest, template: Template | None, based_on: TemplateVersion | None) -> None:
        data = _posted(request) if request.method == "POST" else None
        self._template = template
        self.head = None if template else HeadForm(data, prefix="head")
        self.version = VersionForm(data, prefix="version", initial=_initial_version(based_on))
        self.texts = TextFormSet(data, prefix="texts", initial=_initial_texts(based_on))
        self.previews: list[Preview] = []
        self.missing: dict[str, list[str]] = {}

    @property
    def default_locale(self) -> str:
        if self._template is not None:
            return self._template.default_locale
        return str(self.head.cleaned_data["default_locale"]) if self.head else "en"

    def read(self) -> VersionBody | None:
        """The version that was written; ``None`` if anything is wrong with it, which the forms then say."""
        forms_are_valid = [form.is_valid() for form in (self.head, self.version, self.texts) if form is not None]
        if not all(forms_are_valid):
            return None
        written = [form for form in self.texts.forms if not form.is_blank]
        raw = {"variables": self.version.cleaned_data["variables"], "texts": [form.cleaned_data for form in written]}
        try:
            body = msgspec.convert(raw, VersionBody, strict=True)
        except msgspec.ValidationError as error:
            self._show([to_field_error(str(error))], written)
            return None
        faults = find_faults(body, self.default_locale)
        self._show(faults, written)
        return None if faults else body

    def show_previews(self, body: VersionBody) -> None:
        """What the version says, for the page."""
        version = to_version(body, self.default_locale)
        locale = self.version.cleaned_data["locale"] or version.default_locale
        try:
            self.previews = preview(version, self.version.cleaned_data["context"], locale, version.channels)
        except Problem as problem:
            for error in problem.errors:
                self.version.add_error("context", f"{error.pointer}: {error.detail}")
        self.missing = {channel.label: gaps for channel, gaps in missing_locales(version).items() if gaps}

    def _show(self, faults: list[FieldError], written: list[Any]) -> None:
        """Puts each fault to the field that it points at."""
        for fault in faults:
            steps = fault.pointer.split("/")[1:]
            if steps[:1] == ["texts"] and len(steps) >= 2:
                form = written[int(steps[1])]
                form.add_error(steps[2] if len(steps) > 2 and steps[2] in form.fields else None, fault.detail)
            elif steps[:1] == ["variables"]:
                self.version.add_error("variables", f"{'/'.join(steps[1:])}: {fault.detail}")
            else:
                self.version.add_error(None, fault.detail)


def _posted(request: HttpRequest) -> QueryDict:
    """What was sent, with room for more words if that was asked for."""
    count = request.POST.get("texts-TOTAL_FORMS", "")
    if "_more" not in request.POST or not count.isascii() or not count.isdigit() or int(count[:4]) >= TEXTS_MAX:
        return request.POST
    data = request.POST.copy()
    data["texts-TOTAL_FORMS"] = str(int(count) + 1)
    data[f"texts-{count}-channel"] = Channel.PUSH.label
    data[f"texts-{count}-locale"] = "en"
    return data


def _initial_version(based_on: TemplateVersion | None) -> dict[str, Any]:
    variables = based_on.variables if based_on else {"name": {"type": "string", "max_length": 80, "example": "Ann"}}
    return {"variables": json.dumps(variables, indent=2, ensure_ascii=False)}


def _initial_texts(based_on: TemplateVersion | None) -> list[dict[str, str]]:
    texts = sorted(based_on.texts.all(), key=lambda text: (text.channel, text.locale)) if based_on else []
    return [
        {
            "channel": Channel(text.channel).label,
            "locale": text.locale,
            "title": text.title,
            "body": text.body,
            "html": text.html,
        }
        for text in texts
    ]


@admin.register(Template)
class TemplateAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "owner", "default_locale", "active_version", "latest_version", "is_archived")
    list_filter = (("client", admin.RelatedOnlyFieldListFilter),)
    search_fields = ("name",)
    ordering = ("name", "client_id")
    list_select_related = ("client",)
    change_form_template = "admin/delivery/template/editor.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Template]:
        rows: QuerySet[Template] = super().get_queryset(request).annotate(latest=Max("versions__number"))
        return rows

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what was accepted with a version needs it

    @admin.display(description="client")
    def owner(self, row: Template) -> str:
        return row.client.name if row.client else "everybody"

    @admin.display(description="latest version")
    def latest_version(self, row: Any) -> int | None:
        latest: int | None = row.latest
        return latest

    @admin.display(boolean=True, description="archived")
    def is_archived(self, row: Template) -> bool:
        return row.archived_at is not None

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The editor instead of Django's form: saving makes the next version."""
        template = None if object_id is None else self.get_object(request, unquote(object_id))
        if object_id is not None and template is None:
            raise Http404
        self._check_permission(request, template)
        based_on = None if template is None else selectors.find_version(template, _chosen_number(request))
        editor = _Editor(request, template, based_on)
        if request.method == "POST":
            answer = self._act(request, template, editor)
            if answer is not None:
                return answer
        return self._page(request, template, based_on, editor)

    def _check_permission(self, request: HttpRequest, template: Template | None) -> None:
        may_write = self.has_change_permission(request) if template else self.has_add_permission(request)
        may_look = template is not None and request.method == "GET" and self.has_view_permission(request, template)
        if not (may_write or may_look):
            raise PermissionDenied

    def _act(self, request: HttpRequest, template: Template | None, editor: _Editor) -> HttpResponse | None:
        """What the button says; ``None`` to show the page again."""
        if template is not None and "_activate" in request.POST:
            return self._activate(request, template)
        if template is not None and "_archive" in request.POST:
            services.set_archived(template, template.archived_at is None)
            self.log_change(
                request, template, "Archived." if template.archived_at is None else "Taken out of the archive."
            )
            return _back_to(template)
        if "_more" in request.POST:
            return None
        body = editor.read()
        if body is None:
            return None
        if "_save" not in request.POST:
            editor.show_previews(body)
            return None
        return self._save(request, template, editor, body)

    def _activate(self, request: HttpRequest, template: Template) -> HttpResponse:
        wanted = request.POST["_activate"]
        try:
            services.activate(template, int(wanted) if wanted.isascii() and wanted.isdigit() else None)
        except Problem as problem:
            messages.error(request, str(problem.detail))
        else:
            self.log_change(request, template, f"Made version {wanted} the active one.")
            messages.success(request, f"From now on {template.name} means version {wanted}.")
        return _back_to(template)

    def _save(
        self, request: HttpRequest, template: Template | None, editor: _Editor, body: VersionBody
    ) -> HttpResponse | None:
        by, is_active = f"admin:{request.user}", bool(editor.version.cleaned_data["is_active"])
        try:
            if template is None:
                template = services.create_template(_new(editor), body, by=by, is_active=is_active)
                number = 1
                self.log_addition(request, template, "Made with version 1.")
            else:
                number = services.add_version(template, body, by=by, is_active=is_active).number
                self.log_change(request, template, f"Made version {number}.")
        except Problem as problem:
            editor.version.add_error(None, str(problem.detail))
            return None
        active = ", and is active" if is_active else "; it is not active yet"
        messages.success(request, format_html("Version {} of {} is there{}.", number, template.name, active))
        return _back_to(template)

    def _page(
        self, request: HttpRequest, template: Template | None, based_on: TemplateVersion | None, editor: _Editor
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Template {template.name}" if template else "Add template",
            "template": template,
            "versions": selectors.select_versions(template) if template else [],
            "based_on": based_on,
            "editor": editor,
            "may_write": self.has_change_permission(request, template)
            if template
            else self.has_add_permission(request),
            "previews": [(one, _MAIL_POLICY + one.html if one.html else "") for one in editor.previews],
        }
        return TemplateResponse(request, self.change_form_template, context)


def _chosen_number(request: HttpRequest) -> int | None:
    chosen = request.GET.get("version", "")
    return int(chosen) if chosen.isascii() and chosen.isdigit() and len(chosen) < 10 else None


def _new(editor: _Editor) -> services.NewTemplate:
    assert editor.head is not None
    head = editor.head.cleaned_data
    client = head["client"]
    return services.NewTemplate(
        client.pk if client else None, head["name"], head["default_locale"], head["description"]
    )


def _back_to(template: Template) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:delivery_template_change", args=[template.pk]))

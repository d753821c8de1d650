"""Clients and their keys in Django admin. Whatever is done here is in the object's history.

Admin and form classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from apps.clients import services
from apps.clients.keys import make_kid
from apps.clients.models import ApiKey, Client, JwtKey, RateTier
from apps.clients.scopes import Scope


class ClientForm(forms.ModelForm):  # type: ignore[type-arg]
    """A client's fields; the scopes as boxes to tick."""

    scopes = forms.MultipleChoiceField(choices=Scope.choices, widget=forms.CheckboxSelectMultiple, required=False)

    class Meta:
        model = Client
        fields = ["name", "is_active", "scopes", "tier", "weight"]


class NewApiKeyForm(forms.Form):
    """What an admin says about a new API key."""

    expires_at = forms.SplitDateTimeField(required=False, widget=AdminSplitDateTime, label="Expires at")


class ApiKeyInline(admin.TabularInline):  # type: ignore[type-arg]
    """A client's API keys, to be looked at."""

    model = ApiKey
    fields = readonly_fields = ("prefix", "created_at", "expires_at", "revoked_at", "last_used_at")
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class JwtKeyInline(admin.TabularInline):  # type: ignore[type-arg]
    """A client's JWT keys, to be looked at."""

    model = JwtKey
    fields = readonly_fields = ("kid", "algorithm", "issuer", "jwks_file", "created_at", "revoked_at")
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(RateTier)
class RateTierAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "requests_per_s", "burst", "is_unlimited"]


@admin.register(Client)
class ClientAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Clients. "New API key" shows the key once, on the page that answers the click, and nowhere else."""

    form = ClientForm
    list_display = ["name", "is_active", "tier", "scope_list", "weight", "created_at"]
    list_filter = ["is_active", "tier"]
    list_select_related = ["tier"]
    search_fields = ["name", "api_keys__prefix"]
    inlines = [ApiKeyInline, JwtKeyInline]

    @admin.display(description="scopes")
    def scope_list(self, client: Client) -> str:
        return ", ".join(client.scopes)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.new_api_key_view)  # which also forbids caching
        return [path("<path:object_id>/new-api-key/", view, name="clients_client_new_api_key"), *super().get_urls()]

    def new_api_key_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """GET asks for the expiry, POST makes the key and shows it."""
        client = self.get_object(request, unquote(object_id))
        if client is None:
            raise Http404
        if not self.has_change_permission(request, client):
            raise PermissionDenied
        form = NewApiKeyForm(request.POST or None)
        context = {
            **self.admin_site.each_context(request),
            "title": f"New API key for {client.name}",
            "opts": self.opts,
            "client": client,
            "form": form,
            "media": self.media + form.media,
        }
        if request.method == "POST" and form.is_valid():
            issued = services.issue_api_key(client=client, expires_at=form.cleaned_data["expires_at"])
            self.log_change(request, client, f"Made API key {issued.key.prefix}.")
            context["secret"] = issued.text
        return TemplateResponse(request, "admin/clients/client/new_api_key.html", context)


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """API keys by prefix; made on the client's page, revoked here."""

    list_display = ["prefix", "client", "created_at", "expires_at", "revoked_at", "last_used_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter), "client"]
    list_select_related = ["client"]
    search_fields = ["prefix", "client__name"]
    fields = readonly_fields = ("client", "prefix", "created_at", "expires_at", "revoked_at", "last_used_at")
    actions = ["revoke"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a revoked key stays, for the record

    @admin.action(description="Revoke (works everywhere within 5 s)", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset.filter(revoked_at__isnull=True):
            services.revoke_api_key(prefix=key.prefix, now=timezone.now())
            self.log_change(request, key, "Revoked.")
            self.message_user(request, f"{key.prefix} is revoked.", messages.SUCCESS)


class JwtKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new JWT key."""

    kid = forms.CharField(
        label="Key id (kid)", max_length=100, initial=make_kid, help_text="What the tokens name in their header."
    )

    class Meta:
        model = JwtKey
        fields = ["client", "kid", "algorithm", "public_key_pem", "jwks_file", "issuer"]


@admin.register(JwtKey)
class JwtKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """JWT keys. An HS256 secret is shown once, on the page that answers "Save"."""

    list_display = ["kid", "client", "algorithm", "issuer", "jwks_file", "created_at", "revoked_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter), "algorithm", "client"]
    list_select_related = ["client"]
    search_fields = ["kid", "issuer", "client__name"]
    form = JwtKeyForm
    actions = ["revoke"]

    def get_readonly_fields(self, request: HttpRequest, obj: JwtKey | None = None) -> list[str]:
        """A key is registered once and for all; only revoking changes it."""
        return [field.name for field in JwtKey._meta.fields if field.name != "id"] if obj else []

    def get_fields(self, request: HttpRequest, obj: JwtKey | None = None) -> Any:
        return self.get_readonly_fields(request, obj) or JwtKeyForm.Meta.fields

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a deleted id could be registered again, and an HS256 secret with it

    def response_add(self, request: HttpRequest, obj: JwtKey, post_url_continue: str | None = None) -> HttpResponse:
        secret = services.reveal_hs256_secret(obj)
        if not secret:
            return HttpResponseRedirect(reverse("admin:clients_jwtkey_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": f"HS256 secret of {obj.kid}",
            "opts": self.opts,
            "client": obj.client,
            "secret": secret,
        }
        return TemplateResponse(request, "admin/clients/client/new_api_key.html", context)

    @admin.action(description="Revoke (works everywhere within 5 s)", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[JwtKey]) -> None:
        for key in queryset.filter(revoked_at__isnull=True):
            services.revoke_jwt_key(kid=key.kid, now=timezone.now())
            self.log_change(request, key, "Revoked.")
            self.message_user(request, f"{key.kid} is revoked.", messages.SUCCESS)

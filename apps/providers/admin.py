"""Routes and breakers in Django admin. Whatever is done here is in the object's history.

Admin and form classes are generic in the type stubs only, not when the code runs: hence the ignores.
"""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse

from apps.channels import Channel
from apps.providers.models import BreakerOrder, ForcedState, Route
from apps.providers.orders import REREAD_S, order_breaker
from apps.providers.registry import get_provider, provider_aliases
from apps.providers.routing import REREAD_S as ROUTES_REREAD_S
from apps.providers.routing import forget_routes
from apps.providers.selectors import select_provider_states


def _alias_choices() -> list[tuple[str, str]]:
    return [(alias, f"{alias} ({get_provider(alias).channel.label})") for alias in provider_aliases()]


class RouteForm(forms.ModelForm):  # type: ignore[type-arg]
    """A route's fields; the provider from the accounts there are."""

    provider = forms.ChoiceField(choices=_alias_choices)

    class Meta:
        model = Route
        fields = ["channel", "platform", "country_prefix", "provider", "position", "weight", "is_enabled"]

    def clean(self) -> dict[str, Any]:
        """Raise ``ValidationError`` for a provider of another channel or without credentials."""
        cleaned = super().clean() or self.cleaned_data
        alias, channel = cleaned.get("provider"), cleaned.get("channel")
        if alias and channel:
            provider = get_provider(alias)
            if provider.channel != channel:
                text = f"{alias} carries {provider.channel.label}, not {Channel(channel).label}."
                raise ValidationError({"provider": text})
            if cleaned.get("is_enabled") and not provider.is_configured:
                text = f"{alias} has no working credentials; `manage.py check --deploy` says what is missing."
                raise ValidationError({"provider": text})
        return cleaned


@admin.register(Route)
class RouteAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Which provider carries what. A channel without a route here goes by the settings."""

    form = RouteForm
    list_display = ["channel", "part", "position", "provider", "weight", "is_enabled", "updated_at"]
    list_display_links = ["provider"]
    list_editable = ["position", "weight", "is_enabled"]
    list_filter = ["channel", "is_enabled"]

    @admin.display(description="for", empty_value="all")
    def part(self, route: Route) -> str | None:
        return route.platform or route.country_prefix or None

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs.setdefault("form", forms.ModelForm)  # the list shows the provider, it does not ask for it
        return super().get_changelist_form(request, **kwargs)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        routed = set(Route.objects.filter(is_enabled=True).values_list("channel", flat=True))
        by_settings = {
            name: aliases
            for name, aliases in settings.ROUTES.items()
            if name.partition(":")[0] not in {Channel(number).label for number in routed}
        }
        subtitle = "; ".join(f"{name}: {', '.join(aliases)}" for name, aliases in by_settings.items())
        context = {"subtitle": f"by the settings, having no route here: {subtitle}"} if subtitle else {}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def save_model(self, request: HttpRequest, obj: Route, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        self._announce(request)

    def delete_model(self, request: HttpRequest, obj: Route) -> None:
        super().delete_model(request, obj)
        self._announce(request)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        super().delete_queryset(request, queryset)
        self._announce(request)

    def _announce(self, request: HttpRequest) -> None:
        forget_routes()
        messages.info(request, f"Every process routes by it within {ROUTES_REREAD_S:.0f} s.", fail_silently=True)


class BreakerOrderForm(forms.ModelForm):  # type: ignore[type-arg]
    """What an operator orders."""

    provider = forms.ChoiceField(choices=_alias_choices)
    state = forms.ChoiceField(choices=ForcedState.choices, widget=forms.RadioSelect)

    class Meta:
        model = BreakerOrder
        fields = ["provider", "state", "reason"]


@admin.register(BreakerOrder)
class BreakerOrderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The providers' health, and the orders given about it. Orders are added, never changed: the newest counts."""

    form = BreakerOrderForm
    list_display = ["created_at", "provider", "state", "reason", "operator"]
    list_display_links = None
    list_filter = ["provider", "state"]
    actions = None

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": "Providers and their breakers", "providers": select_provider_states()}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def save_model(self, request: HttpRequest, obj: BreakerOrder, form: Any, change: bool) -> None:
        saved = order_breaker(
            alias=obj.provider,
            state=ForcedState(obj.state),
            reason=obj.reason,
            operator=request.user.get_username(),
        )
        obj.pk = saved.pk
        messages.info(request, f"Every process obeys within {REREAD_S:.0f} s.", fail_silently=True)

"""``/v1/providers``: HTTP in, a selector called, HTTP out."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.channels import CHANNEL_LABELS
from apps.providers.selectors import ProviderState, select_provider_states

_EXAMPLE = OpenApiExample(
    "One provider, throttled a while ago",
    {
        "providers": [
            {
                "alias": "fcm",
                "channel": "push",
                "is_configured": True,
                "is_routed": True,
                "breaker": {
                    "state": "closed",
                    "is_forced": False,
                    "reason": "",
                    "failure_rate": 0.02,
                    "volume": 1250,
                    "retry_after_s": 0.0,
                },
                "quota": {"per_second": 10000, "per_minute": 600000, "used": 0.12},
                "recent_errors": [{"code": "QUOTA_EXCEEDED", "at": "2026-01-31T12:00:00Z"}],
            }
        ]
    },
    response_only=True,
)


class BreakerSerializer(serializers.Serializer[Any]):
    """A breaker's part of a provider's state."""

    state = serializers.ChoiceField(["closed", "half-open", "open"])
    is_forced = serializers.BooleanField(help_text="An operator ordered it, whatever the provider's health.")
    reason = serializers.CharField(help_text="The operator's, empty if not forced.")
    failure_rate = serializers.FloatField(help_text="Of what was counted in the last 10 seconds, from 0 to 1.")
    volume = serializers.IntegerField(help_text="How much was counted in the last 10 seconds.")
    retry_after_s = serializers.FloatField(help_text="Seconds until the provider is tried again.")


class QuotaSerializer(serializers.Serializer[Any]):
    """A provider account's limits."""

    per_second = serializers.IntegerField(help_text="Messages; 0 for no limit.")
    per_minute = serializers.IntegerField(help_text="Messages; 0 for no limit.")
    used = serializers.FloatField(allow_null=True, help_text="Share of the tightest limit used up now.")


class RecentErrorSerializer(serializers.Serializer[Any]):
    """A code that a provider answered with."""

    code = serializers.CharField()
    at = serializers.DateTimeField()


class ProviderStateSerializer(serializers.Serializer[Any]):
    """One provider account."""

    alias = serializers.CharField()
    channel = serializers.ChoiceField(CHANNEL_LABELS)
    is_configured = serializers.BooleanField(help_text="It has the credentials it needs.")
    is_routed = serializers.BooleanField(help_text="A route leads to it.")
    breaker = BreakerSerializer()
    quota = QuotaSerializer()
    recent_errors = RecentErrorSerializer(many=True)


class ProviderListSerializer(serializers.Serializer[Any]):
    """All provider accounts."""

    providers = ProviderStateSerializer(many=True)


class ProvidersView(APIView):
    """How the providers are doing."""

    required_scopes = {"GET": "ops:read"}

    @extend_schema(
        operation_id="list_providers",
        summary="See how the providers are doing",
        tags=["operations"],
        responses={200: ProviderListSerializer},
        examples=[_EXAMPLE],
    )
    def get(self, request: Request) -> Response:
        """Every provider account with its breaker, its quota and its last error codes."""
        content = {"providers": [_to_plain(state) for state in select_provider_states()]}
        return Response(ProviderListSerializer(content).data)


def _to_plain(state: ProviderState) -> dict[str, object]:
    return {
        "alias": state.alias,
        "channel": state.channel,
        "is_configured": state.is_configured,
        "is_routed": state.is_routed,
        "breaker": state.breaker,
        "quota": {"per_second": state.per_second, "per_minute": state.per_minute, "used": state.quota_used},
        "recent_errors": state.recent_errors,
    }
